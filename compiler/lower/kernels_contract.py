"""Contractions: strided index groups for the runtime's kernel, and an epilogue for each element of its blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlc.ir.dtypes import dtype_of, row
from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Ref
from mlc.lower.form import Draft
from mlc.lower.groups import index_groups, spec_of
from mlc.lower.loops import Contract, Let, Statement, Store
from mlc.lower.scope import Scope
from mlc.lower.sources import Sources, draft_note, root_stores


def contract_kernel(sources: Sources, draft: Draft, instruction: Instruction) -> Contract:
    """The contraction of a draft with its roots, stores of the same shape, as the epilogue."""
    spec, result = spec_of(instruction), instruction.results[0].name
    a, b = (sources.regrouped(result, n) or sources.operand(value) for n, value in enumerate((spec.a, spec.b)))
    batch, m, n, k = index_groups(spec, a.strides, b.strides)
    counters, place = _places(spec.groups, spec.extents)
    dtype = dtype_of(instruction.operands[0].type.dtype).wide
    row_body, body = _epilogue(sources, draft, instruction.results[0], tuple(place[c] for c in spec.output))
    scratch = row(sources.graph.rules.contractions.scratch, dtype, f"contractions of target {sources.graph.rules.target}")
    stored = (sources.storage.buffers[a.buffer].dtype, sources.storage.buffers[b.buffer].dtype)
    return Contract(draft_note(sources.graph, draft), a, b, batch, m, n, k, counters, dtype, stored, row_body, body, scratch)


def _places(groups: Mapping[str, str], extents: Mapping[str, int]) -> tuple[tuple[Counter, Counter, Counter], dict[str, Index]]:
    """The counters of batch, m and n, and by letter the coordinate of the result they mean."""
    place: dict[str, Index] = {}

    def counter_of(number: int, letters: str) -> Counter:
        shape = [extents[c] for c in letters]
        counter = Counter(number, math.prod(shape))
        place.update(zip(letters, ix.unflatten(ix.counter(counter), shape), strict=True))
        return counter

    return (counter_of(0, groups["batch"]), counter_of(1, groups["m"]), counter_of(2, groups["n"])), place


def _epilogue(sources: Sources, draft: Draft, result: Value, at: tuple[Index, ...]) -> tuple[tuple[Let, ...], tuple[Statement, ...]]:
    """What is done with each element of the result: locals of its row, then the rest."""
    needs = {"acc": frozenset([0, 1, 2])}
    scope = Scope(sources.graph, sources.storage.memory, {result.name: Ref("acc")}, needs, {"acc"})
    statements: list[Statement] = [Store(p.buffer, p.index(at), Ref("acc"), mode) for p, mode in sources.stores(result)]
    statements.extend(store for root in draft.roots for store in root_stores(scope, root, at))
    inner = [let for let in scope.lets if 2 in let.needs]
    return tuple(let for let in scope.lets if 2 not in let.needs), (*inner, *statements)
