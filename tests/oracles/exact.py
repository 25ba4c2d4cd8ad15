"""The least makespan of a small pipeline by exhaustive search: one stage a rank, backwards split, residuals limited.

Orders are built action by action in the order of their start times; a state reached before, or that cannot beat the best, is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

Done = tuple[tuple[int, int, int], ...]  # per rank, how many F, I and W
Ends = tuple[tuple[float, ...], ...]  # per rank, when each microbatch's F or I ended


@dataclass
class Search:
    """Times per rank; `held` residuals at most on each; `least` starts as a makespan above the one searched for."""

    microbatches: int
    forward: tuple[float, ...]
    input_gradient: tuple[float, ...]
    weight_gradient: tuple[float, ...]
    transfer: float
    held: int
    least: float
    seen: set[object] = field(default_factory=set)

    def run(self) -> float:
        """The least makespan, or what `least` was when none is below it."""
        p = len(self.forward)
        self.visit(((0, 0, 0),) * p, (0.0,) * p, ((),) * p, ((),) * p, (0.0, -1))
        return self.least

    def visit(self, done: Done, free: tuple[float, ...], forwards: Ends, gradients: Ends, last: tuple[float, int]) -> None:
        left = [t + sum(d * (self.microbatches - n) for d, n in zip(self.times(r), done[r])) for r, t in enumerate(free)]
        key = (done, free, forwards, gradients, last)
        if max(left) >= self.least - 1e-9 or key in self.seen:
            return
        self.seen.add(key)
        if all(n == self.microbatches for counts in done for n in counts):
            self.least = max(free)
        for rank in range(len(free)):
            for start, kind in self.startable(rank, done[rank], free[rank], forwards, gradients):
                if (start, rank) >= last:
                    end = start + self.times(rank)[kind]
                    counts = tuple(n + (k == kind) for k, n in enumerate(done[rank]))
                    self.visit(
                        put(done, rank, counts),
                        put(free, rank, end),
                        put(forwards, rank, (*forwards[rank], end)) if kind == 0 else forwards,
                        put(gradients, rank, (*gradients[rank], end)) if kind == 1 else gradients,
                        (start, rank),
                    )

    def times(self, rank: int) -> tuple[float, float, float]:
        return self.forward[rank], self.input_gradient[rank], self.weight_gradient[rank]

    def startable(self, rank: int, done: tuple[int, ...], free: float, forwards: Ends, gradients: Ends) -> Iterator[tuple[float, int]]:
        """(start, kind) of what a rank could do next, as early as it can."""
        f, i, w = done
        if f < self.microbatches and f - w < self.held and (rank == 0 or f < len(forwards[rank - 1])):
            yield max(free, forwards[rank - 1][f] + self.transfer if rank else 0.0), 0
        last = rank == len(forwards) - 1
        if i < f and (last or i < len(gradients[rank + 1])):
            yield max(free, 0.0 if last else gradients[rank + 1][i] + self.transfer), 1
        if w < i:
            yield free, 2


def put(values: tuple, place: int, value: object) -> tuple:
    """The tuple with another value at a place."""
    return (*values[:place], value, *values[place + 1 :])


def least_makespan(
    m: int, forward: tuple[float, ...], i: tuple[float, ...], w: tuple[float, ...], c: float, held: int, above: float
) -> float:
    """The exact optimum where it is below `above`, which is returned otherwise; the tighter, the sooner."""
    return Search(m, forward, i, w, c, held, above).run()
