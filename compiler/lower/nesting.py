"""Loops around statements: how many a space needs so that no division stays inside, and where each local stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, indices_of
from mlc.lower.loops import Fold, Let, Loop, Statement, Store
from mlc.lower.scope import Scope

#: Makes the statements for the flat element at an index; the scope holds the locals they need.
Build = Callable[[Index], tuple[Scope, list[Statement]]]


def split_loops(extent: int, number: int, least_inner: int, build: Build) -> tuple[list[Counter], Scope, list[Statement]]:
    """The loops over a flat space, the innermost one split until no division that a split removes stays in it.

    extent:  elements of the space; no loop at all where it is 0
    number:  of the outermost loop's counter
    least_inner: iterations that stay inside, else a loop is not split
    returns: the counters from outside in, and what `build` made for the index they add up to
    """
    extents = [extent] if extent else []
    while True:
        counters = [Counter(number + n, e) for n, e in enumerate(extents)]
        scope, statements = build(ix.linear([ix.counter(c) for c in counters], ix.row_major(extents)))
        inner = _inner_extent(counters[-1], least_inner, scope.lets, statements) if counters else None
        if inner is None:
            return counters, scope, statements
        extents[-1:] = [extents[-1] // inner, inner]


def _inner_extent(counter: Counter, least_inner: int, lets: Sequence[Let], statements: Sequence[Statement]) -> int | None:
    """The inner extent to split a loop by so that a division leaves it; None when none helps."""
    nodes = [let.value for let in lets] + [s.value for s in statements if isinstance(s, Store | Fold)]
    indices = [i for node in nodes for i in indices_of(node)] + [s.index for s in statements if isinstance(s, Store)]
    found = [ix.splits(index).get(counter.number, 0) for index in indices]
    return min((inner for inner in found if inner >= least_inner), default=None)


def nest(
    counters: Sequence[Counter], lets: Sequence[Let], statements: Sequence[Statement], folds: tuple[tuple[str, str], ...]
) -> tuple[Statement, ...]:
    """Statements inside nested loops; each let stands in the outermost loop that has its counters."""
    if not counters:
        return (*lets, *statements)
    numbers = [c.number for c in counters]

    def level(let: Let) -> int:
        return max((n for n, number in enumerate(numbers) if number in let.needs), default=0)

    body: tuple[Statement, ...] = tuple(statements)
    for n in reversed(range(len(counters))):
        own = tuple(let for let in lets if level(let) == n)
        body = (Loop(counters[n], (*own, *body), True, folds),)
    return body
