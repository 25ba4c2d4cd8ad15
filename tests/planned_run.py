"""Runs a plan on symbols: every buffer holds a hash of how its content was made, so two plans that compute the same agree on every hash.

Memory is checked as it is used: what a row reads must be what was last written there, whole. Messages move as soon as they may, or as
late as they must.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlc.ir.dtypes import dtype_of
from mlc.lower.program import Lowered
from mlc.lower.routine import Routine
from mlc.parallel.entries import COMPUTE, RESTS, Entry
from mlc.parallel.planned import RECORD_HEAD_BYTES, RECORD_ONE, Buffer, Channel, Chunk, Place, Planned, Row


@dataclass
class Memory:
    """What lies where in an arena: spans that do not overlap, by ascending address."""

    starts: list[int] = field(default_factory=list)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)  # start -> end, symbol

    def write(self, at: int, size: int, symbol: int) -> None:
        first = bisect_left(self.starts, at)
        if first and self.spans[self.starts[first - 1]][0] > at:
            first -= 1
        last = bisect_left(self.starts, at + size)
        for start in self.starts[first:last]:
            del self.spans[start]
        self.starts[first:last] = [at]
        self.spans[at] = (at + size, symbol)

    def read(self, at: int, size: int, what: str) -> int:
        end, symbol = self.spans.get(at, (0, 0))
        assert end == at + size, f"{what} reads {size} bytes at {at}, where nothing of that size was written"
        return symbol

    def copy_from(self, other: Memory, source: int, target: int, size: int) -> None:
        for start in other.starts[bisect_left(other.starts, source) : bisect_left(other.starts, source + size)]:
            end, symbol = other.spans[start]
            self.write(target + start - source, end - start, symbol)


@dataclass
class Flow:
    """A channel in motion."""

    channel: Channel
    posted: int = 0
    moved: int = 0
    released: int = 0


class Run:
    """One replica of a plan.

    saved:   the value of each name of a call, (path, microbatch, name), as its forward row made or read it
    results: what each microbatch left: ("gradient", parameter, use, microbatch), ("value", chain, column, microbatch), ("logits",)
    """

    def __init__(self, lowered: Lowered, plan: Planned, replica: int, eager: bool):
        self.plan = plan
        self.program = lowered.step.program
        self.routines = {routine.name: routine for routine in lowered.routines}
        self.eager = eager
        self.memories = [Memory() for _ in plan.places]
        self.flows = {c.name: Flow(c) for c in plan.channels.values()}
        self.first = replica * plan.microbatches // plan.dp
        self.results: dict[tuple[object, ...], int] = {}
        self.saved: dict[tuple[str, int, str], int] = {}
        for place in plan.places:
            self._start(place)

    def _start(self, place: Place) -> None:
        memory, program = self.memories[place.number], self.program
        for n, name in enumerate(self.plan.scalars):
            memory.write(place.record + RECORD_HEAD_BYTES + 4 * n, 4, hash(("scalar", name)))
        for held in place.held:
            parameter = program.parameters[held.parameter]
            memory.write(held.master, 4 * parameter.type.size, hash(parameter.name))
            if held.copy is not None:
                memory.write(held.copy, parameter.type.bytes, hash(parameter.name))
        memory.write(place.record + RECORD_ONE, 4, hash("one"))
        for _, use in place.uses():
            memory.write(use.levels[0], 4 * program.parameters[use.parameter].type.size, 0)

    def walk(self, chain: str) -> None:
        """Walk the lists of a chain to their ends."""
        for flow in self.flows.values():
            if flow.channel.chain == chain:
                flow.posted = flow.moved = flow.released = 0
        at = [0] * len(self.plan.places)
        moved = True
        while moved:
            moved = False
            for place in self.plan.places:
                entries = place.lists[chain]
                while at[place.number] < len(entries) and self._act(place, chain, entries[at[place.number]]):
                    at[place.number] += 1
                    moved = True
        if chain == "train" and self.plan.rounds["train"] == 1:
            self._read_gradients()
        for place in self.plan.places:
            left = place.lists[chain][at[place.number] :]
            assert not left, f"place {place.number} waits at {left[0]}"
        for flow in self.flows.values():
            if flow.channel.chain == chain:
                assert flow.posted == flow.moved == flow.released == self.plan.rounds[chain], flow
        for place in self.plan.places:
            for chunk in place.chunks[chain]:
                for number in range(self.plan.rounds[chain]):
                    self._look(place, chain, chunk, number)

    def _look(self, place: Place, chain: str, chunk: Chunk, number: int) -> None:
        """What a microbatch left, when the list has ended."""
        memory, microbatch = self.memories[place.number], self.first + number
        for column, buffer in chunk.values:
            name, stage = self.plan.columns[chain].columns[column]
            assert stage == chunk.stage
            at = self._address(place, chunk.buffers[buffer], number)
            self.results["value", chain, name, column, microbatch] = memory.read(at, 4, name)
        if chunk.logits:
            logits = chunk.buffers[chunk.logits.buffer]
            self.results["logits", microbatch] = memory.read(self._address(place, logits, number), logits.bytes, "logits")

    def _read_gradients(self) -> None:
        """What ends a step finds every gradient where it was put."""
        for place in self.plan.places:
            for _, use in place.uses():
                size = 4 * self.program.parameters[use.parameter].type.size
                found = self.memories[place.number].read(use.levels[0], size, "the end of the step")
                assert found == self.results["gradient", use.parameter, use.ordinal, self.first]

    def _act(self, place: Place, chain: str, entry: Entry) -> bool:
        """One entry of a list; False when it must wait."""
        kind, of, number = entry
        if isinstance(of, str):
            return self._transfer(kind, self.flows[of], number)
        if kind in (*COMPUTE, *RESTS.values()):
            self._compute(place, chain, place.chunks[chain][of], kind, number)
        return True

    def _transfer(self, kind: str, flow: Flow, number: int) -> bool:
        match kind:
            case "SEND":
                assert flow.posted == number, f"{flow.channel.name} sends {number} after {flow.posted} messages"
                flow.posted += 1
                while self.eager and self._move(flow):
                    pass
            case "FREE":
                assert flow.released == number < flow.moved
                flow.released += 1
                while self.eager and self._move(flow):
                    pass
            case _:
                while flow.moved <= number and self._move(flow):
                    pass
                return flow.moved > number
        return True

    def _move(self, flow: Flow) -> bool:
        channel, n = flow.channel, flow.moved
        if n >= flow.posted or n >= flow.released + channel.slots:
            return False
        source = channel.outbox + n % channel.outbox_slots * channel.slot_bytes
        target = channel.inbox + n % channel.slots * channel.slot_bytes
        self.memories[channel.target].copy_from(self.memories[channel.source], source, target, channel.slot_bytes)
        flow.moved += 1
        return True

    def _compute(self, place: Place, chain: str, chunk: Chunk, kind: str, number: int) -> None:
        memory, microbatch = self.memories[place.number], self.first + number
        if kind == "F":
            for of, buffer in chunk.inputs:
                value = self.program.inputs[of]
                memory.write(self._address(place, chunk.buffers[buffer], number), value.type.bytes, hash(("input", value.name, microbatch)))
        for row in chunk.part(kind):
            self._row(place, chunk, row, number, microbatch)

    def _address(self, place: Place, buffer: Buffer, number: int) -> int:
        region = place.regions[buffer.region]
        assert buffer.region == "arena" or buffer.at < region.bytes
        return region.base + number % region.slots * region.stride + buffer.at

    def _row(self, place: Place, chunk: Chunk, row: Row, number: int, microbatch: int) -> None:
        memory, routine = self.memories[place.number], self.routines[self.plan.routines[row.routine].name]
        at = [self._address(place, chunk.buffers[buffer], number) for buffer in row.buffers]
        sizes = buffer_sizes(routine)
        parameters = len(routine.function.parameters)
        what = f"{row.name} of microbatch {microbatch}"
        for address, size in zip(at, sizes, strict=True):
            assert place.inbox_bytes <= address + size <= place.arena_bytes or address < place.inbox_bytes, what
        reads = [memory.read(a, s, what) for a, s in zip(at[:parameters], sizes, strict=False)]
        uses = {use.levels[0]: use for use in chunk.uses}
        for address, size in zip(at[len(routine.binds) :], sizes[len(routine.binds) :], strict=True):
            memory.write(address, size, 0)  # work memory
        again, forward = (routine.function.name.endswith(end) for end in (".again", ".forward"))
        if again:
            for name, symbol in zip(routine.binds, reads, strict=False):
                assert self.saved[row.path, microbatch, name] == symbol, f"{what} reads another {name}"
        if forward:
            self.saved.update({(row.path, microbatch, name): symbol for name, symbol in zip(routine.binds, reads, strict=False)})
        for n, name in enumerate(routine.binds[parameters:], parameters):
            made = reads[0] if routine.function.name in ("copy", "round") else hash((routine.name, row.path, microbatch, n, *reads))
            if again:
                made = self.saved[row.path, microbatch, name]
            if forward:
                self.saved[row.path, microbatch, name] = made
            if name in routine.folds and at[n] in uses:
                use = uses[at[n]]
                self.results["gradient", use.parameter, use.ordinal, microbatch] = made
                if self.plan.rounds["train"] == 1:  # the only microbatch: its gradients may lie where other values lay
                    memory.write(at[n], sizes[n], made)
            else:
                memory.write(at[n], sizes[n], made)


def buffer_sizes(routine: Routine) -> list[int]:
    """Bytes of the operands of a row in order."""
    buffers = [routine.buffers[name] for name in routine.binds]
    work = [routine.work_bytes] if routine.work_bytes else []
    return [b.elements * dtype_of(b.dtype).bytes for b in buffers] + work


Results = dict[tuple[object, ...], int]


def run_plan(
    lowered: Lowered, plan: Planned, eager: bool, rounds: Sequence[str] = ("train", "train", "evaluate", "sample", "train")
) -> Results:
    """What all replicas of a plan leave after some passes over the chains it has."""
    results: Results = {}
    for replica in range(plan.dp):
        run = Run(lowered, plan, replica, eager)
        for chain in rounds:
            if chain in plan.rounds:
                run.walk(chain)
        results |= {k: v for k, v in run.results.items() if k[0] == "gradient" or replica == 0 or k[1] == "train"}
    return results
