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
from math import inf

from mlc.frozen import frozen
from mlc.parallel.actions import Action
from mlc.parallel.limits import Memory
from mlc.parallel.simulate import Costs


@frozen
class Policy:
    """What is more urgent where more than one action could start."""

    backward_first: bool  # an input gradient before a forward
    oldest_first: bool  # the lowest microbatch first; otherwise the one furthest along
    patience: float  # W runs when it takes at most this many times the wait ahead
    held: tuple[int, ...]  # per rank, at most so many residuals at a time


def list_schedule(
    placement: tuple[int, ...], ranks: int, microbatches: int, costs: Costs, memory: Memory, policy: Policy
) -> tuple[tuple[Action, ...], ...]:
    """The list of every rank, within memory and policy, each limit of which is at least one residual a chunk.

    Takes time in proportion to the actions, times the chunks of a rank.
    """
    run = _run(placement, ranks, microbatches, costs, memory, policy)
    return tuple(tuple(map(Action._make, actions)) for actions in run.lists)


def list_makespan(placement: tuple[int, ...], ranks: int, microbatches: int, costs: Costs, memory: Memory, policy: Policy) -> float:
    """When the last action of the list schedule ends, as it is made; run again, it may end a little sooner."""
    return max(_run(placement, ranks, microbatches, costs, memory, policy).free)


def _run(placement: tuple[int, ...], ranks: int, microbatches: int, costs: Costs, memory: Memory, policy: Policy) -> _Run:
    run = _Run(placement, ranks, microbatches, costs, memory, policy)
    events, free = run.events, run.free
    while events:
        now, rank = heapq.heappop(events)
        if free[rank] <= now:
            run.decide(rank, now)
    return run


@dataclass(slots=True)
class _Stage:
    """A stage at a moment.

    behind:      the stage that its activations go to, and the rank of that; before: of its gradients. -1 where there is none
    hop_behind, hop_before:  what a message there takes
    size:        of a residual; pending: of one that waits for W
    reserve:     what its rank must have room for to begin a forward: the sizes of this stage and of the rank's later ones;
                 reserved: how many those are
    forward, gradient, deferred:  when the inputs of F, of I and of W are there, by microbatch
    next_*:      how many of a kind have begun
    """

    number: int
    rank: int
    seconds: tuple[float, float, float]
    behind: int
    before: int
    hop_behind: float
    hop_before: float
    size: int
    pending: int
    reserve: int
    reserved: int
    forward: list[float]
    gradient: list[float]
    deferred: list[float]
    next_forward: int = 0
    next_gradient: int = 0
    next_deferred: int = 0


def _stages(placement: tuple[int, ...], microbatches: int, costs: Costs, memory: Memory) -> list[_Stage]:
    stages: list[_Stage] = []
    reserve: dict[int, tuple[int, int]] = {}  # by rank, of the stages behind the one at hand
    last = len(placement) - 1
    for number in range(last, -1, -1):
        rank, size = placement[number], memory.size(number)
        sizes, count = reserve.get(rank, (0, 0))
        reserve[rank] = sizes + size, count + 1
        stages.append(
            _Stage(
                number=number,
                rank=rank,
                seconds=(costs.forward[number], costs.input_gradient[number], costs.weight_gradient[number]),
                behind=number + 1 if number < last else -1,
                before=number - 1,
                hop_behind=costs.transfer if number < last and placement[number + 1] != rank else 0.0,
                hop_before=costs.transfer if number > 0 and placement[number - 1] != rank else 0.0,
                size=size,
                pending=memory.residuals.pending[number],
                reserve=sizes + size,
                reserved=count + 1,
                forward=[] if number else [0.0] * microbatches,
                gradient=[],
                deferred=[],
            )
        )
    return stages[::-1]


class _Run:
    """The state of the pipeline at a moment."""

    def __init__(self, placement: tuple[int, ...], ranks: int, microbatches: int, costs: Costs, memory: Memory, policy: Policy):
        self.policy = policy
        self.limit = memory.limit
        self.lists: list[list[tuple[str, int, int]]] = [[] for _ in range(ranks)]  # of actions in all but name, which takes time
        self.free = [0.0] * ranks
        self.held = [0] * ranks
        self.held_size = [0] * ranks
        self.stages = _stages(placement, microbatches, costs, memory)
        self.own: list[list[_Stage]] = [[] for _ in range(ranks)]
        for stage in self.stages:
            self.own[stage.rank].append(stage)
        self.events = [(0.0, rank) for rank in range(ranks)]

    def decide(self, rank: int, now: float) -> None:
        """Start an action on a free rank, or leave it to wait."""
        ahead, ready = inf, []
        for stage in self.own[rank]:
            n = stage.next_gradient
            if n < len(stage.gradient):
                arrival = stage.gradient[n]
                if arrival <= now:
                    ready.append(("I", stage))
                elif arrival < ahead:
                    ahead = arrival
        room, residuals = self.limit[rank] - self.held_size[rank], self.policy.held[rank] - self.held[rank]
        for stage in self.own[rank]:
            n = stage.next_forward
            if n < len(stage.forward) and stage.reserve <= room and stage.reserved <= residuals:
                arrival = stage.forward[n]
                if arrival <= now:
                    ready.append(("F", stage))
                elif arrival < ahead:
                    ahead = arrival
        if ready:
            kind, stage = ready[0] if len(ready) == 1 else min(ready, key=self._urgency)
            (self._forward if kind == "F" else self._gradient)(stage, now)
        elif not self._deferred(rank, now, ahead) and ahead < inf:
            heapq.heappush(self.events, (ahead, rank))

    def _urgency(self, choice: tuple[str, _Stage]) -> tuple[float, ...]:
        kind, stage = choice
        first = 0 if (kind == "I") == self.policy.backward_first else 1
        along, microbatch = (-stage.number, stage.next_forward) if kind == "F" else (stage.number, stage.next_gradient)
        return (first, microbatch, along) if self.policy.oldest_first else (first, along)

    def _forward(self, stage: _Stage, now: float) -> None:
        rank = stage.rank
        self.lists[rank].append(("F", stage.number, stage.next_forward))
        stage.next_forward += 1
        self.free[rank] = end = now + stage.seconds[0]
        heapq.heappush(self.events, (end, rank))
        self.held[rank] += 1
        self.held_size[rank] += stage.size
        if stage.behind < 0:
            stage.gradient.append(end)
            return
        behind = self.stages[stage.behind]
        behind.forward.append(end + stage.hop_behind)
        self._wake(behind.rank, rank, now)

    def _gradient(self, stage: _Stage, now: float) -> None:
        rank = stage.rank
        self.lists[rank].append(("I", stage.number, stage.next_gradient))
        stage.next_gradient += 1
        self.free[rank] = end = now + stage.seconds[1]
        heapq.heappush(self.events, (end, rank))
        self.held_size[rank] += stage.pending - stage.size
        stage.deferred.append(end)
        if stage.before < 0:
            return
        before = self.stages[stage.before]
        before.gradient.append(end + stage.hop_before)
        self._wake(before.rank, rank, now)

    def _deferred(self, rank: int, now: float, ahead: float) -> bool:
        """Start the oldest W, where there is one and the wait ahead is long enough for it."""
        stage, oldest = None, inf
        for one in self.own[rank]:
            if one.next_deferred < len(one.deferred) and one.deferred[one.next_deferred] < oldest:
                stage, oldest = one, one.deferred[one.next_deferred]
        if stage is None or stage.seconds[2] > (ahead - now) * self.policy.patience:
            return False
        self.lists[rank].append(("W", stage.number, stage.next_deferred))
        stage.next_deferred += 1
        self.free[rank] = now + stage.seconds[2]
        heapq.heappush(self.events, (self.free[rank], rank))
        self.held[rank] -= 1
        self.held_size[rank] -= stage.pending
        return True

    def _wake(self, rank: int, sender: int, now: float) -> None:
        """Something will reach a rank, which looks again whether it still wants to wait. One that works looks when it is done."""
        if rank != sender and self.free[rank] <= now:
            heapq.heappush(self.events, (now, rank))
