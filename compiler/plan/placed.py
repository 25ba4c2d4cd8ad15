"""A plan as data: rows, parameters and chains with addresses in the arena."""

from __future__ import annotations

from dataclasses import dataclass

from mlc.ir.program import Parameter, Program
from mlc.ir.types import TensorType
from mlc.lower.program import Lowered
from mlc.lower.routine import Routine


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A call of a routine: the addresses it is given in order, what keys its random numbers, its name for people."""

    routine: Routine
    at: tuple[int, ...]
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class PlacedParameter:
    """A parameter with its addresses.

    copy:          in the dtype of the forward pass; None where that reads the f32 master
    accumulators:  [use][level]; none where no gradient arrives
    states:        (name, type, address)
    update:        None where it is not trained
    """

    parameter: Parameter
    master: int
    copy: int | None
    accumulators: tuple[tuple[int, ...], ...]
    states: tuple[tuple[str, TensorType, int], ...]
    init: PlacedRow
    update: PlacedRow | None


@dataclass(frozen=True, slots=True)
class PlacedChain:
    """A chain with addresses.

    losses:   add_loss effects, (name, address)
    metrics:  reports and metrics, (name, address)
    weight:   the row that makes the weight of a microbatch at `weight_at`; None where it is 1
    logits:   (type, address), of sample only
    """

    rows: tuple[PlacedRow, ...]
    loss: int | None
    losses: tuple[tuple[str, int], ...]
    metrics: tuple[tuple[str, int], ...]
    weight: PlacedRow | None
    weight_at: int
    logits: tuple[TensorType, int] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before a program runs. Addresses are bytes from the start of the rank's arena.

    record, seed:          the step record; an f32 that is the cotangent of every loss: the weight of the microbatch
    parameters, inputs:    in the order of the program's
    train:                 the forward half of a microbatch; `backward` is the other half
    microbatches, groups:  M and G; a group is folded before groups are combined over `levels` levels of accumulators
    """

    lowered: Lowered
    arena_bytes: int
    scratch_bytes_per_thread: int
    record: int
    seed: int
    parameters: tuple[PlacedParameter, ...]
    inputs: tuple[int, ...]
    train: PlacedChain
    backward: tuple[PlacedRow, ...]
    evaluate: PlacedChain
    sample: PlacedChain | None
    microbatches: int
    groups: int
    levels: int

    @property
    def program(self) -> Program:
        return self.lowered.step.program

    @property
    def scalar_names(self) -> tuple[str, ...]:
        """The scalars of the record in order."""
        return scalar_names(self.program)

    @property
    def flops(self) -> int:
        """Floating-point operations of a microbatch, forward and backward."""
        return sum(r.routine.flops for r in (*self.train.rows, *self.backward))


def scalar_names(program: Program) -> tuple[str, ...]:
    """The scalars of the record of a program in order."""
    return ("step", "steps", *(s.name for s in program.scalars))
