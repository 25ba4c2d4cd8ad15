"""What is asked of a cut, and how good a cut is.

A cut is its bounds: stage s holds calls bounds[s] to bounds[s + 1] - 1; equal bounds make an empty stage, which passes the state on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from mlc.parallel.costs import CallCost
from mlc.parallel.footprint import Footprint, Window

Bounds = tuple[int, ...]

#: All calls together take so many ticks: integers, so that equal costs stay equal whatever they are added to.
_TICKS = 1 << 40


class Balance(NamedTuple):
    """How the time of a cut is shared out, in ticks; lower is better, the first difference decides.

    pace:        of a step: all microbatches at the pace of the busiest rank, and one that fills the pipeline and passes all its
                 stages but the rank's own at the pace of the slowest. With one stage a rank: (microbatches + ranks - 1) * bottleneck
    fill:        below which no schedule makes a step: the most, over ranks, of what the calls before its first do for one
                 microbatch and its own work for all together
    unevenness:  sum of the squared work of stages
    """

    pace: int
    fill: int
    unevenness: int


class Traffic(NamedTuple):
    """What decides between cuts of equal balance: bytes sent for one microbatch, and bytes kept by all in flight."""

    crossing_bytes: int
    alive_bytes: int


class Question:
    """A chain to be cut: costs in ticks, where stages lie, what a rank can hold.

    placement:     stage -> rank
    windows:       per stage, the microbatches in flight
    memory_bytes:  of a rank; None where there is no limit
    """

    def __init__(
        self, costs: Sequence[CallCost], placement: Sequence[int], windows: Sequence[Window], microbatches: int, memory_bytes: int | None
    ):
        total = sum(c.seconds for c in costs)
        self.costs = tuple(costs)
        self.placement = tuple(placement)
        self.windows = tuple(windows)
        self.microbatches = microbatches
        self.memory_bytes = memory_bytes
        self.tick_seconds = total / _TICKS if total > 0 else 1.0
        self.work = tuple(accumulate((round(c.seconds / self.tick_seconds) for c in costs), initial=0))
        self.crossing = (0, *(c.crossing_bytes for c in costs))
        self.footprint = Footprint(costs)
        self._rank_bytes: dict[tuple[object, ...], int] = {}
        self.stages_of = tuple(tuple(s for s, r in enumerate(placement) if r == rank) for rank in range(max(placement) + 1))
        self.sends = tuple(stage for stage, (here, there) in enumerate(pairwise(self.placement), 1) if here != there)

    @property
    def stages(self) -> int:
        return len(self.placement)

    @property
    def ranks(self) -> int:
        return len(self.stages_of)

    def stage_work(self, bounds: Bounds) -> list[int]:
        """Ticks of each stage for one microbatch."""
        return [self.work[j] - self.work[i] for i, j in pairwise(bounds)]

    def rank_work(self, bounds: Bounds) -> list[int]:
        """Ticks of each rank for one microbatch."""
        ranks = [0] * self.ranks
        for rank, work in zip(self.placement, self.stage_work(bounds), strict=True):
            ranks[rank] += work
        return ranks

    def bottleneck(self, bounds: Bounds) -> int:
        """Ticks of the busiest rank for one microbatch."""
        return max(self.rank_work(bounds))

    def balance(self, bounds: Bounds) -> Balance:
        stages, ranks = self.stage_work(bounds), self.rank_work(bounds)
        others = self.stages - self.stages // self.ranks
        return Balance(
            pace=self.microbatches * max(ranks) + others * max(stages),
            fill=self._fill(bounds, ranks),
            unevenness=sum([w * w for w in stages]),
        )

    def _fill(self, bounds: Bounds, ranks: Sequence[int]) -> int:
        """The first microbatch must come down to a rank's first call, and its gradient go back from there."""
        arrive = [0] * self.ranks
        for stage in range(self.stages - 1, -1, -1):
            if bounds[stage] < bounds[stage + 1]:
                arrive[self.placement[stage]] = self.work[bounds[stage]]
        return max([a + self.microbatches * w for a, w in zip(arrive, ranks, strict=True)])

    def traffic(self, bounds: Bounds) -> Traffic:
        alive = sum(self.alive_bytes(s, bounds[s], bounds[s + 1]) for s in range(self.stages))
        return Traffic(sum(self.crossing[bounds[s]] for s in self.sends), alive)

    def rank_bytes(self, bounds: Bounds, rank: int) -> int:
        """Bytes of all stages of a rank; searches ask for the same again and again."""
        own = self.stages_of[rank]
        key = (rank, *[(bounds[s], bounds[s + 1]) for s in own])
        if key not in self._rank_bytes:
            self._rank_bytes[key] = self.footprint.rank_total((bounds[s], bounds[s + 1], self.windows[s]) for s in own)
        return self._rank_bytes[key]

    def excess_bytes(self, bounds: Bounds) -> int:
        limit = self.memory_bytes
        return 0 if limit is None else sum(max(0, self.rank_bytes(bounds, rank) - limit) for rank in range(self.ranks))

    def alive_bytes(self, stage: int, i: int, j: int) -> int:
        """Bytes that the microbatches in flight keep on a stage of calls i to j - 1."""
        return self.footprint.stage(i, j).alive(self.windows[stage])


def equal_cut(calls: int, stages: int) -> Bounds:
    """As many calls a stage, give or take one."""
    return tuple(calls * stage // stages for stage in range(stages + 1))


def ranges(bounds: Bounds) -> tuple[range, ...]:
    return tuple(range(i, j) for i, j in pairwise(bounds))
