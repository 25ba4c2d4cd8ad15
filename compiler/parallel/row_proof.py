"""What the rows of a plan read and write: each buffer whole, where it lies, before anything else lies there.

A chunk is followed through one microbatch: F, then B, or I and W. Spans of bytes hold the buffer that was last written there; a row
reads a buffer only where all of its bytes hold it. A slot is the microbatch's own from its first action to its last (symbolic.py), so
what other actions do in between cannot touch it; memory without slots (transient values) is forgotten when an action ends.

    meaning    rows call the routines that those of the model call, on buffers of the same names
    fixed      rows read parameters, their copies and scalars of the record, whole, and write none; gradients are added to, each use once,
               where its accumulator lies: memory of its own, or the only slot of a region, still whole when the only microbatch is done
    messages   what a chunk reads of a message lies where the chunk that sent it wrote it
    one row    a result lies apart from all else that the row is given, or exactly where an operand lies whose place it may take
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from math import prod

from mlc.ir.dtypes import dtype_of
from mlc.parallel.faults import Fault
from mlc.parallel.meaning import bound_buffers, rows_meaning
from mlc.parallel.planned import RECORD_HEAD_BYTES, RECORD_ONE, Area, Buffer, Chunk, Operand, Place, Planned, Row

#: What one microbatch goes through on a chunk, one of these that the chunk has rows for.
_COURSES = (("F", "B"), ("F", "I", "W"))

#: Buffers that messages carry: how the sender calls what the receiver calls so.
_SENT_AS = (("received.", "state."), ("gradient received.", "gradient."))
_RECEIVED = tuple(received for received, _ in _SENT_AS)

#: Regions of what leaves a chunk: outboxes, and rings between two chunks of a place.
_LEAVING = ("out:", "act.", "grad.")


def row_faults(planned: Planned) -> Iterator[Fault]:
    """What is wrong with the operands of a plan's rows."""
    yield from _signature_faults(planned)
    sent, unit = _sent(planned), planned.unit
    for place in planned.places:
        fixed = {(area.at, area.name): area for area in (*place.fixed, *_scalars(planned, place, unit))}
        for chain, chunks in place.chunks.items():
            for number, chunk in enumerate(chunks):
                yield from _Chunk(planned, place, chain, number, chunk, fixed, sent).faults()


def _signature_faults(planned: Planned) -> Iterator[Fault]:
    """A result takes the place of something that is read, and is as large."""
    for routine in planned.routines:
        for operand in routine.operands:
            over = operand.over
            if operand.each and not routine.flat:
                yield Fault("E1206", f"routine {routine.name}: {operand}, and it does not run over a range of elements")
            if over >= 0 and (over >= len(routine.operands) or routine.operands[over][:2] != ("read", operand.bytes)):
                yield Fault("E1206", f"routine {routine.name}: {operand} takes the place of what is not read, or not as large")


def _scalars(planned: Planned, place: Place, unit: int) -> Iterator[Area]:
    """Those of the step record, and its 1."""
    yield Area("one", place.record + RECORD_ONE, unit, None)
    for number, name in enumerate(planned.scalars):
        yield Area(f"scalar {name}", place.record + RECORD_HEAD_BYTES + unit * number, unit, None)


def _sent(planned: Planned) -> dict[str, dict[str, tuple[int, int]]]:
    """By edge, where each buffer that its source writes lies in a message."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for place in planned.places:
        edges = {region: region.rpartition(":")[2] for region in place.regions if region.startswith(_LEAVING)}
        for chunk in [chunk for chunks in place.chunks.values() for chunk in chunks]:
            for buffer in chunk.buffers:
                if buffer.region in edges and not buffer.name.startswith(_RECEIVED):
                    found.setdefault(edges[buffer.region], {})[buffer.name] = buffer.at, buffer.bytes
    return found


@dataclass(slots=True)
class _Spans:
    """Which buffer lies where in a slot: spans that do not overlap, by ascending address."""

    starts: list[int] = field(default_factory=list)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)  # start -> end, buffer

    def clear(self) -> None:
        """Nothing lies there."""
        self.starts.clear()
        self.spans.clear()

    def write(self, at: int, end: int, buffer: int) -> None:
        """The buffer lies there, and what it shares bytes with no longer."""
        starts, spans = self.starts, self.spans
        first = bisect_left(starts, at)
        if first and spans[starts[first - 1]][0] > at:
            first -= 1
        last = bisect_left(starts, end, first)
        for start in starts[first:last]:
            del spans[start]
        starts[first:last] = [at]
        spans[at] = end, buffer


class _Chunk:
    """One chunk of one chain on its place."""

    def __init__(
        self,
        planned: Planned,
        place: Place,
        chain: str,
        number: int,
        chunk: Chunk,
        fixed: Mapping[tuple[int, str], Area],
        sent: Mapping[str, Mapping[str, tuple[int, int]]],
    ):
        self.planned = planned
        self.place = place
        self.chain = chain
        self.number = number
        self.chunk = chunk
        self.fixed = fixed
        self.sent = sent
        self.where = f"{chain}: place {place.number}, chunk {number}"
        transient = next((a for a in place.fixed if a.name == f"transient.{chain}"), Area("", 0, 0, None))
        first, end = transient.at, transient.end
        self.outside = [region == "arena" and not first <= at <= at + size <= end for _, region, at, size in chunk.buffers]
        self.spots = [(region, at, at + size) for _, region, at, size in chunk.buffers]
        memory = {region: _Spans() for region in {buffer.region for buffer in chunk.buffers}}
        self.memory = memory
        self.spans = [None if outside else memory[spot[0]] for outside, spot in zip(self.outside, self.spots, strict=True)]
        self.arriving = [number for number, buffer in enumerate(chunk.buffers) if buffer.name.startswith(_RECEIVED)]
        self.leaving = {name for name in place.regions if name.startswith(_LEAVING)}

    def faults(self) -> Iterator[Fault]:
        of = self.chunk
        yield from self._stage_faults()
        bound = bound_buffers(of, self.planned.columns[self.chain].losses)
        if rows_meaning(self.planned.routines, of.buffers, of.rows, bound) != of.meaning:
            yield Fault("E1204", f"{self.where}: its rows do not compute what those of the model do")
            return
        for buffer, outside in zip(self.chunk.buffers, self.outside, strict=True):
            if fault := self._misplaced(buffer, outside):
                yield fault
                return
        for course in _COURSES:
            if all(phase in self.chunk.rows for phase in course):
                yield from self._course(course)
        if self.chain != "train":
            yield from self._course(("F",))

    def _stage_faults(self) -> Iterator[Fault]:
        """The chunk is of the stage that its place has there, and leaves what is said to be left by that stage."""
        of, columns = self.chunk, self.planned.columns[self.chain]
        if self.place.stages[self.number : self.number + 1] != (of.stage,):
            yield Fault("E1204", f"{self.where}: it is of stage {of.stage}, its place has {list(self.place.stages)}")
        for column, _ in of.values:
            name, stage = columns.columns[column]
            if stage != of.stage:
                yield Fault("E1204", f"{self.where}: stage {of.stage} leaves {name}, which is of stage {stage}")
        if (of.logits is not None) != (columns.logits_stage == of.stage):
            yield Fault("E1204", f"{self.where}: logits are of stage {columns.logits_stage}, not of {of.stage}")
        elif of.logits is not None:
            size, buffer = prod(of.logits.shape) * dtype_of(of.logits.dtype).bytes, of.buffers[of.logits.buffer]
            if size != buffer.bytes:
                yield Fault("E1206", f"{self.where}: logits of {size} bytes in {buffer.name}, which has {buffer.bytes}")

    # ---- where buffers lie ----

    def _misplaced(self, buffer: Buffer, outside: bool) -> Fault | None:
        name, within, at, size = buffer
        if size < 0 or at < 0:
            return Fault("E1206", f"{self.where}: {name} has {size} bytes at {at}")
        if outside:
            return None if self._is_known(buffer) else self._unknown(buffer)
        if within != "arena":
            region = self.place.regions[within]
            if at + size > region.bytes:
                return Fault("E1206", f"{self.where}: {name} ends at byte {at + size} of {region.bytes} of {region.name}")
            if region.chain != self.chain:
                return Fault("E1206", f"{self.where}: {name} lies in {region.name}, which is not of this chain")
            return self._mismatch(buffer) if name.startswith(_RECEIVED) else None
        return None

    def _is_known(self, buffer: Buffer) -> bool:
        """Is it the fixed buffer of its name?"""
        area = self.fixed.get((buffer.at, buffer.name))
        if area is None and buffer.name.startswith("parameter "):
            area = self.fixed.get((buffer.at, f"copy of {buffer.name.removeprefix('parameter ')}"))
        return area is not None and area.bytes == buffer.bytes

    def _unknown(self, buffer: Buffer) -> Fault:
        text = f"{buffer.name}, {buffer.bytes} bytes at {buffer.at}, is no buffer of this place"
        return Fault("E1206", f"{self.where}: {text}")

    def _mismatch(self, buffer: Buffer) -> Fault | None:
        """What arrives lies where the stage that sent it put it."""
        for received, sent in _SENT_AS:
            if buffer.name.startswith(received):
                edge = buffer.region.rpartition(":")[2]
                name = sent + buffer.name.removeprefix(received)
                found = self.sent.get(edge, {}).get(name)
                if found != (buffer.at, buffer.bytes):
                    text = f"{buffer.name}, {buffer.bytes} bytes at {buffer.at} of a message of {edge}, was sent as {found}"
                    return Fault("E1206", f"{self.where}: {text}")
        return None

    # ---- what rows do ----

    def _course(self, course: Sequence[str]) -> Iterator[Fault]:
        """Follow a microbatch through its phases."""
        for spans in self.memory.values():
            spans.clear()
        added: Counter[tuple[str, str]] = Counter()
        for buffer in self.arriving:
            self._write(buffer)
        for phase in course:
            if "arena" in self.memory:
                self.memory["arena"].clear()
            for _, buffer in self.chunk.inputs if phase == "F" else ():
                self._write(buffer)
            for at, row in enumerate(self.chunk.rows[phase]):
                operands = self.planned.routines[row.routine].operands
                for code, said in self._row(row, operands):
                    yield Fault(code, f"{self.where}, {phase} row {at} ({row.name}): {said}")
                for number, (use, _, _, _) in zip(row.buffers, operands, strict=True):
                    if use == "add" and self._is_gradient(number):
                        added[self.chunk.buffers[number].name, phase] += 1
        yield from self._left()
        yield from self._sent_faults()
        if self.chain == "train":
            yield from self._use_faults(added, course)

    def _row(self, row: Row, operands: Sequence[Operand]) -> Iterator[tuple[str, str]]:
        """Codes and texts of what is wrong with a row. operands: of its routine"""
        pairs = list(zip(row.buffers, operands, strict=True))
        buffers, outsides = self.chunk.buffers, self.outside
        for number, operand in pairs:
            use, size, _, each = operand
            name, _, _, has = buffers[number]
            if each or size != has:
                yield "E1206", f"{name} has {has} bytes, {self.planned.routines[row.routine].name} wants {operand}"
            elif outsides[number]:
                if use != ("add" if name.startswith("gradient of ") else "read"):  # rows read what lasts; they add to gradients
                    yield "E1205", f"{use}s {name}, which is not its to {use}"
            elif use == "read" and not self._holds(number):
                yield "E1205", f"reads {name}, which does not lie there whole"
        spots = sorted([self.spots[number] for number in row.buffers])
        if any(a[0] == b[0] and a[2] > b[1] for a, b in pairwise(spots)):
            yield from self._overlaps(pairs)
        for number, (use, _, _, _) in pairs:
            if use != "read":
                self._write(number)

    def _overlaps(self, pairs: Sequence[tuple[int, Operand]]) -> Iterator[tuple[str, str]]:
        """Of two operands that share bytes, at most one is written, and in the other's place only where it may."""
        spots = sorted([(*self.spots[number], n) for n, (number, _) in enumerate(pairs)])
        for place, (region, at, end, n) in enumerate(spots):
            for other_region, other_at, other_end, m in islice(spots, place + 1, None):
                if other_region != region or other_at >= end:
                    break
                if at < end and other_at < other_end and not self._shares(pairs, n, m, (at, end) == (other_at, other_end)):
                    one, two = (self.chunk.buffers[pairs[k][0]].name for k in (n, m))
                    yield "E1206", f"{one} and {two} share bytes, and one of them is written"

    def _shares(self, pairs: Sequence[tuple[int, Operand]], n: int, m: int, whole: bool) -> bool:
        first, second = pairs[n][1], pairs[m][1]
        if first.use == "read" and second.use == "read":
            return True
        return whole and ((first.over == m and second.use == "read") or (second.over == n and first.use == "read"))

    def _holds(self, number: int) -> bool:
        spans = self.spans[number]
        if spans is None:
            return True
        _, at, end = self.spots[number]
        return spans.spans.get(at) == (end, number)

    def _write(self, number: int) -> None:
        spans = self.spans[number]
        _, at, end = self.spots[number]
        if spans is not None and at < end:
            spans.write(at, end, number)

    def _is_gradient(self, number: int) -> bool:
        """Is it an accumulator of the step? Outside of training what accumulates is forgotten with the microbatch."""
        return self.chain == "train" and (self.outside[number] or self.chunk.buffers[number].name.startswith("gradient of "))

    # ---- what is left ----

    def _left(self) -> Iterator[Fault]:
        """What is read when the list has ended: it is still there, and each microbatch has a slot of its own for it."""
        wanted = [buffer for _, buffer in self.chunk.values]
        if self.chunk.weight is not None:
            wanted.append(self.chunk.weight)
        if self.chunk.logits is not None:
            wanted.append(self.chunk.logits.buffer)
        for number in wanted:
            buffer = self.chunk.buffers[number]
            if not self._holds(number):
                yield Fault("E1205", f"{self.where}: {buffer.name} is not there when the list has ended")
            if self.place.regions[buffer.region].slots < self.planned.rounds.get(self.chain, 0):
                yield Fault("E1205", f"{self.where}: {buffer.name} has no slot of its own for each microbatch of the list")

    def _sent_faults(self) -> Iterator[Fault]:
        """Every part of a message that leaves was written, and is still there."""
        for number, buffer in enumerate(self.chunk.buffers) if self.leaving else ():
            if buffer.region in self.leaving and not buffer.name.startswith(_RECEIVED) and not self._holds(number):
                yield Fault("E1205", f"{self.where}: {buffer.name} is not whole in the message that carries it")

    def _use_faults(self, added: Mapping[tuple[str, str], int], course: Sequence[str]) -> Iterator[Fault]:
        """The gradient of each use is added to once, by its phase."""
        wanted: Counter[tuple[str, str]] = Counter()
        for use in self.chunk.uses:
            phase = "B" if "B" in course and use.phase != "F" else use.phase
            wanted[f"gradient of {self.planned.parameters[use.parameter].name} {use.index} 0", phase] += 1
        for name, phase in sorted({*wanted, *added}) if wanted != added else ():
            if wanted[name, phase] != added.get((name, phase), 0):
                text = f"{phase} adds to {name} {added.get((name, phase), 0)} times, not {wanted[name, phase]}"
                yield Fault("E1204", f"{self.where}: {text}")
        buffers = {buffer.name: number for number, buffer in enumerate(self.chunk.buffers)}
        for use in self.chunk.uses:
            name = f"gradient of {self.planned.parameters[use.parameter].name} {use.index}"
            for level, at in enumerate(use.levels):
                fixed = (at, f"{name} {level}") in self.fixed
                if not (fixed if level else self._accumulates(buffers.get(f"{name} 0"), at, fixed)):
                    yield Fault("E1205", f"{self.where}: {name} {level} is not at {at} when a step ends")

    def _accumulates(self, number: int | None, at: int, fixed: bool) -> bool:
        """Do rows add to what lies at `at`, in memory of its own or for as long as the only microbatch of a step, and to its end?"""
        if number is None:
            return False
        if self.outside[number]:
            return fixed and self.chunk.buffers[number].at == at
        if self.planned.rounds["train"] > 1:
            return False
        region = self.place.regions[self.chunk.buffers[number].region]
        return region.base + self.chunk.buffers[number].at == at and self._holds(number)
