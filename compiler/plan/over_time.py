"""How much of its memory a rank uses at each moment of a step, and what for.

All is planned, so all is told by the list: a slot of a ring is in use from the first action that touches its microbatch to the last, a
slot of an outbox until its message is gone, a transient value from the first row of an action that touches it to the last. What lasts
(parameters, gradients, states, inbox) is always there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mlc.frozen import frozen
from mlc.parallel.entries import Entries
from mlc.parallel.planned import MOST_ROUNDS, Chunk, Place, Planned, Region
from mlc.parallel.quantities import size_text
from mlc.parallel.touches import Touch, phase_touches, whole_touches

#: Lines of a drawing, and columns of its longest bar.
_LINES = 16
_BAR = 40

Bytes = NDArray[np.int64]


@frozen
class Moments:
    """The compute actions of a step of a rank.

    names:      of each action
    lasting:    bytes that are always in use
    rings:      by region, bytes of its slots in use at each action
    transient:  by action, bytes of values that it makes and uses up; rows: the name of the row at which they are most
    """

    names: tuple[str, ...]
    lasting: int
    rings: Mapping[str, Bytes]
    transient: Bytes
    rows: tuple[str, ...]

    @property
    def totals(self) -> Bytes:
        return sum(self.rings.values(), self.transient + self.lasting)


def moments(planned: Planned, place: Place) -> Moments:
    """The memory of a place at each compute action of its train list."""
    entries = place.lists["train"]
    compute = np.flatnonzero(entries.computes)
    touches = whole_touches(phase_touches(planned, place, "train"))
    found = [entries[int(at)] for at in compute]
    phases = [f"{entry.kind}{entry.of}" for entry in found]
    peaks = {phase: _transient(planned, place, place.chunks["train"][int(phase[1:])], phase[0]) for phase in set(phases)}
    several = len(place.stages) > 1
    return Moments(
        names=tuple(f"{e.kind}{e.of} {e.microbatch}" if several else f"{e.kind} {e.microbatch}" for e in found),
        lasting=_lasting(planned, place),
        rings=dict(_rings(place, compute, phases, touches)),
        transient=np.array([peaks[phase][0] for phase in phases], np.int64),
        rows=tuple(peaks[phase][1] for phase in phases),
    )


def _lasting(planned: Planned, place: Place) -> int:
    """Bytes before the memory of chains, which comes last in an arena."""
    own = [area.at for area in place.fixed if area.chain is not None]
    own += [region.base for region in place.regions.values() if region.chain is not None and not region.name.startswith("in:")]
    return min(own, default=place.arena_bytes)


def _rings(place: Place, compute: Bytes, phases: Sequence[str], touches: Mapping[str, Touch]) -> Iterator[tuple[str, Bytes]]:
    """The rings and outboxes of the chain; inboxes are a part of what lasts."""
    entries = place.lists["train"]
    microbatches = _microbatches(entries, compute)
    gone: dict[str, dict[int, int]] = {}
    ended = _ended(entries)
    for position, entry in enumerate(entries):
        if entry.kind == "SENT":
            gone.setdefault(str(entry.of), {})[entry.microbatch] = int(ended[position])
    for region in place.regions.values():
        if region.chain != "train" or region.name.startswith("in:"):
            continue
        first, last = _touched(region, microbatches, phases, touches)
        for microbatch, moment in gone.get(region.name.removeprefix("out:"), {}).items():
            last[microbatch] = max(last[microbatch], moment)
        if region.name.endswith(".values"):  # they are looked at when the list has ended
            last[last >= 0] = len(compute) - 1
        if (last >= 0).any():
            yield region.name, _in_use(region, first, last, len(compute))


def received_bytes(planned: Planned, place: Place) -> int:
    """The most bytes of slots of a place's inboxes that rows of the train chain read in at once, from the first row of each message on."""
    entries = place.lists["train"]
    compute = np.flatnonzero(entries.computes)
    touches = whole_touches(phase_touches(planned, place, "train"))
    phases = [f"{entries[int(at)].kind}{entries[int(at)].of}" for at in compute]
    microbatches = _microbatches(entries, compute)
    total = 0
    for region in place.regions.values():
        if region.chain == "train" and region.name.startswith("in:"):
            used = _in_use(region, *_touched(region, microbatches, phases, touches), len(compute))
            total += int(used.max(initial=0))
    return total


def _microbatches(entries: Entries, compute: Bytes) -> Bytes:
    """Those of the compute actions."""
    microbatches = entries.microbatches[compute].astype(np.int64)
    if len(compute) and not 0 <= microbatches.min() <= microbatches.max() < MOST_ROUNDS:
        raise ValueError(f"microbatches {microbatches.min()} to {microbatches.max()}")
    return microbatches


def _touched(region: Region, microbatches: Bytes, phases: Sequence[str], touches: Mapping[str, Touch]) -> tuple[Bytes, Bytes]:
    """The first and the last compute action that touches each microbatch's slot; behind them all and -1 for what nothing touches."""
    count = int(microbatches.max(initial=-1)) + 1
    at = np.flatnonzero([region.name in touches[phase].reads | touches[phase].writes for phase in phases])
    first, last = np.full(count, len(phases)), np.full(count, -1)
    np.minimum.at(first, microbatches[at], at)
    np.maximum.at(last, microbatches[at], at)
    return first, last


def _in_use(region: Region, first: Bytes, last: Bytes, count: int) -> Bytes:
    """Bytes of the slots of a region that are in use at each of `count` actions."""
    alive = last >= 0
    used = np.zeros(count + 1, np.int64)
    np.add.at(used, first[alive], region.stride)
    np.subtract.at(used, last[alive] + 1, region.stride)
    return np.cumsum(used)[:-1]


def _ended(entries: Entries) -> Bytes:
    """The number of the last compute action that a slot is held for by what ends at each position of a list: that before it; where that
    goes on in its rest, the one before, for the rest takes the slot over."""
    others = np.flatnonzero(~entries.transfers)
    following = np.searchsorted(others, np.arange(len(entries)))
    goes_on = np.append(entries.rests[others], False)[following]
    return np.cumsum(entries.computes) - 1 - goes_on


def _transient(planned: Planned, place: Place, chunk: Chunk, phase: str) -> tuple[int, str]:
    """The most bytes of transient values that are in use at a row of a phase, and the row's name."""
    area = next((area for area in place.fixed if area.name == "transient.train"), None)
    lives: dict[int, tuple[int, int]] = {}
    rows = chunk.rows[phase]
    for at, row in enumerate(rows):
        for number in row.buffers:
            buffer = chunk.buffers[number]
            if area is not None and buffer.region == "arena" and area.at <= buffer.at < area.end:
                lives[number] = (lives.get(number, (at, at))[0], at)
    used = np.zeros(len(rows) + 1, np.int64)
    for number, (first, last) in lives.items():
        used[first] += chunk.buffers[number].bytes
        used[last + 1] -= chunk.buffers[number].bytes
    sums = np.cumsum(used)[:-1]
    return (int(sums.max()), rows[int(sums.argmax())].name) if len(rows) else (0, "")


def draw(found: Moments) -> Iterator[str]:
    """A bar for each of some stretches of the list, as long as the most that is in use in it; then what makes up the peak."""
    totals = found.totals
    if not len(totals):
        return
    edges = np.unique(np.linspace(0, len(totals), min(_LINES, len(totals)) + 1).astype(int)).tolist()
    peak = int(totals.argmax())
    most = int(totals[peak])
    width = max(map(len, found.names))
    yield f"over time     {size_text(found.lasting)} last, {size_text(most)} in use at the peak, {found.names[peak]}:"
    for begin, end in pairwise(edges):
        top = int(totals[begin:end].max())
        bar = "#" * max(1, round(_BAR * top / most))
        names = found.names[begin] if end - begin == 1 else f"{found.names[begin]} to {found.names[end - 1]}"
        yield f"    {names:{2 * width + 4}} {bar:{_BAR}} {size_text(top)}"
    held = sorted(((int(used[peak]), name) for name, used in found.rings.items() if used[peak]), reverse=True)
    parts = [f"{name} {size_text(size)}" for size, name in held]
    if found.transient[peak]:
        parts.append(f"transient {size_text(int(found.transient[peak]))} ({found.rows[peak]})")
    yield f"    the peak is what lasts and {', '.join(parts) or 'nothing else'}"
