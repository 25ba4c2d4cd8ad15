"""Kernels that are loops in C: nests, sums of columns, selections."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.emit import tree as c
from mlc.emit.body import SIMD, Body, initial_text
from mlc.emit.dtypes import register
from mlc.emit.expressions import ATOM, POSTFIX, Text
from mlc.lower.loops import Columns, Nest, Select


def nest(body: Body, kernel: Nest) -> c.Statement:
    """A share of the items; a kernel of one item is run by one thread."""
    if kernel.items.extent == 1:
        return c.If("env->thread == 0", body.statements((*kernel.prologue, *kernel.body)))
    prologue = body.statements(kernel.prologue)
    loop = _shared("i", body.statements(kernel.body), SIMD if kernel.vector else "")
    return c.Block((*prologue, _share(kernel.items.extent), loop))


def flat_nest(body: Body, kernel: Nest) -> tuple[c.Statement, ...]:
    """The items from `begin` to `end`, as one range of a flat parameter."""
    prologue = body.statements(kernel.prologue)
    return (*prologue, c.For("i", "begin", "end", body.statements(kernel.body), pragma=SIMD))


def _share(items: int) -> c.Statement:
    """The items of this thread."""
    return c.Define("const mlc_range", "range", f"mlc_share(env, {items})")


def _shared(counter: str, body: Sequence[c.Statement], pragma: str = "") -> c.For:
    """The loop over the items of this thread."""
    return c.For(counter, "range.begin", "range.end", tuple(body), pragma=pragma)


def columns(body: Body, kernel: Columns) -> c.Statement:
    """A block of columns an item; rows are summed in blocks, whose sums are summed."""
    width, rows, block = kernel.column.extent, kernel.reduced.extent, kernel.block
    blocks, elements = -(-width // block), len(kernel.results) * block
    start = initial_text(kernel.dtype, kernel.combine)
    outer = [c.Define("const int64_t", "i", f"item / {blocks}")] if kernel.outer.extent > 1 else []
    block_of_rows = (
        c.Define("const int64_t", "end", f"row + {kernel.rows} < {rows} ? row + {kernel.rows} : {rows}"),
        _for_elements(elements, c.Assign("part[r]", start)),
        c.For("j", "row", "end", _add_row(body, kernel)),
        _for_elements(elements, _combined(kernel, "total[r]", "part[r]")),
    )
    item = (
        *outer,
        c.Define("const int64_t", "first", f"item % {blocks} * {block}"),
        c.Define("const int64_t", "columns", f"{width} - first < {block} ? {width} - first : {block}"),
        c.Define(register(kernel.dtype).type, f"total[{elements}], part[{elements}]"),
        _for_elements(elements, c.Assign("total[r]", start)),
        c.For("row", "0", str(rows), block_of_rows, kernel.rows),
        _store_columns(body, kernel),
    )
    return c.Block((_share(kernel.outer.extent * blocks), _shared("item", item)))


def _for_elements(elements: int, statement: c.Statement) -> c.For:
    return c.For("r", "0", str(elements), (statement,))


def _for_columns(body: Sequence[c.Statement]) -> c.For:
    return c.For("c", "0", "columns", tuple(body), pragma=SIMD)


def _combined(kernel: Columns, place: str, value: str) -> c.Statement:
    call = register(kernel.dtype).functions.get({"sum": "add", "max": "maximum"}[kernel.combine])
    if call:
        return c.Assign(place, f"{call}({place}, {value})")
    return c.Assign(place, value, "+=") if kernel.combine == "sum" else c.Assign(place, f"{value} > {place} ? {value} : {place}")


def _cell(array: str, result: int, block: int) -> str:
    """The element of column c in the array of a result."""
    return f"{array}[{result * block} + c]" if result else f"{array}[c]"


def _add_row(body: Body, kernel: Columns) -> tuple[c.Statement, ...]:
    """Combine one row of a block into `part`."""
    column = kernel.column.number
    row = body.statements([let for let in kernel.body if column not in let.needs])
    inner = [*body.statements([let for let in kernel.body if column in let.needs])]
    for n, (_, _, _, value) in enumerate(kernel.results):
        inner.append(_combined(kernel, _cell("part", n, kernel.block), body.text(value)))
    return (*row, _for_columns(inner))


def _store_columns(body: Body, kernel: Columns) -> c.Statement:
    cells = [Text(_cell("total", n, kernel.block), POSTFIX) for n in range(len(kernel.results))]
    stores = zip(kernel.results, cells, strict=True)
    return _for_columns([body.store(buffer, index, cell, mode) for (buffer, index, mode, _), cell in stores])


def select(body: Body, kernel: Select) -> c.Statement:
    """A share of the lines of a selection."""
    return c.Block((_share(kernel.items.extent), _shared("i", select_item(body, kernel))))


def select_item(body: Body, kernel: Select) -> tuple[c.Statement, ...]:
    """Chooses the largest of line i again and again: after the last chosen one in the order (value descending, index ascending)."""
    kind = register(kernel.dtype).type
    buffer, index = kernel.indices
    chosen = (
        *_choose(body, kernel, kind),
        c.Do("last = best, last_index = best_index < 0 ? 0 : best_index"),
        *([body.store(*kernel.values, Text("last", ATOM), "write")] if kernel.values else []),
        c.Assign(body.element(buffer, index), "(int32_t)last_index"),
    )
    return (c.Define(kind, "last", "0"), c.Define("int64_t", "last_index", "-1"), body.loop(kernel.rank, chosen))


def _choose(body: Body, kernel: Select, kind: str) -> tuple[c.Statement, ...]:
    """Find `best`, the largest after `last`, with its index."""
    along = body.counters[kernel.along.number]
    lets = body.statements(kernel.body)
    one = (
        *lets,
        c.Define(f"const {kind}", "value", body.text(kernel.value)),
        c.Define("const int", "later", f"last_index < 0 || value < last || (value == last && {along} > last_index)"),
        c.If("later && (best_index < 0 || value > best)", (c.Do(f"best = value, best_index = {along}"),)),
    )
    return (c.Define(kind, "best", "0"), c.Define("int64_t", "best_index", "-1"), body.loop(kernel.along, one))
