"""One symbolic run of a plan's lists: who waits for whom, what each slot holds, what is never freed.

A place is a stream of actions; each of its outgoing channels is another, which moves posted messages in order as soon as the
receiver has freed a slot. Channels are FIFO with one sender and one receiver, nothing polls: a Kahn network with bounded channels, so
one run in any order decides for every order (Kahn 1974; Parks 1995 for bounded buffers). Replicas have equal lists and equal channels
of their own: one stands for all. STATISTICS, NORM, REDUCE, SHARE and SPREAD are meetings that every rank reaches in one order.
The run of a whole round decides for every shorter one too (spec/proof.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from mlc.parallel.planned import COMPUTE, Channel, Entry, Place, Planned, Region, Touch


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a plan is refused: an error code and a sentence that names rank, action and peer."""

    code: str
    message: str


#: A compute action: kind, chunk, microbatch.
_Action = tuple[str, int, int]


@dataclass(slots=True)
class _Slot:
    """What a slot holds: a microbatch, and the actions that will still touch it."""

    microbatch: int
    waiting: set[_Action]


@dataclass(frozen=True, slots=True)
class _Touch:
    """The regions of a phase in the order of their names."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    all: tuple[str, ...]


@dataclass(slots=True)
class _Flow:
    """Counts of a channel's messages: each is the number of the next one."""

    channel: Channel
    posted: int = 0
    moved: int = 0
    waited: int = 0  # SENT
    received: int = 0
    freed: int = 0

    def move(self) -> bool:
        """Move every message that may move."""
        before = self.moved
        self.moved = max(self.moved, min(self.posted, self.freed + self.channel.slots))
        return self.moved > before


@dataclass(slots=True)
class _Stream:
    """A place with its position in its list.

    touches:   the regions of each phase ("F0"); touched: the phases of each region
    actions:   by microbatch, (phase, action)
    rings:     by region, what its slots hold
    peak:      by region, the most slots in use at once
    """

    place: Place
    entries: Sequence[Entry]
    touches: Mapping[str, _Touch]
    touched: Mapping[str, frozenset[str]]
    actions: Mapping[int, Sequence[tuple[str, _Action]]]
    at: int = 0
    done: set[_Action] = field(default_factory=set)
    rings: defaultdict[str, dict[int, _Slot]] = field(default_factory=lambda: defaultdict(dict))
    peak: dict[str, int] = field(default_factory=dict)

    @property
    def current(self) -> Entry | None:
        return self.entries[self.at] if self.at < len(self.entries) else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found. `peaks`: for each place, the most slots of each region in use at once; `messages`: by channel."""

    faults: tuple[Fault, ...]
    peaks: tuple[Mapping[str, int], ...]
    messages: Mapping[str, int]


def run_symbolic(planned: Planned, chain: str) -> Outcome:
    """Run the lists of a chain. Stops at the first fault."""
    return _Run(planned, chain).run()


class _Stop(Exception):
    def __init__(self, fault: Fault):
        super().__init__(fault.message)
        self.fault = fault


class _Run:
    def __init__(self, planned: Planned, chain: str):
        self.planned = planned
        self.chain = chain
        self.flows = {name: _Flow(c) for name, c in planned.channels.items() if c.chain == chain}
        self.streams = [self._stream(place) for place in planned.places]

    def _stream(self, place: Place) -> _Stream:
        entries = place.lists[self.chain]
        touches = {phase: _sorted(touch) for phase, touch in place.phases.get(self.chain, {}).items()}
        touched: defaultdict[str, set[str]] = defaultdict(set)
        for phase, touch in touches.items():
            for name in touch.all:
                touched[name].add(phase)
        actions: defaultdict[int, list[tuple[str, _Action]]] = defaultdict(list)
        for entry in entries:
            if entry.kind in COMPUTE:
                actions[entry.microbatch].append((f"{entry.kind}{entry.of}", _action(entry)))
        return _Stream(place, entries, touches, {name: frozenset(phases) for name, phases in touched.items()}, actions)

    def run(self) -> Outcome:
        faults: list[Fault] = []
        try:
            while self._round():
                pass
            self._finish()
        except _Stop as stop:
            faults.append(stop.fault)
        messages = {name: flow.moved for name, flow in self.flows.items()}
        return Outcome(tuple(faults), tuple(s.peak for s in self.streams), messages)

    def _round(self) -> bool:
        """Let every stream and channel go as far as it can; False when nothing moved."""
        moved = False
        for stream in self.streams:
            while (entry := stream.current) is not None and self._step(stream, entry):
                stream.at += 1
                moved = True
        for flow in self.flows.values():
            moved |= flow.move()
        return self._meet() or moved

    def _meet(self) -> bool:
        """All streams have reached the same meeting: they pass it."""
        entries = [s.current for s in self.streams]
        kinds = {e.kind if e is not None else None for e in entries}
        if len(kinds) != 1 or not kinds <= {"STATISTICS", "SHARE", "NORM", "SPREAD"}:
            return False
        for stream in self.streams:
            stream.at += 1
        return True

    def _step(self, stream: _Stream, entry: Entry) -> bool:
        """Do one action; False when it must wait."""
        match entry.kind:
            case "STATISTICS" | "SHARE" | "NORM" | "SPREAD":
                return False
            case "REDUCE" | "UPDATE":
                return True
            case "RECEIVE" | "FREE" | "SEND" | "SENT":
                return self._transfer(stream, entry)
        self._compute(stream, entry)
        return True

    # ------------------------------------------------------------------------------------------------------ transfers

    def _transfer(self, stream: _Stream, entry: Entry) -> bool:
        flow = self._flow(stream, entry)
        match entry.kind:
            case "SEND":
                return self._send(stream, entry, flow)
            case "SENT":
                return self._sent(stream, entry, flow)
            case "RECEIVE":
                return self._receive(stream, entry, flow)
        return self._free(stream, entry, flow)

    def _flow(self, stream: _Stream, entry: Entry) -> _Flow:
        flow = self.flows.get(str(entry.of))
        own = stream.place.number
        if flow is None:
            self._refuse(stream, entry, "E1203", f"there is no channel {entry.of} of the {self.chain} chain")
        end, role = (flow.channel.source, "sender") if entry.kind in ("SEND", "SENT") else (flow.channel.target, "receiver")
        if end != own:
            self._refuse(stream, entry, "E1203", f"the {role} of {entry.of} is rank {end}, not rank {own}")
        return flow

    def _send(self, stream: _Stream, entry: Entry, flow: _Flow) -> bool:
        self._in_order(stream, entry, flow.posted, "sent", flow.channel.target)
        self._expect(stream, entry, f"out:{entry.of}")
        flow.posted += 1
        return True

    def _sent(self, stream: _Stream, entry: Entry, flow: _Flow) -> bool:
        self._in_order(stream, entry, flow.waited, "waited for", flow.channel.target)
        if entry.microbatch >= flow.posted:
            self._refuse(stream, entry, "E1203", f"message {entry.microbatch} to rank {flow.channel.target} was not sent before")
        if flow.moved <= entry.microbatch:
            return False
        flow.waited += 1
        self._retire(stream, f"out:{entry.of}", entry.microbatch)
        return True

    def _receive(self, stream: _Stream, entry: Entry, flow: _Flow) -> bool:
        self._in_order(stream, entry, flow.received, "received", flow.channel.source)
        if flow.moved <= entry.microbatch:
            return False
        flow.received += 1
        self._fill(stream, entry, self._region(stream, entry, f"in:{entry.of}"), entry.microbatch, None)
        return True

    def _free(self, stream: _Stream, entry: Entry, flow: _Flow) -> bool:
        name = f"in:{entry.of}"
        self._in_order(stream, entry, flow.freed, "freed", flow.channel.source)
        if entry.microbatch >= flow.received:
            text = f"message {entry.microbatch} from rank {flow.channel.source} was not received before"
            self._refuse(stream, entry, "E1205", text)
        slot = self._expect(stream, entry, name)
        if slot.waiting:
            later = min(slot.waiting, key=self._position)
            text = f"message {entry.microbatch} from rank {flow.channel.source} is freed before {_said(later)} reads it"
            self._refuse(stream, entry, "E1205", text)
        flow.freed += 1
        self._retire(stream, name, entry.microbatch)
        return True

    def _in_order(self, stream: _Stream, entry: Entry, expected: int, what: str, peer: int) -> None:
        if entry.microbatch != expected:
            text = f"message {entry.microbatch} is {what} where message {expected} is next in the order of rank {peer}"
            self._refuse(stream, entry, "E1203", text)

    # -------------------------------------------------------------------------------------------------------- compute

    def _compute(self, stream: _Stream, entry: Entry) -> None:
        phase = f"{entry.kind}{entry.of}"
        touch = stream.touches.get(phase)
        if touch is None:
            self._refuse(stream, entry, "E1204", f"this place has no rows for {phase}")
        own = _action(entry)
        for name in touch.reads:
            self._expect(stream, entry, name)
        for name in touch.writes:
            self._write(stream, entry, name, own)
        stream.done.add(own)
        for name in touch.all:
            self._expect(stream, entry, name).waiting.discard(own)
            self._retire(stream, name, entry.microbatch)

    def _write(self, stream: _Stream, entry: Entry, name: str, own: _Action) -> None:
        region = self._region(stream, entry, name)
        held = stream.rings[name].get(entry.microbatch % region.slots)
        if held is not None and held.microbatch == entry.microbatch:
            return
        if name.startswith("in:"):
            self._refuse(stream, entry, "E1205", f"writes the slot of message {entry.microbatch} of {name[3:]}, which is not received")
        self._fill(stream, entry, region, entry.microbatch, own)

    def _fill(self, stream: _Stream, entry: Entry, region: Region, microbatch: int, own: _Action | None) -> None:
        """Put microbatch into its slot, which nothing may need any more."""
        ring = stream.rings[region.name]
        held = ring.get(microbatch % region.slots)
        if held is not None and held.waiting:
            later = min(held.waiting, key=self._position)
            text = f"overwrites microbatch {held.microbatch} in {region.name} ({region.slots} slots), which {_said(later)} still reads"
            self._refuse(stream, entry, "E1205", text)
        if held is not None and region.name.startswith("out:") and held.microbatch >= self.flows[region.name[4:]].waited:
            peer = self.flows[region.name[4:]].channel.target
            text = f"overwrites message {held.microbatch} of {region.name[4:]} ({region.slots} slots): it may not have left for rank {peer}"
            self._refuse(stream, entry, "E1205", text)
        phases = stream.touched.get(region.name, frozenset())
        waiting = {a for phase, a in stream.actions.get(microbatch, ()) if phase in phases and a != own and a not in stream.done}
        ring[microbatch % region.slots] = _Slot(microbatch, waiting)
        stream.peak[region.name] = max(stream.peak.get(region.name, 0), len(ring))

    def _retire(self, stream: _Stream, name: str, microbatch: int) -> None:
        """Forget what nothing will touch: a message when it is freed or gone, anything else when the last reader is done."""
        region, ring = stream.place.regions.get(name), stream.rings[name]
        slot = ring.get(microbatch % region.slots) if region is not None else None
        if region is None or slot is None or slot.microbatch != microbatch or slot.waiting:
            return
        if name.startswith("in:") and microbatch >= self.flows[name[3:]].freed:
            return
        if name.startswith("out:") and microbatch >= self.flows[name[4:]].waited:
            return
        del ring[microbatch % region.slots]

    def _expect(self, stream: _Stream, entry: Entry, name: str) -> _Slot:
        """The slot of the action's microbatch, which must hold it."""
        region = self._region(stream, entry, name)
        slot = stream.rings[name].get(entry.microbatch % region.slots)
        if slot is None or slot.microbatch != entry.microbatch:
            held = "nothing" if slot is None else f"microbatch {slot.microbatch}"
            peer = self._peer(name)
            self._refuse(stream, entry, "E1205", f"reads microbatch {entry.microbatch} in {name}{peer}, which holds {held}")
        return slot

    def _region(self, stream: _Stream, entry: Entry, name: str) -> Region:
        region = stream.place.regions.get(name)
        if region is None:
            self._refuse(stream, entry, "E1205", f"there is no region {name}")
        side, _, channel = name.partition(":")
        if side in ("in", "out") and channel not in self.flows:
            self._refuse(stream, entry, "E1203", f"region {name} is of no channel of the {self.chain} chain")
        return region

    def _peer(self, name: str) -> str:
        flow = self.flows.get(name.partition(":")[2])
        if flow is None:
            return ""
        end = flow.channel.source if name.startswith("in:") else flow.channel.target
        return f" (rank {end})"

    def _position(self, action: _Action) -> tuple[int, str, int]:
        return (action[2], action[0], action[1])

    # -------------------------------------------------------------------------------------------------------- the end

    def _finish(self) -> None:
        """All lists are done, or nobody moves."""
        stuck = [s for s in self.streams if s.current is not None]
        if stuck:
            waits = "; ".join(self._waits(s) for s in stuck)
            code = "E1203" if any(self._hopeless(s) for s in stuck) else "E1202"
            raise _Stop(Fault(code, f"{self.chain}: nobody can go on: {waits}"))
        for name, flow in self.flows.items():
            c = flow.channel
            if flow.received < flow.posted:
                text = f"message {flow.received} of {name} from rank {c.source} is never received by rank {c.target}"
                raise _Stop(Fault("E1203", f"{self.chain}: {text}"))
            if flow.freed < flow.posted:
                text = f"rank {c.target} never frees message {flow.freed} of {name} from rank {c.source}"
                raise _Stop(Fault("E1205", f"{self.chain}: {text}"))
            if flow.waited < flow.posted:
                text = f"rank {c.source} ends without waiting until message {flow.waited} of {name} has left for rank {c.target}"
                raise _Stop(Fault("E1205", f"{self.chain}: {text}"))

    def _hopeless(self, stream: _Stream) -> bool:
        """Waits for a message that its list's end shows will never be sent."""
        entry = stream.current
        if entry is None or entry.kind != "RECEIVE":
            return False
        flow = self.flows[str(entry.of)]
        if flow.posted > entry.microbatch:
            return False
        sender = self.streams[flow.channel.source]
        left = sender.entries[sender.at :]
        return not any(e.kind == "SEND" and e.of == entry.of and e.microbatch == entry.microbatch for e in left)

    def _waits(self, stream: _Stream) -> str:
        entry, rank = stream.current, stream.place.number
        if entry is None:
            return f"rank {rank} is done"
        where = f"rank {rank} at action {stream.at} ({entry})"
        if entry.kind not in ("RECEIVE", "SENT"):
            return f"{where} waits for the other ranks"
        flow = self.flows[str(entry.of)]
        channel = flow.channel
        if entry.kind == "RECEIVE" and flow.posted > entry.microbatch:
            return f"{where} waits for one of its own {channel.slots} slots, to which rank {channel.source} can send it"
        if entry.kind == "RECEIVE":
            return f"{where} waits for rank {channel.source} to send it"
        return f"{where} waits for rank {channel.target} to free a slot"

    def _refuse(self, stream: _Stream, entry: Entry, code: str, message: str) -> NoReturn:
        place = f"{self.chain}: rank {stream.place.number}, action {stream.at} ({entry})"
        raise _Stop(Fault(code, f"{place}: {message}"))


def _sorted(touch: Touch) -> _Touch:
    return _Touch(tuple(sorted(touch.reads)), tuple(sorted(touch.writes)), tuple(sorted(touch.reads | touch.writes)))


def _action(entry: Entry) -> _Action:
    return (entry.kind, int(entry.of), entry.microbatch)


def _said(action: _Action) -> str:
    kind, chunk, microbatch = action
    return f"{kind} {chunk} {microbatch}"
