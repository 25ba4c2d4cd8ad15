"""Inboxes and outboxes of a chain: as little memory as lets messages come and go beside other work.

A state or a gradient over a cut is made where it is sent from, and read where it arrives. The receiver's slots are the place of the value
for as long as rows read it; a slot more, so that the next message can come before, is there only where it would be waited for else.
The sender's slot is needed until the message has gone. All messages of a place take turns in one slot, where each has gone when the next
one is written; an action whose last rows alone write it is done in two parts, and the message before goes during the first. So a message
is freed between the parts too, once the first has read it.

Whether a message has gone, or come, is told by ideal runs of the lists. That of equal actions shows that the lists run to their end
with so many slots (Timetable.times); that of the expected ones, that nothing is later for it (Timetable.expected).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace

import numpy as np
from numpy.typing import NDArray

from mlc.frozen import frozen
from mlc.parallel.planned import Channel
from mlc.plan.lists import Moments, Numbers, Times, Timetable, in_flight, window
from mlc.plan.regions import StageMemory, message
from mlc.plan.stages import StagedChain

#: Slots of an outbox whose messages take no turns: one is filled while the other is read.
PAIR = 2


@frozen
class Edge:
    """What goes over a cut in one direction, between stages; a channel where they lie on two places, else a ring.

    write, keep:  the phases of the source that write it, and that last read it
    first, last:  the phases of the target that first and last read it
    heads:        by phase of the source that writes it, how many rows come before the first that does; head: the least part of the work
    tail:         how many rows of `last` end with the last that reads it, and their part of the work
    """

    name: str
    kind: str  # activation or gradient
    chain: str
    source: int
    target: int
    bytes: int
    write: str
    keep: str
    first: str
    last: str
    heads: Mapping[str, int]
    head: float
    tail: tuple[int, float]


def chain_edges(staged: StagedChain, memories: Sequence[StageMemory]) -> Iterator[Edge]:
    """The edges of a chain that carry something, by cut."""
    for cut, (states, cotangents) in enumerate(zip(staged.states, staged.cotangents, strict=True)):
        if states:
            yield _edge(staged, memories, cut, cut + 1, "activation", message(staged, states)[1])
        if cotangents:
            yield _edge(staged, memories, cut + 1, cut, "gradient", message(staged, cotangents)[1])


def _edge(staged: StagedChain, memories: Sequence[StageMemory], source: int, target: int, kind: str, size: int) -> Edge:
    sent, received = ("sent", "received") if kind == "activation" else ("gradients sent", "gradients received")
    writes, reads = memories[source].rings[sent].phases, memories[target].rings[received].phases
    heads = {phase: head for (box, phase), head in memories[source].heads.items() if box == sent}
    return Edge(
        name=f"{'act' if kind == 'activation' else 'grad'}.{staged.kind}.{min(source, target)}",
        kind=kind,
        chain=staged.kind,
        source=source,
        target=target,
        bytes=size,
        write=writes[0],
        keep=writes[-1],
        first=reads[0],
        last=reads[-1],
        heads={phase: rows for phase, (rows, _) in heads.items()},
        head=min(part for _, part in heads.values()),
        tail=memories[target].heads[received, reads[-1]],
    )


def ring_slots(edge: Edge, table: Timetable) -> int:
    """Slots of an edge between two stages of one place."""
    written, kept = table.times[edge.source, edge.write], table.times[edge.source, edge.keep]
    last = table.times[edge.target, edge.last]
    return window(written.positions, np.maximum(kept.positions, last.positions))


# ---- the boxes of a chain ----

#: By message: the position of the action that writes its slot next, and whether that is one in two parts.
_Again = tuple[Numbers, NDArray[np.bool_]]


@frozen
class Turns:
    """The channels of a place whose messages take turns in one slot of an outbox: all in one, or each channel's in its own.

    groups:    their names; a slot each
    halved:    those whose messages are written by the second part of an action
    again:     by channel; behind the list for what is written last
    """

    groups: tuple[tuple[str, ...], ...] = ()
    halved: frozenset[str] = frozenset()
    again: Mapping[str, _Again] = field(default_factory=dict)

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(name for group in self.groups for name in group)


@frozen
class Boxes:
    """The channels of a chain, and what follows for its lists.

    channels:  without addresses, in the order of edges
    turns:     per place
    heads:     per stage, by phase that is done in two parts, how many rows are the first
    early:     the channels whose messages are freed between the parts of the action that reads them last
    """

    channels: tuple[Channel, ...]
    turns: tuple[Turns, ...]
    heads: tuple[Mapping[str, int], ...]
    early: frozenset[str]


def chain_boxes(table: Timetable, edges: Sequence[Edge]) -> Boxes:
    """The boxes of a chain. edges: all of it"""
    making = _Making(table, edges)
    for edge in making.edges:
        making.spare(edge)
    turns = tuple(making.turns)
    found = tuple(replace(c, outbox_slots=1) if c.name in turns[c.source].channels else c for c in making.channels.values())
    return Boxes(found, turns, tuple(making.heads), frozenset(making.early))


class _Making:
    """Boxes in the making: first with a slot more in every inbox, then with fewer."""

    def __init__(self, table: Timetable, edges: Sequence[Edge]):
        placement = table.schedule.placement
        self.table = table
        self.edges = [edge for edge in edges if placement[edge.source] != placement[edge.target]]
        self.channels = {edge.name: _channel(edge, table, 1) for edge in self.edges}
        self.sources = {edge.name: placement[edge.source] for edge in self.edges}
        self.early: dict[str, float] = {}
        self.of_place: list[list[Edge]] = [[] for _ in table.schedule.lists]
        for edge in self.edges:
            self.of_place[placement[edge.source]].append(edge)
        self.turns = [_take_turns(table, of, self.channels, self.early) for of in self.of_place]
        self.heads: list[dict[str, int]] = [{} for _ in placement]
        for edge in self.edges:
            if edge.name in self.turns[placement[edge.source]].halved:
                self.heads[edge.source].update(edge.heads)

    def spare(self, edge: Edge) -> None:
        """Takes a slot from an inbox where nobody waits for it, and frees its messages as early as the parts of actions allow."""
        early = {edge.name: edge.tail[1]}
        if self._is_parted(edge):
            self.early |= early
        if self._try(edge, {}) or self._is_parted(edge) or not self._can_part(edge):
            return
        if self._try(edge, early):
            self.early |= early
            self.heads[edge.target][edge.last] = edge.tail[0]

    def _is_parted(self, edge: Edge) -> bool:
        """The action that reads its messages last is done in two parts, and the first reads them."""
        return edge.tail[0] <= self.heads[edge.target].get(edge.last, -1)

    def _can_part(self, edge: Edge) -> bool:
        """The action that reads its messages last can be done in two parts, for it is not, and is of one kind."""
        kinds = self.table.kinds[edge.target] & {edge.last, "B"}
        return len(kinds) == 1 and edge.last in kinds - {"W"} and edge.last not in self.heads[edge.target] and edge.tail[1] < 1

    def _try(self, edge: Edge, early: Mapping[str, float]) -> bool:
        """One slot less, if all goes on as before."""
        place = self.sources[edge.name]
        channel, early = _channel(edge, self.table, 0), {**self.early, **early}
        before = self.channels[edge.name]
        if channel.slots == before.slots or not _comes(self.table, edge, channel.slots, early):
            return False
        channels = {**self.channels, edge.name: channel}
        turns = _take_turns(self.table, self.of_place[place], channels, early)
        if (turns.groups, turns.halved) != (self.turns[place].groups, self.turns[place].halved):
            return False
        if edge.name not in turns.channels and channel.outbox_slots > before.outbox_slots:
            return False
        self.channels[edge.name] = channel
        return True


def _channel(edge: Edge, table: Timetable, ahead: int) -> Channel:
    """The channel of an edge between two places, without addresses.

    Its inbox holds what the receiver has not freed, and `ahead` messages more; its outbox makes up for what the lists want in flight.
    """
    placement, messages = table.schedule.placement, table.schedule.microbatches
    written, kept = table.times[edge.source, edge.write], table.times[edge.source, edge.keep]
    first, last = table.times[edge.target, edge.first], table.times[edge.target, edge.last]
    slots = min(messages, window(first.positions, last.positions) + ahead)
    waiting = in_flight(written.begins, last.ends) - slots
    outbox = min(messages, max(window(written.positions, kept.positions), waiting, PAIR))
    ends = placement[edge.source], placement[edge.target]
    return Channel(edge.name, edge.kind, edge.chain, *ends, edge.bytes, slots, outbox, 0, 0, 0)


def _freed(times: Mapping[tuple[int, str], Times], edge: Edge, early: Mapping[str, float]) -> Moments:
    """When the receiver frees each message."""
    last = times[edge.target, edge.last]
    return last.begins + early.get(edge.name, 1.0) * (last.ends - last.begins)


def _comes(table: Timetable, edge: Edge, slots: int, early: Mapping[str, float]) -> bool:
    """Whether every message has come when it is read, though it goes only once an earlier one is freed; or is sent after that anyway."""
    written, first = table.expected[edge.source, edge.write], table.expected[edge.target, edge.first]
    sent, freed = written.ends[slots:], _freed(table.expected, edge, early)[: len(written.ends) - slots]
    return bool(((sent >= freed) | (np.maximum(sent, freed) + table.going <= first.begins[slots:])).all())


# ---- turns ----


@frozen
class _Written:
    """The messages of a channel in a run: the positions of the actions that write them, when these begin, when the part that writes
    does, and when a message can go."""

    positions: Numbers
    begins: Moments
    writes: Moments
    goes: Moments


def _take_turns(table: Timetable, edges: Sequence[Edge], channels: Mapping[str, Channel], early: Mapping[str, float]) -> Turns:
    """Of the channels of a place: those whose messages have each gone when the next one is written, of them all or of the channel."""
    own = [edge for edge in edges if edge.write == edge.keep]
    runs = ((table.times, 0.0), (table.expected, table.going))
    written = [({e.name: _written(times, e, channels[e.name].slots, early) for e in own}, going) for times, going in runs]

    def gone(names: Iterable[str], parts: bool) -> bool:
        return all(_is_gone([of[name] for name in names], parts, going) for of, going in written)

    names = tuple(edge.name for edge in own if gone([edge.name], True))
    groups = (names,) if names and gone(names, True) else tuple((name,) for name in names)
    heads = {edge.name: all(edge.heads.values()) for edge in own}
    halved = frozenset(name for group in groups if not gone(group, False) for name in group if heads[name])
    again: dict[str, _Again] = {}
    for group in groups:
        positions = {name: written[0][0][name].positions for name in group}
        again |= _again(positions, halved, len(table.schedule.lists[channels[group[0]].source]))
    return Turns(groups, halved, again)


def _written(times: Mapping[tuple[int, str], Times], edge: Edge, slots: int, early: Mapping[str, float]) -> _Written:
    """A message goes when it is written and the receiver has freed the one that had its slot."""
    written = times[edge.source, edge.write]
    goes = written.ends.copy()
    goes[slots:] = np.maximum(goes[slots:], _freed(times, edge, early)[: len(goes) - slots])
    return _Written(written.positions, written.begins, written.begins + edge.head * (written.ends - written.begins), goes)


def _is_gone(messages: Sequence[_Written], parts: bool, going: float) -> bool:
    """Whether each message has gone when the next of them all is written. parts: by the second part of an action"""
    positions, goes = (np.concatenate(of) for of in ([m.positions for m in messages], [m.goes for m in messages]))
    writes = np.concatenate([m.writes if parts else m.begins for m in messages])
    order = np.argsort(positions)
    return bool((goes[order[:-1]] + going <= writes[order[1:]]).all())


def _again(positions: Mapping[str, Numbers], halved: frozenset[str], end: int) -> dict[str, _Again]:
    """What is said of Turns.again. end: of the list"""
    writing = np.concatenate(list(positions.values()))
    parts = np.concatenate([np.full(len(of), name in halved) for name, of in positions.items()])
    order = np.argsort(writing)
    behind, part = np.append(writing[order], end), np.append(parts[order], False)
    found: dict[str, _Again] = {}
    for name, of in positions.items():
        at = np.searchsorted(behind, of, "right")
        found[name] = behind[at], part[at]
    return found
