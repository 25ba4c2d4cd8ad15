"""Kernel kinds as the kernels of a device: what a CPU's thread does in order is cut so that thousands of threads have something to do.

Nest, vector       a thread an item
Nest, rows         a warp or a block an item, whose independent loops are shared out among its lanes
Whole              a block
Contract           a kernel of runtime/cuda, with sums of columns on its way; where its tiles are few, parts of its sums, then those
Call               a kernel of runtime/cuda
Select             a thread a line
Scatter            a thread a line and range of places: it looks at all in order, and adds what falls there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from mlc.lower import index as ix
from mlc.lower.expression import (
    Checked,
    Counter,
    Datum,
    Expression,
    Index,
    Number,
    Operation,
    Position,
    Random,
    Read,
    Ref,
    Within,
)
from mlc.lower.loops import Accumulator, Columns, Contract, Fold, Kernel, Let, Loop, Nest, Scan, Scatter, Store, Whole
from mlc.lower.rules import Reserve
from mlc.lower.substitute import replaced
from mlc.targets.cuda.split import DEVICES, Device, split_contraction
from mlc.targets.cuda.sums import sums_on_the_way

#: As in loops.Columns: buffer, index, mode, value.
_Result = tuple[str, ix.Index, str, Expression]


def device_kinds(target: str, kernels: Sequence[Kernel], reserve: Reserve) -> tuple[Kernel, ...]:
    """Sums of columns and scans as nests, scatters without their clearing, contractions with what they sum on the way; every other kernel
    as it is."""
    device = DEVICES[target]
    on_the_way = sums_on_the_way(device, kernels)
    made: list[Kernel] = []
    for n, kernel in enumerate(kernels):
        columns = kernels[on_the_way[n]] if n in on_the_way else None
        if isinstance(kernel, Contract) and isinstance(columns, Columns):
            made += _with_sums(kernel, columns, reserve)
        elif n not in on_the_way.values():
            made += _kinds(device, kernel, reserve)
    return tuple(map(_joined, made))


def _with_sums(kernel: Contract, columns: Columns, reserve: Reserve) -> tuple[Kernel, ...]:
    """The contraction, which makes the partial sums too; then those in their order."""
    (place,), blocks = _partials(columns, reserve)
    return (replace(kernel, sums=place), _total(columns, blocks, [place]))


def _kinds(device: Device, kernel: Kernel, reserve: Reserve) -> tuple[Kernel, ...]:
    match kernel:
        case Columns():
            return _columns(kernel, reserve)
        case Scan(note, lines, along, start, body, fold, stores):
            return (Nest(note, (), lines, (start, Loop(along, (*body, fold, *stores), False)), True),)
        case Scatter():
            return _scatter(kernel)
        case Contract():
            return split_contraction(device, kernel, reserve)
        case _:
            return (kernel,)


#: What an index may stand in.
_PARTS = (Nest, Whole, Scatter, Loop, Let, Fold, Store, Read, Position, Random, Operation, Within, Checked)


def _joined(node: Any) -> Any:
    """A kernel, or a part of one, whose indices have as few divisions as they can: loops are not split here, so some stay."""
    match node:
        case Index(terms, constant):
            return ix.joined(Index(tuple((_joined(atom), c) for atom, c in terms), constant))
        case Datum(key, extent):
            return Datum(_joined(key), extent)
        case tuple():
            return tuple(map(_joined, node))
        case _ if isinstance(node, _PARTS):
            return replace(node, **{field.name: _joined(getattr(node, field.name)) for field in fields(node)})
        case _:
            return node


def _scatter(kernel: Scatter) -> tuple[Kernel, ...]:
    """All places cleared, a thread each; then what is left of the scatter adds to them."""
    item = Counter(0, kernel.lines.extent * kernel.places.extent)
    line, place = ix.unflatten(ix.counter(item), (kernel.lines.extent, kernel.places.extent))
    if kernel.shared:  # lines lie side by side
        place, line = ix.unflatten(ix.counter(item), (kernel.places.extent, kernel.lines.extent))
    clears = replaced(kernel.clears, {kernel.lines.number: line, kernel.places.number: place})
    return (Nest(kernel.note, (), item, clears, True), replace(kernel, clears=()))


def _columns(kernel: Columns, reserve: Reserve) -> tuple[Nest, ...]:
    """Blocks of rows into partial sums, a thread a column of a block; then those in their order, a thread a column.

    before:  for each column: total = 0; for each block of rows: part = 0; for its rows: part += x; total += part
    after:   for each (block, column): part = 0; for its rows: part += x; store partial = part
             for each column: total = 0; for each block: total += partial
    """
    rows, height = kernel.reduced.extent, kernel.rows
    if rows <= height:
        return (_sums(kernel, 0, 1, rows, kernel.results),)
    whole, rest = divmod(rows, height)
    columns = kernel.column.extent
    places, blocks = _partials(kernel, reserve)
    values = [value for *_, value in kernel.results]

    def partial(first: int, count: int) -> list[_Result]:
        block, strides = Counter(3, count), [blocks * columns, columns, 1]
        counters = [ix.counter(c) for c in (kernel.outer, block, kernel.column)]
        at = ix.linear(counters, strides, first * columns)
        return [(buffer, at, "write", value) for buffer, value in zip(places, values, strict=True)]

    parts = [_sums(kernel, 0, whole, height, partial(0, whole))]
    if rest:
        parts.append(_sums(kernel, whole, 1, rest, partial(whole, 1)))
    return (*parts, _total(kernel, blocks, places))


def _partials(kernel: Columns, reserve: Reserve) -> tuple[list[str], int]:
    """Memory for a partial sum of each result, block of rows and column; and how many blocks there are."""
    blocks = -(-kernel.reduced.extent // kernel.rows)
    size = kernel.outer.extent * blocks * kernel.column.extent
    return [reserve(f"{buffer}.partial", kernel.dtype, size) for buffer, *_ in kernel.results], blocks


def _sums(kernel: Columns, first: int, blocks: int, rows: int, results: Sequence[_Result]) -> Nest:
    """A thread each (outer, block, column): the sum of the rows of a block. results: with counter 3 the block."""
    item, row = Counter(0, kernel.outer.extent * blocks * kernel.column.extent), Counter(1, rows)
    outer, block, column = ix.unflatten(ix.counter(item), (kernel.outer.extent, blocks, kernel.column.extent))
    down = ix.linear([block, ix.counter(row)], [kernel.rows, 1], first * kernel.rows)
    at = {kernel.outer.number: outer, kernel.reduced.number: down, kernel.column.number: column, 3: block}
    stores = replaced([Store(buffer, index, value, mode) for buffer, index, mode, value in results], at)
    return _folded(kernel, item, row, replaced(kernel.body, at), stores)


def _total(kernel: Columns, blocks: int, partials: Sequence[str]) -> Nest:
    """A thread each (outer, column): the partial sums in their order."""
    item, block = Counter(0, kernel.outer.extent * kernel.column.extent), Counter(1, blocks)
    outer, column = ix.unflatten(ix.counter(item), (kernel.outer.extent, kernel.column.extent))
    at = ix.linear([outer, ix.counter(block), column], [blocks * kernel.column.extent, kernel.column.extent, 1])
    empty = [Store(buffer, index, Number(0, kernel.dtype), mode) for buffer, index, mode, _ in kernel.results]
    moved = replaced(empty, {kernel.outer.number: outer, kernel.column.number: column})
    return _folded(kernel, item, block, (), [replace(s, value=Read(partial, at)) for s, partial in zip(moved, partials, strict=True)])


def _folded(kernel: Columns, item: Counter, along: Counter, lets: Sequence[Let], stores: Sequence[Store]) -> Nest:
    """A nest whose items fold the values of stores along a loop, and store what that comes to."""
    names = [f"part_{n}" for n in range(len(stores))]
    starts = [Accumulator(name, kernel.dtype, kernel.combine) for name in names]
    folds = [Fold(name, kernel.combine, s.value) for name, s in zip(names, stores, strict=True)]
    ends = [replace(s, value=Ref(name)) for name, s in zip(names, stores, strict=True)]
    return Nest(kernel.note, (), item, (*starts, Loop(along, (*lets, *folds), False), *ends), True)
