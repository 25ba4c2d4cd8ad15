"""Order the actions of a pipeline for given costs, within a limit of memory.

Candidates are the named schedules, and list schedules under a number of policies, over every placement. The best that fit are then
improved by local search. So the result is never slower than the best named schedule that fits. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product

from mlc.parallel.actions import Action, Schedule, refusal
from mlc.parallel.greedy import Policy, list_schedule
from mlc.parallel.improve import improve
from mlc.parallel.limits import Memory, counted, least_makespan
from mlc.parallel.placement import looped, v_shaped
from mlc.parallel.simulate import Costs, simulate

#: From how many candidates local search starts.
_STARTS = 3
#: The fewest list schedules of a placement.
_FEWEST = 6
#: Some seconds' worth of search.
EFFORT = 300_000


def arrange(named: tuple[Schedule, ...], costs: Costs, memory: Memory | None, effort: int = EFFORT) -> Schedule:
    """The best order found.

    named:   at least one schedule; all of the same ranks, chunks and microbatches
    memory:  None: what the fastest of the named needs on its fullest rank, in whole residuals, is what every rank may hold
    effort:  how many actions are timed in each local search, and in the list schedules of each placement (at least a few of those)
    returns: fits the memory; its makespan is at most that of each of the named that fits
    raises:  E1107 where no order fits
    """
    best = min(named, key=lambda s: simulate(s, costs).makespan)
    ranks, chunks, microbatches = best.ranks, best.chunks, best.microbatches
    limits = memory or counted(max(simulate(best, costs).peak), ranks, chunks)
    candidates = [_split(s) for s in named if limits.fits(s)]
    for placement in dict.fromkeys((looped(ranks, chunks), v_shaped(ranks, chunks))):
        if all(limits.least(placement, rank) <= limits.limit[rank] for rank in range(ranks)):
            few = max(_FEWEST, effort // (3 * len(placement) * microbatches))
            for policy in islice(_policies(ranks, chunks, microbatches), few):
                lists = list_schedule(placement, ranks, microbatches, costs, limits, policy)
                candidates.append(Schedule("auto", ranks, chunks, microbatches, placement, lists))
    if not candidates:
        raise _too_little(limits, ranks, chunks)
    return _best_improved(candidates, costs, limits, effort)


def _best_improved(candidates: list[Schedule], costs: Costs, limits: Memory, effort: int) -> Schedule:
    """The shortest of the first few candidates after local search, the earliest candidate where several are equal."""
    ordered = sorted(dict.fromkeys(candidates), key=lambda s: simulate(s, costs).makespan)
    found = ordered[0]
    for start in ordered[:_STARTS]:
        bound = least_makespan(start.placement, start.ranks, start.microbatches, costs)
        improved = improve(start, costs, limits, bound, effort)
        if simulate(improved, costs).makespan < simulate(found, costs).makespan:
            found = improved
    return _whole(found, costs)


def _split(schedule: Schedule) -> Schedule:
    """The same order with I and W for B, and the name of this one: it ends no later, for a gradient leaves before W."""
    lists = tuple(tuple(part for action in actions for part in _parts(action)) for actions in schedule.lists)
    return replace(schedule, name="auto", lists=lists)


def _parts(action: Action) -> Iterator[Action]:
    for kind in "IW" if action.kind == "B" else action.kind:
        yield Action(kind, action.stage, action.microbatch)


def _whole(schedule: Schedule, costs: Costs) -> Schedule:
    """B for each I that W follows at once, where the gradient is not needed before W ends: every action still starts as it did."""
    found = simulate(schedule, costs)
    start = {a: t for actions, times in zip(schedule.lists, found.start) for a, t in zip(actions, times)}
    lists: list[tuple[Action, ...]] = []
    for actions, ends in zip(schedule.lists, found.end):
        merged: list[Action] = []
        for action, end in zip(actions, ends):
            follows = action.kind == "W" and merged[-1] == action._replace(kind="I")
            if follows and end <= _gradient_needed(schedule, costs, start, action):
                merged[-1] = action._replace(kind="B")
            else:
                merged.append(action)
        lists.append(tuple(merged))
    return replace(schedule, lists=tuple(lists))


def _gradient_needed(schedule: Schedule, costs: Costs, start: dict[Action, float], action: Action) -> float:
    """By when the gradient must leave the stage of an action for the stage before to start on it as it does."""
    if action.stage == 0:
        return float("inf")
    other = schedule.placement[action.stage - 1]
    hop = costs.transfer * (schedule.placement[action.stage] != other)
    return start[Action("I", action.stage - 1, action.microbatch)] - hop


def _policies(ranks: int, chunks: int, microbatches: int) -> Iterator[Policy]:
    """Every combination of urgency and patience, with as many residuals as fit and with fewer."""
    every = [chunks * microbatches] * ranks
    falling = [chunks * (ranks - rank) for rank in range(ranks)]
    steep = [chunks * (2 * (ranks - rank) - 1) for rank in range(ranks)]
    for held in (every, steep, falling):
        for backward_first, oldest_first, patience in product((True, False), (True, False), (1.0, 2.0, float("inf"))):
            yield Policy(backward_first, oldest_first, patience, tuple(max(chunks, h) for h in held))


def _too_little(limits: Memory, ranks: int, chunks: int) -> Exception:
    placement = looped(ranks, chunks)
    rank = next(r for r in range(ranks) if limits.least(placement, r) > limits.limit[r])
    least = limits.least(placement, rank)
    return refusal("E1107", f"auto: rank {rank} may hold {limits.limit[rank]}, and one microbatch alone takes {least}")
