"""What the rows of a plan read and write: each buffer whole, where it lies, before anything else lies there.

A chunk is followed through one microbatch: F, then B, or I and W. Spans of bytes hold the buffer that was last written there; a row
reads a buffer only where all of its bytes hold it. A slot is the microbatch's own from its first action to its last (symbolic.py), so
what other actions do in between cannot touch it; memory without slots (transient values) is forgotten when an action ends.

    meaning    rows call the routines that those of the model call, on buffers of the same names
    fixed      rows read parameters, their copies and scalars of the record, whole, and write none; gradients are added to, each use once,
               where its accumulator lies: memory of its own, or the only slot of a region, still whole when the only microbatch is done
    messages   what a chunk reads of a message lies where the chunk that sent it wrote it
    kept       what one list of the decode chain leaves to the next is changed by one row, which writes over what it reads there
    chunks     what a chunk writes into a slot, or keeps, no other chunk writes over: it alone has the region, but for who reads a message
    one row    a result lies apart from all else that the row is given, or exactly where an operand lies whose place it may take
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, compress, islice
from math import prod
from operator import add, and_, ge, itemgetter, le
from typing import NamedTuple

from mlc.ir.dtypes import dtype_of
from mlc.parallel.faults import Fault
from mlc.parallel.meaning import bound_buffers, rows_meaning
from mlc.parallel.planned import KEPT, RECORD_HEAD_BYTES, RECORD_ONE, Area, Buffer, Chunk, Operand, Place, Planned, Row, Signature

#: What one microbatch goes through on a chunk, one of these that the chunk has rows for.
_COURSES = (("F", "B"), ("F", "I", "W"))

#: Buffers that messages carry: how the sender calls what the receiver calls so.
SENT_AS = (("received.", "state."), ("gradient received.", "gradient."))
_RECEIVED = tuple(received for received, _ in SENT_AS)
_GRADIENT = "gradient of "

#: Regions of what leaves a chunk: outboxes, and rings between two chunks of a place.
_BETWEEN = ("act.", "grad.")
_LEAVING = ("out:", *_BETWEEN)

#: Further than any place or region reaches: addresses of one region from here on, those of the next from twice as far.
_REGION = 1 << 64


def row_faults(planned: Planned) -> Iterator[Fault]:
    """What is wrong with the operands of a plan's rows."""
    yield from _signature_faults(planned)
    sent, unit, roles = _sent(planned), planned.unit, list(map(_roles, planned.routines))
    for place in planned.places:
        fixed = frozenset((area.at, area.name, area.bytes) for area in (*place.fixed, *_scalars(planned, place, unit)))
        yield from _named_faults(place, fixed)
        gradients = {buffer.name: number for number, buffer in enumerate(place.named) if buffer.name.startswith(_GRADIENT)}
        named = [at for _, _, at, _ in place.named]
        areas = {area.name: area for area in place.fixed}
        for chain, chunks in place.chunks.items():
            yield from _sharing_faults(place, chain, chunks) if len(chunks) > 1 else ()
            transient = areas.get(f"transient.{chain}", Area("", 0, 0, None))
            for number, chunk in enumerate(chunks):
                yield from _Chunk(planned, place, chain, number, chunk, transient, fixed, gradients, named, sent, roles).faults()


def _named_faults(place: Place, fixed: frozenset[tuple[int, str, int]]) -> Iterator[Fault]:
    """What chunks share is memory of the place, or the copy of a parameter, which rows read in its place."""
    for name, region, at, size in place.named:
        if (at, name, size) in fixed and region == "arena":
            continue
        copied = name.removeprefix("parameter ")
        copy = copied != name and (at, f"copy of {copied}", size) in fixed
        if region != "arena" or not copy:
            yield Fault("E1206", f"place {place.number}: {name}, {size} bytes at {at} of {region}, is no buffer of it")


def _sharing_faults(place: Place, chain: str, chunks: Sequence[Chunk]) -> Iterator[Fault]:
    """Each chunk is followed alone, so no two have values in one region; of a ring between two, one writes and the other reads."""
    had: dict[str, int] = {}
    for number, chunk in enumerate(chunks):
        own = islice(chunk.buffers, len(place.named), None)
        for what in dict.fromkeys([_had(name, region) for name, region, _, _ in own]):
            if what and had.setdefault(what, number) != number:
                yield Fault("E1205", f"{chain}: place {place.number}: chunks {had[what]} and {number} both have values in {what}")


def _had(name: str, region: str) -> str:
    """What no other chunk may have where one has such a buffer; empty: others may have what they want."""
    if region == "arena":
        return name if name.startswith(KEPT) else ""
    return "" if region.startswith(_BETWEEN) and name.startswith(_RECEIVED) else region


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
        for chunk in [chunk for chunks in place.chunks.values() for chunk in chunks] if edges else ():
            for buffer in islice(chunk.buffers, len(place.named), None):
                if buffer.region in edges and not buffer.name.startswith(_RECEIVED):
                    found.setdefault(edges[buffer.region], {})[buffer.name] = buffer.at, buffer.bytes
    return found


class _Roles(NamedTuple):
    """What a routine does with its operands: bytes of each, and which it reads, which it changes, adds to, does not add to."""

    sizes: list[int]
    reads: tuple[bool, ...]
    changes: tuple[bool, ...]
    adds: tuple[bool, ...]
    others: tuple[bool, ...]


def _roles(routine: Signature) -> _Roles:
    """Where `each` is set there is no whole: nothing has so many bytes."""
    uses = [operand.use for operand in routine.operands]
    sizes = [-1 if operand.each else operand.bytes for operand in routine.operands]
    reads, adds = tuple(use == "read" for use in uses), tuple(use == "add" for use in uses)
    return _Roles(sizes, reads, tuple(not read for read in reads), adds, tuple(not add for add in adds))


class _Chunk:
    """One chunk of one chain on its place.

    transient:  where values of one action lie
    fixed:      address, name and bytes of what lasts
    shared:     how many of its buffers are those of its place, which last; named: where they begin; gradients: those of them that are
                added to
    sums:       by name, these and what a chunk has of its own for gradients, own_sums
    names:      of its buffers
    lows:       where each buffer begins, with its region; highs: where it ends; sizes: its bytes
    alone:      buffers that share no byte with others and outlive an action
    kept:       buffers that one list leaves to the next
    starts:     where what was written begins, ascending; there: the buffer that was last written there; whole: those that lie there whole
    """

    def __init__(
        self,
        planned: Planned,
        place: Place,
        chain: str,
        number: int,
        chunk: Chunk,
        transient: Area,
        fixed: frozenset[tuple[int, str, int]],
        gradients: Mapping[str, int],
        named: Sequence[int],
        sent: Mapping[str, Mapping[str, tuple[int, int]]],
        roles: Sequence[_Roles],
    ):
        self.planned = planned
        self.place = place
        self.chain = chain
        self.number = number
        self.chunk = chunk
        self.transient = transient
        self.fixed = fixed
        self.shared = len(place.named)
        self.named = named
        self.gradients = frozenset(gradients.values())
        self.sums = dict(gradients)
        self.own_sums: set[int] = set()
        self.names = list(map(itemgetter(0), chunk.buffers))
        self.sent = sent
        self.roles = roles
        self.where = f"{chain}: place {place.number}, chunk {number}"
        self.arriving = self._own(_RECEIVED)
        self.leaving = {name for name in place.regions if name.startswith(_LEAVING)}
        self.lows: list[int] = []
        self.highs: list[int] = []
        self.sizes = list(map(itemgetter(3), chunk.buffers))
        self.kept: set[int] = set()
        self.alone: set[int] = set()
        self.starts: list[int] = []
        self.there: dict[int, int] = {}
        self.whole: set[int] = set()

    def _own(self, beginnings: tuple[str, ...]) -> list[int]:
        """Its own buffers whose names begin so."""
        names = self.names[self.shared :]
        text = "\n".join(names)  # most chunks have none, which is seen at once
        if not any(beginning in text for beginning in beginnings):
            return []
        return [number for number, name in enumerate(names, self.shared) if name.startswith(beginnings)]

    def faults(self) -> Iterator[Fault]:
        of = self.chunk
        yield from self._stage_faults()
        bound = bound_buffers(of, self.planned.columns[self.chain].losses)
        if rows_meaning(self.planned.routines, of.buffers, of.rows, bound) != of.meaning:
            yield Fault("E1204", f"{self.where}: its rows do not compute what those of the model do")
            return
        misplaced = next(self._misplaced(), None)
        if misplaced is not None:
            yield misplaced
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

    def _misplaced(self) -> Iterator[Fault]:
        """Find where each buffer lies; the faults of those that lie where they may not."""
        first, last = self.transient.at, self.transient.end
        regions = self.place.regions
        base = {region: n * _REGION for n, region in enumerate(regions)}
        ends = {name: region.bytes if region.chain == self.chain else -1 for name, region in regions.items()}
        own = self.chunk.buffers[self.shared :]
        within = list(map(itemgetter(1), own))
        self.lows = [*self.named, *map(add, map(base.__getitem__, within), map(itemgetter(2), own))]
        self.highs = list(map(add, self.lows, self.sizes))
        arriving = frozenset(self.arriving)
        self.own_sums.update(self._own((_GRADIENT,)))
        self.sums.update((self.names[number], number) for number in self.own_sums)
        if self.chunk.buffers[: self.shared] != self.place.named:
            yield Fault("E1206", f"{self.where}: its first {self.shared} buffers are not those of its place")
        least = {**base, "arena": base.get("arena", 0) + first}
        most = {region: base[region] + (last if region == "arena" else end) for region, end in ends.items()}
        inside = all(map(ge, self.lows[self.shared :], map(least.__getitem__, within)))
        inside = inside and all(map(le, self.highs[self.shared :], map(most.__getitem__, within)))
        self.alone = self._alone()
        if inside and not arriving and min(self.sizes, default=0) >= 0:
            return
        for number, buffer in enumerate(own, self.shared):
            name, within, at, size = buffer
            if size < 0 or at < 0:
                yield Fault("E1206", f"{self.where}: {name} has {size} bytes at {at}")
            elif within != "arena":
                if at + size > ends[within] or number in arriving:
                    yield from self._misplaced_in(buffer)
            elif not first <= at <= at + size <= last:
                if self.chain == "decode" and name.startswith(KEPT) and (at, name, size) in self.fixed:
                    self.kept.add(number)
                else:
                    yield Fault("E1206", f"{self.where}: {name}, {size} bytes at {at}, is no buffer of this place")

    def _alone(self) -> set[int]:
        """Buffers of its own in slots that share bytes with no other: nothing is ever written over what lies there."""
        order = sorted(range(self.shared, len(self.lows)), key=self.lows.__getitem__)
        lows, highs = ([of[number] for number in order] for of in (self.lows, self.highs))
        before = [0, *accumulate(highs, max)]
        behind = map(le, highs, [*lows[1:], _REGION * (len(self.place.regions) + 1)])
        alone = compress(order, map(and_, map(le, before, lows), behind))
        return {number for number in alone if self.lows[number] >= _REGION and self.sizes[number]}

    def _misplaced_in(self, buffer: Buffer) -> Iterator[Fault]:
        """The same of a buffer in a region."""
        name, within, at, size = buffer
        region = self.place.regions[within]
        if at + size > region.bytes:
            yield Fault("E1206", f"{self.where}: {name} ends at byte {at + size} of {region.bytes} of {region.name}")
        elif region.chain != self.chain:
            yield Fault("E1206", f"{self.where}: {name} lies in {region.name}, which is not of this chain")
        elif name.startswith(_RECEIVED) and (fault := self._mismatch(buffer)):
            yield fault

    def _mismatch(self, buffer: Buffer) -> Fault | None:
        """What arrives lies where the stage that sent it put it."""
        for received, sent in SENT_AS:
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
        self.starts, self.there, self.whole = [], {}, self.kept.union(range(self.shared))
        added: list[tuple[str, str]] = []
        kept: Counter[int] = Counter()
        for buffer in self.arriving:
            self._write(buffer)
        for phase in course:
            self._forget()
            for _, buffer in self.chunk.inputs if phase == "F" else ():
                self._write(buffer)
            sums: list[int] = []
            for at, row in enumerate(self.chunk.rows[phase]):
                for code, said in self._row(row):
                    yield Fault(code, f"{self.where}, {phase} row {at} ({row.name}): {said}")
                if self.kept:
                    kept.update(self.kept.intersection(compress(row.buffers, self.roles[row.routine].changes)))
                if self.chain == "train":
                    sums += compress(row.buffers, self.roles[row.routine].adds)
            added += [(self.names[number], phase) for number in sums if number < self.shared or number in self.own_sums]
        for number in sorted(self.kept):
            times = kept[number] * self.planned.rounds.get(self.chain, 0)
            if times != 1:
                name = self.chunk.buffers[number].name
                yield Fault("E1205", f"{self.where}: {name} is brought up to date {times} times, not once")
        yield from self._left()
        yield from self._sent_faults()
        if self.chain == "train":
            yield from self._use_faults(Counter(added), course)

    def _row(self, row: Row) -> Iterator[tuple[str, str]]:
        """Codes and texts of what is wrong with a row."""
        numbers, roles = row.buffers, self.roles[row.routine]
        changed = list(compress(numbers, roles.changes))
        right = (
            list(map(self.sizes.__getitem__, numbers)) == roles.sizes
            and self.whole.issuperset(compress(numbers, roles.reads))
            and self.gradients.issuperset([number for number in changed if number < self.shared])
            and (self.kept.isdisjoint(changed) or self._keeps(row))
            and self.gradients.isdisjoint(compress(numbers, roles.others))
        )
        lows, highs = (sorted(map(of.__getitem__, numbers)) for of in (self.lows, self.highs))
        if not right:
            yield from self._operand_faults(row)
        if not all(map(ge, lows[1:], highs)):  # else as many end as begin before each begins: none lies in another
            yield from self._overlaps(row)
        self.whole.update(self.alone.intersection(changed))
        for number in changed:
            if number not in self.whole:  # asked here too, for most are and calls take time
                self._write(number)

    def _operand_faults(self, row: Row) -> Iterator[tuple[str, str]]:
        """Buffers of another size, that do not lie there whole, or that last: rows read what lasts; they add to gradients."""
        routine = self.planned.routines[row.routine]
        for number, operand in zip(row.buffers, routine.operands, strict=True):
            use, (name, _, _, size) = operand.use, self.chunk.buffers[number]
            if operand.each or operand.bytes != size:
                yield "E1206", f"{name} has {size} bytes, {routine.name} wants {operand}"
            elif use == "read" and number not in self.whole:
                yield "E1205", f"reads {name}, which does not lie there whole"
            elif number in self.kept:
                if use != "read" and not self._keeps(row):
                    yield "E1205", f"{use}s {name}, and keeps nothing of what lies there"
            elif number < self.shared and use != ("add" if number in self.gradients else "read"):
                yield "E1205", f"{use}s {name}, which is not its to {use}"

    def _keeps(self, row: Row) -> bool:
        """Is what it changes of what is kept what it reads there?"""
        operands = zip(row.buffers, self.planned.routines[row.routine].operands, strict=True)
        changes = [(number, of) for number, of in operands if number in self.kept and of.use != "read"]
        return all(of.use == "write" and of.over >= 0 and row.buffers[of.over] == number for number, of in changes)

    def _overlaps(self, row: Row) -> Iterator[tuple[str, str]]:
        """Of two operands that share bytes, at most one is written, and in the other's place only where it may."""
        pairs = list(zip(row.buffers, self.planned.routines[row.routine].operands, strict=True))
        spots = sorted([(self.lows[number], self.highs[number], n) for n, (number, _) in enumerate(pairs)])
        for place, (at, end, n) in enumerate(spots):
            for other_at, other_end, m in islice(spots, place + 1, None):
                if other_at >= end:
                    break
                if at < end and other_at < other_end and not self._shares(pairs, n, m, (at, end) == (other_at, other_end)):
                    one, two = (self.chunk.buffers[pairs[k][0]].name for k in (n, m))
                    yield "E1206", f"{one} and {two} share bytes, and one of them is written"

    def _shares(self, pairs: Sequence[tuple[int, Operand]], n: int, m: int, whole: bool) -> bool:
        first, second = pairs[n][1], pairs[m][1]
        if first.use == "read" and second.use == "read":
            return True
        return whole and ((first.over == m and second.use == "read") or (second.over == n and first.use == "read"))

    def _write(self, number: int) -> None:
        """A buffer lies there, and what it shares bytes with no longer."""
        low, high, starts, there = self.lows[number], self.highs[number], self.starts, self.there
        if number in self.whole or low == high:
            return
        first = bisect_left(starts, low)
        if first and self.highs[there[starts[first - 1]]] > low:
            first -= 1
        if first == len(starts) or starts[first] >= high:
            starts.insert(first, low)
        else:
            last = bisect_left(starts, high, first)
            self.whole.difference_update(map(there.pop, starts[first:last]))
            starts[first:last] = [low]
        there[low] = number
        self.whole.add(number)

    def _forget(self) -> None:
        """Transient values are gone: those of the first region, the arena."""
        last = bisect_left(self.starts, _REGION)
        for start in self.starts[:last]:
            self.whole.remove(self.there.pop(start))
        del self.starts[:last]

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
            if number not in self.whole:
                yield Fault("E1205", f"{self.where}: {buffer.name} is not there when the list has ended")
            slots = 0 if buffer.region == "arena" else self.place.regions[buffer.region].slots  # there other actions have theirs
            if slots < self.planned.rounds.get(self.chain, 0):
                yield Fault("E1205", f"{self.where}: {buffer.name} has no slot of its own for each microbatch of the list")

    def _sent_faults(self) -> Iterator[Fault]:
        """Every part of a message that leaves was written, and is still there."""
        for number, buffer in enumerate(self.chunk.buffers) if self.leaving else ():
            if buffer.region in self.leaving and not buffer.name.startswith(_RECEIVED) and number not in self.whole:
                yield Fault("E1205", f"{self.where}: {buffer.name} is not whole in the message that carries it")

    def _use_faults(self, added: Mapping[tuple[str, str], int], course: Sequence[str]) -> Iterator[Fault]:
        """The gradient of each use is added to once, by its phase, and is there when a step ends."""
        due: list[tuple[str, str]] = []
        lost: list[Fault] = []
        unit, fixed, parameters = self.planned.unit, self.fixed, self.planned.parameters
        whole = "B" in course
        for number, index, phase, levels in self.chunk.uses:
            name, kind, _, _ = parameters[number]
            first = f"{_GRADIENT}{name} {index} 0"
            due.append((first, "B" if whole and phase != "F" else phase))
            for level, at in enumerate(levels):
                level_name = f"{_GRADIENT}{name} {index} {level}" if level else first
                lies = (at, level_name, unit * kind.stored) in fixed
                if not (lies if level else self._accumulates(self.sums.get(first), at, lies)):
                    lost.append(Fault("E1205", f"{self.where}: {level_name} is not at {at} when a step ends"))
        wanted = Counter(due)
        for name, phase in sorted({*wanted, *added}) if wanted != added else ():
            if wanted[name, phase] != added.get((name, phase), 0):
                text = f"{phase} adds to {name} {added.get((name, phase), 0)} times, not {wanted[name, phase]}"
                yield Fault("E1204", f"{self.where}: {text}")
        yield from lost

    def _accumulates(self, number: int | None, at: int, fixed: bool) -> bool:
        """Do rows add to what lies at `at`, in memory of its own or for as long as the only microbatch of a step, and to its end?"""
        if number is None:
            return False
        if number < self.shared:
            return fixed and self.chunk.buffers[number].at == at
        if self.planned.rounds["train"] > 1:
            return False
        region = self.place.regions[self.chunk.buffers[number].region]
        return region.base + self.chunk.buffers[number].at == at and number in self.whole
