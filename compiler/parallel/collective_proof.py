"""That the ranks which meet in an action get through it, whatever the number of replicas, and leave nothing behind.

Every message of such an action has both its ends in that action of other lists, and is gone and released when it ends. So the actions can
be looked at one by one, each from empty slots; and in what order places come to them is for the run of all lists to say (symbolic.py).

Within an action ranks fall into small sets that exchange with nobody else: two in a turn of halving, or three where one stands in for an
absent one; two for SHARE and SPREAD. What such a set does is told by who sends to whom and by how many messages. Sets with one pattern
are one case (mlc.mesh.Cohort.kinds finds one of each), and each case is run for all numbers of messages up to MOST: from there on each
step waits for what the step before waited for, a message later. More slots than two only let more happen.

In the tree of all ranks a rank waits for its neighbours alone, upwards for those below and downwards for the one above. Trees of 8 to 15
ranks, as odd or even as the whole, have every kind of rank beside every kind that it is beside in a larger one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product

from mlc.mesh import Cohort, Exchange
from mlc.parallel.collectives import Move, Trade, trade_moves, tree_moves
from mlc.parallel.faults import Fault
from mlc.parallel.planned import STATISTIC_BYTES, Channel, Planned
from mlc.parallel.shards import LINE_BYTES
from mlc.parallel.tree import most_roots

#: Messages of an exchange one way, and slots of a channel, of which more do not differ.
MOST, _PAIR = 3, 2
#: Ranks of trees that stand for larger ones.
TREES = range(8, 16)

#: What the members of a set do, who are numbered from 0: (peer, sends, receives) of each exchange of each.
Pattern = tuple[tuple[tuple[int, bool, bool], ...], ...]


def collective_faults(planned: Planned) -> Iterator[Fault]:
    """What is wrong with the messages of the actions that end lists."""
    for channel in planned.channels.values():
        if channel.chain is not None or channel.slots < 1 or channel.outbox_slots < 1:
            continue
        yield from _room_faults(planned, channel)
        fault = _fault_of(planned, channel)
        if fault is not None:
            yield Fault(fault[0], f"channel {channel.name}: {fault[1]}")


def _room_faults(planned: Planned, channel: Channel) -> Iterator[Fault]:
    """A message has room for the least that it must hold."""
    least = {"tree": STATISTIC_BYTES, "replicas": LINE_BYTES * most_roots(planned.groups, planned.dp)}.get(channel.kind, LINE_BYTES)
    if channel.slot_bytes < least or channel.slot_bytes % LINE_BYTES:
        text = f"messages of {channel.slot_bytes} bytes; they are lines of {LINE_BYTES}, and at least {least}"
        yield Fault("E1206", f"channel {channel.name}: {text}")


def _fault_of(planned: Planned, channel: Channel) -> tuple[str, str] | None:
    slots = min(channel.slots, _PAIR), min(channel.outbox_slots, _PAIR)
    match channel.kind:
        case "tree":
            ranks = planned.mesh.ranks
            trees = [ranks] if ranks < TREES.stop else [n for n in TREES if n % 2 == ranks % 2]
            return next((fault for n in trees if (fault := _tree_fault(n, *slots))), None)
        case "replicas":
            return next((fault for pattern in patterns(planned.dp) if (fault := pattern_fault(pattern, *slots))), None)
    return pattern_fault((((1, True, False),), ((0, False, True),)), *slots)


# ------------------------------------------------------------------------------------------------------------------------ patterns


@cache
def patterns(replicas: int) -> frozenset[Pattern]:
    """What sets of replicas do in a turn of halving or doubling: each pattern that there is."""
    cohort = Cohort(replicas)
    turns = [(exchanges, turn) for turn in range(cohort.turns) for exchanges in (cohort.halving, cohort.doubling)]
    return frozenset(pattern_of(exchanges, member, turn) for exchanges, turn in turns for member in cohort.kinds(turn))


def pattern_of(exchanges: Callable[[int, int], Sequence[Exchange]], member: int, turn: int) -> Pattern:
    """What the set of a member does in a turn."""
    numbers = {member: 0}
    found: list[list[tuple[int, bool, bool]]] = []
    for one in numbers_of(numbers):
        own: list[tuple[int, bool, bool]] = []
        for exchange in exchanges(one, turn):
            if exchange.peer != one:
                own.append((numbers.setdefault(exchange.peer, len(numbers)), exchange.sends, exchange.receives))
        found.append(own)
    return tuple(map(tuple, found))


def numbers_of(numbers: dict[int, int]) -> Iterator[int]:
    """The members that have a number, and those that get one meanwhile."""
    at = 0
    while at < len(numbers):
        yield list(numbers)[at]
        at += 1


@cache
def pattern_fault(pattern: Pattern, slots: int, outbox_slots: int) -> tuple[str, str] | None:
    """(code, text) of what is wrong where a set does this, for some number of messages."""
    lanes = [(member, n) for member, exchanges in enumerate(pattern) for n, (_, sends, _) in enumerate(exchanges) if sends]
    for counts in product(range(MOST + 1), repeat=len(lanes)):
        sent = dict(zip(lanes, counts, strict=True))
        scripts = [list(trade_moves(_trades(pattern, member, sent))) for member in range(len(pattern))]
        fault = run_moves(scripts, slots, outbox_slots)
        if fault is not None:
            return fault
    return None


def _trades(pattern: Pattern, member: int, sent: dict[tuple[int, int], int]) -> list[Trade]:
    """The exchanges of a member. sent: messages, by member and the number of its exchange"""
    trades: list[Trade] = []
    met: defaultdict[int, int] = defaultdict(int)
    for n, (peer, _, receives) in enumerate(pattern[member]):
        theirs = [k for k, (other, _, _) in enumerate(pattern[peer]) if other == member]
        kept = sent.get((peer, theirs[met[peer]]), 0) if receives and met[peer] < len(theirs) else 0
        met[peer] += 1
        trades.append(Trade("", peer, sent.get((member, n), 0), kept))
    return trades


@cache
def _tree_fault(ranks: int, slots: int, outbox_slots: int) -> tuple[str, str] | None:
    for parts in range(1, MOST + 1):
        fault = run_moves([list(tree_moves("", ranks, rank, parts)) for rank in range(ranks)], slots, outbox_slots)
        if fault is not None:
            return fault
    return None


# ----------------------------------------------------------------------------------------------------------------------- one run


def run_moves(scripts: Sequence[Sequence[Move]], slots: int, outbox_slots: int) -> tuple[str, str] | None:
    """Run what ranks 0, 1, ... do in one action, from empty slots; (code, text) of what is wrong.

    One run decides for every order of things (symbolic.py). A rank goes by what it has waited for, never by what may have happened.
    """
    for rank, script in enumerate(scripts):
        text = _script_fault(script, outbox_slots)
        if text is not None:
            return "E1205", f"rank {rank} of {len(scripts)} that meet {text}"
    counts: defaultdict[tuple[str, int, int], int] = defaultdict(int)  # by what was done, sender and receiver: messages
    at = [0] * len(scripts)
    ready = list(range(len(scripts)))
    while ready:
        rank = ready.pop()
        moved = False
        while at[rank] < len(scripts[rank]) and _can(scripts[rank][at[rank]], rank, counts, slots, outbox_slots):
            move = scripts[rank][at[rank]]
            if move.does in ("post", "release"):
                ends = (rank, move.peer) if move.sends else (move.peer, rank)
                counts[move.does, *ends] += 1
            at[rank] += 1
            moved = True
        if moved:
            ready = list(range(len(scripts)))
    for rank, script in enumerate(scripts):
        if at[rank] < len(script):
            move = script[at[rank]]
            text = f"rank {rank} of {len(scripts)} that meet waits for ever ({move.does} {move.message}, rank {move.peer})"
            return "E1202", text
    for (does, sender, receiver), count in sorted(counts.items()):
        if does == "post" and counts["release", sender, receiver] != count:
            return "E1203", f"{count} messages from rank {sender} to {receiver}, {counts['release', sender, receiver]} are received"
    return None


def _can(move: Move, rank: int, counts: dict[tuple[str, int, int], int], slots: int, outbox_slots: int) -> bool:
    """Is what a move waits for there? A message has gone, and so arrived, once it was posted and a slot was free."""
    ends = (rank, move.peer) if move.sends else (move.peer, rank)
    gone = min(counts["post", *ends], counts["release", *ends] + slots)
    if move.does == "room":
        return gone > move.message - outbox_slots
    return move.does not in ("gone", "arrived") or gone > move.message


def _script_fault(script: Sequence[Move], outbox_slots: int) -> str | None:
    """What a rank does with its slots before it may."""
    done: defaultdict[tuple[str, int], int] = defaultdict(int)  # by what was done and peer: messages
    for does, _, peer, message in script:
        def behind(what: str, least: int = message + 1, peer: int = peer) -> bool:
            return done[what, peer] >= least

        if does == "pack" and not (behind("gone", message + 1 - outbox_slots) and done["post", peer] == done["pack", peer] == message):
            return f"fills message {message} to rank {peer} where its slot may hold another one"
        if does == "post" and not (done["post", peer] == message and behind("pack")):
            return f"sends message {message} to rank {peer}, which is not there"
        if does == "gone" and not behind("post"):
            return f"waits until message {message} to rank {peer} has gone, which is not sent"
        if does == "unpack" and not (behind("arrived") and done["release", peer] <= message == done["unpack", peer]):
            return f"reads message {message} from rank {peer}, which is not there"
        if does == "release" and not (done["release", peer] == message and behind("unpack")):
            return f"frees message {message} from rank {peer} before it is read"
        reached = message + 1 - outbox_slots if does == "room" else message + 1
        key = ("gone" if does == "room" else does, peer)
        done[key] = max(done[key], reached)
    for does, peer in list(done):
        if does == "post" and done["gone", peer] < done["post", peer]:
            return f"ends before message {done['gone', peer]} to rank {peer} has gone"
        if does == "arrived" and done["release", peer] < done["arrived", peer]:
            return f"ends with message {done['release', peer]} from rank {peer} in its slot"
    return None
