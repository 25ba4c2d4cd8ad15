"""List scheduling: let time pass, and give each rank that is free the most urgent action that can start.

    F  of a stage, when its input has arrived and the rank may hold one more residual
    I  of a stage, when its gradient has arrived
    W  when neither can start, and the wait ahead is long enough, or not known yet

A rank keeps room for one residual on each of its later chunks: so the microbatch that is furthest along can always go on, and the run
never locks up. Source: the heuristic of Qi et al. 2024, 2401.10241, section 3.1, over any placement.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from mlc.parallel.actions import Action
from mlc.parallel.limits import Memory
from mlc.parallel.placement import stages_of
from mlc.parallel.simulate import Costs


@dataclass(frozen=True, slots=True)
class Policy:
    """What is more urgent where more than one action could start."""

    backward_first: bool  # an input gradient before a forward
    oldest_first: bool  # the lowest microbatch first; otherwise the one furthest along
    patience: float  # W runs when it takes at most this many times the wait ahead
    held: tuple[int, ...]  # per rank, at most so many residuals at a time


def list_schedule(
    placement: tuple[int, ...], ranks: int, microbatches: int, costs: Costs, memory: Memory, policy: Policy
) -> tuple[tuple[Action, ...], ...]:
    """The list of every rank, within memory and policy, each limit of which is at least one residual a chunk."""
    run = _Run(placement, ranks, microbatches, costs, memory, policy)
    while run.events:
        now, rank = heapq.heappop(run.events)
        if run.free[rank] <= now:
            run.decide(rank, now)
    return tuple(map(tuple, run.lists))


class _Run:
    """The state of the pipeline at a moment. `arrived` holds, per kind and stage, when each microbatch's input is there."""

    def __init__(self, placement: tuple[int, ...], ranks: int, microbatches: int, costs: Costs, memory: Memory, policy: Policy):
        stages = len(placement)
        self.placement = placement
        self.costs = costs
        self.memory = memory
        self.policy = policy
        self.lists: list[list[Action]] = [[] for _ in range(ranks)]
        self.free = [0.0] * ranks
        self.held = [0] * ranks
        self.held_size = [0] * ranks
        self.stages = [stages_of(placement, rank) for rank in range(ranks)]
        self.next = {kind: [0] * stages for kind in "FIW"}
        self.arrived: dict[str, list[list[float]]] = {kind: [[] for _ in range(stages)] for kind in "FIW"}
        self.arrived["F"][0] = [0.0] * microbatches
        self.events = [(0.0, rank) for rank in range(ranks)]

    def decide(self, rank: int, now: float) -> None:
        """Start an action on a free rank, or leave it to wait."""
        coming = [(self.arrived[kind][s][self.next[kind][s]], kind, s) for kind in "IF" for s in self.stages[rank] if self._has(kind, s)]
        allowed = [c for c in coming if c[1] == "I" or self._has_room(rank, c[2])]
        ready = [(kind, stage) for arrival, kind, stage in allowed if arrival <= now]
        if ready:
            self._start(rank, now, *min(ready, key=self._urgency))
            return
        ahead = min((arrival for arrival, _, _ in allowed), default=float("inf"))
        deferred = [s for s in self.stages[rank] if self._has("W", s)]
        if deferred:
            stage = min(deferred, key=lambda s: self.arrived["W"][s][self.next["W"][s]])
            if self.costs.weight_gradient[stage] <= (ahead - now) * self.policy.patience:
                self._start(rank, now, "W", stage)
                return
        if ahead < float("inf"):
            heapq.heappush(self.events, (ahead, rank))

    def _has(self, kind: str, stage: int) -> bool:
        return self.next[kind][stage] < len(self.arrived[kind][stage])

    def _has_room(self, rank: int, stage: int) -> bool:
        later = [s for s in self.stages[rank] if s >= stage]
        fits = self.held_size[rank] + sum(map(self.memory.size, later)) <= self.memory.limit[rank]
        return fits and self.held[rank] + len(later) <= self.policy.held[rank]

    def _urgency(self, choice: tuple[str, int]) -> tuple[float, ...]:
        kind, stage = choice
        first = 0 if (kind == "I") == self.policy.backward_first else 1
        along = -stage if kind == "F" else stage
        return (first, self.next[kind][stage], along) if self.policy.oldest_first else (first, along)

    def _start(self, rank: int, now: float, kind: str, stage: int) -> None:
        microbatch = self.next[kind][stage]
        self.next[kind][stage] += 1
        action = Action(kind, stage, microbatch)
        self.lists[rank].append(action)
        self.free[rank] = now + self.costs.seconds(action)
        heapq.heappush(self.events, (self.free[rank], rank))
        size, pending = self.memory.size(stage), self.memory.residuals.pending[stage]
        self.held_size[rank] += {"F": size, "I": pending - size, "W": -pending}[kind]
        self.held[rank] += {"F": 1, "I": 0, "W": -1}[kind]
        if kind == "F":
            last = stage == len(self.placement) - 1
            self._send(rank, now, "I" if last else "F", stage if last else stage + 1)
        elif kind == "I":
            self.arrived["W"][stage].append(self.free[rank])
            if stage > 0:
                self._send(rank, now, "I", stage - 1)

    def _send(self, rank: int, now: float, kind: str, stage: int) -> None:
        """What `rank` has started will reach a stage, whose rank looks again whether it still wants to wait."""
        other = self.placement[stage]
        self.arrived[kind][stage].append(self.free[rank] + (self.costs.transfer if other != rank else 0.0))
        if other != rank:
            heapq.heappush(self.events, (max(now, self.free[other]), other))
