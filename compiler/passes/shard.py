"""Layers divided among the ranks of an axis: every unit as one rank runs it, on local shapes, with collectives as instructions.

before:  %y = contract %x, %w {spec="ik,jk->ij"} : f32[8, 4]    after:  %y#1.1.4 = contract %x, %w#0.1.4 {spec="ik,jk->ij"} : f32[8, 2]
         %z = contract %y, %v {spec="ij,kj->ik"} : f32[8, 6]            %z#term.0 = contract %y#1.1.4, %v#1.1.4 {...} : f32[8, 6]
                                                                        %z = all_reduce %z#term.0 {axis="tp", join="sum", parts=2}

The forms are those of shard_search.py; here they become instructions. A rank does its own run of a factor that is cut at once where
every result keeps it, and strip by strip where something is summed over it, so that bits follow from the strips alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.diagnostics import InternalError
from mlc.ir.factors import Join, Offset, part_attributes
from mlc.ir.forms import WHOLE, Axis, Claim, Cut, Form, RankFunction, RankStep, RankVariant, Term, Whole, local_name, local_type
from mlc.ir.function import Attribute, Function, Instruction
from mlc.ir.op import Op
from mlc.ir.program import Step
from mlc.ir.types import TensorType, Value
from mlc.passes.shard_costs import FIGURES, Figures
from mlc.passes.shard_search import PARTS, Chosen, Found, functions_of, left_to_sum, search
from mlc.passes.shard_ways import Way

VIA = "shard"


def shard(step: Step, axis: Axis, ops: Mapping[str, Op], figures: Figures = FIGURES) -> RankStep | None:
    """What each rank of an axis does of a factored step, in forms of least modelled time; None where nothing divides.

    The forms depend on the strips alone, not on how many ranks there are.
    """
    found = search(step, ops, axis.strips, figures)
    return None if found is None else written(step, found, axis, ops)


def written(step: Step, found: Found, axis: Axis, ops: Mapping[str, Op]) -> RankStep:
    """The step in forms that were found."""
    variants = [
        None if unit not in found.units else _UnitWriter(step, unit, found, axis, ops).variant() for unit in range(len(step.program.units))
    ]
    held: dict[str, Form] = {}
    for call in step.program.train.calls:
        unit = step.program.units[call.unit]
        for v, role, name in zip(unit.function.parameters, unit.roles, call.arguments, strict=True):
            if role == "param":
                held[name] = found.classes["param", call.unit, v.name]
    parameters = tuple((p.name, held.get(p.name, WHOLE)) for p in step.program.parameters)
    return RankStep(step, axis, parameters, tuple(variants))


class _UnitWriter:
    """The functions of a unit, and what they hand to each other."""

    def __init__(self, step: Step, number: int, found: Found, axis: Axis, ops: Mapping[str, Op]):
        variant = step.variant(number)
        assert variant is not None
        self.number, self.unit, self.variant_ = number, step.program.units[number], variant
        self.functions = functions_of(variant)
        self.found, self.chosen, self.axis, self.ops = found, found.units[number], axis, ops
        self.roles = dict(zip((v.name for v in self.unit.function.parameters), self.unit.roles, strict=True))

    def variant(self) -> RankVariant:
        forward, early, late = (self._function(part) for part in PARTS)
        return RankVariant(forward, early, late)

    def _function(self, part: int) -> RankFunction:
        function = self.functions[part]
        writer = _Writer(function, part, self.chosen, self.axis, self.ops)
        parameters = [value for v in function.parameters for value in writer.given(v, self._held(part, v))]
        for instruction, way in zip(function.instructions, self.chosen.ways[part], strict=True):
            writer.write(instruction, way)
        results = [value for v in function.results for form in self._wanted(part, v) for value in writer.ensure(v.name, form)]
        made = Function(function.name, tuple(parameters), tuple(writer.out), tuple(results))
        return RankFunction(made, tuple(writer.claims.items()))

    def _held(self, part: int, v: Value) -> Form:
        """The form in which a part is given a value."""
        if (part, v.name) in self.chosen.arguments:
            return self.chosen.arguments[part, v.name].form
        return self.found.classes["param", self.number, v.name] if self.roles[v.name] == "param" else WHOLE

    def _wanted(self, part: int, v: Value) -> Sequence[Form]:
        """The forms in which a result of a part is read, each once: by other layers, by parameters, by later parts."""
        params = {result: name for name, result, _ in self.variant_.d_params}
        states = {result: name for name, result in self.variant_.d_states}
        wanted: list[Form] = []
        if part == 0 and v.name in {r.name for r in self.unit.function.results}:
            wanted.append(self.found.classes.get(("state", self.number, v.name), WHOLE))
        if v.name in states:
            wanted.append(self.found.classes["state", self.number, states[v.name]])
        if v.name in params:
            late = left_to_sum(self.chosen.values[part, v.name])
            wanted.append(Term(Join.SUM) if late else self.found.classes["param", self.number, params[v.name]])
        wanted += [self.chosen.arguments[p, v.name].form for p in PARTS if p > part and (p, v.name) in self.chosen.arguments]
        return tuple(dict.fromkeys(wanted))


class _Writer:
    """Writes the instructions of one function.

    have:    by name of a whole value and form: its local values, one; of a term one a strip
    strips:  by the same, of what is cut: its strips
    """

    def __init__(self, function: Function, part: int, chosen: Chosen, axis: Axis, ops: Mapping[str, Op]):
        self.part, self.chosen, self.axis, self.ops = part, chosen, axis, ops
        self.types = {v.name: v.type for v in (*function.parameters, *(r for i in function.instructions for r in i.results))}
        self.out: list[Instruction] = []
        self.claims: dict[str, Claim] = {}
        self.have: dict[tuple[str, Form], tuple[Value, ...]] = {}
        self.strips: dict[tuple[str, Form], tuple[Value, ...]] = {}
        self.positions: dict[tuple[int, int], Value] = {}
        self.at: Instruction | None = None
        self.made: dict[str, Form] = {}

    def given(self, v: Value, form: Form) -> tuple[Value, ...]:
        """A parameter of the function; its form is that in which it comes."""
        self.made[v.name] = form
        values = self._values(v.name, form)
        self.have[v.name, form] = values
        return values

    def write(self, instruction: Instruction, way: Way) -> None:
        self.at = instruction
        if way.letter is None:
            self._every_strip(instruction, way) if any(isinstance(f, Term) for f in way.needs) else self._whole(instruction)
        elif all(isinstance(form, Cut) for form in way.makes):
            self._run(instruction, way)
        else:
            self._by_strips(instruction, way)
        for v, form in zip(instruction.results, way.makes, strict=True):
            self.made[v.name] = form

    def ensure(self, name: str, form: Form) -> tuple[Value, ...]:
        """The local values of a whole one in a form: as it is at hand, or converted from what is."""
        if (name, form) in self.have:
            return self.have[name, form]
        other = (self.chosen.values if (self.part, name) in self.chosen.values else self.chosen.arguments).get((self.part, name))
        if isinstance(form, Cut) and (name, WHOLE) not in self.have and other is not None and other.other == WHOLE and other.form != form:
            self._convert(name, other.form, WHOLE)
        source = WHOLE if (name, WHOLE) in self.have else self.made[name]
        self._convert(name, source, form)
        return self.have[name, form]

    def _convert(self, name: str, have: Form, want: Form) -> None:
        values = self.have[name, have]
        match have, want:
            case Whole(), Cut():
                op, more = "part", _factor(want)
            case Cut(), Whole():
                op, more = "all_gather", _factor(have)
            case Cut(), Cut():
                op, more = "all_to_all", {**_factor(have), **_factor(want, "to_")}
            case Term(join), Whole():
                op, more = "all_reduce", {"join": join.name.lower()}
            case Term(join), Cut():
                op, more = "reduce_scatter", {**_factor(want), "join": join.name.lower()}
            case _:
                raise InternalError(f"%{name} cannot be taken from {have} to {want}")
        self.have[name, want] = self._values(name, want)
        self._emit(op, values, {"axis": self.axis.name, "parts": self.axis.parts, **more}, self.have[name, want])

    def _emit(self, op: str, operands: Sequence[Value], attributes: Mapping[str, Attribute], results: Sequence[Value]) -> None:
        assert self.at is not None
        made = tuple(sorted(attributes.items()))
        self.out.append(Instruction(op, tuple(operands), made, tuple(results), self.at.span, VIA))

    def _value(self, claim: Claim) -> Value:
        value = Value(local_name(claim), local_type(self.types[claim.name], claim, self.axis))
        self.claims[value.name] = claim
        return value

    def _values(self, name: str, form: Form) -> tuple[Value, ...]:
        if isinstance(form, Term):
            return tuple(self._value(Claim(name, form, strip)) for strip in range(self.axis.own))
        return (self._value(Claim(name, form, None)),)

    def _whole(self, instruction: Instruction) -> None:
        operands = tuple(self.ensure(v.name, WHOLE)[0] for v in instruction.operands)
        for v in instruction.results:
            self.have[v.name, WHOLE] = self._values(v.name, WHOLE)
        results = tuple(self.have[v.name, WHOLE][0] for v in instruction.results)
        self.out.append(Instruction(instruction.op, operands, instruction.attributes, results, instruction.span, instruction.via))

    def _every_strip(self, instruction: Instruction, way: Way) -> None:
        """What is linear in the terms it is given, of each strip."""
        operands = [self.ensure(v.name, form) for v, form in zip(instruction.operands, way.needs, strict=True)]
        for v, form in zip(instruction.results, way.makes, strict=True):
            self.have[v.name, form] = self._values(v.name, form)
        for strip in range(self.axis.own):
            given = [of[strip] if isinstance(form, Term) else of[0] for of, form in zip(operands, way.needs, strict=True)]
            results = [self.have[v.name, form][strip] for v, form in zip(instruction.results, way.makes, strict=True)]
            self.out.append(
                Instruction(instruction.op, tuple(given), instruction.attributes, tuple(results), instruction.span, instruction.via)
            )

    def _run(self, instruction: Instruction, way: Way) -> None:
        """The rank's whole run of a letter that every result keeps."""
        operands = [self.ensure(v.name, form)[0] for v, form in zip(instruction.operands, way.needs, strict=True)]
        for v, form in zip(instruction.results, way.makes, strict=True):
            self.have[v.name, form] = self._values(v.name, form)
        results = [self.have[v.name, form][0] for v, form in zip(instruction.results, way.makes, strict=True)]
        self._part(instruction, way, operands, results, self.axis.parts, None)

    def _by_strips(self, instruction: Instruction, way: Way) -> None:
        """Strip by strip of a letter that some result is summed over; what keeps it is put together again."""
        operands = [
            self._strips(v.name, form) if isinstance(form, Cut) else self.ensure(v.name, form) * self.axis.own
            for v, form in zip(instruction.operands, way.needs, strict=True)
        ]
        made = [self._results(v.name, form) for v, form in zip(instruction.results, way.makes, strict=True)]
        for strip in range(self.axis.own):
            given, results = [of[strip] for of in operands], [of[strip] for of in made]
            self._part(instruction, way, given, results, self.axis.strips, strip)
        for v, form, strips in zip(instruction.results, way.makes, made, strict=True):
            if isinstance(form, Cut) and self.axis.own > 1:
                self.have[v.name, form] = self._values(v.name, form)
                self._emit("joined", strips, self._of_strips(form), self.have[v.name, form])

    def _results(self, name: str, form: Form) -> tuple[Value, ...]:
        """Values for the strips of a result; where a rank has one strip, that is what it has."""
        if isinstance(form, Cut) and self.axis.own > 1:
            return tuple(self._value(Claim(name, form, strip)) for strip in range(self.axis.own))
        self.have[name, form] = self._values(name, form)
        return self.have[name, form]

    def _strips(self, name: str, form: Cut) -> tuple[Value, ...]:
        (value,) = self.ensure(name, form)
        if self.axis.own == 1:
            return (value,)
        if (name, form) not in self.strips:
            self.strips[name, form] = tuple(self._value(Claim(name, form, strip)) for strip in range(self.axis.own))
            self._emit("strips", (value,), self._of_strips(form), self.strips[name, form])
        return self.strips[name, form]

    def _of_strips(self, form: Cut) -> dict[str, Attribute]:
        return {**_factor(form), "parts": self.axis.parts, "strips": self.axis.strips}

    def _part(
        self, instruction: Instruction, way: Way, operands: Sequence[Value], results: Sequence[Value], parts: int, strip: int | None
    ) -> None:
        """The instruction on one of `parts` parts of its letter; strip: of the rank's, None: all that the rank has."""
        assert way.letter is not None
        attributes = part_attributes(instruction, way.letter, tuple(v.type for v in results), parts)
        op = instruction.op
        if way.letter.offset is not Offset.NONE:
            run = way.letter.size // self.axis.parts
            operands = [*operands, self._position((strip or 0) * (way.letter.size // parts), run)]
            op = self.ops[op].factors.part or op
        self.out.append(Instruction(op, tuple(operands), attributes, tuple(results), instruction.span, instruction.via))

    def _position(self, start: int, step: int) -> Value:
        if (start, step) not in self.positions:
            value = Value(f"position#{start}.{step}", TensorType("i32"))
            self.positions[start, step] = value
            self._emit("position", (), {"axis": self.axis.name, "start": start, "step": step}, (value,))
        return self.positions[start, step]


def _factor(cut: Cut, prefix: str = "") -> dict[str, Attribute]:
    return {f"{prefix}dim": cut.dim, f"{prefix}inner": cut.inner, f"{prefix}size": cut.size}
