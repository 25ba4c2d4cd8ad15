"""A plan as data: rows, parameters, regions, channels and lists with addresses. Addresses are bytes from the start of a rank's arena."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlc.ir.program import Program
from mlc.ir.types import TensorType
from mlc.lower.program import Lowered
from mlc.lower.routine import Routine
from mlc.parallel.entries import Entries
from mlc.parallel.planned import Area, Channel, Region
from mlc.plan.layout import Layout

#: An operand of a row: the number of a region above this bit, the offset in its slot below. Region 0 is the arena.
REGION_SHIFT = 48


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A call of a routine: the operands it is given in order, what keys its random numbers, its name for people."""

    routine: Routine
    at: tuple[int, ...]
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class PlacedUse:
    """The gradient of one use of a parameter; `levels`: the accumulators that take microbatches and hold sums of groups."""

    parameter: int
    index: int
    phase: str
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Owned:
    """A parameter that the replicas of the place share out (mlc.parallel.shards).

    gradient:  address of the accumulator of use 0; None where none arrives
    update:    None where it is not trained
    reads:     addresses of the scalars that the update reads
    work:      bytes of what an update that is not elementwise makes and uses up
    """

    parameter: int
    sharing: str
    gradient: int | None
    update: Routine | None
    reads: tuple[int, ...]
    work: int


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter on a place that uses it. `copy`: in the dtype of the forward pass; None where that reads the f32 master."""

    parameter: int
    master: int
    copy: int | None
    init: PlacedRow


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stage of a chain on its place.

    rows:     by phase: F, and I, W, B as far as its list has them
    inputs:   (model input, operand)
    weight:   the row that makes the weight of a microbatch; None where none is needed or it is 1
    values:   (column, operand) of what the forward rows leave
    logits:   (type, operand), of sample only
    """

    stage: int
    rows: Mapping[str, tuple[PlacedRow, ...]]
    inputs: tuple[tuple[int, int], ...]
    weight: PlacedRow | None
    values: tuple[tuple[int, int], ...]
    uses: tuple[PlacedUse, ...]
    logits: tuple[TensorType, int] | None


@dataclass(frozen=True, slots=True)
class Place:
    """All that the ranks of one place do and hold.

    inbox_bytes:  the inbox is the first so many bytes of the arena
    weight_at:    f32, the weight of a microbatch; seed: f32, the cotangent of every loss
    phases:       per chain and phase of a chunk ("F0"), the names of the regions it reads from before and writes into
    chunks:       per chain, in the order of its stages
    states:       where a replica lays out the optimizer states of its pieces, one after the other
    work:         the same of what updates that are not elementwise make and use up
    guests:       where a replica keeps the sums of an absent one for which it stands in (mlc.mesh.Cohort)
    """

    place: int
    arena_bytes: int
    inbox_bytes: int
    record: int
    seed: int
    weight_at: int
    stages: tuple[int, ...]
    fixed: tuple[Area, ...]
    regions: tuple[Region, ...]
    phases: Mapping[str, Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]]
    lists: Mapping[str, Entries]
    chunks: Mapping[str, tuple[Chunk, ...]]
    held: tuple[Held, ...]
    owned: tuple[Owned, ...]
    states: Area
    work: Area
    guests: Area


@dataclass(frozen=True, slots=True)
class Columns:
    """The numbers that a microbatch leaves: (name, stage). The first `losses` add up to its loss. logits_stage: of sample, else -1."""

    columns: tuple[tuple[str, int], ...]
    losses: int
    logits_stage: int


@dataclass(frozen=True, slots=True)
class PlannedParameter:
    """A parameter in the whole plan. uses: (stage, phase); states: of its optimizer; `fed`: loss, accumulate or none."""

    fed: str
    owner: int
    uses: tuple[tuple[int, str], ...]
    states: tuple[tuple[str, TensorType], ...]
    elementwise: bool
    update: int | None

    @property
    def sharing(self) -> str:
        """How the replicas of the owner share it out."""
        return "still" if self.update is None else "sliced" if self.elementwise else "whole"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before a program runs.

    parameters:  in the order of the program's
    columns:     per chain
    channels:    all, each once
    levels:      accumulators a use
    rounds:      per chain, the microbatches of a list, for one replica
    flops:       of a microbatch, forward and backward; `recomputed_flops`: what is done once more beside it
    """

    lowered: Lowered
    layout: Layout
    scratch_bytes_per_thread: int
    calls: tuple[tuple[str, ...], ...]
    parameters: tuple[PlannedParameter, ...]
    columns: Mapping[str, Columns]
    channels: tuple[Channel, ...]
    places: tuple[Place, ...]
    levels: int
    rounds: Mapping[str, int]
    flops: int
    recomputed_flops: int

    @property
    def program(self) -> Program:
        return self.lowered.step.program

    @property
    def microbatches(self) -> int:
        return self.layout.microbatches

    @property
    def groups(self) -> int:
        return self.layout.groups

    @property
    def arena_bytes(self) -> int:
        """The largest of any rank."""
        return max(place.arena_bytes for place in self.places)

    @property
    def scalar_names(self) -> tuple[str, ...]:
        """The scalars of the record in order."""
        return scalar_names(self.program)


def scalar_names(program: Program) -> tuple[str, ...]:
    """The scalars of the record of a program in order."""
    return ("step", "steps", *(s.name for s in program.scalars))
