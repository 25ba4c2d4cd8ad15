"""How often each value of a function would be computed, were it made where it is read: what decides which values are kept.

A root (a store, a reduction) computes what it reads element by element, down to what lies in memory. A value is *demanded* by a
root at coordinates; each such demand is a local of the emitted code, computed once for each place of the counters it depends on.
Under a guard (a piece of a concatenation, the inside of a pad) there are no locals: every path that leads to a value is a demand.

    %h = mul %x, %b    %l = slice %h    %r = slice %h    %y = maximum %l, %r       %h is demanded twice: y[i] reads h[i] and h[i + 1]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mlc.diagnostics import InternalError
from mlc.frozen import frozen
from mlc.ir.function import Instruction
from mlc.ir.op import Apply, Generate, Lowering, Move, Pointwise, Scalar, View, resolve
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Datum, Index, Operation, Position, Ref, data_of
from mlc.lower.graph import Graph, view_coordinates


@frozen
class Demand:
    """One reader's wish for a value.

    root:    number of the root
    shape:   the space of the root
    at:      coordinates in counters numbered like `shape`
    share:   the part of the space that computes it: below 1 under a guard
    guarded: whether it stands under a guard
    depth:   instructions between the root and the value
    """

    root: int
    shape: tuple[int, ...]
    at: tuple[Index, ...]
    share: float
    guarded: bool
    depth: int

    def times(self, least_inner: int) -> float:
        """How often it is computed: inner loops that it does not depend on are left, unless they are too short to be split off."""
        inner = 1
        depends = counters_of(self.at)
        for n in reversed(range(len(self.shape))):
            if n in depends:
                break
            inner *= self.shape[n]
        return math.prod(self.shape) / (inner if inner >= least_inner else 1) * self.share


def counters_of(at: Sequence[Index]) -> set[int]:
    """The counters that coordinates depend on, through what they are read from too."""
    found: set[int] = set()
    waiting = list(at)
    while waiting:
        index = waiting.pop()
        found |= ix.counters(index)
        for datum in data_of(index):
            match datum.key:
                case Operation(_, args):
                    waiting.extend(a.index for a in args if isinstance(a, Position))
                case _:
                    pass
    return found


def own_ops(instruction: Instruction, lowering: Lowering) -> int:
    """Scalar operations for one element of a result, operands apart."""
    match lowering:
        case Pointwise(scalar):
            return scalar_ops(resolve(scalar, instruction))
        case Generate(kind):
            return 1 if kind.startswith("random") else 0
        case Move():
            return 1 if is_guard(lowering) else 0
    return 0


def is_guard(lowering: Lowering) -> bool:
    """Whether it is a move that chooses where an element comes from: a test for each operand, or for each axis."""
    return isinstance(lowering, Move) and lowering.kind in ("concat", "pad")


def scalar_ops(scalar: Scalar) -> int:
    """The operations of a scalar expression."""
    return 1 + sum(scalar_ops(a) for a in scalar.args) if isinstance(scalar, Apply) else 0


def root_demand(number: int, shape: tuple[int, ...], order: Sequence[int] | None = None) -> Demand:
    """What a root reads of the value it stores, or folds: every element, with the axes of the value in `order` of the space."""
    fresh = tuple(ix.counter(Counter(n, e)) for n, e in enumerate(shape))
    at = fresh
    if order is not None:
        source = dict(zip(order, fresh, strict=True))
        at = tuple(source[d] for d in range(len(order)))
    return Demand(number, shape, at, 1.0, False, 0)


def operand_demands(graph: Graph, instruction: Instruction, result: int, demand: Demand) -> list[tuple[Value, Demand]]:
    """What computing a result as demanded demands of the operands."""
    deeper = Demand(demand.root, demand.shape, demand.at, demand.share, demand.guarded, demand.depth + 1)
    match graph.lowering(instruction):
        case Pointwise():
            operands = instruction.operands if demand.guarded else {o.name: o for o in instruction.operands}.values()
            return [(o, deeper) for o in operands]
        case View() as view:
            return [(instruction.operands[0], replace(deeper, at=view_coordinates(view, instruction, result, deeper.at)))]
        case Move(kind):
            return _moved(instruction, kind, deeper)
    return []


def _moved(instruction: Instruction, kind: str, demand: Demand) -> list[tuple[Value, Demand]]:
    match kind:
        case "concat":
            return _pieces(instruction, demand)
        case "pad":
            return _inside(instruction, demand)
        case "gather" | "take_along":
            return _gathered(instruction, kind, demand)
    raise InternalError(f"lower: no rule for a move of kind {kind}")


def _within(demand: Demand, index: Index, low: int, high: int) -> Demand | None:
    """The demand where low <= index < high; None where that is nowhere."""
    least, greatest = ix.bounds(index)
    if least >= low and greatest < high:
        return demand
    if greatest < low or least >= high:
        return None
    part = (min(high, greatest + 1) - max(low, least)) / (greatest + 1 - least)
    return replace(demand, share=demand.share * part, guarded=True)


def _pieces(concat: Instruction, demand: Demand) -> list[tuple[Value, Demand]]:
    axis, start = concat.attribute("axis"), 0
    found: list[tuple[Value, Demand]] = []
    for operand in concat.operands:
        size = operand.type.shape[axis]
        inner = tuple(ix.add(i, ix.number(-start)) if d == axis else i for d, i in enumerate(demand.at))
        taken = _within(demand, demand.at[axis], start, start + size)
        if taken is not None:
            found.append((operand, replace(taken, at=inner)))
        start += size
    return found


def _inside(pad: Instruction, demand: Demand) -> list[tuple[Value, Demand]]:
    (operand,) = pad.operands
    taken: Demand | None = demand
    inner: list[Index] = []
    places = zip(demand.at, pad.attribute("starts"), pad.attribute("steps"), operand.type.shape, strict=True)
    for at, start, step, size in places:
        offset = ix.add(at, ix.number(-start))
        inner.append(ix.divide(offset, step))
        taken = taken and _within(taken, at, start, start + (size - 1) * step + 1)
        taken = taken and _within(taken, ix.modulo(offset, step), 0, 1)
    return [(operand, replace(taken, at=tuple(inner)))] if taken is not None else []


def _gathered(instruction: Instruction, kind: str, demand: Demand) -> list[tuple[Value, Demand]]:
    source, indices = instruction.operands
    at = demand.at
    axis = instruction.attribute("axis") % len(source.type.dims)
    rank = 1 if kind == "take_along" else len(indices.type.dims)
    place = at if kind == "take_along" else at[axis : axis + rank]
    key = Operation("clamp", (Ref(indices.name), *(Position(i) for i in place)))
    row = Index(((Datum(key, source.type.shape[axis]), 1),))
    return [(source, replace(demand, at=(*at[:axis], row, *at[axis + rank :]))), (indices, replace(demand, at=tuple(place)))]
