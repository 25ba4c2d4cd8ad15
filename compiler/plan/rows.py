"""The rows of a stage in the order they run, on buffers that have names and sizes but no addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mlc.ir.types import TensorType
from mlc.lower.arrangement import Stored
from mlc.lower.routine import Routine
from mlc.parallel.planned import KEPT

#: How the names of buffers of model inputs begin.
INPUT = "input."


def input_buffer(name: str) -> str:
    """The buffer of a model input."""
    return f"{INPUT}{name}"


class Row(NamedTuple):
    """One call of a routine: the buffers it is given in order, its work memory last. `name` is for people; `path` keys random numbers.

    again: it does once more what a row before it did
    """

    phase: str  # F, I or W
    routine: Routine
    buffers: tuple[str, ...]
    path: str
    name: str
    again: bool = False


@dataclass(slots=True)
class StageRows:
    """What a stage of a chain does for one microbatch.

    rows:     forward, then backward: from the last call to the first, input gradient before weight gradient
    sizes:    bytes of every buffer that a microbatch has for itself. Other names are of memory that all share
    gradients: those of `sizes` that are accumulators, in a step of one microbatch that goes backward right after it went forward
    rounded:  the parameters of which a microbatch has a copy in the dtype of the forward pass
    onward:   nothing goes backward
    alone:    where nothing goes backward: what a row makes that no other row reads, by routine; all its rows make it at one place
    saved:    of that, the buffer of each value, by routine
    inputs:   the model inputs that some row reads, in the order they are met
    losses:   (name, buffer) of add_loss effects; metrics: of reports
    weight:   the buffer of the microbatch's weight, which the first row makes; None where none is needed or it is 1
    kept:     bytes of every buffer that one list leaves to the next
    """

    stage: int
    rounded: frozenset[str] = frozenset()
    onward: bool = False
    alone: dict[str, dict[str, None]] = field(default_factory=dict)
    saved: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    gradients: list[str] = field(default_factory=list)
    inputs: dict[str, None] = field(default_factory=dict)
    losses: list[tuple[str, str]] = field(default_factory=list)
    metrics: list[tuple[str, str]] = field(default_factory=list)
    weight: str | None = None
    kept: dict[str, int] = field(default_factory=dict)

    def buffer(self, name: str, kind: TensorType | Stored) -> str:
        """A buffer of a microbatch for a value stored so (a type alone: canonical); the same name is the same buffer."""
        self.sizes.setdefault(name, kind.bytes)
        return name

    def keep(self, name: str, kind: Stored) -> str:
        """A buffer that one list leaves to the next, by what is kept in it."""
        buffer = f"{KEPT}{name}"
        self.kept[buffer] = kind.bytes
        return buffer

    def only(self, routine: str, name: str, size: int) -> str:
        """A buffer that rows of a routine have, each for itself alone."""
        self.alone.setdefault(routine, {})[name] = None
        self.sizes[name] = size
        return name

    def add(self, phase: str, routine: Routine, buffers: Sequence[str], path: str, name: str, again: bool = False) -> None:
        """Append a row."""
        self.rows.append(Row(phase, routine, (*buffers, *self.work(routine)), path, name, again))

    def work(self, routine: Routine) -> tuple[str, ...]:
        """Work memory for a row that comes next; none where it needs none."""
        if not routine.work_bytes:
            return ()
        if self.onward:
            return (self.only(routine.name, f"work.{routine.name}", routine.work_bytes),)
        name = f"work.{len(self.rows)}"
        self.sizes[name] = routine.work_bytes
        return (name,)

    def of(self, *phases: str) -> list[Row]:
        """The rows of some phases, in order."""
        return [row for row in self.rows if row.phase in phases]
