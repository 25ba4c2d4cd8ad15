"""A plan as data: what is decided before a program runs, written to plan.json and read back from it.

The proof, the tables of a program and `mlc explain` read these classes and nothing else; `plan_reader` makes them from plan.json.
Addresses are bytes from the start of a rank's arena.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from math import prod
from typing import NamedTuple

from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.lower.arrangement import Arrangement
from mlc.mesh import TREE_NEIGHBOURS, Cohort, Mesh
from mlc.parallel.entries import Entries
from mlc.parallel.shards import Owned, Sharing
from mlc.parallel.sweeps import Sweep

VERSION = 10
CHAINS = ("train", "evaluate", "sample", "decode")
#: What gives a parameter its gradient, by the number that tables have for it.
FED = ("loss", "accumulate", "none")
#: How the names of buffers begin that one list of the decode chain leaves to the next.
KEPT = "kept "
#: More microbatches of one replica than any step has.
MOST_ROUNDS = 1 << 20
#: Bytes of the header that a channel has for each sender.
HEADER_BYTES = 256
CHANNEL_KINDS = ("activation", "gradient", "reduction", "parameter", "replicas", "tree")
#: Bytes of mlc_record before its scalars; where it holds 1. Bytes of the number of a microbatch.
RECORD_HEAD_BYTES = 88
RECORD_ONE = 32
NUMBER_BYTES = 8
#: Bytes, at most, of what all ranks exchange as one: a unit of statistics, the squares. Bytes of results before statistics
#: (`runtime/src/model/results.h`).
STATISTIC_BYTES = 288
RESULTS_HEAD_BYTES = 304
#: Units of statistics beside the metrics: the notes, the weight, the loss.
UNITS_BESIDE_METRICS = 3
#: Elements, and how many times as many, that a thread holds in canonical order of what lies otherwise (`runtime/src/model/arranged.h`).
STRIP_ELEMENTS = 2048
STRIPS = 2


class Area(NamedTuple):
    """Bytes [at, at + bytes) of a place's arena; of one chain, or None: in use in all."""

    name: str
    at: int
    bytes: int
    chain: str | None

    @property
    def end(self) -> int:
        return self.at + self.bytes


@frozen
class Region:
    """A ring of slots, one a live microbatch; a slot holds `bytes` of its `stride`."""

    name: str
    base: int
    stride: int
    slots: int
    bytes: int
    chain: str | None


@frozen
class Channel:
    """A directed edge between two places; `source` and `target` are -1 for the tree of all ranks.

    inbox, headers, outbox:  addresses; inbox and headers in the receiver's arena, outbox in the sender's
    """

    name: str
    kind: str
    chain: str | None
    source: int
    target: int
    slot_bytes: int
    slots: int
    outbox_slots: int
    inbox: int
    headers: int
    outbox: int

    def peers(self, replicas: int) -> int:
        """Blocks of slots that a receiver has, one for each sender, and a sender for each receiver."""
        if self.kind == "tree":
            return TREE_NEIGHBOURS
        return Cohort(replicas).blocks if self.kind == "replicas" else 1


# ---- rows ----


class Operand(NamedTuple):
    """What a routine does with a buffer that it is given.

    use:    read, write, add (writes it, or adds to it where a microbatch is not the first of its group) or work
    bytes:  of an element where the routine is flat and `each` is set, else of the whole
    over:   of a result: the operand whose place it may take, -1: none
    arranged: how the buffer lies that is not canonical
    """

    use: str
    bytes: int
    over: int
    each: bool
    arranged: Arrangement | None = None

    def __str__(self) -> str:
        arranged = f" as {self.arranged}" if self.arranged is not None else ""
        return f"{self.use} {self.bytes}{' each' * self.each}{f' over {self.over}' * (self.over >= 0)}{arranged}"


@frozen
class Signature:
    """A routine as rows see it. flat: it runs over a range of elements. scratch: bytes that it uses of each thread's."""

    name: str
    flops: int
    scratch: int
    flat: bool
    operands: tuple[Operand, ...]


class Buffer(NamedTuple):
    """Bytes [at, at + bytes) of the slot that a microbatch has in a region, by its name; region "arena" has one slot."""

    name: str
    region: str
    at: int
    bytes: int


class Row(NamedTuple):
    """A call of a routine for a microbatch: numbers of a routine and of buffers of the chunk; `path` keys random numbers."""

    routine: int
    path: str
    name: str
    buffers: tuple[int, ...]


class Call(NamedTuple):
    """A call of a routine at given addresses of the arena."""

    routine: int
    at: tuple[int, ...]


# ---- a place ----


class Use(NamedTuple):
    """The gradient of one use of a parameter, numbered among them; `levels`: the accumulators that take microbatches and hold sums
    of groups."""

    parameter: int
    ordinal: int
    phase: str
    levels: tuple[int, ...]


class OwnedParameter(NamedTuple):
    """A parameter that the replicas of the place share out (shards.py).

    gradient:  address of the accumulator of use 0; None where none arrives
    update:    the number of the routine; None where it is not trained. Operands: master, gradient, states, results, scalars, work memory
    reads:     addresses of the scalars that the update reads
    work:      bytes of what an update that is not elementwise makes and uses up
    meaning:   of the update (meaning.py), as the model has it
    """

    parameter: int
    elements: int
    sharing: str
    gradient: int | None
    update: int | None
    reads: tuple[int, ...]
    work: int
    meaning: str


class Held(NamedTuple):
    """A parameter on a place that uses it.

    copy:     in the dtype of the forward pass; None where that reads the master
    meaning:  of its initial value (meaning.py), as the model has it
    """

    parameter: int
    master: int
    copy: int | None
    init: Call
    meaning: str


class Logits(NamedTuple):
    """What a sampling pass leaves, and in which buffer."""

    dtype: str
    shape: tuple[int, ...]
    buffer: int


@frozen
class Chunk:
    """A stage of a chain on its place.

    buffers:  the first are those that the place has for all its chunks (Place.named)
    rows:     by phase: F, and I, W, B as far as its list has them
    heads:    by phase that is done in two parts, how many of its rows are the first; messages move between the two
    weight:   the buffer of the weight of a microbatch, which a row of F makes; None where none is needed or it is 1
    inputs:   (model input, buffer), filled before the rows of F
    values:   (column, buffer): what the rows of F leave, to be read when the list has ended
    meaning:  of the rows (meaning.py), as the model has them
    """

    stage: int
    buffers: tuple[Buffer, ...]
    rows: Mapping[str, tuple[Row, ...]]
    heads: Mapping[str, int]
    weight: int | None
    inputs: tuple[tuple[int, int], ...]
    values: tuple[tuple[int, int], ...]
    uses: tuple[Use, ...]
    logits: Logits | None
    meaning: str

    def part(self, kind: str) -> tuple[Row, ...]:
        """The rows that an entry of a list runs: of a phase, its first part, or its rest."""
        phase = kind.rstrip("+")
        rows = self.rows.get(phase, ())
        head = self.heads.get(phase, len(rows))
        return rows[:head] if kind == phase else rows[head:]


@frozen
class Place:
    """All that the ranks of one pipeline coordinate do and hold. The first inbox_bytes of its arena are what peers write into.

    record:     address of the step record
    microbatches: address of the numbers of the microbatches of a list, over all replicas
    results:    address of what a list finds: for other ranks, and for the host when it has ended
    levels:     accumulators a use
    named:      the buffers that lie at one address for all microbatches, which rows of every chunk name
    chunks:     per chain, in the order of its stages
    states:     where a replica lays out the optimizer states of its pieces, one after the other
    work:       the same of what updates that are not elementwise make and use up
    guests:     where a replica keeps the sums of an absent one for which it stands in (mlc.mesh.Cohort)
    """

    number: int
    arena_bytes: int
    inbox_bytes: int
    record: int
    microbatches: int
    results: int
    levels: int
    stages: tuple[int, ...]
    fixed: tuple[Area, ...]
    regions: Mapping[str, Region]
    named: tuple[Buffer, ...]
    lists: Mapping[str, Entries]
    chunks: Mapping[str, tuple[Chunk, ...]]
    held: tuple[Held, ...]
    owned: tuple[OwnedParameter, ...]
    states: Area
    work: Area
    guests: Area

    def sharing(self, replicas: int, unit: int) -> Sharing:
        """How the replicas share out what the place owns, of elements of `unit` bytes."""
        return Sharing([Owned(one.parameter, one.elements, one.sharing) for one in self.owned], replicas, unit)

    @property
    def summed(self) -> list[Use]:
        """All uses of the place."""
        return [use for chunk in self.chunks.get("train", ()) for use in chunk.uses]

    def uses(self) -> Iterator[tuple[int, Use]]:
        """(chunk, use) of all uses of the place."""
        for number, chunk in enumerate(self.chunks.get("train", ())):
            for use in chunk.uses:
                yield number, use


# ---- the whole ----


class Arranged(NamedTuple):
    """How master and gradients, the copy and the states of a parameter lie; None: canonical."""

    master: Arrangement | None
    copy: Arrangement | None
    states: tuple[Arrangement | None, ...]


@frozen
class ParameterKind:
    """What parameters of equal layers have alike; of a plan, each kind is one object.

    fed:      one of FED
    states:   of its optimizer: name, shape
    update:   the number of its rule, None where it is not trained
    arranged: how it lies, where not all of it is canonical
    elements: of its value; stored: of the buffer of its master, or of a gradient, gaps included; stored_copy: the same of its copy
    sharing:  how replicas share it out (shards.py)
    """

    dtype: str
    shape: tuple[int, ...]
    fed: str
    states: tuple[tuple[str, tuple[int, ...]], ...]
    elementwise: bool
    update: int | None
    arranged: Arranged | None = None
    elements: int = field(init=False)
    stored: int = field(init=False)
    stored_copy: int = field(init=False)
    sharing: str = field(init=False)

    def __post_init__(self) -> None:
        elements, lies = prod(self.shape), self.arranged
        made = {
            "elements": elements,
            "stored": elements if lies is None or lies.master is None else lies.master.elements,
            "stored_copy": elements if lies is None or lies.copy is None else lies.copy.elements,
            "sharing": "still" if self.update is None else "sliced" if self.elementwise else "whole",
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def stored_state(self, state: int) -> int:
        """Elements of the buffer of a state that is kept whole."""
        arranged = self.arranged.states[state] if self.arranged else None
        return prod(self.states[state][1]) if arranged is None else arranged.elements


class PlannedParameter(NamedTuple):
    """A parameter in the whole plan.

    uses:    (stage, phase)
    """

    name: str
    kind: ParameterKind
    owner: int
    uses: tuple[tuple[int, str], ...]


@frozen
class Columns:
    """The numbers that a microbatch leaves: (name, stage). The first `losses` add up to its loss.

    logits_stage: of sample and decode, else -1
    """

    columns: tuple[tuple[str, int], ...]
    losses: int
    logits_stage: int

    @property
    def units(self) -> int:
        """Of its statistics."""
        return UNITS_BESIDE_METRICS + len(self.columns) - self.losses


def results_bytes(columns: Iterable[Columns]) -> int:
    """Of what lists with these columns find."""
    return RESULTS_HEAD_BYTES + STATISTIC_BYTES * max((of.units for of in columns), default=UNITS_BESIDE_METRICS)


@frozen
class StageNote:
    """What the partition has to say of a stage: its cost by name, in seconds and bytes, and why it begins and ends where it does."""

    cost: Mapping[str, float]
    why: str


@frozen
class Planned:
    """Everything that is decided before a program runs.

    flops:       of a microbatch, forward and backward; recomputed_flops: of what is done once more beside it
    stages:      the place of each; calls, notes: per stage
    recompute:   per stage, what the backward pass of each call makes again (ir.program.CALL_CHOICES); nothing where a plan says nothing
    parameters:  in the order of the program's
    scalars:     names of those of the record, in order
    routines:    those that some row calls
    columns:     per chain
    sweeps:      of all places alike; those of one action in the order in which they run
    rounds:      per chain, the microbatches of a list, for one replica
    undecoded:   why there is no decode chain beside a sample chain
    unit:        bytes of an element of a master, the same of all parameters, and of a scalar
    """

    model: str
    mesh: Mesh
    schedule: str
    microbatches: int
    groups: int
    scratch_bytes_per_thread: int
    flops: int
    recomputed_flops: int
    stages: tuple[int, ...]
    calls: tuple[tuple[str, ...], ...]
    recompute: tuple[tuple[str, ...], ...]
    notes: tuple[StageNote, ...]
    parameters: tuple[PlannedParameter, ...]
    scalars: tuple[str, ...]
    routines: tuple[Signature, ...]
    columns: Mapping[str, Columns]
    sweeps: tuple[Sweep, ...]
    channels: Mapping[str, Channel]
    places: tuple[Place, ...]
    rounds: Mapping[str, int]
    undecoded: str = ""
    unit: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        units = (dtype_of(dtype_of(name).wide).bytes for name in {p.kind.dtype for p in self.parameters})
        object.__setattr__(self, "unit", max(units, default=self._unit_of_scalars()))

    def _unit_of_scalars(self) -> int:
        """Bytes of a scalar of the step record, which has the dtype of masters where there are any."""
        sizes = (area.bytes for place in self.places for area in place.fixed if area.name == "record")
        return max((next(sizes, 0) - RECORD_HEAD_BYTES) // max(len(self.scalars), 1), 1)

    @property
    def pp(self) -> int:
        """Places of the pipeline."""
        return self.mesh.pp

    @property
    def dp(self) -> int:
        """Replicas."""
        return self.mesh.dp

    @property
    def results_bytes(self) -> int:
        """What any list finds."""
        return results_bytes(self.columns.values())

    @property
    def arena_bytes(self) -> int:
        """The largest of any rank."""
        return max(place.arena_bytes for place in self.places)

    @property
    def chunks(self) -> int:
        """Stages a place."""
        return len(self.stages) // self.pp
