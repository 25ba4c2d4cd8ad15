"""Reductions over leading or middle dims: each column is folded down its rows."""

from __future__ import annotations

import math

from mlc.lower import index as ix
from mlc.lower.expression import Counter
from mlc.lower.form import Draft
from mlc.lower.graph import reduced_axes, scalar_dtype
from mlc.lower.kernels_rows import result_coordinates
from mlc.lower.loops import Columns
from mlc.lower.sources import Sources, draft_note


def columns_kernel(sources: Sources, draft: Draft) -> Columns:
    """The reductions of a draft, all over the same dims; its shape is kept dims, reduced dims, kept dims."""
    first = draft.roots[0]
    instruction = sources.graph.maker(first.value)
    reduced = reduced_axes(instruction)
    start = next(n for n, d in enumerate(first.order) if d in reduced)
    end = start + len(reduced)
    parts = (draft.shape[:start], draft.shape[start:end], draft.shape[end:])
    outer, down, column = (Counter(n, math.prod(p)) for n, p in enumerate(parts))
    outer_at, down_at, column_at = (ix.unflatten(ix.counter(c), p) for c, p in zip((outer, down, column), parts, strict=True))
    source = dict(zip(first.order, (*outer_at, *down_at, *column_at), strict=True))
    at = tuple(source[d] for d in range(len(first.order)))
    scope = sources.scope()
    results = []
    for root in draft.roots:
        value = scope.value(sources.graph.maker(root.value).operands[0], at)
        result_at = result_coordinates(sources, root, (*outer_at, *column_at))
        for place, mode in sources.stores(root.value):
            results.append((place.buffer, place.index(result_at), mode, value))
    combine, dtype = sources.graph.combine(instruction), scalar_dtype(first.value.type.dtype)
    note, loops = draft_note(sources.graph, draft), sources.graph.rules.loops
    lets, block = tuple(scope.lets), min(loops.column_block, column.extent)
    return Columns(note, outer, down, column, lets, combine, dtype, tuple(results), loops.column_rows, block)
