"""How much each rank may hold, and bounds that no order of actions can beat."""

from __future__ import annotations

from itertools import pairwise

from mlc.frozen import frozen
from mlc.parallel.actions import Schedule, refusal
from mlc.parallel.placement import by_rank
from mlc.parallel.plan_schema import MOST_PLACES, MOST_REPLICAS
from mlc.parallel.simulate import Costs, Residuals, peak

#: Actions of a list are planned, simulated and proved one by one.
MOST_ACTIONS = 1 << 20
#: Of all replicas; what a list holds is counted apart.
MOST_MICROBATCHES = 1 << 30


def check_extent(pp: int, dp: int, chunks: int, microbatches: int) -> None:
    """Before any work: is it a size that lists can be made for? raises: E1108"""
    for flag, value, most, what in (
        ("pp", pp, MOST_PLACES, "places of a pipeline"),
        ("dp", dp, MOST_REPLICAS, "replicas"),
        ("chunks", chunks, MOST_PLACES, "stages a place"),
        ("microbatches", microbatches, MOST_MICROBATCHES, "microbatches a step"),
    ):
        if value > most:
            raise refusal("E1108", f"--{flag} {value}: {most:,} {what} are the most that a plan is made for")
    actions = pp * chunks * max(microbatches // dp, 1)
    if actions > MOST_ACTIONS:
        asked = f"{pp * chunks:,} stages of {microbatches // dp:,} microbatches each"
        text = f"{asked}: every action is planned and proved, and {MOST_ACTIONS:,} are the most"
        raise refusal("E1108", text, "fewer microbatches, larger ones")


@frozen
class Memory:
    """The most that each rank may hold of residuals, in their unit: bytes, or their number."""

    limit: tuple[int, ...]  # per rank
    residuals: Residuals

    def fits(self, schedule: Schedule) -> bool:
        return all(held <= limit for held, limit in zip(peak(schedule, self.residuals), self.limit))

    def least(self, placement: tuple[int, ...]) -> list[int]:
        """What each rank must at least be allowed to hold: one microbatch on each of its chunks."""
        return [sum(map(self.size, stages)) for stages in by_rank(placement, len(self.limit))]

    def size(self, stage: int) -> int:
        """The most that one residual of a stage ever takes."""
        return max(self.residuals.saved[stage], self.residuals.pending[stage])


def counted(limit: int, ranks: int, chunks: int) -> Memory:
    """At most `limit` residuals of a microbatch on a chunk on every rank, whole until their weight gradient has ended."""
    ones = (1,) * (ranks * chunks)
    return Memory((limit,) * ranks, Residuals(ones, ones))


def least_makespan(placement: tuple[int, ...], ranks: int, microbatches: int, costs: Costs) -> float:
    """No order of F, I and W on this placement ends sooner, whatever memory it may use.

    A rank cannot start before a first input reaches one of its stages, and then has all its work to do; its last input gradient
    has a way to stage 0 before it, where a weight gradient follows.
    """
    hops = [costs.transfer * (before != behind) for before, behind in pairwise(placement)]
    head = [0.0]
    tail = [costs.weight_gradient[0]]
    for stage, hop in enumerate(hops):
        head.append(head[-1] + costs.forward[stage] + hop)
        tail.append(tail[-1] + costs.input_gradient[stage] + hop)
    return max(_rank_least(stages, microbatches, costs, head, tail) for stages in by_rank(placement, ranks))


def _rank_least(stages: list[int], microbatches: int, costs: Costs, head: list[float], tail: list[float]) -> float:
    critical = microbatches * sum(costs.forward[s] + costs.input_gradient[s] for s in stages)
    deferred = microbatches * sum(costs.weight_gradient[s] for s in stages)
    return min(head[s] for s in stages) + critical + max(deferred, min(tail[s] for s in stages))
