"""The messages of the actions that end a list: which rank moves what to whom, in which order, through which slots.

    STATISTICS, NORM, VERDICT   a block of all ranks, up the tree of ranks and down again
    REDUCE                      a turn of halving between the replicas of a place
    SHARE                       the gradient of a use, from its place to the owner of the parameter
    SPREAD                      new values of a parameter, from its owner to a place that holds it
    GATHER                      a turn of doubling between the replicas of a place

They follow from the plan by rule, for the coordinate that is asked about (mlc.mesh). This is the one place that says so: the proof runs
these moves, and --print-launches shows them (`runtime/src/step/collective.c`, `runtime/src/world/exchange.c` make them).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mlc.mesh import TREE_NEIGHBOURS, Cohort, Exchange, Portions, tree_neighbour, tree_number
from mlc.parallel.entries import Entry
from mlc.parallel.planned import STATISTIC_BYTES, Channel, Planned, Use
from mlc.parallel.shards import LINE_BYTES, Sharing
from mlc.parallel.tree import most_roots

#: The actions of all ranks.
OF_ALL_RANKS = ("STATISTICS", "NORM", "VERDICT")
#: Bytes of an element of a copy that rows read in place of the master.
COPY_BYTES = 2


class Move(NamedTuple):
    """A thing that a rank does with a message: number `message` of those that the action has between it and a peer, one way.

    room     waits until the slot of the outbox is free          pack     fills it
    post     lets the message go                                 gone     waits until it has gone
    arrived  waits for a message                                 unpack   reads its slot
    release  lets the next one into the slot
    """

    does: str
    channel: str
    peer: int
    message: int

    @property
    def sends(self) -> bool:
        return self.does in ("room", "pack", "post", "gone")


class Trade(NamedTuple):
    """What two ranks exchange: so many messages go to the peer, and so many come."""

    channel: str
    peer: int
    sent: int
    kept: int


class Stretch(NamedTuple):
    """Elements [begin, end) of a tensor, `each` bytes one; `levels`: where the tensor lies, once or several times."""

    levels: tuple[int, ...]
    begin: int
    end: int
    each: int

    @property
    def bytes(self) -> int:
        """In a message, where each begins on a line."""
        return -(-(self.end - self.begin) * self.each // LINE_BYTES) * LINE_BYTES


def trade_moves(trades: Sequence[Trade]) -> Iterator[Move]:
    """The moves of an action: of each trade message k goes out while k - 1 of the other is read; in the end all that went is gone."""
    first: defaultdict[tuple[int, bool], int] = defaultdict(int)
    for channel, peer, sent, kept in trades:
        out, into = first[peer, True], first[peer, False]
        steps = max(sent, kept)
        for k in range(steps + 1 if steps else 0):
            if 2 <= k < kept + 2:
                yield Move("release", channel, peer, into + k - 2)
            if k < sent:
                yield Move("room", channel, peer, out + k)
            if 1 <= k < kept + 1:
                yield Move("arrived", channel, peer, into + k - 1)
            if k < sent:
                yield Move("pack", channel, peer, out + k)
            if 1 <= k < kept + 1:
                yield Move("unpack", channel, peer, into + k - 1)
            if k < sent:
                yield Move("post", channel, peer, out + k)
        if kept and kept == steps:
            yield Move("release", channel, peer, into + kept - 1)
        first[peer, True] += sent
        first[peer, False] += kept
    for channel, peer, sent, _ in trades:
        if sent:
            yield Move("gone", channel, peer, first[peer, True] - 1)


def tree_moves(channel: str, ranks: int, rank: int, parts: int) -> Iterator[Move]:
    """The moves of a block of all ranks: all parts come up, each added to the rank's own, then all go down."""
    neighbours = [tree_neighbour(ranks, rank, number) for number in range(TREE_NEIGHBOURS)]
    above, below = [[peer for peer in some if peer >= 0] for some in (neighbours[:1], neighbours[1:])]
    for sources, targets in ((below, above), (above, below)):
        for part in range(parts):
            yield from (Move(does, channel, peer, part) for peer in sources for does in ("arrived", "unpack", "release"))
            yield from (Move(does, channel, peer, part) for peer in targets for does in ("room", "pack", "post"))
    yield from (Move("gone", channel, peer, parts - 1) for peer in (*above, *below) if parts)


class Collectives:
    """The messages of a plan's collective actions."""

    def __init__(self, planned: Planned):
        self.planned = planned
        self.cohort = Cohort(planned.dp)
        self.roots = most_roots(planned.groups, planned.dp)
        self._sharings: dict[int, Sharing] = {}
        self._uses = {(use.parameter, use.ordinal): use for place in planned.places for _, use in place.uses()}
        self._channels = {(c.kind, c.source, c.target): c for c in planned.channels.values() if c.chain is None}

    def moves(self, chain: str, rank: int, entry: Entry) -> tuple[Move, ...]:
        """What a rank does with messages in an action of its list; nothing where it is no such action."""
        if entry.kind in OF_ALL_RANKS and self.planned.mesh.ranks > 1:
            return tuple(tree_moves("tree", self.planned.mesh.ranks, rank, self.parts(chain, entry.kind)))
        return tuple(trade_moves(self.trades(rank, entry)))

    def slots(self, rank: int, move: Move) -> tuple[int, int]:
        """Where a message lies: in the arena of the rank, its outbox or inbox; and in the receiver's, which is that of an inbox again."""
        channel = self.planned.channels[move.channel]
        receiver, sender = (move.peer, rank) if move.sends else (rank, move.peer)
        inbox = channel.inbox + self._slot(channel, receiver, sender, move.message, channel.slots)
        if not move.sends:
            return inbox, inbox
        return channel.outbox + self._slot(channel, sender, receiver, move.message, channel.outbox_slots), inbox

    def parts(self, chain: str, kind: str) -> int:
        """Messages of a block of all ranks, one way."""
        units = self.planned.columns[chain].units if kind == "STATISTICS" else 1
        room = self.planned.channels["tree"].slot_bytes // STATISTIC_BYTES
        return -(-units // room)

    def trades(self, rank: int, entry: Entry) -> tuple[Trade, ...]:
        """What a rank exchanges in an action with ranks of its place or of its replica, in this order."""
        mesh = self.planned.mesh
        place, replica = mesh.coordinate(rank).pp, mesh.coordinate(rank).dp
        if entry.kind in ("REDUCE", "GATHER"):
            channel = self._channels["replicas", place, place]
            room = channel.slot_bytes // (self.roots if entry.kind == "REDUCE" else 1) // LINE_BYTES * LINE_BYTES
            turns = self.cohort.halving if entry.kind == "REDUCE" else self.cohort.doubling
            found = [(mesh.member(rank, dp=one.peer), *self._exchanged(place, entry, one)) for one in turns(replica, entry.microbatch)]
            return tuple(_trade(channel.name, peer, sent, kept, room) for peer, sent, kept in found if peer != rank)
        if entry.kind not in ("SHARE", "SPREAD"):
            return ()
        source, target, stretches = self._passed(place, replica, entry)
        if source == target:
            return ()
        channel = self._channels["reduction" if entry.kind == "SHARE" else "parameter", source, target]
        sent, kept = (stretches, ()) if place == source else ((), stretches)
        return (_trade(channel.name, mesh.member(rank, pp=target if place == source else source), sent, kept, channel.slot_bytes),)

    def _exchanged(self, place: int, entry: Entry, one: Exchange) -> tuple[tuple[Stretch, ...], tuple[Stretch, ...]]:
        """What goes and what comes in a turn: of halving, what either end keeps behind it; of doubling, what it has so far."""
        goes, comes = (one.partner, one.point) if entry.kind == "REDUCE" else (one.point, one.partner)
        turn = entry.microbatch + 1
        sent = self.stretches(place, entry, self.cohort.portions(goes, turn)) if one.sends else ()
        return sent, self.stretches(place, entry, self.cohort.portions(comes, turn)) if one.receives else ()

    def stretches(self, place: int, entry: Entry, portions: Portions) -> tuple[Stretch, ...]:
        """The gradients of a chunk (REDUCE) or the values of a place (GATHER), as far as a run of portions has them."""
        if entry.kind == "REDUCE":
            uses = self.planned.places[place].chunks["train"][int(entry.of)].uses
            found = [self._sum(use, portions) for use in uses if self.planned.parameters[use.parameter].kind.fed != "none"]
        else:
            found = [self._value(place, held.parameter, portions) for held in self.planned.places[place].held]
        return tuple(stretch for stretch in found if stretch.begin < stretch.end)

    def _passed(self, place: int, replica: int, entry: Entry) -> tuple[int, int, tuple[Stretch, ...]]:
        """From which place to which something goes, and what of it lies on `place`."""
        number, parameter = entry.microbatch, self.planned.parameters[entry.microbatch]
        portions = self.cohort.portions(replica, self.cohort.turns)
        if entry.kind == "SPREAD":
            source, target, stretch = parameter.owner, int(entry.of), self._value(place, number, portions)
        else:
            source, target = self.planned.stages[parameter.uses[int(entry.of)][0]], parameter.owner
            stretch = self._sum(self._uses[number, 0 if place == target else int(entry.of)], portions)
        return source, target, (stretch,) if stretch.begin < stretch.end else ()

    def _sum(self, use: Use, portions: Portions) -> Stretch:
        return Stretch(use.levels, *self._elements(use.parameter, portions), self.planned.unit)

    def _value(self, place: int, number: int, portions: Portions) -> Stretch:
        """New values of a parameter: its copy, else the master; nothing of one that does not change."""
        held = next(held for held in self.planned.places[place].held if held.parameter == number)
        elements = (0, 0) if self.planned.parameters[number].kind.update is None else self._elements(number, portions)
        return Stretch((held.master,), *elements, self.planned.unit) if held.copy is None else Stretch((held.copy,), *elements, COPY_BYTES)

    def _elements(self, number: int, portions: Portions) -> tuple[int, int]:
        owner = self.planned.parameters[number].owner
        if owner not in self._sharings:
            self._sharings[owner] = self.planned.places[owner].sharing(self.planned.dp, self.planned.unit)
        return self._sharings[owner].elements(number, portions)

    def _slot(self, channel: Channel, own: int, other: int, message: int, slots: int) -> int:
        """Bytes from the first slot that a rank has for a channel to that of a message with another rank."""
        block = 0
        if channel.kind == "tree":
            block = tree_number(own, other)
        elif channel.kind == "replicas":
            block = self.cohort.block(*(self.planned.mesh.coordinate(rank).dp for rank in (own, other)))
        return (block * slots + message % slots) * channel.slot_bytes


def _trade(channel: str, peer: int, sent: Sequence[Stretch], kept: Sequence[Stretch], room: int) -> Trade:
    """room: bytes of what goes and comes in a message"""
    return Trade(channel, peer, *(-(-sum(stretch.bytes for stretch in of) // room) for of in (sent, kept)))
