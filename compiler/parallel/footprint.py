"""How many bytes a rank holds for the stages that are cut for it.

    bytes = parameters, once a rank + optimizer states and accumulators
          + per stage: window.saved * (values from F to I) + window.saved_w * (values from F to W) + window.pending * (from I to W)
          + the most sums of absent replicas of a stage + the largest transient memory of a call

Where a stage goes backward right after it went forward, transient memory lies where kept values lay, and in a step of one microbatch
gradients do too: there what is kept is counted, or the gradients where they are more. A state or input that several calls of a stage
keep is kept once. Every term grows with the range of calls, so that a stage that fits still fits when calls are taken from either end;
`cut_exact` relies on it. Messages on their way are not counted: the plan counts them, with every address.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from mlc.parallel.actions import Schedule
from mlc.parallel.costs import CallCost


class Window(NamedTuple):
    """The most microbatches of a stage that are alive at once.

    saved:    from forward to the end of the input gradient (or of B, which makes both)
    saved_w:  from forward to the end of the weight gradient
    pending:  from input gradient to weight gradient; 0 where B makes both
    joint:    whether every B comes right after its F; alone: whether there is no other microbatch in a step
    """

    saved: int
    saved_w: int
    pending: int
    joint: bool = False
    alone: bool = False


def schedule_windows(schedule: Schedule) -> tuple[Window, ...]:
    """The windows of every stage under a schedule."""
    kinds: list[list[str]] = [[] for _ in range(schedule.stages)]
    apart = [False] * schedule.stages
    for actions in schedule.lists:
        for (kind, stage, microbatch), behind in zip(actions, (*actions[1:], None), strict=False):
            kinds[stage].append(kind)
            apart[stage] |= kind == "F" and behind != ("B", stage, microbatch)
    return tuple(_stage_window(of, bool(of) and not a, schedule.microbatches == 1) for of, a in zip(kinds, apart, strict=True))


def _stage_window(kinds: Sequence[str], joint: bool, alone: bool) -> Window:
    """kinds: of the stage's actions, in order"""
    return Window(_most(kinds, "F", "IB"), _most(kinds, "F", "WB"), _most(kinds, "I", "W"), joint, joint and alone)


def _most(kinds: Sequence[str], begins: str, ends: str) -> int:
    """The most intervals alive at once; each is alive until the action that ends it is done."""
    changes = [(kind in begins) - (kind in ends) for kind in kinds]
    return max(accumulate(changes, initial=0))


class StageBytes(NamedTuple):
    """What a range of calls holds; saved, saved_w and pending for each microbatch."""

    parameters: int
    states: int
    accumulators: int
    saved: int
    saved_w: int
    pending: int

    def alive(self, window: Window) -> int:
        """Bytes that the microbatches in flight keep."""
        return window.saved * self.saved + window.saved_w * self.saved_w + window.pending * self.pending

    def total(self, window: Window) -> int:
        """Bytes of a stage without transient memory."""
        alive = self.alive(window)
        return self.parameters + self.states + (max(self.accumulators, alive) if window.alone else self.accumulators + alive)


class Footprint:
    """Bytes of any range of the chain, from sums made once."""

    def __init__(self, costs: Sequence[CallCost]):
        self._parameters = _Union([[(p.name, p.value_bytes) for p in c.parameters] for c in costs])
        self._states = _sums(sum(p.state_bytes for p in c.parameters) for c in costs)
        self._accumulators = _sums(sum(p.accumulator_bytes for p in c.parameters) for c in costs)
        self._kept = _Union([[(k.name, k.bytes) for k in c.kept if not k.to_weight] for c in costs])
        self._kept_w = _Union([[(k.name, k.bytes) for k in c.kept if k.to_weight] for c in costs])
        self._saved = _sums(c.saved_bytes for c in costs)
        self._saved_w = _sums(c.saved_w_bytes for c in costs)
        self._pending = _sums(c.pending_bytes for c in costs)
        self._guests = _sums(c.guest_bytes for c in costs)
        self._split_work = [c.work_bytes for c in costs]
        self._fused_work = [c.work_bytes + c.fused_bytes for c in costs]

    def stage(self, i: int, j: int) -> StageBytes:
        """Bytes of calls i to j - 1."""
        return StageBytes(
            parameters=self._parameters.bytes(i, j),
            states=self._states[j] - self._states[i],
            accumulators=self._accumulators[j] - self._accumulators[i],
            saved=self._saved[j] - self._saved[i] + self._kept.bytes(i, j),
            saved_w=self._saved_w[j] - self._saved_w[i] + self._kept_w.bytes(i, j),
            pending=self._pending[j] - self._pending[i],
        )

    def transient(self, i: int, j: int, window: Window) -> int:
        """Bytes of the largest transient memory of calls i to j - 1 beside what they keep."""
        if window.joint:
            return 0
        return max((self._split_work if window.pending else self._fused_work)[i:j], default=0)

    def guests(self, i: int, j: int) -> int:
        """Bytes of the sums that a replica keeps for an absent one while those of calls i to j - 1 are exchanged."""
        return self._guests[j] - self._guests[i]

    def stage_total(self, i: int, j: int, window: Window) -> int:
        """Bytes of a rank whose only stage holds calls i to j - 1; 0 where there are none."""
        return self.stage(i, j).total(window) + self.guests(i, j) + self.transient(i, j, window) if i < j else 0

    def rank_total(self, stages: Iterable[tuple[int, int, Window]]) -> int:
        """Bytes of a rank that holds several stages (i, j, window)."""
        stages = [stage for stage in stages if stage[0] < stage[1]]
        alone = sum(self.stage(i, j).total(window) for i, j, window in stages)
        twice = self._parameters.shared([(i, j) for i, j, _ in stages])
        guests = max((self.guests(i, j) for i, j, _ in stages), default=0)
        return alone - twice + guests + max((self.transient(*stage) for stage in stages), default=0)


def _sums(counts: Iterable[int]) -> list[int]:
    """Sums of the first 0, 1, ... counts."""
    return list(accumulate(counts, initial=0))


class _Union:
    """Bytes of the named things that calls i to j - 1 use, each counted once."""

    def __init__(self, uses: Sequence[Sequence[tuple[str, int]]]):
        users: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        for call, things in enumerate(uses):
            for name, size in dict(things).items():
                users.setdefault(name, []).append(call)
                sizes[name] = size
        self._sums = _sums(sum(dict(things).values()) for things in uses)
        self._several = [(calls, sizes[name]) for name, calls in users.items() if len(calls) > 1]
        self._again = self._repeats(len(uses))

    def _repeats(self, count: int) -> list[list[int]]:
        """[i][j]: bytes that the sums of calls i to j - 1 count again; no rows where nothing is used twice."""
        if not self._several:
            return []
        repeats: dict[int, list[tuple[int, int]]] = {}
        for calls, size in self._several:
            for earlier, call in pairwise(calls):
                repeats.setdefault(earlier, []).append((call, size))
        rows = [[0] * (count + 1) for _ in range(count + 1)]
        for i in range(count - 1, -1, -1):
            added = [0] * (count + 1)
            for call, size in repeats.get(i, ()):
                added[call + 1] += size
            rows[i] = [a + b for a, b in zip(rows[i + 1], accumulate(added), strict=True)] if i in repeats else rows[i + 1]
        return rows

    def bytes(self, i: int, j: int) -> int:
        once = self._sums[j] - self._sums[i]
        return once - self._again[i][j] if self._again else once

    def shared(self, ranges: Sequence[tuple[int, int]]) -> int:
        """Bytes counted more than once when the bytes of disjoint ranges are added."""
        if len(ranges) < 2:
            return 0
        return sum(size * max(0, sum(_any_in(calls, i, j) for i, j in ranges) - 1) for calls, size in self._several)


def _any_in(ascending: Sequence[int], i: int, j: int) -> bool:
    at = bisect_left(ascending, i)
    return at < len(ascending) and ascending[at] < j
