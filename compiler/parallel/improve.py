"""Local search: move actions of the critical path within their rank's list.

The critical path is the chain of actions, each starting as its predecessor ends, that ends last. It gets shorter only when two actions
that follow each other on one of its ranks change places. Moves that leave the makespan as it is are taken too, to leave plateaus, and
once nothing better has come for long, moves that make it slower.
"""

from __future__ import annotations

import random

from mlc.parallel.actions import Action, Schedule
from mlc.parallel.limits import Memory
from mlc.parallel.simulate import Costs, rank_peak

#: The longest way of one move.
_REACH = 8
#: How much slower than the best a search may get that has made as many moves as there are actions without a better one.
_DETOUR = 0.1
#: Rounding may make equal times differ by this part of them.
_ROUNDING = 1e-9
_PARTS = "FIW"


def improve(schedule: Schedule, costs: Costs, memory: Memory, bound: float, effort: int) -> Schedule:
    """A schedule that takes no longer, in the same memory.

    schedule: fits the memory, has no B
    bound:    the search ends when the makespan is no more than this
    effort:   it also ends when so many actions have been timed
    """
    problem = _Problem(schedule, costs, memory)
    draw = random.Random(0)
    lists = [[problem.number(action) for action in actions] for actions in schedule.lists]
    best_lists = list(lists)
    current = best = problem.time(lists)
    critical = problem.critical(lists)
    actions = sum(map(len, lists))
    since = 0  # how many moves ago the best was found
    for _ in range(effort // actions):
        if best <= bound * (1 + _ROUNDING) or not critical:
            break
        since += 1
        rank, moved = problem.move(lists, draw.choice(critical), draw)
        if not problem.allows(rank, moved, lists[rank]):
            continue
        before, lists[rank] = lists[rank], moved
        found = problem.time(lists)
        allowed = best * (1 + _DETOUR * draw.random()) if since > actions else current
        if found > max(current, allowed) * (1 + _ROUNDING):
            lists[rank] = before
            continue
        current, critical = found, problem.critical(lists)
        if found < best * (1 - _ROUNDING):
            best, best_lists, since = found, list(lists), 0
    improved = tuple(tuple(problem.actions[n] for n in numbers) for numbers in best_lists)
    return Schedule(schedule.name, schedule.ranks, schedule.chunks, schedule.microbatches, schedule.placement, improved)


class _Problem:
    """The actions by number, stage by stage, kind by kind, microbatch by microbatch; what does not change during the search."""

    def __init__(self, schedule: Schedule, costs: Costs, memory: Memory):
        stages, self.microbatches = schedule.stages, schedule.microbatches
        self.actions = [Action(k, s, j) for s in range(stages) for k in _PARTS for j in range(self.microbatches)]
        self.seconds = list(map(costs.seconds, self.actions))
        self.source = [-1] * len(self.actions)  # what another stage must have done, and how long that takes to arrive
        self.lag = [0.0] * len(self.actions)
        for n, action in enumerate(self.actions):
            other = action.stage + {"F": -1, "I": 1, "W": stages}[action.kind]
            if 0 <= other < stages:
                self.source[n] = self.number(Action(action.kind, other, action.microbatch))
                self.lag[n] = costs.transfer * (schedule.placement[other] != schedule.placement[action.stage])
        self.memory = memory
        self.end: list[float] = []

    def number(self, action: Action) -> int:
        return (action.stage * 3 + _PARTS.index(action.kind)) * self.microbatches + action.microbatch

    def time(self, lists: list[list[int]]) -> float:
        """The makespan, infinite when the lists lock up. Leaves the ends of all actions in `end`."""
        end = self.end = [-1.0] * len(self.actions)
        position = [0] * len(lists)
        free = [0.0] * len(lists)
        waiting: dict[int, int] = {}
        ready = list(range(len(lists)))
        while ready:
            rank = ready.pop()
            now = free[rank]
            actions = lists[rank]
            for i in range(position[rank], len(actions)):
                n = actions[i]
                source = self.source[n]
                if source >= 0:
                    if end[source] < 0:
                        waiting[source] = rank
                        break
                    now = max(now, end[source] + self.lag[n])
                now += self.seconds[n]
                end[n] = now
                position[rank] = i + 1
                if n in waiting:
                    ready.append(waiting.pop(n))
            free[rank] = now
        return float("inf") if waiting else max(free)

    def critical(self, lists: list[list[int]]) -> list[tuple[int, int]]:
        """(rank, i) where actions i-1 and i of a rank follow each other on the critical path of what was timed last."""
        end = self.end
        places = {n: (rank, i) for rank, actions in enumerate(lists) for i, n in enumerate(actions)}
        n = max((actions[-1] for actions in lists), key=lambda last: end[last])
        found = []
        while True:
            rank, i = places[n]
            source = self.source[n]
            behind = end[lists[rank][i - 1]] if i > 0 else 0.0
            if source >= 0 and end[source] + self.lag[n] >= behind:
                n = source
            elif i > 0:
                found.append((rank, i))
                n = lists[rank][i - 1]
            else:
                return found

    def move(self, lists: list[list[int]], pair: tuple[int, int], draw: random.Random) -> tuple[int, list[int]]:
        """A rank's list with one of two neighbours moved past the other, and perhaps past more."""
        rank, i = pair
        moved = list(lists[rank])
        way = draw.randint(0, draw.randint(0, _REACH - 1))
        if draw.random() < 0.5:
            moved.insert(min(i + way, len(moved) - 1), moved.pop(i - 1))
        else:
            moved.insert(max(i - 1 - way, 0), moved.pop(i))
        return rank, moved

    def allows(self, rank: int, moved: list[int], before: list[int]) -> bool:
        """The new list keeps every stage's order, and the memory of the rank."""
        done = dict.fromkeys((n // self.microbatches for n in before), 0)
        for n in moved:
            row, j = divmod(n, self.microbatches)
            if done[row] != j or (row % 3 and done[row - 1] <= j):
                return False
            done[row] = j + 1
        return rank_peak([self.actions[n] for n in moved], self.memory.residuals) <= self.memory.limit[rank]
