"""The channels of a plan: states and gradients over the cuts, gradients and values between replicas and holders, the tree of all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mlc.frozen import frozen
from mlc.lower.layout import aligned
from mlc.parallel.actions import Action
from mlc.parallel.entries import CODES, Entries
from mlc.parallel.planned import Channel
from mlc.plan.lists import Numbers, Timetable, in_flight, window
from mlc.plan.regions import StageMemory, message
from mlc.plan.stages import StagedChain

#: Largest message between replicas; longer data goes in parts.
SEGMENT_BYTES = 256 << 10

#: Bytes of a message of the tree, and its slots.
TREE_BYTES = 4096
TREE_SLOTS = 2

#: Slots of a channel that a chain does not use, at either end: one is filled while the other is read.
PAIR = 2


@frozen
class Edge:
    """What goes over a cut in one direction, between stages; a channel where they lie on two places, else a ring.

    phases:  at the source, the last that reads what it sent; at the target, the first and the last that read what arrived
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
    cut = min(source, target)
    name = f"{'act' if kind == 'activation' else 'grad'}.{staged.kind}.{cut}"
    return Edge(name, kind, staged.kind, source, target, size, writes[0], writes[-1], reads[0], reads[-1])


def edge_channel(edge: Edge, table: Timetable) -> Channel:
    """The channel of an edge between two places, without addresses.

    The inbox holds what the receiver has not freed and one message more, so that the next can come while it works.
    """
    placement, messages = table.schedule.placement, table.schedule.microbatches
    written, kept = table.times[edge.source, edge.write], table.times[edge.source, edge.keep]
    first, last = table.times[edge.target, edge.first], table.times[edge.target, edge.last]
    slots = min(messages, window(first.positions, last.positions) + 1)
    waiting = in_flight(written.begins, last.ends) - slots
    outbox = min(messages, max(window(written.positions, kept.positions), waiting, PAIR))
    ends = placement[edge.source], placement[edge.target]
    return Channel(edge.name, edge.kind, edge.chain, *ends, edge.bytes, slots, outbox, 0, 0, 0)


def ring_slots(edge: Edge, table: Timetable) -> int:
    """Slots of an edge between two stages of one place."""
    written, kept = table.times[edge.source, edge.write], table.times[edge.source, edge.keep]
    last = table.times[edge.target, edge.last]
    return window(written.positions, np.maximum(kept.positions, last.positions))


#: Columns of the rows of a list in the making. Position: of the compute action it stands at; rank: its place among those of one
#: position, below 0 before the action, which has 0.
_POSITION, _RANK, _KIND, _OF, _MICROBATCH = range(5)


def _rows(kind: Numbers | int, of: Numbers | int, positions: Numbers | int, rank: Numbers | int, microbatches: Numbers) -> Numbers:
    """Rows of a list, one for each microbatch; what is one number is that of them all."""
    rows = np.empty((len(microbatches), 5), np.int64)
    for column, values in ((_POSITION, positions), (_RANK, rank), (_KIND, kind), (_OF, of), (_MICROBATCH, microbatches)):
        rows[:, column] = values
    return rows


def chain_lists(
    table: Timetable, edges: Sequence[Edge], channels: Sequence[Channel], endings: Sequence[Entries]
) -> tuple[Entries, ...]:
    """The list of each place: its actions, each between the transfers it needs and those it makes possible; then its ending.

    A message is received right before the first action that reads it and freed right after the last, sent right after the action that
    writes it; that its slot of the outbox is free again is waited for right before the action that writes there.
    """
    chunks = np.array(_chunk_numbers(table.schedule.placement))
    lists = zip(table.schedule.lists, endings, strict=True)
    parts = [[_compute(actions, chunks), _behind(len(actions), ending)] for actions, ending in lists]
    edge_of = {edge.name: edge for edge in edges}
    for number, channel in enumerate(channels):
        edge, messages = edge_of[channel.name], np.arange(table.schedule.microbatches)
        parts[channel.source].append(_sender_rows(table, edge, channel.outbox_slots, number, len(channels), messages))
        parts[channel.target].append(_receiver_rows(table, edge, number, len(channels), messages))
    names = tuple(channel.name for channel in channels)
    return tuple(_joined(np.concatenate(of), names) for of in parts)


def _sender_rows(table: Timetable, edge: Edge, slots: int, number: int, count: int, messages: Numbers) -> Numbers:
    """SEND and SENT of a channel, the one of that number among `count`. What is sent by the last channel is sent first."""
    written, end = table.times[edge.source, edge.write].positions, len(table.schedule.lists[table.schedule.placement[edge.source]])
    again = np.append(written[slots:], np.full(slots, end))
    sent = _rows(CODES["SENT"], number, again, number - count, messages)
    return np.concatenate([sent, _rows(CODES["SEND"], number, written, count - number, messages)])


def _receiver_rows(table: Timetable, edge: Edge, number: int, count: int, messages: Numbers) -> Numbers:
    """RECEIVE and FREE of a channel."""
    first, last = (table.times[edge.target, phase].positions for phase in (edge.first, edge.last))
    received = _rows(CODES["RECEIVE"], number, first, number - count, messages)
    return np.concatenate([received, _rows(CODES["FREE"], number, last, count + 1 + number, messages)])


def _compute(actions: Sequence[Action], chunks: Numbers) -> Numbers:
    """The actions of a place as rows."""
    if not actions:
        return _rows(0, 0, 0, 0, np.empty(0, np.int64))
    kinds, stages, microbatches = zip(*actions, strict=True)
    codes = np.fromiter(map(CODES.__getitem__, kinds), np.int64, len(kinds))
    return _rows(codes, chunks[list(stages)], np.arange(len(actions)), 0, np.array(microbatches))


def _behind(actions: int, end: Entries) -> Numbers:
    """The rows behind all others."""
    return _rows(end.kinds, end.of, actions + 1, np.arange(len(end)), end.microbatches)


def _chunk_numbers(placement: Sequence[int]) -> list[int]:
    """Which chunk of its place each stage is."""
    counts = [0] * (max(placement) + 1)
    numbers: list[int] = []
    for place in placement:
        numbers.append(counts[place])
        counts[place] += 1
    return numbers


def _joined(rows: Numbers, names: tuple[str, ...]) -> Entries:
    """The list of these rows, in the order of their positions and ranks."""
    ordered = rows[np.lexsort((rows[:, _RANK], rows[:, _POSITION]))]
    return Entries(ordered[:, _KIND], ordered[:, _OF], ordered[:, _MICROBATCH], names)


def segment_channel(name: str, kind: str, source: int, target: int, size: int) -> Channel:
    """A channel for `size` bytes at a time, in parts."""
    return Channel(name, kind, None, source, target, min(aligned(size), SEGMENT_BYTES), PAIR, PAIR, 0, 0, 0)


def tree_channel() -> Channel:
    """The channel of the tree of all ranks."""
    return Channel("tree", "tree", None, -1, -1, TREE_BYTES, TREE_SLOTS, TREE_SLOTS, 0, 0, 0)
