"""Kernels that are loops in C: nests, sums of columns, selections."""

from __future__ import annotations

from mlc.emit.body import Body
from mlc.emit.expressions import ATOM, LOCAL_TYPES, POSTFIX, Text
from mlc.lower.loops import Columns, Nest, Select

#: Rows summed in one block of a column sum before the block is added to the total.
COLUMN_ROWS = 64

#: Columns of one work item of a column sum.
COLUMN_BLOCK = 64


def write_nest(body: Body, kernel: Nest) -> None:
    """A share of the items; a kernel of one item is run by one thread."""
    writer = body.writer
    if kernel.items.extent == 1:
        with writer.block("if (env->thread == 0)"):
            body.statements((*kernel.prologue, *kernel.body))
        return
    with writer.block(""):
        body.statements(kernel.prologue)
        writer.line(f"const mlc_range range = mlc_share(env, {kernel.items.extent});")
        if kernel.vector:
            writer.line("MLC_SIMD")
        with writer.block("for (int64_t i = range.begin; i < range.end; i++)"):
            body.statements(kernel.body)


def write_flat_nest(body: Body, kernel: Nest) -> None:
    """The items from `begin` to `end`, as one range of a flat parameter."""
    body.statements(kernel.prologue)
    body.writer.line("MLC_SIMD")
    with body.writer.block("for (int64_t i = begin; i < end; i++)"):
        body.statements(kernel.body)


def write_columns(body: Body, kernel: Columns) -> None:
    """COLUMN_BLOCK columns an item; rows are summed in blocks of COLUMN_ROWS, whose sums are summed."""
    writer, width, rows = body.writer, kernel.column.extent, kernel.reduced.extent
    block = min(COLUMN_BLOCK, width)
    blocks = -(-width // block)
    elements = len(kernel.results) * block
    start = {"sum": "0.0f", "max": "-INFINITY"}[kernel.combine]
    with writer.block(""):
        writer.line(f"const mlc_range range = mlc_share(env, {kernel.outer.extent * blocks});")
        with writer.block("for (int64_t item = range.begin; item < range.end; item++)"):
            if kernel.outer.extent > 1:
                writer.line(f"const int64_t i = item / {blocks};")
            writer.line(f"const int64_t first = item % {blocks} * {block};")
            writer.line(f"const int64_t columns = {width} - first < {block} ? {width} - first : {block};")
            writer.line(f"float total[{elements}], part[{elements}];")
            _for_elements(body, elements, f"total[r] = {start};")
            with writer.block(f"for (int64_t row = 0; row < {rows}; row += {COLUMN_ROWS})"):
                writer.line(f"const int64_t end = row + {COLUMN_ROWS} < {rows} ? row + {COLUMN_ROWS} : {rows};")
                _for_elements(body, elements, f"part[r] = {start};")
                with writer.block("for (int64_t j = row; j < end; j++)"):
                    _add_row(body, kernel, block)
                _for_elements(body, elements, _combined(kernel, "total[r]", "part[r]"))
            _store_columns(body, kernel, block)


def _for_elements(body: Body, elements: int, statement: str) -> None:
    with body.writer.block(f"for (int64_t r = 0; r < {elements}; r++)"):
        body.writer.line(statement)


def _combined(kernel: Columns, place: str, value: str) -> str:
    return f"{place} += {value};" if kernel.combine == "sum" else f"{place} = mlc_maximum({place}, {value});"


def _cell(array: str, result: int, block: int) -> str:
    """The element of column c in the array of a result."""
    return f"{array}[{result * block} + c]" if result else f"{array}[c]"


def _add_row(body: Body, kernel: Columns, block: int) -> None:
    """Combine one row of a block into `part`."""
    column = kernel.column.number
    body.statements([let for let in kernel.body if column not in let.needs])
    body.writer.line("MLC_SIMD")
    with body.writer.block("for (int64_t c = 0; c < columns; c++)"):
        body.statements([let for let in kernel.body if column in let.needs])
        for n, (_, _, _, value) in enumerate(kernel.results):
            body.writer.line(_combined(kernel, _cell("part", n, block), body.text(value)))


def _store_columns(body: Body, kernel: Columns, block: int) -> None:
    body.writer.line("MLC_SIMD")
    with body.writer.block("for (int64_t c = 0; c < columns; c++)"):
        for n, (buffer, index, mode, _) in enumerate(kernel.results):
            body.store(buffer, index, Text(_cell("total", n, block), POSTFIX), mode)


def write_select(body: Body, kernel: Select) -> None:
    """Chooses the largest again and again: after the last chosen one in the order (value descending, index ascending)."""
    writer, kind = body.writer, LOCAL_TYPES[kernel.dtype]
    with writer.block(""):
        writer.line(f"const mlc_range range = mlc_share(env, {kernel.items.extent});")
        with writer.block("for (int64_t i = range.begin; i < range.end; i++)"):
            writer.line(f"{kind} last = 0;")
            writer.line("int64_t last_index = -1;")
            with writer.block(body.head(kernel.rank)):
                _choose(body, kernel, kind)
                writer.line("last = best, last_index = best_index < 0 ? 0 : best_index;")
                if kernel.values:
                    body.store(*kernel.values, Text("last", ATOM), "write")
                buffer, index = kernel.indices
                writer.line(f"{body.element(buffer, index)} = (int32_t)last_index;")


def _choose(body: Body, kernel: Select, kind: str) -> None:
    """Find `best`, the largest after `last`, with its index."""
    writer, along = body.writer, body.counters[kernel.along.number]
    writer.line(f"{kind} best = 0;")
    writer.line("int64_t best_index = -1;")
    with writer.block(body.head(kernel.along)):
        body.statements(kernel.body)
        writer.line(f"const {kind} value = {body.text(kernel.value)};")
        writer.line(f"const int later = last_index < 0 || value < last || (value == last && {along} > last_index);")
        with writer.block("if (later && (best_index < 0 || value > best))"):
            writer.line(f"best = value, best_index = {along};")
