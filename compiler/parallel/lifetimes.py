"""What a list does to its messages and slots, whatever the other lists do: everything of a run that follows from one list alone.

Of every channel, messages are sent, waited for, received and freed in the order of their numbers. Of every region, each microbatch has
its slot from the row that fills it to the last that touches it: a write, then reads, for a ring; from RECEIVE to FREE for an inbox; from
the first write to SENT for an outbox. Two microbatches of one slot never have it at once. All is told by positions in the list, a
column at a time; the first row of the list where something is wrong is the one that is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mlc.parallel.entries import Column, Entries
from mlc.parallel.faults import Fault
from mlc.parallel.planned import Channel, Place, Region
from mlc.parallel.touches import Touch

_NONE = np.empty(0, np.int64)

#: Which side of a channel a transfer is about, where its first one says so.
_BOXES = {"SEND": ("out",), "RECEIVE": ("in",)}
#: Kinds of transfers that come one after the other, and how it is said that the first is missing.
_PAIRS = (
    ("SEND", "SENT", "E1203", "to place {0.target} was not sent"),
    ("RECEIVE", "FREE", "E1205", "from place {0.source} was not received"),
)


class _Use(NamedTuple):
    """The rows of one phase that touch a region: where they stand, and for which microbatches."""

    phase: str
    positions: Column
    microbatches: Column
    reads: bool
    writes: bool


@dataclass(slots=True)
class Listed:
    """What is known of the list of a place on a chain.

    moves:  by kind of transfer and channel, the position of the row of each message
    uses:   by region, what touches it
    peak:   by region, the most slots in use at once
    found:  (position, fault): what is wrong
    spans:  by outbox, from where to where each message has its slot
    """

    place: Place
    chain: str
    entries: Entries
    moves: dict[tuple[str, str], Column] = field(default_factory=dict)
    uses: dict[str, list[_Use]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    found: list[tuple[int, Fault]] = field(default_factory=list)
    spans: dict[str, tuple[Column, Column]] = field(default_factory=dict)

    def of(self, kind: str, channel: str) -> Column:
        """The positions of the rows of a channel that are of a kind, by message."""
        return self.moves.get((kind, channel), _NONE)

    def touching(self, region: str) -> list[_Use]:
        return self.uses.get(region, [])

    @property
    def fault(self) -> Fault | None:
        """The first in the order of the list."""
        return min(self.found, key=lambda at: at[0])[1] if self.found else None

    def refuse(self, position: int, code: str, message: str) -> None:
        """Something is wrong with the row at a position."""
        where = f"{self.chain}: place {self.place.number}, action {position} ({self.entries[position]})"
        self.found.append((position, Fault(code, f"{where}: {message}")))


def check_list(place: Place, chain: str, channels: Mapping[str, Channel], touches: Mapping[str, Touch]) -> Listed:
    """Look through a list. channels: those of the chain, by name; touches: of each phase of a chunk"""
    listed = Listed(place, chain, place.lists[chain])
    _number_messages(listed, channels)
    _collect_uses(listed, channels, touches)
    _check_order(listed, channels)
    boxes = [f"{side}:{name}" for kind, name in listed.moves for side in _BOXES.get(kind, ())]
    for region in [place.regions[name] for name in dict.fromkeys((*listed.uses, *boxes)) if name in place.regions]:
        side, _, name = region.name.partition(":")
        channel = channels.get(name)
        if side == "in" and channel is not None:
            _check_inbox(listed, region, channel)
        else:
            _check_slots(listed, region, channel if side == "out" else None)
    _check_shared(listed)
    return listed


def _groups(listed: Listed, rows: Column) -> Iterator[tuple[str, int | str, Column]]:
    """Rows of one kind and of one chunk or channel: that kind, that chunk or channel, and their positions."""
    entries = listed.entries
    keys = entries.kinds[rows].astype(np.int64) << 32 | entries.of[rows].astype(np.int64) & 0xFFFFFFFF
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    for positions in np.split(rows[order], first[1:]) if len(rows) else ():
        entry = entries[int(positions[0])]
        yield entry.kind, entry.of, positions


def _number_messages(listed: Listed, channels: Mapping[str, Channel]) -> None:
    """Each transfer is of a channel that begins or ends here, and they come in the order of messages."""
    own, verbs = listed.place.number, {"SEND": "sent", "SENT": "waited for", "RECEIVE": "received", "FREE": "freed"}
    for kind, name, positions in _groups(listed, np.flatnonzero(listed.entries.transfers)):
        channel = channels.get(str(name))
        if channel is None:
            listed.refuse(int(positions[0]), "E1203", f"there is no channel {name} of the {listed.chain} chain")
            continue
        end, role, peer = ("source", "sender", channel.target) if kind in ("SEND", "SENT") else ("target", "receiver", channel.source)
        if getattr(channel, end) != own:
            listed.refuse(int(positions[0]), "E1203", f"the {role} of {name} is place {getattr(channel, end)}, not place {own}")
            continue
        numbers = listed.entries.microbatches[positions]
        wrong = np.flatnonzero(numbers != np.arange(len(numbers)))
        if len(wrong):
            n = int(wrong[0])
            text = f"message {numbers[n]} is {verbs[kind]} where message {n} is next in the order of place {peer}"
            listed.refuse(int(positions[n]), "E1203", text)
        listed.moves[kind, str(name)] = positions[: int(wrong[0])] if len(wrong) else positions


def _check_order(listed: Listed, channels: Mapping[str, Channel]) -> None:
    """A message is waited for once it was sent, and freed once it was received."""
    for (kind, name), positions in listed.moves.items():
        for before, behind, code, text in _PAIRS:
            wrong = _not_behind(listed.of(before, name), positions) if kind == behind else _NONE
            if len(wrong):
                n = int(wrong[0])
                listed.refuse(int(positions[n]), code, f"message {n} {text.format(channels[name])} before")
        for side in _BOXES.get(kind, ()):
            if f"{side}:{name}" not in listed.place.regions:
                listed.refuse(int(positions[0]), "E1205", f"there is no region {side}:{name}")


def _not_behind(before: Column, behind: Column) -> Column:
    """The numbers whose position in `behind` is not behind that in `before`, or that have none there."""
    both = min(len(before), len(behind))
    return np.append(np.flatnonzero(behind[:both] <= before[:both]), np.arange(both, len(behind)))


def _collect_uses(listed: Listed, channels: Mapping[str, Channel], touches: Mapping[str, Touch]) -> None:
    """Which regions the compute rows touch. Microbatches are those of the list (verify.py), regions those of the place (row_proof.py)."""
    for kind, of, positions in _groups(listed, np.flatnonzero(listed.entries.computes | listed.entries.rests)):
        at, microbatches = int(positions[0]), listed.entries.microbatches[positions]
        touch = touches.get(f"{kind}{of}")
        if touch is None:
            listed.refuse(at, "E1204", f"this place has no rows for {kind}{of}")
            continue
        for name in sorted(touch.reads | touch.writes):
            side, _, channel = name.partition(":")
            if side in ("in", "out") and channel not in channels:
                listed.refuse(at, "E1203", f"region {name} is of no channel of the {listed.chain} chain")
            else:
                listed.uses.setdefault(name, []).append(_use(f"{kind} {of}", positions, microbatches, touch, name))


def _use(phase: str, positions: Column, microbatches: Column, touch: Touch, name: str) -> _Use:
    return _Use(phase, positions, microbatches, name in touch.reads, name in touch.writes)


# -------------------------------------------------------------------------------------------------------------------- lifetimes


def _spans(listed: Listed, name: str, least: int) -> tuple[Column, Column]:
    """The first and the last position at which each microbatch's slot of a region is touched, for `least` microbatches or more.

    What nothing touches: behind the list, before it.
    """
    uses = listed.touching(name)
    count = max([least, *(int(use.microbatches.max()) + 1 for use in uses)])
    first, last = np.full(count, len(listed.entries)), np.full(count, -1)
    for use in uses:
        np.minimum.at(first, use.microbatches, use.positions)
        np.maximum.at(last, use.microbatches, use.positions)
    return first, last


def _padded(positions: Column, count: int, value: int) -> Column:
    """Positions of `count` messages; `value` for those that have none."""
    return np.append(positions, np.full(count - len(positions), value))


def _check_inbox(listed: Listed, region: Region, channel: Channel) -> None:
    """Nothing touches a message before it is received, nor once it is freed. Which slots are free is for the channel to say."""
    received, freed, never = listed.of("RECEIVE", channel.name), listed.of("FREE", channel.name), len(listed.entries)
    _, last = _spans(listed, region.name, max(len(received), len(freed)))
    begins, ends = _padded(received, len(last), never), _padded(freed, len(last), never)
    for use in listed.touching(region.name):
        for n in np.flatnonzero(use.positions < begins[use.microbatches])[:1].tolist():
            microbatch = int(use.microbatches[n])
            text = _reading(listed, region, microbatch, int(use.positions[n]), begins, ends, channel.source)
            unread = f"writes the slot of message {microbatch} of {channel.name}, which is not received"
            listed.refuse(int(use.positions[n]), "E1205", text if use.reads else unread)
    for n in np.flatnonzero(last > ends)[:1].tolist():
        later = _later(listed, region.name, n, int(ends[n]))
        listed.refuse(int(ends[n]), "E1205", f"message {n} from place {channel.source} is freed before {later} reads it")
    listed.peak[region.name] = _most(begins[: len(received)], ends[: len(received)])


def _check_slots(listed: Listed, region: Region, channel: Channel | None) -> None:
    """A microbatch is written before it is read, and alone in its slot until the last row that touches it. channel: of an outbox"""
    sends, sent = (listed.of(kind, channel.name) if channel else _NONE for kind in ("SEND", "SENT"))
    begins, ends = _spans(listed, region.name, len(sends))
    for use in (use for use in listed.touching(region.name) if use.reads):
        for n in np.flatnonzero(use.positions == begins[use.microbatches])[:1].tolist():
            text = _reading(listed, region, int(use.microbatches[n]), int(use.positions[n]), begins, ends, None)
            listed.refuse(int(use.positions[n]), "E1205", text)
    if channel is not None:
        _check_sends(listed, region, channel, begins, ends)
        ends = np.maximum(ends, np.where(ends >= 0, _padded(sent[: len(ends)], len(ends), len(listed.entries)), -1))
        listed.spans[region.name] = begins, ends
    used = np.flatnonzero(ends >= 0)
    order = used[np.lexsort((begins[used], used % region.slots))]
    held, taking = order[:-1], order[1:]
    wrong = (held % region.slots == taking % region.slots) & (ends[held] >= begins[taking])
    for n in sorted(np.flatnonzero(wrong).tolist(), key=lambda n: int(begins[taking[n]]))[:1]:
        listed.refuse(int(begins[taking[n]]), "E1205", _overwriting(listed, region, channel, int(held[n]), int(begins[taking[n]])))
    listed.peak[region.name] = _most(begins[used], ends[used])


def _check_shared(listed: Listed) -> None:
    """Of outboxes that share memory, one at a time holds a message. Each has one slot (memory_proof.py)."""
    regions = sorted((listed.place.regions[name] for name in listed.spans), key=lambda region: region.base)
    for n, region in enumerate(regions):
        for other in regions[n + 1 :]:
            if other.base < region.base + region.bytes:
                _check_turns(listed, region.name, other.name)


def _check_turns(listed: Listed, one: str, other: str) -> None:
    """Two regions of one slot each never hold a message at once."""
    begins, ends = (np.concatenate([listed.spans[one][n], listed.spans[other][n]]) for n in range(2))
    names = np.repeat([0, 1], [len(listed.spans[one][0]), len(listed.spans[other][0])])
    order = np.flatnonzero(ends >= 0)
    order = order[np.argsort(begins[order], kind="stable")]
    reached = np.maximum.accumulate(ends[order])
    wrong = np.flatnonzero((reached[:-1] >= begins[order[1:]]) & (names[order[:-1]] != names[order[1:]]))
    for n in wrong[:1].tolist():
        taken, by = ((one, other)[names[order[k]]] for k in (n, n + 1))
        text = f"writes {by}, which shares its memory with {taken}: its message may not have left"
        listed.refuse(int(begins[order[n + 1]]), "E1205", text)


def _check_sends(listed: Listed, region: Region, channel: Channel, begins: Column, ends: Column) -> None:
    """A message is in its slot of the outbox, complete, when it is sent."""
    sends = listed.of("SEND", channel.name)
    for n in np.flatnonzero(sends < begins[: len(sends)])[:1].tolist():
        listed.refuse(int(sends[n]), "E1205", _reading(listed, region, n, int(sends[n]), begins, ends, channel.target))
    posted = _padded(sends, len(begins), len(listed.entries))
    for use in (use for use in listed.touching(region.name) if use.writes):
        for n in np.flatnonzero(use.positions > posted[use.microbatches])[:1].tolist():
            text = f"writes message {use.microbatches[n]} of {channel.name}, which was sent before to place {channel.target}"
            listed.refuse(int(use.positions[n]), "E1205", text)


def _most(begins: Column, ends: Column) -> int:
    """The most of some spans that are alive at once."""
    begins = np.sort(begins)
    return int((np.arange(1, len(begins) + 1) - np.searchsorted(np.sort(ends), begins, "left")).max(initial=0))


def _reading(listed: Listed, region: Region, n: int, position: int, begins: Column, ends: Column, peer: int | None) -> str:
    """That a slot does not hold microbatch n, and what it does hold."""
    others = np.arange(n % region.slots, len(begins), region.slots)
    held = [m for m in others.tolist() if m != n and begins[m] < position <= ends[m]]
    what = f"microbatch {held[-1]}" if held else "nothing"
    return f"reads microbatch {n} in {region.name}{'' if peer is None else f' (place {peer})'}, which holds {what}"


def _overwriting(listed: Listed, region: Region, channel: Channel | None, held: int, position: int) -> str:
    """What a row that fills a slot overwrites there."""
    later = _later(listed, region.name, held, position)
    if later or channel is None:
        return f"overwrites microbatch {held} in {region.name} ({region.slots} slots), which {later} still reads"
    text = f"overwrites message {held} of {channel.name} ({region.slots} slots)"
    return f"{text}: it may not have left for place {channel.target}"


def _later(listed: Listed, name: str, n: int, position: int) -> str:
    """The first row of microbatch n behind a position that touches a region, in words; empty where there is none."""
    rows = [(int(at), use.phase) for use in listed.touching(name) for at in use.positions[use.microbatches == n] if at > position]
    return f"{min(rows)[1]} {n}" if rows else ""
