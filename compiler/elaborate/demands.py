"""What inputs must hold, so that every index they reach is within its dim.

    gather(table_0, sparse[:, 0])  gather(table_1, sparse[:, 1])  ->  sparse: element 0 of a row in [0, 1000), element 1 in [0, 50)
    gather(w, t + 3), w of 5                                      ->  t: in [-3, 1]
    cross_entropy(logits, labels, ignore=-100)                    ->  labels: in [0, classes), or -100

Rows are alike: what only some rows of a microbatch must hold is not stated of any.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mlc.frozen import frozen
from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.ir.program import Bound, Chain, Unit
from mlc.ir.types import TensorType
from mlc.ops import OPS
from mlc.ops.origins import GREATEST, LEAST, Origin, elements_of, ignored, is_followed, lookup_of, origins, starts

#: No bound yet, and a bound that no other value passes, in place of a value that passes.
_FREE, _NONE = 1 << 40, 1 << 41

#: More bounds than these are not kept apart.
MOST_BOUNDS = 512


@frozen
class Demand:
    """By element: the least and greatest value, and the value that passes beside them (_FREE: any does, _NONE: none)."""

    low: np.ndarray
    high: np.ndarray
    passed: np.ndarray

    def narrow(self, at: np.ndarray, low: int, high: int, passed: int | None) -> None:
        """Elements `at` are in [low, high], or `passed`, too."""
        self.low[at] = np.maximum(self.low[at], low)
        self.high[at] = np.minimum(self.high[at], high)
        wanted = _NONE if passed is None else passed
        before = self.passed[at]
        self.passed[at] = np.where(before == _FREE, wanted, np.where(before == wanted, wanted, _NONE))

    def meet(self, other: Demand) -> Demand:
        """What both ask for."""
        free, same = self.passed == _FREE, self.passed == other.passed
        passed = np.where(free, other.passed, np.where((other.passed == _FREE) | same, self.passed, _NONE))
        return Demand(np.maximum(self.low, other.low), np.minimum(self.high, other.high), passed)


def _unbounded(size: int) -> Demand:
    return Demand(np.full(size, LEAST, np.int64), np.full(size, GREATEST, np.int64), np.full(size, _FREE, np.int64))


def demands(function: Function, followed: list[str], ops: dict[str, Op]) -> dict[str, Demand]:
    """Followed parameter -> what its elements must be."""
    types = {p.name: p.type for p in function.parameters}
    whole = _unbounded(sum(types[name].size for name in followed))
    found = origins(function, ops, followed)
    for instruction in function.instructions:
        lookup = lookup_of(instruction)
        origin = found.get(lookup.index.name) if lookup is not None else None
        if lookup is not None and origin is not None and origin.ids is not None:
            _demand(whole, origin, lookup.extent, ignored(instruction))
    first = starts(function, followed)
    parts = {name: slice(first[name], first[name] + types[name].size) for name in followed}
    return {name: Demand(whole.low[part], whole.high[part], whole.passed[part]) for name, part in parts.items()}


def _demand(whole: Demand, origin: Origin, extent: int, ignore: int | None) -> None:
    passed = origin.passed
    if ignore is not None and not 0 <= ignore < extent:
        if passed not in (None, ignore - origin.offset):
            return
        passed = ignore - origin.offset
    whole.narrow(elements_of(origin, len(whole.low)), -origin.offset, extent - 1 - origin.offset, passed)


def input_bounds(chains: Iterable[Chain], units: list[Unit], types: dict[str, TensorType]) -> dict[str, tuple[Bound, ...]]:
    """Input -> its bounds, over all chains; inputs of i32 that index something."""
    table: dict[int, dict[str, Demand]] = {}
    found: dict[str, Demand] = {}
    calls = {(c.unit, c.arguments) for chain in chains for c in (*chain.calls, *_weights(chain)) if "input" in units[c.unit].roles}
    for number, arguments in sorted(calls):
        unit = units[number]
        read = list(zip(unit.function.parameters, unit.roles, arguments, strict=True))
        followed = [p.name for p, role, _ in read if role == "input" and is_followed(p.type)]
        if number not in table:
            table[number] = demands(unit.function, followed, OPS)
        for parameter, _, name in read:
            if parameter.name in followed:
                own = table[number][parameter.name]
                found[name] = found[name].meet(own) if name in found else own
    made = {name: _bounds(demand, types[name]) for name, demand in found.items()}
    return {name: bounds for name, bounds in made.items() if bounds}


@frozen
class _Weight:
    unit: int
    arguments: tuple[str, ...]


def _weights(chain: Chain) -> tuple[_Weight, ...]:
    return () if chain.weight is None else (_Weight(*chain.weight),)


def _bounds(demand: Demand, kind: TensorType) -> tuple[Bound, ...]:
    """The demand on a row, as few bounds; () where there is none."""
    rows = kind.shape[0]
    low, high, passed = (part.reshape(rows, -1) for part in (demand.low, demand.high, demand.passed))
    same = (passed == passed[0]).all(axis=0)
    free = (passed == _FREE).any(axis=0)
    one = np.where(passed >= _FREE, -1, 1).max(axis=0) < 0  # no value passes in any row
    stated = (same | one) & ~free
    least = np.where(stated, low.min(axis=0), LEAST)
    most = np.where(stated, high.max(axis=0), GREATEST)
    allowed = np.where(stated, np.where(one, _NONE, passed[0]), _NONE)
    if not stated.any():
        return ()
    columns = np.stack([least, most, allowed], axis=1)
    columns = columns[: _period(columns, kind.shape[1:])]
    ends = np.flatnonzero((columns[1:] != columns[:-1]).any(axis=1)) + 1
    runs = [*ends.tolist(), len(columns)]
    if len(runs) > MOST_BOUNDS:
        return ()
    return tuple(_bound(end, *columns[end - 1].tolist()) for end in runs)


def _bound(end: int, low: int, high: int, passed: int) -> Bound:
    return Bound(end, low, high, None if passed == _NONE else passed)


def _period(columns: np.ndarray, shape: tuple[int, ...]) -> int:
    """The fewest elements, of trailing dims, from which on a row repeats."""
    period = 1
    for extent in (*reversed(shape), 1):
        if (columns.reshape(-1, period, 3) == columns[:period]).all():
            return period
        period *= extent
    return len(columns)
