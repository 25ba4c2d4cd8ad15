"""When a place does what: its compute actions, and how many microbatches are alive between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlc.parallel.actions import Action, Schedule
from mlc.parallel.simulate import run, uniform
from mlc.plan.layout import Layout


@dataclass(frozen=True, slots=True)
class Times:
    """One phase of a stage: for each microbatch, its position in the list of its place, its begin and its end in an ideal run."""

    positions: tuple[int, ...]
    begins: tuple[float, ...]
    ends: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Timetable:
    """The compute actions of a chain.

    schedule:  of one replica; train: the layout's
    times:     by (stage, phase); I and W are where B is, for microbatches that have B
    """

    schedule: Schedule
    times: dict[tuple[int, str], Times]

    def kinds(self, stage: int) -> frozenset[str]:
        """The kinds of action of a stage."""
        place = self.schedule.placement[stage]
        return frozenset(action.kind for action in self.schedule.lists[place] if action.stage == stage)


def timetable(schedule: Schedule) -> Timetable:
    """Lists with an ideal run of them in which transfers take no time and nothing waits for memory."""
    begins, ends = run(schedule, uniform(schedule.stages, 1.0, 1.0, 1.0))
    times: dict[tuple[int, str], list[tuple[int, float, float]]] = {}
    for place, actions in enumerate(schedule.lists):
        for position, action in enumerate(actions):
            at = position, begins[place][position], ends[place][position]
            for phase in ("B", "I", "W") if action.kind == "B" else (action.kind,):
                times.setdefault((action.stage, phase), []).append(at)
    return Timetable(schedule, {key: Times(*zip(*rows, strict=True)) for key, rows in times.items()})


def forward_schedule(layout: Layout, microbatches: int) -> Schedule:
    """Each stage forward on all microbatches, in the order of stages."""
    placement = layout.schedule.placement
    lists = tuple(
        tuple(Action("F", s, j) for s in range(layout.stages) if placement[s] == place for j in range(microbatches))
        for place in range(layout.pp)
    )
    return Schedule("forward", layout.pp, layout.chunks, microbatches, placement, lists)


def window(first: Sequence[int], last: Sequence[int]) -> int:
    """The most microbatches alive at once on one place, each from position first[k] to position last[k] of its list."""
    low = most = 0
    for number, begin in enumerate(first):
        while low < number and last[low] < begin:
            low += 1
        most = max(most, number - low + 1)
    return most


def in_flight(begins: Sequence[float], ends: Sequence[float]) -> int:
    """The most messages that are begun and not read to the end at once, as each is begun, in the ideal run.

    With so many slots, outbox and inbox together, the ideal run is possible; so no run can deadlock for want of slots.
    """
    low = most = 0
    for number, begin in enumerate(begins):
        while low < number and ends[low] <= begin:
            low += 1
        most = max(most, number - low + 1)
    return most
