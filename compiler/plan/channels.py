"""The channels of a plan: states and gradients over the cuts, gradients and values between replicas and holders, the tree of all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlc.lower.layout import aligned
from mlc.parallel.planned import Channel, Entry
from mlc.plan.lists import Timetable, in_flight, window
from mlc.plan.regions import StageMemory, message
from mlc.plan.stages import StagedChain

#: Largest message between replicas; longer data goes in parts.
SEGMENT_BYTES = 256 << 10

#: Bytes of a message of the tree, and its slots.
TREE_BYTES = 4096
TREE_SLOTS = 2

#: Slots of a channel that a chain does not use, at either end: one is filled while the other is read.
PAIR = 2


@dataclass(frozen=True, slots=True)
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
    ends = [max(pair) for pair in zip(kept.positions, last.positions, strict=True)]
    return window(written.positions, ends)


def chain_lists(table: Timetable, edges: Sequence[Edge], channels: Mapping[str, Channel]) -> list[list[Entry]]:
    """The list of each place: its actions, each between the transfers it needs and those it makes possible.

    A message is received right before the first action that reads it and freed right after the last, sent right after the action that
    writes it; that its slot of the outbox is free again is waited for right before the action that writes there.
    """
    before: dict[tuple[int, int], list[Entry]] = {}
    after: dict[tuple[int, int], list[Entry]] = {}
    ends: list[list[Entry]] = [[] for _ in table.schedule.lists]
    for edge in edges:
        channel = channels.get(edge.name)
        if channel is None:
            continue
        messages, slots = table.schedule.microbatches, channel.outbox_slots
        written = table.times[edge.source, edge.write].positions
        first, last = table.times[edge.target, edge.first].positions, table.times[edge.target, edge.last].positions
        for number in range(messages):
            if number >= slots:
                before.setdefault((channel.source, written[number]), []).append(Entry("SENT", edge.name, number - slots))
            after.setdefault((channel.source, written[number]), []).insert(0, Entry("SEND", edge.name, number))
            before.setdefault((channel.target, first[number]), []).append(Entry("RECEIVE", edge.name, number))
            after.setdefault((channel.target, last[number]), []).append(Entry("FREE", edge.name, number))
        ends[channel.source] += [Entry("SENT", edge.name, number) for number in range(max(0, messages - slots), messages)]
    lists: list[list[Entry]] = []
    for place, actions in enumerate(table.schedule.lists):
        chunk_of = {stage: chunk for chunk, stage in enumerate(s for s, p in enumerate(table.schedule.placement) if p == place)}
        entries: list[Entry] = []
        for position, action in enumerate(actions):
            entries += before.get((place, position), [])
            entries.append(Entry(action.kind, chunk_of[action.stage], action.microbatch))
            entries += after.get((place, position), [])
        lists.append(entries + ends[place])
    return lists


def segment_channel(name: str, kind: str, source: int, target: int, size: int) -> Channel:
    """A channel for `size` bytes at a time, in parts."""
    return Channel(name, kind, None, source, target, min(aligned(size), SEGMENT_BYTES), PAIR, PAIR, 0, 0, 0)


def tree_channel() -> Channel:
    """The channel of the tree of all ranks."""
    return Channel("tree", "tree", None, -1, -1, TREE_BYTES, TREE_SLOTS, TREE_SLOTS, 0, 0, 0)
