"""Elementwise kernels: one loop over the flat elements of a shape."""

from __future__ import annotations

import math

from mlc.lower import index as ix
from mlc.lower.expression import Index
from mlc.lower.form import Draft
from mlc.lower.loops import Nest, Statement
from mlc.lower.nesting import nest, split_loops
from mlc.lower.scope import Scope
from mlc.lower.sources import Sources, draft_note, root_stores


def flat_kernel(sources: Sources, draft: Draft) -> Nest:
    """The stores of a draft for each element of its shape, which all its roots have."""

    def build(flat: Index) -> tuple[Scope, list[Statement]]:
        scope = sources.scope()
        return scope, [s for root in draft.roots for s in root_stores(scope, root, ix.unflatten(flat, draft.shape))]

    counters, scope, statements = split_loops(math.prod(draft.shape), 0, sources.graph.rules.loops.least_inner, build)
    prologue = tuple(let for let in scope.lets if not let.needs)
    lets = [let for let in scope.lets if let.needs]
    body = nest(counters[1:], lets, statements, ())
    return Nest(draft_note(sources.graph, draft), prologue, counters[0], body, len(counters) == 1)
