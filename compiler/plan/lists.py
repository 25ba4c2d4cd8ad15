"""When a place does what: its compute actions, and how many microbatches are alive between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc.frozen import frozen
from mlc.parallel.actions import Action, Schedule
from mlc.parallel.entries import CODES
from mlc.parallel.simulate import Costs, run, uniform
from mlc.plan.layout import Layout

Numbers = NDArray[np.integer[Any]]
Moments = NDArray[np.float64]

#: The phases that an action of a kind does.
_PHASES = {"F": ("F",), "I": ("I",), "W": ("W",), "B": ("B", "I", "W")}


@frozen
class Times:
    """One phase of a stage: for each microbatch, its position in the list of its place, its begin and its end in an ideal run."""

    positions: Numbers
    begins: Moments
    ends: Moments


@frozen
class Timetable:
    """The compute actions of a chain.

    schedule:  of one replica; train: the layout's
    kinds:     per stage, those of its actions
    times:     by (stage, phase); I and W are where B is, for microbatches that have B; in a run whose F, I and W all take 1
    expected:  the same in a run that takes what the stages are said to cost
    going:     what a message may take beside other work, in that run: half an action
    """

    schedule: Schedule
    kinds: tuple[frozenset[str], ...]
    times: Mapping[tuple[int, str], Times]
    expected: Mapping[tuple[int, str], Times]
    going: float

    def joint(self, stage: int) -> bool:
        """Whether the stage goes backward right after it went forward, for every microbatch."""
        if self.kinds[stage] != {"F", "B"}:
            return False
        return np.array_equal(self.times[stage, "F"].positions + 1, self.times[stage, "B"].positions)


#: The part of an action of usual length that a message may take.
GOING = 0.5


def timetable(schedule: Schedule, costs: Costs | None = None) -> Timetable:
    """Lists with ideal runs of them in which transfers take no time and nothing waits for memory. costs: of the stages, as expected"""
    kinds, times, going = _ideal_run(schedule, uniform(schedule.stages, 1.0, 1.0, 1.0))
    if costs is None:
        return Timetable(schedule, kinds, times, times, going)
    return Timetable(schedule, kinds, times, *_ideal_run(schedule, replace(costs, transfer=0.0))[1:])


def _ideal_run(schedule: Schedule, costs: Costs) -> tuple[tuple[frozenset[str], ...], Mapping[tuple[int, str], Times], float]:
    """Kinds of actions by stage, times by stage and phase, and GOING of a mean action."""
    begins, ends = run(schedule, costs)
    kinds: list[frozenset[str]] = [frozenset()] * schedule.stages
    times: dict[tuple[int, str], Times] = {}
    for actions, begun, ended in zip(schedule.lists, map(np.array, begins), map(np.array, ends), strict=True):
        for stage, positions, codes in _by_stage(actions):
            kinds[stage] = frozenset(kind for kind in _PHASES if (codes == CODES[kind]).any())
            for phase in dict.fromkeys(phase for kind in kinds[stage] for phase in _PHASES[kind]):
                at = positions[np.isin(codes, [CODES[kind] for kind, phases in _PHASES.items() if phase in phases])]
                times[stage, phase] = Times(at, begun[at], ended[at])
    lengths = [end - begin for of in zip(begins, ends, strict=True) for begin, end in zip(*of, strict=True)]
    return tuple(kinds), times, GOING * sum(lengths) / max(1, len(lengths))


def _by_stage(actions: Sequence[Action]) -> Iterator[tuple[int, Numbers, Numbers]]:
    """Of each stage of a list: the positions of its actions, and the codes of their kinds."""
    kinds, stages, _ = zip(*actions, strict=True) if actions else ((), (), ())
    codes = np.fromiter(map(CODES.__getitem__, kinds), np.int64, len(kinds))
    order = np.argsort(stages, kind="stable")
    found, first = np.unique(np.array(stages, np.int64)[order], return_index=True)
    for stage, positions in zip(found.tolist(), np.split(order, first[1:]), strict=True):
        yield stage, positions, codes[positions]


def forward_schedule(layout: Layout, microbatches: int) -> Schedule:
    """Each stage forward on all microbatches, in the order of stages."""
    placement = layout.schedule.placement
    lists: list[list[Action]] = [[] for _ in range(layout.pp)]
    for stage, place in enumerate(placement):
        lists[place] += [Action("F", stage, j) for j in range(microbatches)]
    return Schedule("forward", layout.pp, layout.chunks, microbatches, placement, tuple(map(tuple, lists)))


def window(first: Numbers, last: Numbers) -> int:
    """The most microbatches alive at once on one place, each from position first[k] to position last[k] of its list.

    first: ascending; slots are taken in turn, so that one that ends late holds up those behind it
    """
    return _widest(first, np.searchsorted(np.maximum.accumulate(last), first, "left"))


def in_flight(begins: Moments, ends: Moments) -> int:
    """The most messages that are begun and not read to the end at once, as each is begun, in the ideal run.

    With so many slots, outbox and inbox together, the ideal run is possible; so no run can deadlock for want of slots.
    begins: ascending
    """
    return _widest(begins, np.searchsorted(np.maximum.accumulate(ends), begins, "right"))


def _widest(begins: Numbers | Moments, lows: Numbers) -> int:
    """The most numbers from lows[k] to k; at least k itself is alive as it begins."""
    numbers = np.arange(len(begins))
    return int((numbers - np.minimum(lows, numbers)).max(initial=-1)) + 1
