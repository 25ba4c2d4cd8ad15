"""Where the elements of i32 tensors come from: which element of which parameter, or a range of numbers.

    %kept = not_equal %labels, -100        kept
    %safe = select %kept, %labels, 0       labels[i], of which -100 is replaced; else 0
    %one  = slice %safe ...                some of these
    %y    = take_along %x, %one            so labels[i] is in [0, n) or -100

A statement is made only of elements that get there whatever the data is: another operand of a select, or an element that an index
chose, takes it away. A condition that is drawn lets every element pass sooner or later; one that is made of numbers alone, always the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mlc.frozen import frozen
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Keys, Op
from mlc.ir.types import TensorType, Value

LEAST, GREATEST = -(2**31), 2**31 - 1

#: Larger tensors are not followed: nothing is stated of what reaches them.
MOST_ELEMENTS = 1 << 23

#: Moves that the meaning of the op itself takes ids through.
_MOVES = ("reshape", "transpose", "slice", "broadcast", "copy", "split", "stop_gradient")


@frozen
class Origin:
    """What an element may be: input[id] + offset where its id is not -1; else a number in `rest`.

    ids:     number of the element among all followed parameters; None: no element comes from one
    passed:  a value of the input that is replaced before it gets here, None: there is none
    rest:    least and greatest number that an element without id is, and one with an id may be replaced by; None: there is none
    """

    ids: np.ndarray | None
    offset: int
    passed: int | None
    rest: tuple[int, int] | None


@frozen
class Lookup:
    """An instruction that indexes: the index, and the extent it must stay within."""

    instruction: Instruction
    index: Value
    extent: int


ANYTHING = Origin(None, 0, None, (LEAST, GREATEST))


def lookup_of(instruction: Instruction) -> Lookup | None:
    """What an instruction indexes with, if it does. A row of cross_entropy that is `ignore` is not read."""
    match instruction.op:
        case "gather" | "take_along":
            x, index = instruction.operands
            return Lookup(instruction, index, x.type.dims[instruction.attribute("axis")].size)
        case "scatter_add":
            return Lookup(instruction, instruction.operands[1], instruction.results[0].type.dims[0].size)
        case "put_along":
            return Lookup(instruction, instruction.operands[1], instruction.results[0].type.dims[instruction.attribute("axis")].size)
        case "cross_entropy":
            logits, targets = instruction.operands
            return Lookup(instruction, targets, logits.type.dims[-1].size)
        case _:
            return None


def ignored(instruction: Instruction) -> int | None:
    """The target that cross_entropy does not read."""
    return instruction.attribute("ignore") if instruction.op == "cross_entropy" else None


def origins(function: Function, ops: Mapping[str, Op], followed: Sequence[str]) -> dict[str, Origin]:
    """The origins of the i32 values that an index is made of. Ids count through the followed parameters, in their order."""
    return _Tracer(function, ops, followed).run()


def starts(function: Function, followed: Sequence[str]) -> dict[str, int]:
    """The id of the first element of each followed parameter."""
    types = {p.name: p.type for p in function.parameters}
    found: dict[str, int] = {}
    at = 0
    for name in followed:
        found[name] = at
        at += types[name].size
    return found


def is_followed(kind: TensorType) -> bool:
    """Is what indexes with elements of such a parameter told apart by element?"""
    return kind.dtype == "i32" and kind.size <= MOST_ELEMENTS


def elements_of(origin: Origin, count: int) -> np.ndarray:
    """The ids, below `count`, that occur in an origin, in ascending order. Marks them: sorting costs many times as much."""
    assert origin.ids is not None
    occurs = np.zeros(count, np.bool_)
    occurs[origin.ids[origin.ids >= 0]] = True
    return np.flatnonzero(occurs)


def _needed(function: Function) -> set[str]:
    """Names of the i32 and bool values that lookups are computed from."""
    needed: set[str] = set()
    for instruction in reversed(function.instructions):
        lookup = lookup_of(instruction)
        if lookup is not None:
            needed.add(lookup.index.name)
        if any(r.name in needed for r in instruction.results):
            needed.update(o.name for o in instruction.operands if not o.type.is_float)
    return needed


def _drawn(function: Function) -> set[str]:
    """Names of the values that depend on no parameter, but on what is drawn."""
    free: dict[str, bool] = {}
    for instruction in function.instructions:
        if all(o.name in free for o in instruction.operands):
            drawn = instruction.op.startswith("random_") or any(free[o.name] for o in instruction.operands)
            free.update((r.name, drawn) for r in instruction.results)
    return {name for name, drawn in free.items() if drawn}


class _Tracer:
    def __init__(self, function: Function, ops: Mapping[str, Op], followed: Sequence[str]):
        self.function = function
        self.ops = ops
        self.makers = {r.name: i for i in function.instructions for r in i.results}
        self.drawn = _drawn(function)
        self.known: dict[str, np.ndarray] = {}
        self.found: dict[str, Origin] = {}
        first = starts(function, followed)
        for parameter in function.parameters:
            if parameter.name in first and is_followed(parameter.type):
                ids = np.arange(parameter.type.size).reshape(parameter.type.shape) + first[parameter.name]
                self.found[parameter.name] = Origin(ids, 0, None, None)

    def of(self, value: Value) -> Origin:
        return self.found.get(value.name, ANYTHING)

    def run(self) -> dict[str, Origin]:
        needed = _needed(self.function)
        for instruction in self.function.instructions:
            if all(r.name in needed for r in instruction.results):
                self._know(instruction)
            results = [r for r in instruction.results if r.name in needed and r.type.dtype == "i32"]
            if results:
                made = self._step(instruction)
                self.found.update((r.name, made[instruction.results.index(r)]) for r in results)
        return self.found

    def _know(self, instruction: Instruction) -> None:
        """Compute what is made of numbers alone."""
        alone = not instruction.op.startswith("random_") and all(o.name in self.known for o in instruction.operands)
        if alone and max(r.type.size for r in instruction.results) <= MOST_ELEMENTS:
            operands = tuple(self.known[o.name] for o in instruction.operands)
            made = self.ops[instruction.op].meaning(operands, dict(instruction.attributes), Keys())
            self.known.update((r.name, m) for r, m in zip(instruction.results, made, strict=True))

    def _step(self, instruction: Instruction) -> list[Origin]:
        """The origin of each result."""
        sizes = [r.type.size for r in instruction.results]
        if instruction.op in _MOVES or instruction.op in ("concat", "pad"):
            return self._moved(instruction) if max(sizes) <= MOST_ELEMENTS else [ANYTHING] * len(sizes)
        return [self._computed(instruction, instruction.results[0].type)] * len(sizes)

    def _moved(self, instruction: Instruction) -> list[Origin]:
        sources = [self.of(o) for o in instruction.operands]
        if instruction.op == "pad":
            sources = [replace(s, rest=_hull(s.rest, (0, 0))) for s in sources]
        rest = None
        for source in sources:
            rest = _hull(rest, source.rest)
        traced = [s for s in sources if s.ids is not None]
        if not traced:
            return [Origin(None, 0, None, rest)] * len(instruction.results)
        if len({(s.offset, s.passed) for s in traced}) > 1:
            return [ANYTHING] * len(instruction.results)
        ids = [
            np.zeros(o.type.shape, np.int64) if s.ids is None else s.ids + 1 for o, s in zip(instruction.operands, sources, strict=True)
        ]
        moved = self.ops[instruction.op].meaning(tuple(ids), dict(instruction.attributes), Keys())
        return [Origin(m - 1, traced[0].offset, traced[0].passed, rest) for m in moved]

    def _computed(self, instruction: Instruction, kind: TensorType) -> Origin:
        sources = [self.of(o) for o in instruction.operands]
        match instruction.op, sources:
            case "constant", _:
                value = instruction.attribute("value")
                return Origin(None, 0, None, (int(value), int(value)))
            case "iota", []:
                return Origin(None, 0, None, (0, kind.size - 1))
            case ("top_k" | "argmax"), _:
                axis = -1 if instruction.op == "top_k" else instruction.attribute("axis")
                return Origin(None, 0, None, (0, instruction.operands[0].type.dims[axis].size - 1))
            case "cast", _ if instruction.operands[0].type.dtype == "bool":
                return Origin(None, 0, None, (0, 1))
            case "add", [a, b]:
                return _sum(a, b, 1)
            case "sub", [a, b]:
                return _sum(a, b, -1)
            case ("mul" | "minimum" | "maximum" | "mod" | "floordiv"), [a, b]:
                return Origin(None, 0, None, _range(instruction.op, _interval(a), _interval(b)))
            case "gather" | "take_along", [x, _]:
                return Origin(None, 0, None, _interval(x))
            case "select", [_, a, b]:
                return self._selected(instruction, a, b)
            case _:
                return ANYTHING

    def _selected(self, instruction: Instruction, a: Origin, b: Origin) -> Origin:
        """select(x != c, x, number): x, of which c is replaced; the other way round for ==."""
        condition, inside, outside = instruction.operands
        maker = self.makers.get(condition.name)
        if maker is not None and maker.op in ("equal", "not_equal"):
            (kept, of), other = ((inside, a), b) if maker.op == "not_equal" else ((outside, b), a)
            constant = self._compared(maker, kept)
            if constant is not None and of.ids is not None and other.ids is None and of.passed in (None, constant - of.offset):
                rest = None if of.rest == (constant, constant) else of.rest
                return Origin(of.ids, of.offset, constant - of.offset, _hull(rest, other.rest))
        if condition.name in self.known:
            return _chosen(self.known[condition.name], a, b)
        if condition.name in self.drawn and (a.ids is None) != (b.ids is None):
            of, other = (a, b) if b.ids is None else (b, a)
            return replace(of, rest=_hull(of.rest, other.rest))
        if _same(a, b):
            return replace(a, rest=_hull(a.rest, b.rest))
        return Origin(None, 0, None, _hull(_interval(a), _interval(b)))

    def _compared(self, maker: Instruction, value: Value) -> int | None:
        """The number that a value is compared with."""
        for one, other in (maker.operands, maker.operands[::-1]):
            alone = self.of(one).rest is None and self.of(value).rest is None
            if one.name == value.name or (alone and _same(self.of(one), self.of(value))):
                return self._constant(other)
        return None

    def _constant(self, value: Value) -> int | None:
        """The number that every element of a value is."""
        maker = self.makers.get(value.name)
        while maker is not None and maker.op in _MOVES:
            maker = self.makers.get(maker.operands[0].name)
        return int(maker.attribute("value")) if maker is not None and maker.op == "constant" else None


def _chosen(mask: np.ndarray, a: Origin, b: Origin) -> Origin:
    """a where the mask is true, else b."""
    if mask.all() or not mask.any():
        return a if mask.all() else b
    traced = [s for s in (a, b) if s.ids is not None]
    if not traced:
        return Origin(None, 0, None, _hull(a.rest, b.rest))
    if len({(s.offset, s.passed) for s in traced}) > 1:
        return ANYTHING
    ids = np.where(mask, *(-1 if s.ids is None else s.ids for s in (a, b)))
    return Origin(ids, traced[0].offset, traced[0].passed, _hull(a.rest, b.rest))


def _same(a: Origin, b: Origin) -> bool:
    """Are both, where they are elements of inputs, the same ones?"""
    traced = a.ids is not None and b.ids is not None and np.array_equal(a.ids, b.ids)
    return traced and (a.offset, a.passed) == (b.offset, b.passed)


def _interval(origin: Origin) -> tuple[int, int]:
    """The numbers that an element may be, whatever the inputs are."""
    if origin.ids is not None or origin.rest is None:
        return LEAST, GREATEST
    return origin.rest


def _hull(a: tuple[int, int] | None, b: tuple[int, int] | None) -> tuple[int, int] | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a[0], b[0]), max(a[1], b[1])


def _sum(a: Origin, b: Origin, sign: int) -> Origin:
    """a + sign * b: an input stays one where the other is a single number."""
    for one, other, plus in ((a, b, sign), (b, a, 1) if sign > 0 else (a, b, sign)):
        if one.ids is not None and other.ids is None and other.rest is not None and other.rest[0] == other.rest[1]:
            by = plus * other.rest[0]
            rest = None if one.rest is None else _fitting(one.rest[0] + by, one.rest[1] + by)
            return replace(one, offset=one.offset + by, rest=rest)
    low, high = _interval(b)
    other_range = (low, high) if sign > 0 else (-high, -low)
    left = _interval(a)
    return Origin(None, 0, None, _fitting(left[0] + other_range[0], left[1] + other_range[1]))


def _range(op: str, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    match op:
        case "minimum":
            return min(a[0], b[0]), min(a[1], b[1])
        case "maximum":
            return max(a[0], b[0]), max(a[1], b[1])
        case "mod" if b[0] > 0:
            return 0, b[1] - 1
        case "floordiv" if b[0] > 0:
            quotients = [x // y for x in a for y in b]
            return min(quotients), max(quotients)
        case "mul":
            products = [x * y for x in a for y in b]
            return _fitting(min(products), max(products))
        case _:
            return LEAST, GREATEST


def _fitting(low: int, high: int) -> tuple[int, int]:
    """A range of sums or products; where one may overflow, any number comes out."""
    return (low, high) if low >= LEAST and high <= GREATEST else (LEAST, GREATEST)
