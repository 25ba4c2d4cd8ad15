"""Instructions that are a kernel of their own, into which nothing is fused: calls of the runtime, scatters, scans, selections."""

from __future__ import annotations

import math
from collections.abc import Callable

from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Number, Ref
from mlc.lower.graph import scalar_dtype
from mlc.lower.library import RuntimeKernel
from mlc.lower.loops import Accumulator, Call, Fold, Scan, Scatter, Select, Store
from mlc.lower.rules import Reserve
from mlc.lower.sources import Sources, instruction_note


def call_kernel(sources: Sources, instruction: Instruction, kernel: RuntimeKernel, reserve: Reserve) -> Call:
    """An instruction as a call of a kernel of the runtime."""
    read = kernel.operands(instruction)
    operands = tuple(None if value is None else sources.operand(value) for value in (*read, *instruction.results))
    workspace = kernel.workspace(instruction)
    return Call(
        note=instruction_note(instruction),
        kernel=kernel,
        function=kernel.function(instruction),
        flops=sources.graph.ops[instruction.op].flops(instruction),
        operands=operands,
        reads=len(read),
        constants=kernel.constants(instruction, operands),
        scratch=kernel.scratch(instruction),
        workspace=reserve(f"{instruction.results[0].name}.workspace", "bool", workspace) if workspace else None,
    )


def scatter_add_kernel(sources: Sources, instruction: Instruction) -> Scatter:
    """A line is a column of the result, all dims but the first flat; every column has the same places."""
    _, indices = instruction.operands
    (result,) = instruction.results
    rest = result.type.shape[1:]
    lines, places, along = Counter(0, math.prod(rest)), Counter(1, result.type.shape[0]), Counter(2, math.prod(indices.type.shape))
    rest_at = ix.unflatten(ix.counter(lines), rest)
    along_at = ix.unflatten(ix.counter(along), indices.type.shape)
    return _scatter(sources, instruction, (lines, places, along), True, along_at, (*along_at, *rest_at), lambda place: (place, *rest_at))


def put_along_kernel(sources: Sources, instruction: Instruction) -> Scatter:
    """A line goes along the axis, and has places of its own."""
    rows = instruction.operands[0]
    axis = instruction.attribute("axis") % len(rows.type.dims)
    lines, kept = _lines(rows, axis)
    places, along = Counter(1, instruction.results[0].type.shape[axis]), Counter(2, rows.type.shape[axis])

    def at(place: Index) -> tuple[Index, ...]:
        return (*kept[:axis], place, *kept[axis:])

    along_at = at(ix.counter(along))
    return _scatter(sources, instruction, (lines, places, along), False, along_at, along_at, at)


def _scatter(
    sources: Sources,
    instruction: Instruction,
    counters: tuple[Counter, Counter, Counter],
    shared: bool,
    index_at: tuple[Index, ...],
    row_at: tuple[Index, ...],
    result_at: Callable[[Index], tuple[Index, ...]],
) -> Scatter:
    """counters: lines, places, along. The element at `row_at` of the operand is added where the index at `index_at` says."""
    lines, places, along = counters
    rows, (result,) = instruction.operands[0], instruction.results
    scope = sources.scope()
    place, found = scope.lookup(instruction, index_at, places.extent)
    lookup = tuple(scope.lets)
    value = scope.found(scope.value(rows, row_at), found, rows)
    zero, cleared = Number(0, scalar_dtype(result.type.dtype)), result_at(ix.counter(places))
    return Scatter(
        note=instruction_note(instruction),
        lines=lines,
        places=places,
        along=along,
        shared=shared,
        lookup=lookup,
        body=tuple(scope.lets[len(lookup) :]),
        clears=tuple(Store(p.buffer, p.index(cleared), zero, mode) for p, mode in sources.stores(result)),
        adds=tuple(Store(p.buffer, p.index(result_at(place)), value, "add") for p, _ in sources.stores(result)),
    )


def _lines(value: Value, axis: int) -> tuple[Counter, tuple[Index, ...]]:
    """A counter of the lines of a value along an axis, and the coordinates of a line in the other dims."""
    others = [e for d, e in enumerate(value.type.shape) if d != axis]
    lines = Counter(0, math.prod(others))
    return lines, ix.unflatten(ix.counter(lines), others)


def cumsum_kernel(sources: Sources, instruction: Instruction) -> Scan:
    """A line goes along the axis, summed up or down."""
    (operand,) = instruction.operands
    (result,) = instruction.results
    axis = instruction.attribute("axis") % len(operand.type.dims)
    extent = operand.type.shape[axis]
    lines, kept = _lines(operand, axis)
    along = Counter(1, extent)
    place = ix.counter(along)
    if instruction.attribute("reverse"):
        place = ix.add(ix.number(extent - 1), ix.scale(place, -1))
    at = (*kept[:axis], place, *kept[axis:])
    scope = sources.scope()
    name = scope.fresh(result.name)
    value = scope.value(operand, at)
    return Scan(
        note=instruction_note(instruction),
        lines=lines,
        along=along,
        start=Accumulator(name, scalar_dtype(result.type.dtype), "sum"),
        body=tuple(scope.lets),
        fold=Fold(name, "sum", value),
        stores=tuple(Store(p.buffer, p.index(at), Ref(name), mode) for p, mode in sources.stores(result)),
    )


def top_k_kernel(sources: Sources, instruction: Instruction) -> Select:
    """The k largest of each line along the last axis."""
    return _select(sources, instruction, -1, instruction.results[0].type.shape[-1])


def argmax_kernel(sources: Sources, instruction: Instruction) -> Select:
    """The place of the largest of each line along the axis."""
    return _select(sources, instruction, instruction.attribute("axis"), None)


def _select(sources: Sources, instruction: Instruction, axis: int, k: int | None) -> Select:
    """k: None where the one place of each line is the result, which has no dim for it."""
    (operand,) = instruction.operands
    axis %= len(operand.type.dims)
    items, kept = _lines(operand, axis)
    along, chosen = Counter(1, operand.type.shape[axis]), Counter(2, 1 if k is None else k)
    scope = sources.scope()
    value = scope.value(operand, (*kept[:axis], ix.counter(along), *kept[axis:]))
    result_at = kept if k is None else (*kept, ix.counter(chosen))

    def place(result: Value) -> tuple[str, Index]:
        (p, _) = sources.stores(result)[0]
        return p.buffer, p.index(result_at)

    return Select(
        note=instruction_note(instruction),
        items=items,
        along=along,
        body=tuple(scope.lets),
        value=value,
        dtype=scalar_dtype(operand.type.dtype),
        k=chosen.extent,
        values=None if k is None else place(instruction.results[0]),
        indices=place(instruction.results[-1]),
        rank=chosen,
    )
