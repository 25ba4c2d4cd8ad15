"""Instructions that are a kernel of their own, into which nothing is fused: attention, scatters, scans, selections."""

from __future__ import annotations

import math

from mlc.diagnostics import InternalError
from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Number, Ref
from mlc.lower.graph import scalar_dtype
from mlc.lower.loops import Accumulator, Attention, Fold, Loop, Nest, Select, Store
from mlc.lower.sources import Sources, instruction_note


def attention_kernel(sources: Sources, instruction: Instruction) -> Attention:
    """The attention kernel of the runtime, forward or vjp, with or without a mask."""
    vjp = instruction.op == "attention_vjp"
    operands = list(instruction.operands)
    has_mask = len(operands) > 3 and operands[3].type.dtype == "bool"
    if len(operands) != (6 if vjp else 3) + has_mask:
        raise InternalError(f"lower: the kernel of {instruction.op} takes no times and no gradient of the log-sum-exp")
    mask = operands.pop(3) if has_mask else None
    values = [*operands[:3], mask, *operands[3:], *instruction.results]
    q, k, v = (o.type.shape for o in operands[:3])
    return Attention(
        note=instruction_note(instruction),
        vjp=vjp,
        dims=(q[0], q[1], k[1], q[2], k[2], q[3], v[3]),
        operands=tuple(None if o is None else sources.operand(o) for o in values),
        scale=instruction.attribute("scale"),
        causal=instruction.attribute("causal"),
        dtype=operands[0].type.dtype,
    )


def scatter_add_kernel(sources: Sources, instruction: Instruction) -> Nest:
    """An item is a run of columns: cleared in every row of the result, then added to in the order of the operand's rows."""
    rows, indices = instruction.operands
    (result,) = instruction.results
    rest = result.type.shape[1:]
    chunk = _chunk(math.prod(rest))
    item = Counter(0, math.prod(rest) // chunk)
    clear, clear_column = Counter(1, result.type.shape[0]), Counter(2, chunk)
    token, column = Counter(3, math.prod(indices.type.shape)), Counter(4, chunk)

    def rest_at(inner: Counter) -> tuple[Index, ...]:
        return ix.unflatten(ix.linear([ix.counter(item), ix.counter(inner)], [chunk, 1]), rest)

    scope = sources.scope()
    token_at = ix.unflatten(ix.counter(token), indices.type.shape)
    place, found = scope.lookup(instruction, token_at, result.type.shape[0])
    row_lets = list(scope.lets)
    value = scope.found(scope.value(rows, (*token_at, *rest_at(column))), found, rows)
    zeros = _clearing(sources, result, (ix.counter(clear), *rest_at(clear_column)))
    adds = tuple(Store(p.buffer, p.index((place, *rest_at(column))), value, "add") for p, _ in sources.stores(result))
    body = (
        Loop(clear, (Loop(clear_column, zeros, True),), False),
        Loop(token, (*row_lets, Loop(column, (*scope.lets[len(row_lets) :], *adds), True)), False),
    )
    return Nest(instruction_note(instruction), (), item, body, False)


def _clearing(sources: Sources, result: Value, at: tuple[Index, ...]) -> tuple[Store, ...]:
    """Stores of zero at one element of a result."""
    zero = Number(0, scalar_dtype(result.type.dtype))
    return tuple(Store(p.buffer, p.index(at), zero, mode) for p, mode in sources.stores(result))


def _chunk(width: int) -> int:
    """Columns of one work item: a divisor of the width near 64 that leaves several items where it can."""
    divisors = [d for d in range(1, min(width, 128) + 1) if width % d == 0]
    several = [d for d in divisors if width // d >= 8 and d >= 16]
    return max(several) if several else max((d for d in divisors if width // d >= 2 and d >= 16), default=divisors[-1])


def put_along_kernel(sources: Sources, instruction: Instruction) -> Nest:
    """An item is a line along the axis: cleared, then added to in the order of the operand's rows."""
    rows = instruction.operands[0]
    (result,) = instruction.results
    axis = instruction.attribute("axis") % len(rows.type.dims)
    item, kept = _lines(rows, axis)
    clear, along = Counter(1, result.type.shape[axis]), Counter(2, rows.type.shape[axis])

    def at(place: Index) -> tuple[Index, ...]:
        return (*kept[:axis], place, *kept[axis:])

    scope = sources.scope()
    place, found = scope.lookup(instruction, at(ix.counter(along)), result.type.shape[axis])
    value = scope.found(scope.value(rows, at(ix.counter(along))), found, rows)
    zeros = _clearing(sources, result, at(ix.counter(clear)))
    adds = tuple(Store(p.buffer, p.index(at(place)), value, "add") for p, _ in sources.stores(result))
    body = (Loop(clear, zeros, False), Loop(along, (*scope.lets, *adds), False))
    return Nest(instruction_note(instruction), (), item, body, False)


def _lines(value: Value, axis: int) -> tuple[Counter, tuple[Index, ...]]:
    """A counter of the lines of a value along an axis, and the coordinates of a line in the other dims."""
    others = [e for d, e in enumerate(value.type.shape) if d != axis]
    item = Counter(0, math.prod(others))
    return item, ix.unflatten(ix.counter(item), others)


def cumsum_kernel(sources: Sources, instruction: Instruction) -> Nest:
    """An item is a line along the axis, summed up or down."""
    (operand,) = instruction.operands
    (result,) = instruction.results
    axis = instruction.attribute("axis") % len(operand.type.dims)
    extent = operand.type.shape[axis]
    item, kept = _lines(operand, axis)
    along = Counter(1, extent)
    place = ix.counter(along)
    if instruction.attribute("reverse"):
        place = ix.add(ix.number(extent - 1), ix.scale(place, -1))
    at = (*kept[:axis], place, *kept[axis:])
    scope = sources.scope()
    name = scope.fresh(result.name)
    value = scope.value(operand, at)
    stores = tuple(Store(p.buffer, p.index(at), Ref(name), mode) for p, mode in sources.stores(result))
    body = (
        Accumulator(name, scalar_dtype(result.type.dtype), "sum"),
        Loop(along, (*scope.lets, Fold(name, "sum", value), *stores), False),
    )
    return Nest(instruction_note(instruction), (), item, body, False)


def select_kernel(sources: Sources, instruction: Instruction) -> Select:
    """top_k or argmax: an item is a line along the axis."""
    (operand,) = instruction.operands
    top = instruction.op == "top_k"
    rank = len(operand.type.dims)
    axis = rank - 1 if top else instruction.attribute("axis") % rank
    k = instruction.results[0].type.shape[-1] if top else 1
    item, kept = _lines(operand, axis)
    along, chosen = Counter(1, operand.type.shape[axis]), Counter(2, k)
    scope = sources.scope()
    value = scope.value(operand, (*kept[:axis], ix.counter(along), *kept[axis:]))
    result_at = (*kept, ix.counter(chosen)) if top else kept

    def place(result: Value) -> tuple[str, Index]:
        (p, _) = sources.stores(result)[0]
        return p.buffer, p.index(result_at)

    return Select(
        note=instruction_note(instruction),
        items=item,
        along=along,
        body=tuple(scope.lets),
        value=value,
        dtype=scalar_dtype(operand.type.dtype),
        k=k,
        values=place(instruction.results[0]) if top else None,
        indices=place(instruction.results[-1]),
        rank=chosen,
    )
