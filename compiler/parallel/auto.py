"""Order the actions of a pipeline for given costs, within a limit of memory.

Candidates are the named schedules, and list schedules under a number of policies, over every placement. The best that fit are then
improved by local search. So the result is never slower than the best named schedule that fits. Everything is deterministic: what is
tried depends on how many actions there are, never on a clock. With very many of them policies are compared on fewer microbatches, the
best alone go on to all, and there is no local search, of which a few moves would be of no use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from mlc.parallel.actions import Action, Schedule, refusal
from mlc.parallel.greedy import Policy, list_makespan, list_schedule
from mlc.parallel.improve import improve
from mlc.parallel.limits import Memory, counted, least_makespan
from mlc.parallel.placement import looped, v_shaped
from mlc.parallel.simulate import Costs, Residuals, makespan, peak, run

#: From how many candidates local search starts, and how many list schedules go on to all microbatches.
_STARTS = 3
#: The fewest list schedules of a placement.
_FEWEST = 6
#: The fewest moves that local search is worth.
_MOVES = 8
#: Some seconds' worth of search.
EFFORT = 300_000


class _Candidate(NamedTuple):
    makespan: float
    schedule: Schedule


def arrange(named: tuple[Schedule, ...], costs: Costs, memory: Memory | None, effort: int = EFFORT) -> Schedule:
    """The best order found.

    named:   at least one schedule; all of the same ranks, chunks and microbatches
    memory:  None: what the fastest of the named needs on its fullest rank, in whole residuals, is what every rank may hold
    effort:  how many actions are timed in each local search, and in the list schedules of each placement (at least a few of those)
    returns: fits the memory; its makespan is at most that of each of the named that fits
    raises:  E1107 where no order fits
    """
    best = min(named, key=lambda schedule: makespan(schedule, costs))
    ranks, chunks = best.ranks, best.chunks
    limits = memory or counted(max(peak(best, _ones(best.stages))), ranks, chunks)
    schedules = [_split(schedule) for schedule in named if limits.fits(schedule)]
    schedules += _list_schedules(best, costs, limits, effort)
    if not schedules:
        raise _too_little(limits, ranks, chunks)
    candidates = [_Candidate(makespan(schedule, costs), schedule) for schedule in dict.fromkeys(schedules)]
    return _best_improved(candidates, costs, limits, effort)


def _ones(stages: int) -> Residuals:
    return Residuals((1,) * stages, (1,) * stages)


def _list_schedules(best: Schedule, costs: Costs, limits: Memory, effort: int) -> Iterator[Schedule]:
    """List schedules over every placement with room for them, under every policy as far as the effort goes; of so many microbatches that
    it goes for a few policies alone, under those that are best with fewer microbatches.

    best: a schedule of as many ranks, chunks and microbatches
    """
    ranks, chunks, stages, microbatches = best.ranks, best.chunks, best.stages, best.microbatches
    policies = list(_policies(ranks, chunks, microbatches))
    count = min(microbatches, max(2 * stages, effort // (3 * stages * len(policies))))
    few = policies[: max(_FEWEST, effort // (3 * stages * count))]
    tried = [(placement, policy) for placement in _placements(ranks, chunks, limits) for policy in few]
    if count < microbatches:
        tried = sorted(tried, key=lambda pair: list_makespan(pair[0], ranks, count, costs, limits, pair[1]))[:_STARTS]
    for placement, policy in tried:
        lists = list_schedule(placement, ranks, microbatches, costs, limits, policy)
        yield Schedule("auto", ranks, chunks, microbatches, placement, lists)


def _placements(ranks: int, chunks: int, limits: Memory) -> Iterator[tuple[int, ...]]:
    """Those under which every rank has room for a microbatch on each of its chunks."""
    for placement in dict.fromkeys((looped(ranks, chunks), v_shaped(ranks, chunks))):
        if all(least <= limit for least, limit in zip(limits.least(placement), limits.limit)):
            yield placement


def _best_improved(candidates: list[_Candidate], costs: Costs, limits: Memory, effort: int) -> Schedule:
    """The shortest of the first few candidates after local search, the earliest candidate where several are equal."""
    candidates = sorted(candidates, key=lambda candidate: candidate.makespan)
    found = candidates[0]
    for start in candidates[:_STARTS]:
        if effort >= _MOVES * sum(map(len, start.schedule.lists)):
            bound = least_makespan(start.schedule.placement, start.schedule.ranks, start.schedule.microbatches, costs)
            improved = improve(start.schedule, costs, limits, bound, effort)
            found = min(found, _Candidate(makespan(improved, costs), improved), key=lambda candidate: candidate.makespan)
    return _whole(found.schedule, costs)


def _split(schedule: Schedule) -> Schedule:
    """The same order with I and W for B, and the name of this one: it ends no later, for a gradient leaves before W."""
    lists = tuple(tuple(part for action in actions for part in _parts(action)) for actions in schedule.lists)
    return replace(schedule, name="auto", lists=lists)


def _parts(action: Action) -> Iterator[Action]:
    for kind in "IW" if action.kind == "B" else action.kind:
        yield Action(kind, action.stage, action.microbatch)


def _whole(schedule: Schedule, costs: Costs) -> Schedule:
    """B for each I that W follows at once, where the gradient is not needed before W ends: every action still starts as it did."""
    starts, ends = run(schedule, costs)
    needed = _gradients_needed(schedule, costs, starts)
    lists: list[tuple[Action, ...]] = []
    for actions, ended in zip(schedule.lists, ends):
        merged: list[Action] = []
        for action, end in zip(actions, ended):
            kind, stage, microbatch = action
            if kind == "W" and merged[-1] == ("I", stage, microbatch) and end <= needed.get((stage, microbatch), end):
                merged[-1] = Action("B", stage, microbatch)
            else:
                merged.append(action)
        lists.append(tuple(merged))
    return replace(schedule, lists=tuple(lists))


def _gradients_needed(schedule: Schedule, costs: Costs, starts: list[list[float]]) -> dict[tuple[int, int], float]:
    """By when the gradient of a microbatch must leave a stage for the stage before to start on it as it does."""
    found: dict[tuple[int, int], float] = {}
    for actions, started in zip(schedule.lists, starts):
        for (kind, stage, microbatch), start in zip(actions, started):
            if kind == "I" and stage + 1 < schedule.stages:
                hop = costs.transfer * (schedule.placement[stage + 1] != schedule.placement[stage])
                found[stage + 1, microbatch] = start - hop
    return found


def _policies(ranks: int, chunks: int, microbatches: int) -> Iterator[Policy]:
    """Every combination of urgency and patience, with as many residuals as fit and with fewer.

    Where a rank has one stage, a forward and a gradient may compete, never two of a kind: which of these is older makes no difference.
    """
    every = [chunks * microbatches] * ranks
    falling = [chunks * (ranks - rank) for rank in range(ranks)]
    steep = [chunks * (2 * (ranks - rank) - 1) for rank in range(ranks)]
    for held in (every, steep, falling):
        for backward_first, oldest_first, patience in product((True, False), (True, False)[:chunks], (1.0, 2.0, float("inf"))):
            yield Policy(backward_first, oldest_first, patience, tuple(max(chunks, h) for h in held))


def _too_little(limits: Memory, ranks: int, chunks: int) -> Exception:
    found = zip(limits.least(looped(ranks, chunks)), limits.limit)
    rank, least, limit = next((rank, least, limit) for rank, (least, limit) in enumerate(found) if least > limit)
    return refusal("E1107", f"auto: rank {rank} may hold {limit}, and one microbatch alone takes {least}")
