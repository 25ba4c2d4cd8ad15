"""Kernels over rows: reductions of a row, and what is computed from them while the row is at hand.

before:  %s = sum %x {axes=(1)}   %m = mul %s, %c   %h = sub %x, %m.row
after:   for each row:  s := sum;  loop column  fold s += x;  m = s * c;  loop column  store h = x - m
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Ref, locals_of, reads_of
from mlc.lower.form import Draft, Root
from mlc.lower.graph import reduced_axes, scalar_dtype
from mlc.lower.loops import Accumulator, Fold, Let, Nest, Statement, Store, Whole
from mlc.lower.nesting import nest, split_loops
from mlc.lower.scope import Scope
from mlc.lower.sources import Sources, draft_note, root_stores


@dataclass(slots=True)
class _Row:
    """The body of one row as it grows. leading: coordinates of the row; scope: its locals outside the loops over columns."""

    item: Counter
    leading: tuple[Index, ...]
    scope: Scope
    body: list[Statement] = field(default_factory=list)


def rows_kernel(sources: Sources, draft: Draft, rows: tuple[int, ...]) -> Nest | Whole:
    """The roots of a draft for each of its rows; of a single row it is a reduction of the whole.

    rows: the leading extents that every root has
    """
    item = Counter(0, math.prod(rows))
    row = _Row(item, ix.unflatten(ix.counter(item), rows), sources.scope())
    for group in _groups(draft, len(rows)):
        _add_group(sources, group, row)
    written = {p.buffer for r in draft.roots for p, _ in sources.stores(r.value)}
    written |= {r.placement.buffer for r in draft.roots if r.placement}
    prologue, body = _hoisted(row.body, written)
    note = draft_note(sources.graph, draft)
    return Nest(note, prologue, item, body, False) if item.extent > 1 else Whole(note, prologue, body)


def _groups(draft: Draft, rows: int) -> list[list[Root]]:
    """Consecutive roots that share one inner loop."""
    groups: list[list[Root]] = []
    made: set[str] = set()
    for root in draft.roots:
        same = groups and groups[-1][0].shape[rows:] == root.shape[rows:]
        if not same or any(name in made and _conflict(groups[-1], name, at, root) for name, at in root.loads):
            groups.append([])
            made = set()
        groups[-1].append(root)
        made.add(root.value.name)
    return groups


def _conflict(group: list[Root], name: str, at: tuple[Index, ...], root: Root) -> bool:
    """Whether reading `name`, made by this group, needs the group's loop to be over."""
    maker = next(r for r in group if r.value.name == name)
    return maker.kind == "row" or at != tuple(ix.counter(Counter(n, e)) for n, e in enumerate(root.shape))


def _add_group(sources: Sources, group: list[Root], row: _Row) -> None:
    """Append the loop of a group of roots, and the locals and stores of its reductions."""
    columns = group[0].shape[len(row.leading) :]
    folds = _accumulators(sources, group, row)

    def build(flat: Index) -> tuple[Scope, list[Statement]]:
        scope = sources.scope(set(row.scope.taken), row.scope)
        at = (*row.leading, *ix.unflatten(flat, columns))
        return scope, [s for root in group for s in _statements(sources, scope, root, at, folds)]

    width = math.prod(columns)
    counters, scope, statements = split_loops(width if width > 1 else 0, 1, sources.graph.rules.loops.least_inner, build)
    row.scope.taken |= scope.taken
    numbers = {c.number for c in counters}
    hoisted = [let for let in scope.lets if not let.needs & numbers]
    row.scope.adopt(scope, hoisted)
    row.body.extend(hoisted)
    row.body.extend(nest(counters, [let for let in scope.lets if let.needs & numbers], statements, tuple(folds.values())))
    for root in group:
        if root.kind == "row":
            name, _ = folds[root.value.name]
            row.body.extend(_reduction_stores(sources, root, row.leading, name))
            row.scope.leaf(root.value.name, Ref(name), frozenset([row.item.number]))


def _accumulators(sources: Sources, group: list[Root], row: _Row) -> dict[str, tuple[str, str]]:
    """A local for each reduction of a group: value -> (name, combine)."""
    folds: dict[str, tuple[str, str]] = {}
    for root in group:
        if root.kind != "row":
            continue
        combine = sources.graph.combine(sources.graph.maker(root.value))
        name = row.scope.fresh(root.value.name)
        folds[root.value.name] = (name, combine)
        row.body.append(Accumulator(name, scalar_dtype(root.value.type.dtype), combine))
    return folds


def _statements(
    sources: Sources, scope: Scope, root: Root, at: tuple[Index, ...], folds: dict[str, tuple[str, str]]
) -> Sequence[Statement]:
    """What a root does with the element at these coordinates of its space."""
    if root.kind == "store":
        return root_stores(scope, root, at)
    (operand,) = sources.graph.maker(root.value).operands
    source = dict(zip(root.order, at, strict=True))
    name, combine = folds[root.value.name]
    return [Fold(name, combine, scope.value(operand, tuple(source[d] for d in range(len(root.order)))))]


def _reduction_stores(sources: Sources, root: Root, kept: tuple[Index, ...], name: str) -> list[Store]:
    at = result_coordinates(sources, root, kept)
    return [Store(p.buffer, p.index(at), Ref(name), mode) for p, mode in sources.stores(root.value)]


def result_coordinates(sources: Sources, root: Root, kept: tuple[Index, ...]) -> tuple[Index, ...]:
    """Coordinates of a reduction's result: those of its kept dims, 0 where reduced dims are kept as 1."""
    instruction = sources.graph.maker(root.value)
    if not instruction.attribute("keepdims"):
        return kept
    reduced = reduced_axes(instruction)
    rest = iter(kept)
    return tuple(ix.ZERO if d in reduced else next(rest) for d in range(len(root.order)))


def _hoisted(body: Sequence[Statement], written: set[str]) -> tuple[tuple[Let, ...], tuple[Statement, ...]]:
    """The lets that are the same for every row, and the rest. What reads a buffer the kernel writes stays in its place."""
    prologue: list[Let] = []
    rest: list[Statement] = []
    names: set[str] = set()
    for s in body:
        if isinstance(s, Let) and not s.needs and not reads_of(s.value) & written and locals_of(s.value) <= names:
            prologue.append(s)
            names.add(s.name)
        else:
            rest.append(s)
    return tuple(prologue), tuple(rest)
