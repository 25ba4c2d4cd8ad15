"""Derive from the sample chain one that makes the logits of one time from what it kept of times before.

    before:  block(x [8, 1024, 768])       q, k, v = ...    y = attention q, k, v {causal}      norms, products: each time for itself
    after:   block.next(x [1, 1, 768], kept [1, 1024, 12, 64], kept.1, time)
                 q, k, v = ...    k = append kept, k, time    v = append kept.1, v, time    y = attention_next q, k, v, time

Which dims count times, and which the rows of a batch, the correspondences of ops say (ir/factors.py): tokens are [batch, time], and an
index is one wherever its letter stands. An op for which times correspond one to one computes one of them alone. What looks at other times
needs a rule (RULES) that says what to keep; where there is none, or a rule does not apply, the whole chain stays as it is, and the
program says why.

A value of the chain is that of the sample chain at the time, of row 0: rows are alike. A parameter, or a constant, of as many times is
looked up at the time. Nothing of later times is read, so that what lies there does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple

from mlc.diagnostics import NO_SPAN, InternalError, Span
from mlc.frozen import frozen
from mlc.ir.builder import Builder, FreshNames
from mlc.ir.dtypes import dtype_of
from mlc.ir.factors import Join, Letter, Offset, values_of, with_results
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Op
from mlc.ir.program import TIME_SCALAR, Call, Chain, Effect, Program, Scalar, Unit
from mlc.ir.types import ONE, Dim, TensorType, Value, dim

BATCH, TIME = "batch", "time"

#: Kernels that a target must have.
KERNELS = ("append", "attention_next")

#: A part of a dim, outer to inner: its size, and what it counts, BATCH, TIME or "". Parts of 1 have none.
Part = tuple[int, str]
Parts = tuple[Part, ...]

#: By dim.
Along = list[Parts]


class Whole(Exception):
    """Why a model needs its whole context for each token."""

    def __init__(self, why: str, span: Span = NO_SPAN):
        super().__init__(why)
        self.why = why
        self.span = span


def with_decoding(program: Program, ops: Mapping[str, Op], kernels: Collection[str]) -> Program:
    """Program -> Program with a decode chain where it samples, and where that can be. kernels: of the target"""
    if program.sample is None:
        return program
    try:
        if not set(KERNELS) <= set(kernels):
            raise Whole("the target has no kernels for it")
        return _Chain(program, ops).program()
    except Whole as whole:
        where = "" if whole.span == NO_SPAN else f"{replace(whole.span, file=Path(whole.span.file).name)}: "
        return replace(program, undecoded=f"{where}{whole.why}")


# -------------------------------------------------------------------------------------------------------------------- parts of dims


def _plain(size: int) -> Parts:
    return ((size, ""),) if size > 1 else ()


def _joined(parts: Sequence[Part]) -> Parts:
    """Neighbours that count nothing are one part."""
    found: list[Part] = []
    for size, counts in parts:
        if size == 1:
            continue
        if found and not counts and not found[-1][1]:
            found[-1] = (found[-1][0] * size, "")
        else:
            found.append((size, counts))
    return tuple(found)


def _labelled(parts: Parts) -> bool:
    return any(counts for _, counts in parts)


def _cut(parts: Parts, inner: int, size: int) -> tuple[Parts, Parts, Parts] | None:
    """The parts outside of `size` steps of `inner` elements each, within, and inside of one step; None where that divides what counts."""
    found: tuple[list[Part], list[Part], list[Part]] = ([], [], [])
    low = 1
    for n, counts in reversed(parts):
        high = low * n
        edges = sorted({low, high, *(e for e in (inner, inner * size) if low < e < high)})
        if counts and len(edges) > 2:
            return None
        for a, b in pairwise(edges):
            if b % a:
                return None
            found[2 if b <= inner else 1 if b <= inner * size else 0].insert(0, (b // a, counts))
        low = high
    outside, within, inside = map(_joined, found)
    return outside, within, inside


def _whole_parts(along: Along, counted: Sequence[str]) -> bool:
    """Does each dim count what it is said to, wholly? Dims of 1 may count anything."""
    return all(not parts or ([c for _, c in parts] == [counts]) for parts, counts in zip(along, counted, strict=True))


def _narrow(kind: TensorType, along: Along) -> TensorType:
    """The type of a value at one time of one row."""
    return TensorType(kind.dtype, tuple([_narrow_dim(d, parts) for d, parts in zip(kind.dims, along, strict=True)]))


def _narrow_dim(d: Dim, parts: Parts) -> Dim:
    if not _labelled(parts):
        return d
    rest = prod(size for size, counts in parts if not counts)
    return dim(rest) if rest > 1 else dim(1, d.factors[0].label if d.factors else "")


# -------------------------------------------------------------------------------------------------------------------- what counts times


class _Site(NamedTuple):
    """Where a letter stands. all: it is the whole of the dim"""

    slot: int
    value: str
    dim: int
    inner: int
    all: bool


class _Joint(NamedTuple):
    """A letter of an instruction."""

    instruction: Instruction
    letter: Letter
    sites: tuple[_Site, ...]


class _Counting:
    """What the dims of the values of a function count.

    along:   by value
    joints:  by instruction, in order
    counted: the (value, dim) that count times or rows
    """

    def __init__(self, function: Function, ops: Mapping[str, Op], seeds: Mapping[str, Along]):
        self.function = function
        self.joints = [_joints(i, ops[i.op].factors.letters(i)) for i in function.instructions]
        values = [*function.parameters, *(r for i in function.instructions for r in i.results)]
        self.along: dict[str, Along] = {v.name: [_plain(n) for n in v.type.shape] for v in values}
        self.along.update((name, list(along)) for name, along in seeds.items())
        self.counted = {(name, d) for name, along in seeds.items() for d, parts in enumerate(along) if _labelled(parts)}
        forward = [joint for of in self.joints for joint in of if len(joint.sites) > 1]
        known = -1
        while known != len(self.counted):
            known = len(self.counted)
            for joint in (*forward, *reversed(forward)):
                if any((site.value, site.dim) in self.counted for site in joint.sites):
                    self._join(joint)

    def _join(self, joint: _Joint) -> None:
        """Have all sites of a letter count the same."""
        if all(site.all for site in joint.sites):
            found = {parts for site in joint.sites if _labelled(parts := self.along[site.value][site.dim])}
            cuts = [((), (), ())] * len(joint.sites)
        else:
            cuts = [self.cut(site, joint.letter) for site in joint.sites]
            found = {cut[1] for cut in cuts if cut is not None and _labelled(cut[1])}
        if not found:
            return
        if len(found) > 1 or None in cuts:
            raise Whole(f"`{joint.instruction.op}` joins times with what counts something else", joint.instruction.span)
        (parts,) = found
        for site, cut in zip(joint.sites, cuts, strict=True):
            assert cut is not None
            self.along[site.value][site.dim] = parts if site.all else _joined((*cut[0], *parts, *cut[2]))
            self.counted.add((site.value, site.dim))

    def cut(self, site: _Site, letter: Letter) -> tuple[Parts, Parts, Parts] | None:
        """The parts of a dim around a letter, and within."""
        parts = self.along[site.value][site.dim]
        return ((), parts, ()) if site.all else _cut(parts, site.inner, letter.size)

    def counts(self, value: Value) -> bool:
        return any((value.name, d) in self.counted for d in range(len(value.type.dims)))

    def is_alone(self, instruction: Instruction, joints: Sequence[_Joint]) -> bool:
        """Does each time, and row, of the results need the same one of the operands only?"""
        operands = len(instruction.operands)
        covered: dict[tuple[int, int], int] = {}
        for joint in joints:
            cut = self.cut(joint.sites[0], joint.letter)
            if cut is None or not _labelled(cut[1]):
                continue
            results = {site.slot for site in joint.sites if site.slot >= operands}
            if joint.letter.join is Join.WHOLE or joint.letter.offset is not Offset.NONE or len(results) < len(instruction.results):
                return False
            for site in joint.sites:
                key = site.slot, site.dim
                covered[key] = covered.get(key, 1) * _counted_size(cut[1])
        return all(
            covered.get((slot, d), 1) == _counted_size(self.along[value.name][d])
            for slot, value in enumerate(values_of(instruction))
            for d in range(len(value.type.dims))
            if (value.name, d) in self.counted
        )


def _joints(instruction: Instruction, letters: Sequence[Letter]) -> tuple[_Joint, ...]:
    """The letters of an instruction, with the values that they stand in."""
    values = values_of(instruction)

    def site(slot: int, d: int, inner: int, size: int) -> _Site:
        return _Site(slot, values[slot].name, d, inner, inner == 1 and size == values[slot].type.shape[d])

    return tuple([_Joint(instruction, of, tuple([site(*s, of.size) for s in of.sites])) for of in letters])


def _counted_size(parts: Parts) -> int:
    return prod([size for size, counts in parts if counts])


# -------------------------------------------------------------------------------------------------------------------- a unit


@frozen
class _Next:
    """A unit at one time: its number, what each of its results counts, and how many values it keeps."""

    unit: int
    results: tuple[tuple[Parts, ...], ...]
    kept: int


class _Making:
    """A function at one time in the making."""

    def __init__(self, unit: Unit, ops: Mapping[str, Op], wide: str, seeds: Mapping[str, Along]):
        self.unit = unit
        self.ops = ops
        self.wide = wide
        self.counting = _Counting(unit.function, ops, seeds)
        taken = [v.name for v in (*unit.function.parameters, *(r for i in unit.function.instructions for r in i.results))]
        self.builder = Builder(ops, "decode", NO_SPAN, taken)
        self.time: Value | None = None
        self.numbers: dict[str, Value] = {}
        self.kept: list[tuple[Value, Value]] = []  # as it was, as it becomes
        self.values: dict[str, Value] = {}
        self.read = {o.name for i in unit.function.instructions for o in i.operands} | {r.name for r in unit.function.results}

    def function(self, seeds: Mapping[str, Along]) -> Function:
        """The function: its parameters, what it kept and the time; its results, and what it keeps."""
        old = self.unit.function
        parameters = [self._parameter(p, role, seeds) for p, role in zip(old.parameters, self.unit.roles, strict=True)]
        for instruction, joints in zip(old.instructions, self.counting.joints, strict=True):
            self.builder.span = instruction.span
            self._instruction(instruction, joints)
        results = tuple(self.values[r.name] for r in old.results)
        time = () if self.time is None else (self.time,)
        before, after = tuple(a for a, _ in self.kept), tuple(b for _, b in self.kept)
        return Function(f"{old.name}.next", (*parameters, *before, *time), tuple(self.builder.instructions), (*results, *after))

    def _parameter(self, parameter: Value, role: str, seeds: Mapping[str, Along]) -> Value:
        """A parameter as the function is given it; what is of all times is looked up when it is read."""
        along = self.counting.along[parameter.name]
        if role != "state":
            return parameter
        if along != seeds[parameter.name]:
            raise Whole(f"`{parameter.name}` is of all times at once")
        made = Value(parameter.name, _narrow(parameter.type, along))
        self.values[parameter.name] = made
        return made

    def value(self, value: Value) -> Value:
        """A value at the time."""
        if value.name not in self.values:
            self.values[value.name] = self._looked_up(value) if self.counting.counts(value) else value
        return self.values[value.name]

    def _looked_up(self, value: Value) -> Value:
        """Row 0 at the time of a parameter that has all rows, or times."""
        found = value
        for axis, parts in enumerate(self.counting.along[value.name]):
            if not _labelled(parts):
                continue
            if not _whole_parts([parts], (TIME,)) and not _whole_parts([parts], (BATCH,)):
                raise Whole(f"`{value.name}` has a dim of times and of something else")
            if _whole_parts([parts], (TIME,)):
                found = self.builder.one("gather", found, self.at((ONE,)), axis=axis, hint=value.name)
            else:
                shape = found.type.shape
                stops = tuple(1 if d == axis else n for d, n in enumerate(shape))
                found = self.builder.one("slice", found, starts=(0,) * len(shape), stops=stops, steps=(1,) * len(shape), hint=value.name)
        return found

    def at(self, dims: tuple[Dim, ...] = ()) -> Value:
        """The time, as an i32 of these dims of 1."""
        key = str(dims)
        if key not in self.numbers:
            if self.time is None:
                self.time = Value(self.builder.fresh("time"), TensorType(self.wide))
                self.numbers[str(())] = self.builder.one("cast", self.time, dtype="i32", hint="at")
            if dims:
                self.numbers[key] = self.builder.one("broadcast", self.numbers[str(())], axes=(), dims=dims, hint="at")
        return self.numbers[key]

    def keep(self, value: Value, axis: int, at: Value, times: Dim) -> Value:
        """`value` beside what is kept of it, at an index of an axis."""
        dims = tuple(times if d == axis else of for d, of in enumerate(value.type.dims))
        kept = Value(self.builder.fresh("kept"), TensorType(value.type.dtype, dims))
        made = self.builder.one("append", kept, value, at, axis=axis, hint=value.name)
        self.kept.append((kept, made))
        return made

    def _instruction(self, instruction: Instruction, joints: Sequence[_Joint]) -> None:
        if not any(map(self.counting.counts, values_of(instruction))):
            self._emit(instruction, instruction.attributes)
        elif self.counting.is_alone(instruction, joints):
            types = tuple([_narrow(r.type, self.counting.along[r.name]) for r in instruction.results])
            self._emit(instruction, self._narrowed(instruction, types), types)
        elif instruction.op in RULES:
            self.values.update(zip((r.name for r in instruction.results), RULES[instruction.op](self, instruction), strict=False))
        else:
            raise Whole(f"`{instruction.op}` looks at other times", instruction.span)

    def _emit(self, instruction: Instruction, attributes: Sequence[tuple[str, object]], types: Sequence[TensorType] | None = None) -> None:
        """The instruction on values at the time."""
        operands = [self.value(o) for o in instruction.operands]
        made = self.builder.emit(instruction.op, *operands, hint=instruction.results[0].name, **dict(attributes))
        wanted = [r.type for r in instruction.results] if types is None else types
        if [v.type.shape for v in made] != [t.shape for t in wanted]:
            raise InternalError(f"decode: {instruction.op} makes {[str(v.type) for v in made]} of one time, not {[str(t) for t in wanted]}")
        self.values.update((r.name, v) for r, v in zip(instruction.results, made, strict=True))

    def _narrowed(self, instruction: Instruction, types: tuple[TensorType, ...]) -> tuple[tuple[str, object], ...]:
        """Attributes at one time: dims are those of the results, and a run begins and ends among the parts that count nothing."""
        counted = [_counted_size(parts) for parts in self.counting.along[instruction.results[0].name]]
        attributes = dict(with_results(instruction, types))
        for key in {"starts", "stops"}.intersection(attributes):
            attributes[key] = tuple(n // of for n, of in zip(instruction.attribute(key), counted, strict=True))
        return tuple(attributes.items())


# -------------------------------------------------------------------------------------------------------------------- rules


def _attention(site: _Making, instruction: Instruction) -> tuple[Value, ...]:
    """Keys and values of times before are kept. Only of causal attention: else a query sees later times."""
    q, k, v, *others = instruction.operands
    counted = (BATCH, TIME, "", "")
    if not instruction.attribute("causal"):
        raise Whole("`attention` is not causal", instruction.span)
    if others or q.type.shape[1] != k.type.shape[1] or not all(_whole_parts(site.counting.along[x.name], counted) for x in (q, k, v)):
        raise Whole("`attention` is not of all times to all before", instruction.span)
    if instruction.results[1].name in site.read:
        raise Whole("the log-sum-exp of `attention` is read", instruction.span)
    queries = site.value(q)
    keys, values = (site.keep(site.value(x), 1, site.at(), x.type.dims[1]) for x in (k, v))
    return (site.builder.one("attention_next", queries, keys, values, site.at(), scale=instruction.attribute("scale"), hint="attention"),)


def _cumsum(site: _Making, instruction: Instruction) -> tuple[Value, ...]:
    """The sum of times before is kept; before the first there is 0."""
    (x,), axis = instruction.operands, instruction.attribute("axis")
    counted = [TIME if d == axis else "" for d in range(len(x.type.dims))]
    others = [parts for d, parts in enumerate(site.counting.along[x.name]) if d != axis and _labelled(parts)]
    if instruction.attribute("reverse"):
        raise Whole("`cumsum` goes from the last time to the first", instruction.span)
    if not _whole_parts([p if d == axis else () for d, p in enumerate(site.counting.along[x.name])], counted):
        raise Whole("`cumsum` is not over all times", instruction.span)
    if dtype_of(x.type.dtype).wide != x.type.dtype or any(label == TIME for parts in others for _, label in parts):
        raise Whole("`cumsum` is rounded at each time when it is kept", instruction.span)
    new, b = site.value(x), site.builder
    zero = b.one("constant", dtype="i32", value=0)
    nothing = b.one("constant", dtype=x.type.dtype, value=0 if x.type.dtype == "i32" else 0.0)
    kept = Value(b.fresh("kept"), new.type)
    first, none = (b.one("broadcast", of, axes=(), dims=new.type.dims) for of in (b.one("equal", site.at(), zero), nothing))
    made = b.one("add", b.one("select", first, none, kept), new, hint=instruction.results[0].name)
    site.kept.append((kept, b.one("append", kept, made, zero, axis=axis, hint=kept.name)))
    return (made,)


def _iota(site: _Making, instruction: Instruction) -> tuple[Value, ...]:
    """The time, or row 0."""
    if instruction.operands:
        raise Whole("`iota` of times begins elsewhere", instruction.span)
    (parts,) = site.counting.along[instruction.result.name]
    if not _whole_parts([parts], (TIME,)) and not _whole_parts([parts], (BATCH,)):
        raise Whole("`iota` counts times and something else", instruction.span)
    dims = _narrow(instruction.result.type, [parts]).dims
    if _whole_parts([parts], (TIME,)):
        return (site.at(dims),)
    zero = site.builder.one("constant", dtype="i32", value=0)
    return (site.builder.one("broadcast", zero, axes=(), dims=dims),)


#: What ops that look at other times keep of them, and compute from that.
RULES: dict[str, Callable[[_Making, Instruction], tuple[Value, ...]]] = {"attention": _attention, "cumsum": _cumsum, "iota": _iota}


# -------------------------------------------------------------------------------------------------------------------- the chain


class _Chain:
    """The decode chain of a program. made: units at one time, by the number of the unit and what its states count"""

    def __init__(self, program: Program, ops: Mapping[str, Op]):
        self.old = program
        self.ops = ops
        self.units = list(program.units)
        self.made: dict[object, _Next] = {}
        self.along: dict[str, Along] = {}
        self.names = FreshNames()

    def program(self) -> Program:
        """The program with the chain, and with the time as the last of its scalars."""
        sample = self.old.sample
        assert sample is not None and sample.logits is not None
        tokens = self.old.inputs[0].type
        if tokens.shape[1] < 2:
            raise Whole("the context is one token")
        calls = tuple(map(self._call, sample.calls))
        if not _whole_parts(self.along[sample.logits], (BATCH, TIME, "")):
            raise Whole("the logits are not of one time each")
        scalars = (*self.old.scalars, Scalar(TIME_SCALAR, 0.0, False, None, self.old.inputs[0].span))
        return replace(self.old, units=tuple(self.units), decode=Chain(calls, None, None, (), sample.logits), scalars=scalars)

    def _call(self, call: Call) -> Call:
        old = self.old.units[call.unit]
        states = tuple(tuple(self.along[n]) for n, role in zip(call.arguments, old.roles, strict=True) if role == "state")
        key = call.unit, states
        if key not in self.made:
            self.made[key] = self._unit(call.unit, old, dict(zip(old.function.parameters, call.arguments, strict=True)))
        made = self.made[key]
        self.along.update((name, list(along)) for name, along in zip(call.results, made.results, strict=True))
        kept = tuple(self.names.name(f"{call.path}.kept") for _ in range(made.kept))
        time = (TIME_SCALAR,) * (len(self.units[made.unit].roles) - len(old.roles) - made.kept)
        return Call(made.unit, call.path, (*call.arguments, *kept, *time), call.results, kept)

    def _unit(self, number: int, old: Unit, bound: Mapping[Value, str]) -> _Next:
        """A unit at one time; the unit itself where nothing of it counts times."""
        seeds: dict[str, Along] = {}
        for (parameter, name), role in zip(bound.items(), old.roles, strict=True):
            if role == "state":
                seeds[parameter.name] = self.along[name]
            elif role == "input":
                counted = zip(parameter.type.shape, (BATCH, TIME), strict=True)
                seeds[parameter.name] = [((n, counts),) if n > 1 else () for n, counts in counted]
        site = _Making(old, self.ops, self.old.wide, seeds)
        function = site.function(seeds)
        results = tuple(tuple(site.counting.along[r.name]) for r in old.function.results)
        time = ("record",) if site.time is not None else ()
        roles = (*old.roles, *("kept",) * len(site.kept), *time)
        effects = tuple(Effect("keep", before.name) for before, _ in site.kept)
        self.units.append(Unit(function.name, function, roles, old.outputs, effects))
        return _Next(len(self.units) - 1, results, len(site.kept))
