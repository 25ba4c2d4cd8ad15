"""Schedules in numbers: the tables of `mlc schedule`."""

from __future__ import annotations

from collections.abc import Iterable

from mlc.frozen import frozen
from mlc.parallel.actions import Schedule
from mlc.parallel.schedules import SCHEDULES
from mlc.parallel.simulate import Costs, Simulation, simulate, uniform

_HEAD = ("schedule", "chunks", "makespan", "bubble", "of makespan", "residuals", "in microbatches", "messages")


@frozen
class Times:
    """What one microbatch takes on one rank, all chunks of the rank together, and one message between two ranks."""

    forward: float
    input_gradient: float
    weight_gradient: float
    transfer: float

    def costs(self, ranks: int, chunks: int) -> Costs:
        """Of stages that are all equal."""
        return uniform(ranks * chunks, self.forward / chunks, self.input_gradient / chunks, self.weight_gradient / chunks, self.transfer)

    def simulate(self, schedule: Schedule) -> Simulation:
        return simulate(schedule, self.costs(schedule.ranks, schedule.chunks))


def compared(chunks: int | None) -> list[tuple[str, int]]:
    """(name, chunks) of each schedule that is worth comparing: all of them, and auto with one chunk and with as many as the others.

    chunks: of those that take any number; None: their default
    """
    rows = [(name, chunks if chunks is not None and chunks in row.chunks else row.default_chunks) for name, row in SCHEDULES.items()]
    return list(dict.fromkeys([*rows[:-1], ("auto", 1), ("auto", chunks or 2)]))


def comparison(found: Iterable[tuple[Schedule, Simulation]]) -> str:
    """A line a schedule: residuals are those of the fullest rank, each of one microbatch on one chunk; messages are of all ranks."""
    rows = [_HEAD, *(_row(schedule, simulation) for schedule, simulation in found)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join((row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:])))) for row in rows]
    return "\n".join(lines) + "\n"


def _row(schedule: Schedule, found: Simulation) -> tuple[str, ...]:
    most = max(found.peak)
    return (
        schedule.name,
        str(schedule.chunks),
        f"{found.makespan:.6g}",
        f"{found.bubble:.6g}",
        f"{found.fraction:.1%}",
        str(most),
        f"{most / schedule.chunks:.6g}",
        str(sum(found.messages)),
    )
