"""The channels of a plan that are of no chain, and the lists of one: actions with transfers between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlc.lower.layout import aligned
from mlc.parallel.actions import Action
from mlc.parallel.entries import CODES, FOLDS, RESTS, Entries
from mlc.parallel.planned import Channel
from mlc.plan.boxes import PAIR, Boxes, Edge
from mlc.plan.lists import Numbers, Timetable

#: Largest message between replicas; longer data goes in parts. Most bytes of the boxes that a rank has for all its neighbours.
SEGMENT_BYTES = 256 << 10
NEIGHBOURS_BYTES = 8 << 20

#: Bytes of a message of the tree, and its slots.
TREE_BYTES = 4096
TREE_SLOTS = 2

#: Columns of the rows of a list in the making. Position: of the compute action it stands at; rank: its place among those of one
#: position, below 0 before the action, which has 0.
_POSITION, _RANK, _KIND, _OF, _MICROBATCH = range(5)


def _rows(kind: Numbers | int, of: Numbers | int, positions: Numbers | int, rank: Numbers | int, microbatches: Numbers) -> Numbers:
    """Rows of a list, one for each microbatch; what is one number is that of them all."""
    rows = np.empty((len(microbatches), 5), np.int64)
    for column, values in ((_POSITION, positions), (_RANK, rank), (_KIND, kind), (_OF, of), (_MICROBATCH, microbatches)):
        rows[:, column] = values
    return rows


class Folds(NamedTuple):
    """What is folded when a group is complete: (stage, phase) that adds to gradients; `members`: microbatches of a group."""

    phases: tuple[tuple[int, str], ...] = ()
    members: int = 1


def chain_lists(
    table: Timetable, edges: Sequence[Edge], boxes: Boxes, folds: Folds, endings: Sequence[Entries]
) -> tuple[Entries, ...]:
    """The list of each place: its actions, each between the transfers it needs and those it makes possible; then its ending.

    A message is received right before the first action that reads it and freed right after the last, or its first part; it is sent right
    after the action that writes it; that its slot of the outbox is free again is waited for right before the action, or its second part,
    that writes there. Behind all of them the sums of a group that is complete are folded.
    """
    chunks = np.array(_chunk_numbers(table.schedule.placement))
    lists = zip(table.schedule.lists, endings, strict=True)
    parts = [[*_compute(actions, chunks, boxes), _behind(len(actions), ending)] for actions, ending in lists]
    edge_of = {edge.name: edge for edge in edges}
    for number, channel in enumerate(boxes.channels):
        parts[channel.source] += _sender_rows(table, edge_of[channel.name], boxes, number)
        parts[channel.target] += _receiver_rows(table, edge_of[channel.name], boxes, number)
    for stage, phase in folds.phases:
        parts[table.schedule.placement[stage]].append(_fold_rows(table, stage, phase, int(chunks[stage]), folds.members, boxes))
    names = tuple(channel.name for channel in boxes.channels)
    return tuple(_joined(np.concatenate(of), names) for of in parts)


# Ranks of the rows at one compute action, of n channels: before it RECEIVE and SENT from -n on; the action 0; between its parts FREE from 1
# on, SENT from n + 1 on; its rest 2n + 1; behind it SEND from 2n + 2 on, what the last channel sends first, FREE from 3n + 2 on, and folds
# from 4n + 2 on.


def _sender_rows(table: Timetable, edge: Edge, boxes: Boxes, number: int) -> Iterator[Numbers]:
    """SEND and SENT of the channel of that number."""
    channel, turns, count = boxes.channels[number], boxes.turns[boxes.channels[number].source], len(boxes.channels)
    written, end = table.times[edge.source, edge.write].positions, len(table.schedule.lists[channel.source])
    slots, messages = channel.outbox_slots, np.arange(len(written))
    again, halved = np.append(written[slots:], np.full(slots, end)), np.zeros(len(written), bool)
    if edge.name in turns.again:
        again, halved = turns.again[edge.name]
    yield _rows(CODES["SENT"], number, again, np.where(halved, count + 1 + number, number - count), messages)
    yield _rows(CODES["SEND"], number, written, 3 * count + 1 - number, messages)


def _receiver_rows(table: Timetable, edge: Edge, boxes: Boxes, number: int) -> Iterator[Numbers]:
    """RECEIVE and FREE of the channel of that number."""
    count, messages = len(boxes.channels), np.arange(table.schedule.microbatches)
    first, last = (table.times[edge.target, phase].positions for phase in (edge.first, edge.last))
    yield _rows(CODES["RECEIVE"], number, first, number - count, messages)
    yield _rows(CODES["FREE"], number, last, 1 + number if edge.name in boxes.early else 3 * count + 2 + number, messages)


def _fold_rows(table: Timetable, stage: int, phase: str, chunk: int, members: int, boxes: Boxes) -> Numbers:
    """The sums of a phase of a chunk are folded behind the last microbatch of each group but the last. members: microbatches of a group"""
    last = np.arange(members - 1, table.schedule.microbatches - members, members)
    rank = 4 * len(boxes.channels) + 2 + FOLDS.index(f"FOLD{phase}")
    return _rows(CODES[f"FOLD{phase}"], chunk, table.times[stage, phase].positions[last], rank, last)


def _compute(actions: Sequence[Action], chunks: Numbers, boxes: Boxes) -> Iterator[Numbers]:
    """The actions of a place as rows, and the rests of those in two parts."""
    rows = _whole(actions, chunks)
    yield rows
    rests = [n for n, action in enumerate(actions) if action.kind in boxes.heads[action.stage]]
    rest = rows[rests]
    rest[:, _KIND] = [CODES[RESTS[actions[n].kind]] for n in rests]
    rest[:, _RANK] = 2 * len(boxes.channels) + 1
    yield rest


def _whole(actions: Sequence[Action], chunks: Numbers) -> Numbers:
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


def segment_channel(name: str, kind: str, source: int, target: int, size: int, neighbours: int = 1) -> Channel:
    """A channel for `size` bytes at a time, in parts. neighbours: for each of which either end has slots"""
    segment = SEGMENT_BYTES
    while 2 * PAIR * neighbours * segment > NEIGHBOURS_BYTES:
        segment //= 2
    return Channel(name, kind, None, source, target, min(aligned(size), segment), PAIR, PAIR, 0, 0, 0)


def tree_channel() -> Channel:
    """The channel of the tree of all ranks."""
    return Channel("tree", "tree", None, -1, -1, TREE_BYTES, TREE_SLOTS, TREE_SLOTS, 0, 0, 0)
