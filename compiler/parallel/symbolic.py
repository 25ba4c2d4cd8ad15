"""One symbolic run of a plan's lists: who waits for whom, what each slot holds, what is never freed.

A place is a stream of actions; each of its outgoing channels is another, which moves posted messages in order as soon as the
receiver has freed a slot. Channels are FIFO with one sender and one receiver, nothing polls: a Kahn network with bounded channels, so
one run in any order decides for every order (Kahn 1974; Parks 1995 for bounded buffers). Replicas have equal lists and equal channels
of their own: one stands for all. The run of a whole round decides for every shorter one too (spec/proof.md).

What follows from one list alone is looked up in it first (`lifetimes`). Then the only rows that can wait are these:

    RECEIVE n                   for SEND n of the sender, and for FREE n - slots of its own, without which there is no room for the message
    SENT n                      for FREE n - slots of the receiver
    SHARE, SPREAD               for the other place to come to the same row: what they do there ends by itself (collective_proof.py)
    STATISTICS, NORM, VERDICT   for all places to come to theirs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mlc.frozen import frozen
from mlc.parallel.entries import Column
from mlc.parallel.faults import Fault
from mlc.parallel.lifetimes import Listed, check_list
from mlc.parallel.planned import Channel, Planned
from mlc.parallel.rendezvous import Rendezvous
from mlc.parallel.touches import phase_touches


@frozen
class Outcome:
    """What a run found. `peaks`: for each place, the most slots of each region in use at once; `messages`: by channel."""

    faults: tuple[Fault, ...]
    peaks: tuple[Mapping[str, int], ...]
    messages: Mapping[str, int]


def run_symbolic(planned: Planned, chain: str) -> Outcome:
    """Run the lists of a chain; names the first fault of each list, or what is wrong when they have been run."""
    channels = {name: channel for name, channel in planned.channels.items() if channel.chain == chain}
    streams = [check_list(place, chain, channels, phase_touches(planned, place, chain)) for place in planned.places]
    faults = [fault for fault in (stream.fault for stream in streams) if fault is not None]
    if not faults:
        faults = _run_faults(planned, chain, streams, channels)
    messages = {name: len(streams[channel.source].of("SEND", name)) for name, channel in channels.items()}
    return Outcome(tuple(faults), tuple(stream.peak for stream in streams), messages)


def _run_faults(planned: Planned, chain: str, streams: Sequence[Listed], channels: Mapping[str, Channel]) -> list[Fault]:
    """What is wrong when lists run that have no fault of their own."""
    met = Rendezvous(planned, chain)
    waits = [_sorted(_waits(streams, place, channels), met.waits(place)) for place in range(len(streams))]
    reached = _run([*waits, _sorted([], met.all_places)], [*(len(stream.entries) for stream in streams), len(met.all_places)])
    if any(at < len(stream.entries) for at, stream in zip(reached, streams, strict=False)):
        return [_stuck(chain, streams, channels, reached, met)]
    return [Fault(code, f"{chain}: {text}") for code, text in _left_over(streams, channels)][:1]


#: Rows that may wait, in the order of their list: their positions, for which place, until it is past which position.
Waits = tuple[list[int], list[int], list[int]]


def _sorted(moves: Sequence[Column], met: Sequence[tuple[int, int, int]]) -> Waits:
    """The rows of a list that may wait, from columns of these three and from single ones."""
    joined = np.concatenate([np.empty((3, 0), np.int64), *moves, np.array(met, np.int64).reshape(-1, 3).T], axis=1)
    positions, others, needs = joined[:, np.argsort(joined[0], kind="stable")].tolist()
    return positions, others, needs


def _waits(streams: Sequence[Listed], place: int, channels: Mapping[str, Channel]) -> list[Column]:
    """The transfers of a list that may wait."""
    found: list[Column] = []
    for (kind, name), positions in streams[place].moves.items():
        channel, messages = channels[name], np.arange(len(positions))
        if kind == "RECEIVE":
            need = _at(streams[channel.source], "SEND", name, messages)
            room = _at(streams[place], "FREE", name, messages - channel.slots)
            need[room >= positions] = _never(streams[channel.source])
            found.append(np.stack([positions, np.full(len(positions), channel.source), need]))
        if kind == "SENT":
            need = _at(streams[channel.target], "FREE", name, messages - channel.slots)
            found.append(np.stack([positions, np.full(len(positions), channel.target), need]))
    return found


def _never(stream: Listed) -> int:
    return len(stream.entries) + 1


def _at(stream: Listed, kind: str, channel: str, messages: Column) -> Column:
    """The position of the row of each message; -1 for those below 0, which nobody waits for, and never for those that have none."""
    positions = stream.of(kind, channel)
    known = np.append(positions, (_never(stream), -1))
    return known[np.where(messages < 0, len(positions) + 1, np.minimum(messages, len(positions)))]


def _run(waits: Sequence[Waits], lengths: Sequence[int]) -> list[int]:
    """How many rows of each list run: all places go as far as they can, whoever waits goes on when the other is there."""
    reached = [0] * len(waits)
    done = [0] * len(waits)  # rows of `waits` that a place has passed
    watchers: list[list[tuple[int, int]]] = [[] for _ in waits]  # (need, place) of those that wait for a place
    ready = list(range(len(waits)))
    while ready:
        place = ready.pop()
        positions, others, needs = waits[place]
        n = done[place]
        while n < len(positions) and reached[others[n]] > needs[n]:
            n += 1
        done[place] = n
        reached[place] = lengths[place] if n == len(positions) else positions[n]
        if n < len(positions):
            watchers[others[n]].append((needs[n], place))
        if watchers[place]:
            ready += [other for need, other in watchers[place] if reached[place] > need]
            watchers[place] = [(need, other) for need, other in watchers[place] if reached[place] <= need]
    return reached


def _left_over(streams: Sequence[Listed], channels: Mapping[str, Channel]) -> Iterator[tuple[str, str]]:
    """Messages that are not done with when all lists are."""
    for name, c in channels.items():
        source, target = streams[c.source], streams[c.target]
        posted, waited = len(source.of("SEND", name)), len(source.of("SENT", name))
        received, freed = len(target.of("RECEIVE", name)), len(target.of("FREE", name))
        if received < posted:
            yield "E1203", f"message {received} of {name} from place {c.source} is never received by place {c.target}"
        if freed < posted:
            yield "E1205", f"place {c.target} never frees message {freed} of {name} from place {c.source}"
        if waited < posted:
            yield "E1205", f"place {c.source} ends without waiting until message {waited} of {name} has left for place {c.target}"


def _stuck(chain: str, streams: Sequence[Listed], channels: Mapping[str, Channel], reached: Sequence[int], met: Rendezvous) -> Fault:
    """Who waits for whom where nobody can go on."""
    waiting = [place for place, stream in enumerate(streams) if reached[place] < len(stream.entries)]
    told: list[str] = []
    hopeless = False
    for place in waiting:
        entry = streams[place].entries[reached[place]]
        if isinstance(entry.of, int):
            told.append(f"place {place} at action {reached[place]} ({entry}) waits for {met.why(place, entry, reached)}")
            continue
        channel = channels[entry.of]
        posted = streams[channel.source].of("SEND", channel.name)
        hopeless |= entry.kind == "RECEIVE" and entry.microbatch >= len(posted)
        why = _why(entry.kind, channel, bool((posted[entry.microbatch :][:1] < reached[channel.source]).any()))
        told.append(f"place {place} at action {reached[place]} ({entry}) waits for {why}")
    return Fault("E1203" if hopeless else "E1202", f"{chain}: nobody can go on: {'; '.join(told)}")


def _why(kind: str, channel: Channel, posted: bool) -> str:
    """What a row waits for. posted: the message of a RECEIVE was sent"""
    if kind == "SENT":
        return f"place {channel.target} to free a slot"
    if posted:
        return f"one of its own {channel.slots} slots, to which place {channel.source} can send it"
    return f"place {channel.source} to send it"
