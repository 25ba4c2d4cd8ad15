"""The least sum of tables, exactly: variables are eliminated one after the other, each for the best it can be whatever others are.

A variable has options, a table a cost for each combination of options of its variables. Before each turn options are dropped that
another one beats whatever the others choose, so that what is left is small enough to join.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import product

import numpy as np

from mlc.frozen import frozen_object

Variable = tuple[object, ...]
Costs = np.ndarray

#: Entries of the largest table that is made: a search that would need a larger one is refused.
MOST_ENTRIES = 4 * 10**6

#: What infinity is in here, so that differences are numbers; what costs half as much is infinite.
NEVER = 1e30

#: Differences between options that are looked at in one table to drop any: larger tables drop none.
MOST_DIFFERENCES = 10**6


class Endless(Exception):
    """The search would not end: the entries of a table that it would have to make."""


@frozen_object
class Table:
    """Costs by the options of variables, one axis each."""

    variables: tuple[Variable, ...]
    costs: Costs


@frozen_object
class Turn:
    """A variable that was eliminated, and by options of others its best one, as far as theirs were not dropped before."""

    variable: Variable
    others: tuple[Variable, ...]
    best: Mapping[tuple[int, ...], int]


@frozen_object
class Least:
    """The least sum, infinite where there is none, and the option of each variable that makes it."""

    costs: float
    options: Mapping[Variable, int]


def eliminate(sizes: Mapping[Variable, int], tables: Iterable[Table]) -> Least:
    """The least sum of tables.

    sizes:   how many options each variable has, at least 1
    raises:  Endless where a table would have more than MOST_ENTRIES
    """
    costs = _Costs(sizes, tables)
    costs.drop(sizes)
    turns: list[Turn] = []
    while costs.alive:
        turn = costs.eliminate()
        turns.append(turn)
        costs.drop(turn.others)
    chosen: dict[Variable, int] = {}
    for turn in reversed(turns):
        chosen[turn.variable] = turn.best[tuple(chosen[o] for o in turn.others)]
    return Least(costs.constant if costs.constant < NEVER / 2 else math.inf, chosen)


def _joined(tables: Iterable[Table], scope: tuple[Variable, ...]) -> Costs:
    """The sum of tables, by the options of all variables of a scope."""
    total: Costs = np.zeros((1,) * len(scope))
    for table in tables:
        order = sorted(range(len(table.variables)), key=lambda n, of=table.variables: scope.index(of[n]))
        shape = [table.costs.shape[table.variables.index(v)] if v in table.variables else 1 for v in scope]
        total = total + table.costs.transpose(order).reshape(shape)
    return total


class _Costs:
    """Tables, and the variables that are still in some.

    left:      by variable, the numbers of its options that are not dropped; also of those that are eliminated
    alive:     by variable, the keys of its tables
    entries:   by variable, those of the table that its elimination makes and joins
    constant:  what the eliminated ones cost without any other
    """

    def __init__(self, sizes: Mapping[Variable, int], tables: Iterable[Table]):
        self.order = {v: n for n, v in enumerate(sizes)}
        self.left = {v: np.arange(n) for v, n in sizes.items()}
        self.alive: dict[Variable, dict[frozenset[Variable], None]] = {v: {} for v in sizes}
        self.tables: dict[frozenset[Variable], Table] = {}
        self.constant = 0.0
        for v, n in sizes.items():
            self._add(Table((v,), np.zeros(n)))
        for table in tables:
            self._add(Table(table.variables, np.minimum(table.costs, NEVER)))
        self.entries = {v: self._entries(v) for v in sizes}

    def _add(self, table: Table) -> None:
        """Add a table; one of the same variables is one with it."""
        key = frozenset(table.variables)
        have = self.tables.get(key)
        self.tables[key] = table if have is None else Table(have.variables, _joined((have, table), have.variables))
        for v in table.variables:
            self.alive[v][key] = None

    def _scope(self, v: Variable) -> tuple[Variable, ...]:
        """All variables that share a table with one, and that one last."""
        others = {u for key in self.alive[v] for u in key} - {v}
        return (*sorted(others, key=self.order.__getitem__), v)

    def _entries(self, v: Variable) -> int:
        return math.prod(len(self.left[u]) for u in self._scope(v))

    def eliminate(self) -> Turn:
        """Eliminate the variable whose joined table is the smallest."""
        v = min(self.alive, key=self.entries.__getitem__)
        if self.entries[v] > MOST_ENTRIES:
            raise Endless(self.entries[v])
        *others, _ = scope = self._scope(v)
        shape = [len(self.left[u]) for u in scope]
        joined = np.broadcast_to(_joined([self.tables[key] for key in self.alive[v]], scope), shape)
        places = product(*(self.left[u].tolist() for u in others))
        best = self.left[v][joined.argmin(-1)].reshape(-1).tolist()
        for key in list(self.alive.pop(v)):
            del self.tables[key]
            for u in key - {v}:
                del self.alive[u][key]
        if others:
            self._add(Table(tuple(others), joined.min(-1)))
        else:
            self.constant += float(joined.min())
        self._count(others)
        return Turn(v, tuple(others), dict(zip(places, best, strict=True)))

    def _count(self, variables: Iterable[Variable]) -> None:
        """Count entries again, of variables of which something changed."""
        for u in variables:
            if u in self.alive:
                self.entries[u] = self._entries(u)

    def drop(self, variables: Iterable[Variable]) -> None:
        """Drop each option of these variables for which another one costs no more, whatever the others choose, and so on for those
        that share a table with one that lost any; of equal options the first stays."""
        waiting = dict.fromkeys(variables)
        while waiting:
            v = next(iter(waiting))
            del waiting[v]
            stays = self._stays(v)
            if stays.all():
                continue
            self.left[v] = self.left[v][stays]
            for key in self.alive[v]:
                table = self.tables[key]
                self.tables[key] = Table(table.variables, table.costs.compress(stays, table.variables.index(v)))
            near = self._scope(v)
            waiting.update(dict.fromkeys(near[:-1]))
            self._count(near)

    def _stays(self, v: Variable) -> np.ndarray:
        """By option: can it be, and does none beat it?"""
        count = len(self.left[v])
        gap = np.zeros((count, count))  # by how much the first may cost more than the second
        never = np.zeros(count, bool)
        for key in self.alive[v]:
            table = self.tables[key]
            costs = table.costs.swapaxes(0, table.variables.index(v)).reshape(count, -1)
            infinite = costs > NEVER / 2
            never |= infinite.all(-1)
            gap += _gaps(costs, infinite) if count * costs.size <= MOST_DIFFERENCES else NEVER
        gap[never, :] = NEVER
        beats = (gap <= 0) & ~np.eye(count, dtype=bool)
        first = np.arange(count)
        beats &= ~(beats.T & (first[:, None] > first[None, :]))
        stays = ~beats.any(0) & ~never
        return stays if stays.any() else first == 0


def _gaps(costs: Costs, infinite: np.ndarray) -> np.ndarray:
    """By two options: the most by which the first costs more, wherever the second can be."""
    second = costs + 2 * NEVER * infinite
    return (costs[:, None, :] - second[None, :, :]).max(-1)
