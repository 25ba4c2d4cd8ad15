"""Proof that what ranks of an axis do together is the model: by induction over instructions, from the whole functions and the divided ones.

It knows nothing of how these were found or written. Every local value claims to be a value of the whole function, whole, cut along a
factor, or a term (ir/forms.py). Claims of parameters are what is assumed; each instruction must make its results what they claim from
operands that are what they claim; claims of results are then what other functions assume, and the step is checked to join them.

One rule a kind of instruction, each true for all sizes of factors and any number of ranks:

    collectives         take what one value is to another form of it
    on whole values     are an instruction of the whole function, word for word
    on terms            are one that is linear in them, on the same strip of each
    on what is cut      are one that has a letter along which all of it is cut, and whatever has the letter is; results without it are
                        terms, and must be made of strips, for the order of sums is that of the strips

Equal up to the order of sums that `strips` says, which no number of ranks changes: every sum over ranks is a tree over all strips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlc.diagnostics import InternalError, OpError, Span
from mlc.frozen import frozen
from mlc.ir.factors import Join, Letter, Offset, part_attributes
from mlc.ir.forms import WHOLE, Axis, Claim, Cut, Form, RankFunction, RankStep, RankVariant, Term, local_type
from mlc.ir.function import Attribute, Function, Instruction
from mlc.ir.op import Op
from mlc.ir.program import Program, Unit, Variant
from mlc.ir.types import Dim, Value
from mlc.ir.verify import verify
from mlc.ops.mesh import FACTOR, MESH_OPS, cut_of


class Refused(Exception):
    """Why functions of ranks are not the model: a sentence that names function, instruction and line."""


#: What rules of ops raise for operands and attributes that nobody elaborated.
NONSENSE = (InternalError, OpError, LookupError, TypeError, ValueError, AssertionError)


@frozen
class Owed:
    """What a step must still do: the terms of a gradient added up over all strips. (unit, name of its parameter)"""

    unit: int
    parameter: str


def check_ranks(ranks: RankStep, ops: Mapping[str, Op]) -> tuple[Owed, ...]:
    """What the ends of steps must still add up. raises: Refused"""
    _check_axis(ranks.axis)
    program = ranks.whole.program
    owed: list[Owed] = []
    for number, variant in enumerate(ranks.variants):
        if variant is not None:
            owed += _check_unit(ranks, number, variant, ops)
    for call in program.train.calls:
        if ranks.variants[call.unit] is None:
            raise Refused(f"{program.units[call.unit].name}: no rank does it")
    _check_chain(ranks, program)
    return tuple(owed)


def _check_axis(axis: Axis) -> None:
    if axis.parts < 1 or axis.strips % axis.parts:
        raise Refused(f"{axis.parts} ranks of {axis.name} do not divide {axis.strips} strips")


def check_function(whole: Function, ranks: RankFunction, axis: Axis, ops: Mapping[str, Op]) -> None:
    """That every value of a divided function is what it claims, if its parameters are. raises: Refused"""
    try:
        verify(ranks.function, {**ops, **MESH_OPS})
    except NONSENSE as problem:
        raise Refused(f"{whole.name}: {problem}") from problem
    checker = _Checker(whole, ranks, axis, ops)
    for v in ranks.function.parameters:
        claim = checker.claim(v)
        if claim.name not in checker.given or claim.strip is not None:
            raise Refused(f"{whole.name}: parameter {v} claims to be {claim}, which is none")
        checker.check_type(v)
    for number, instruction in enumerate(ranks.function.instructions):
        try:
            checker.check(instruction)
        except (Refused, *NONSENSE) as problem:
            where = f"{whole.name}, instruction {number} ({_line(instruction.span)})"
            raise Refused(f"{where}: {instruction.op}: {problem}") from problem
    for v in ranks.function.results:
        claim = checker.claim(v)
        if claim.strip is not None and not isinstance(claim.form, Term):
            raise Refused(f"{whole.name}: result {v} is one strip alone of %{claim.name}")


def _line(span: Span) -> str:
    """Where a user wrote what led to an instruction."""
    while span.caller is not None:
        span = span.caller
    return f"{span.file}:{span.line}"


class _Checker:
    """given: names of parameters of the whole function; makers: by name of a value, the instruction of the whole one that makes it."""

    def __init__(self, whole: Function, ranks: RankFunction, axis: Axis, ops: Mapping[str, Op]):
        self.axis, self.ops = axis, ops
        self.claims = dict(ranks.claims)
        self.given = {v.name for v in whole.parameters}
        self.makers = {r.name: i for i in whole.instructions for r in i.results}
        self.types = {v.name: v.type for v in (*whole.parameters, *(r for i in whole.instructions for r in i.results))}
        self.positions: dict[str, tuple[int, int]] = {}

    def claim(self, v: Value) -> Claim:
        claim = self.claims.get(v.name)
        if claim is None:
            raise Refused(f"{v} claims to be nothing")
        if claim.name not in self.types:
            raise Refused(f"{v} claims to be {claim}, which the whole function has not")
        return claim

    def check_type(self, v: Value) -> None:
        """A value has the type of what it claims to be, and the factor it is cut along has as many runs as there are strips."""
        claim = self.claim(v)
        kind = self.types[claim.name]
        if isinstance(claim.form, Cut):
            d, inner, size = claim.form.dim, claim.form.inner, claim.form.size
            if not 0 <= d < len(kind.dims) or inner < 1 or size < 1 or kind.shape[d] % (inner * size) or size % self.axis.strips:
                raise Refused(f"{kind} cannot be {claim.form} in {self.axis.strips} strips")
        if claim.strip is not None and not 0 <= claim.strip < self.axis.own:
            raise Refused(f"{claim}: a rank has {self.axis.own}")
        if isinstance(claim.form, Term) != (claim.strip is not None) and not isinstance(claim.form, Cut):
            raise Refused(f"{claim}: only terms have strips")
        if not local_type(kind, claim, self.axis).same(v.type):
            raise Refused(f"{v}: {v.type} is not the type of {claim}")

    def check(self, instruction: Instruction) -> None:
        if instruction.op == "position":
            self._position(instruction)
            return
        for v in instruction.results:
            self.check_type(v)
        if instruction.op in MESH_OPS:
            self._mesh(instruction)
        else:
            self._local(instruction)

    def _position(self, i: Instruction) -> None:
        if i.attribute("axis") != self.axis.name:
            raise Refused(f"counts along {i.attribute('axis')}, not {self.axis.name}")
        self.positions[i.result.name] = (i.attribute("start"), i.attribute("step"))

    # Between ranks, and between what a rank has and its strips.

    def _mesh(self, i: Instruction) -> None:
        a = dict(i.attributes)
        operands = [self.claim(v) for v in i.operands]
        results = [self.claim(v) for v in i.results]
        if "axis" in a and (a["axis"], a["parts"]) != (self.axis.name, self.axis.parts):
            raise Refused(f"is of {a['parts']} ranks of {a['axis']}, and there are {self.axis.parts} of {self.axis.name}")
        if "strips" in a and (a["parts"], a["strips"]) != (self.axis.parts, self.axis.strips):
            raise Refused(f"is of {a['strips']} strips on {a['parts']} ranks")
        names = {claim.name for claim in (*operands, *results)}
        if len(names) > 1:
            raise Refused(f"takes {_listed(operands)} to {_listed(results)}: not one value")
        before, after = self._lemma(i.op, a, names.pop())
        if operands != before:
            raise Refused(f"of {_listed(operands)}, wants {_listed(before)}")
        if results != after:
            raise Refused(f"makes {_listed(after)}, which claims to be {_listed(results)}")

    def _lemma(self, op: str, a: Mapping[str, Any], name: str) -> tuple[list[Claim], list[Claim]]:
        """What it takes and makes of a value."""
        whole = [Claim(name, WHOLE, None)]
        cut = [Claim(name, cut_of(a), None)] if all(key in a for key in FACTOR) else []
        strips = range(self.axis.own)
        match op:
            case "all_gather":
                return cut, whole
            case "part":
                return whole, cut
            case "all_to_all":
                return cut, [Claim(name, cut_of(a, "to_"), None)]
            case "all_reduce" | "reduce_scatter":
                terms = [Claim(name, Term(Join[a["join"].upper()]), strip) for strip in strips]
                return terms, whole if op == "all_reduce" else cut
            case "strips":
                return cut, [Claim(name, cut_of(a), strip) for strip in strips]
            case "joined":
                return [Claim(name, cut_of(a), strip) for strip in strips], cut
            case _:
                raise Refused("there is no rule for it")

    # What a rank does by itself.

    def _local(self, i: Instruction) -> None:
        results = [self.claim(v) for v in i.results]
        whole = self.makers.get(results[0].name)
        if whole is None or [v.name for v in whole.results] != [c.name for c in results]:
            raise Refused(f"nothing makes {_listed(results)} at once")
        position = None
        given = i.operands
        if given and given[-1].name in self.positions:
            position = self.positions[given[-1].name]
            given = given[:-1]
        operands = [self.claim(v) for v in given]
        if [c.name for c in operands] != [v.name for v in whole.operands]:
            wanted = ", ".join(map(str, whole.operands))
            raise Refused(f"reads {_listed(operands)}; {whole.op}, which makes {_listed(results)}, reads {wanted or 'nothing'}")
        op, attributes, starts = self._rule(whole, operands, results, list(i.results))
        if i.op != op:
            raise Refused(f"should be {op}")
        if position != starts:
            raise Refused(f"is told that it lies at {_place(position)}, and lies at {_place(starts)}")
        if _sizes(i.attributes) != _sizes(attributes):
            raise Refused(f"has {dict(i.attributes)}, should have {dict(attributes)}")

    def _rule(
        self, whole: Instruction, operands: Sequence[Claim], results: Sequence[Claim], made: Sequence[Value]
    ) -> tuple[str, tuple[tuple[str, Attribute], ...], tuple[int, int] | None]:
        """The op that makes these results of these operands, its attributes, and where a part of it lies."""
        claims = (*operands, *results)
        if any(isinstance(c.form, Cut) for c in claims):
            return self._cut(whole, operands, results, made)
        if any(isinstance(c.form, Term) for c in claims):
            self._terms(whole, operands, results)
        return whole.op, whole.attributes, None

    def _terms(self, whole: Instruction, operands: Sequence[Claim], results: Sequence[Claim]) -> None:
        """Of terms of one strip, and whole values, an op that is linear in the terms makes terms of that strip."""
        terms = [c for c in (*operands, *results) if isinstance(c.form, Term)]
        if any(c.form != Term(Join.SUM) for c in terms) or len({c.strip for c in terms}) > 1:
            raise Refused(f"joins {_listed(terms)}")
        slots = frozenset(n for n, c in enumerate(operands) if isinstance(c.form, Term))
        if slots not in self.ops[whole.op].factors.linear(whole):
            raise Refused(f"is not linear in {_listed([operands[n] for n in sorted(slots)]) or 'no operand'}")
        if any(c.form == WHOLE for c in results):
            raise Refused(f"makes terms, which claim to be {_listed(results)}")

    def _cut(
        self, whole: Instruction, operands: Sequence[Claim], results: Sequence[Claim], made: Sequence[Value]
    ) -> tuple[str, tuple[tuple[str, Attribute], ...], tuple[int, int] | None]:
        """Of a letter whose every site is cut alike, in one strip or in all that the rank has."""
        claims = (*operands, *results)
        cuts = {slot: c for slot, c in enumerate(claims) if isinstance(c.form, Cut)}
        letter, inner = self._letter(whole, cuts)
        strips = {c.strip for c in claims if c.form != WHOLE}
        if self.axis.own == 1:
            strips = {strip or 0 for strip in strips}
        if len(strips) > 1:
            raise Refused(f"mixes strips: {_listed(claims)}")
        (strip,) = strips
        sites = {site.slot for site in letter.sites}
        for slot, claim in enumerate(results, len(operands)):
            wanted = claim.form if slot in sites else Term(letter.join)
            if claim.form != wanted or (wanted == Term(letter.join) and letter.join not in (Join.SUM, Join.MAX)):
                raise Refused(f"makes {wanted} of %{claim.name}, which claims to be {claim.form}")
        if letter.join is not Join.KEPT and strip is None:
            raise Refused(f"sums over {letter.name} all at once, not strip by strip")
        if any(c.form != WHOLE for slot, c in enumerate(operands) if slot not in sites):
            raise Refused(f"reads {_listed(operands)}: not all are along {letter.name}, or whole")
        parts = self.axis.parts if strip is None else self.axis.strips
        attributes = part_attributes(whole, letter, tuple(v.type for v in made), parts)
        if letter.offset is Offset.NONE:
            return whole.op, attributes, None
        if inner * self._size(cuts) != letter.size:
            raise Refused(f"parts of {letter.name} are no runs of it")
        place = ((strip or 0) * (letter.size // parts), letter.size // self.axis.parts)
        if letter.offset is Offset.INDEX and self.ops[whole.op].factors.part is not None:
            return self.ops[whole.op].factors.part or whole.op, attributes, place
        if whole.op == "iota" and not whole.operands:
            return whole.op, attributes, place
        raise Refused("counts what it makes, and is not told where it lies")

    def _size(self, cuts: Mapping[int, Claim]) -> int:
        return next(c.form.size for c in cuts.values() if isinstance(c.form, Cut))

    def _letter(self, whole: Instruction, cuts: Mapping[int, Claim]) -> tuple[Letter, int]:
        """The letter along which exactly these slots are cut, all at the same factor of it, and what lies within a step of that."""
        for letter in self.ops[whole.op].factors.letters(whole):
            at = {site.slot: site for site in letter.sites}
            if set(at) != set(cuts) or letter.join is Join.WHOLE:
                continue
            factors = {_within(at[slot], claim.form) for slot, claim in cuts.items()}
            if len(factors) == 1:
                (factor,) = factors
                if factor is not None and letter.size % (factor[0] * factor[1]) == 0:
                    return letter, factor[0]
        raise Refused(f"no letter of {whole.op} is cut in {_listed(cuts.values())} and nothing else")


def _within(site: Any, form: Form) -> tuple[int, int] | None:
    """Of a letter at a site: (steps within one step of the factor, its size), where a cut is along it."""
    if not isinstance(form, Cut) or form.dim != site.dim or form.inner % site.inner:
        return None
    return form.inner // site.inner, form.size


def _place(place: tuple[int, int] | None) -> str:
    return "no place" if place is None else f"{place[0]} + {place[1]} for each rank before"


def _sizes(attributes: Iterable[tuple[str, Attribute]]) -> tuple[tuple[str, Attribute], ...]:
    """Attributes with dims as their sizes."""

    def plain(value: Attribute) -> Attribute:
        match value:
            case Dim():
                return value.size
            case tuple():
                return tuple(plain(v) for v in value)
            case _:
                return value

    return tuple(sorted((key, plain(value)) for key, value in attributes))


def _listed(claims: Iterable[Claim]) -> str:
    return ", ".join(map(str, claims))


# Between functions: what one assumes another one shows.


def _results(ranks: RankFunction) -> set[Claim]:
    claims = dict(ranks.claims)
    return {claims[v.name] for v in ranks.function.results}


def _parameters(ranks: RankFunction) -> list[Claim]:
    claims = dict(ranks.claims)
    return [claims[v.name] for v in ranks.function.parameters]


def _functions(variant: Variant) -> tuple[Function, Function, Function]:
    return variant.forward, variant.input_gradient, variant.weight_gradient


def _check_unit(ranks: RankStep, number: int, made: RankVariant, ops: Mapping[str, Op]) -> Iterator[Owed]:
    """The functions of a unit, what they keep for each other, and that they make all that the whole ones do."""
    unit = ranks.whole.program.units[number]
    variant = ranks.whole.variant(number)
    if variant is None:
        raise Refused(f"{unit.name}: the model has no derivative of it")
    shown: set[Claim] = set()
    for whole, of in zip(_functions(variant), made.functions, strict=True):
        check_function(whole, of, ranks.axis, ops)
        results = _results(of)
        missing = {v.name for v in whole.results} - {claim.name for claim in results}
        if missing:
            raise Refused(f"{whole.name}: nothing is %{min(missing)}")
        _check_strips(whole, results, ranks.axis)
        for claim in _parameters(of):
            _check_parameter(ranks, number, unit, variant, whole, claim, shown)
        shown |= results
    yield from _check_gradients(ranks, number, unit, variant, shown)
    for v in unit.function.results[unit.outputs :]:
        if Claim(v.name, WHOLE, None) not in shown:
            raise Refused(f"{variant.forward.name}: effect %{v.name} is not whole")


def _check_strips(whole: Function, results: set[Claim], axis: Axis) -> None:
    """A result that is a term is there in all its strips."""
    for claim in results:
        for strip in range(axis.own):
            if isinstance(claim.form, Term) and replace(claim, strip=strip) not in results:
                raise Refused(f"{whole.name}: strip {strip} of %{claim.name} is missing")


def _check_parameter(
    ranks: RankStep, number: int, unit: Unit, variant: Variant, whole: Function, claim: Claim, shown: set[Claim]
) -> None:
    """What a function assumes of a parameter, where it is a value of the unit that another part shows, or is as the chain holds it."""
    roles = dict(zip((v.name for v in unit.function.parameters), unit.roles, strict=True))
    match roles.get(claim.name):
        case "input" | "record":
            held: set[Form] = {WHOLE}
        case "param":
            forms = dict(ranks.parameters)
            held = {forms[name] for name in _bound(ranks.whole.program, number, claim.name)}
        case "state":
            return  # with the chain
        case _ if claim.name in variant.d_results[: unit.outputs]:
            return  # with the chain
        case _ if claim.name in variant.d_results:
            held = {WHOLE}
        case _:
            held = {c.form for c in shown if c.name == claim.name and not isinstance(c.form, Term)}
            if claim.form in held:
                return
            raise Refused(f"{whole.name}: is given {claim}; no part before it shows that")
    if held != {claim.form}:
        raise Refused(f"{whole.name}: is given {claim}; it is held {', '.join(sorted(map(str, held)))}")


def _bound(program: Program, unit: int, parameter: str) -> Iterator[str]:
    """The model's parameters that a parameter of a unit is, in all calls."""
    names = [v.name for v in program.units[unit].function.parameters]
    at = names.index(parameter)
    yield from dict.fromkeys(call.arguments[at] for call in program.train.calls if call.unit == unit)


def _check_gradients(ranks: RankStep, number: int, unit: Unit, variant: Variant, shown: set[Claim]) -> Iterator[Owed]:
    """The gradient of a parameter is as the parameter is held; of a whole one it may be owed."""
    forms = dict(ranks.parameters)
    for parameter, result, _ in variant.d_params:
        made = {c.form for c in shown if c.name == result}
        for held in {forms[name] for name in _bound(ranks.whole.program, number, parameter)}:
            if held in made:
                continue
            if held != WHOLE or made != {Term(Join.SUM)}:
                found = ", ".join(sorted(map(str, made)))
                raise Refused(f"{unit.name}: the gradient of %{parameter}, which is held {held}, is {found}")
            yield Owed(number, parameter)


def _check_chain(ranks: RankStep, program: Program) -> None:
    """A state is made in the form in which it is read, and its gradient likewise."""
    makers: dict[str, tuple[int, str]] = {}
    seen: set[object] = set()
    for call in program.train.calls:
        unit = program.units[call.unit]
        for v, role, name in zip(unit.function.parameters, unit.roles, call.arguments, strict=True):
            if role == "state" and (makers[name], call.unit, v.name) not in seen:
                seen.add((makers[name], call.unit, v.name))
                _check_state(ranks, program, makers[name], (call.unit, v.name))
        for v, name in zip(unit.function.results[: unit.outputs], call.results, strict=True):
            makers[name] = (call.unit, v.name)
            if v.name in _seeds(ranks, call.unit) and not _is_read(program, name):
                _check_seed(ranks, program, call.unit, v.name)


def _seeds(ranks: RankStep, unit: int) -> dict[str, str]:
    """By result of a unit: the name of its cotangent."""
    variant = ranks.whole.variant(unit)
    assert variant is not None
    results = [v.name for v in ranks.whole.program.units[unit].function.results]
    return {name: seed for name, seed in zip(results, variant.d_results, strict=True) if seed is not None}


def _is_read(program: Program, state: str) -> bool:
    return any(state in call.arguments for call in program.train.calls)


def _claimed(ranks: RankStep, unit: int, name: str, results: bool) -> set[Form]:
    """The forms in which functions of a unit show a value, or are given it."""
    variant = ranks.variants[unit]
    assert variant is not None
    of = [claim for f in variant.functions for claim in (_results(f) if results else _parameters(f))]
    return {claim.form for claim in of if claim.name == name}


def _check_state(ranks: RankStep, program: Program, maker: tuple[int, str], reader: tuple[int, str]) -> None:
    read, made = _claimed(ranks, *reader, False), _claimed(ranks, *maker, True)
    if not read <= {form for form in made if not isinstance(form, Term)} or len(read) > 1:
        raise Refused(f"{program.units[reader[0]].name}: reads %{reader[1]} {_forms(read)}; it is made {_forms(made)}")
    variant = ranks.whole.variant(reader[0])
    assert variant is not None
    back = dict(variant.d_states).get(reader[1])
    seed = _seeds(ranks, maker[0]).get(maker[1])
    if back is None or seed is None:
        return
    wanted, sent = _claimed(ranks, maker[0], seed, False), _claimed(ranks, reader[0], back, True)
    if not wanted <= {form for form in sent if not isinstance(form, Term)} or len(wanted) > 1:
        raise Refused(f"{program.units[maker[0]].name}: is given %{seed} {_forms(wanted)}; it is made {_forms(sent)}")


def _check_seed(ranks: RankStep, program: Program, unit: int, result: str) -> None:
    """The cotangent of what no call reads, the loss, is given whole; and so is the loss."""
    wanted = _claimed(ranks, unit, _seeds(ranks, unit)[result], False)
    if not wanted <= {WHOLE} or WHOLE not in _claimed(ranks, unit, result, True):
        raise Refused(f"{program.units[unit].name}: the cotangent of %{result} is whole; it is read {_forms(wanted)}")


def _forms(forms: Iterable[Form]) -> str:
    return ", ".join(sorted(map(str, forms))) or "nowhere"
