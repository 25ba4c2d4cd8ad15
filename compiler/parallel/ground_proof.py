"""What the other proofs stand on: memory that lasts is there once, under its one name, whole; each column is left once.

A row, a collective or an update that is given a fixed buffer is given it by name. So there is one of each name, and none that nothing
holds: a second `parameter w` would be read by rows though nothing ever wrote it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from operator import lt

from mlc.ir.dtypes import dtype_of
from mlc.parallel.faults import Fault
from mlc.parallel.planned import KEPT, Channel, Place, Planned, Region
from mlc.parallel.shards import LINE_BYTES

#: How the name of the fixed buffer begins in which a chain has its transient values.
TRANSIENT = "transient."
_OF_CHAINS = (KEPT, TRANSIENT)

#: The region of all that has one address: its only slot is the arena.
ARENA = Region("arena", 0, 0, 1, 0, None)


def ground_faults(planned: Planned) -> Iterator[Fault]:
    """What is wrong with fixed buffers, addresses and columns."""
    for place in planned.places:
        yield from _held_faults(planned, place)
        yield from _fixed_faults(planned, place)
        yield from _arena_faults(place)
    if planned.scratch_bytes_per_thread % LINE_BYTES:
        yield Fault("E1206", f"{planned.scratch_bytes_per_thread} bytes of scratch a thread are no multiple of {LINE_BYTES}")
    most = max(planned.routines, key=lambda routine: routine.scratch, default=None)
    if most is not None and most.scratch > planned.scratch_bytes_per_thread:
        yield Fault("E1206", f"{most.name} uses {most.scratch} bytes of scratch, a thread has {planned.scratch_bytes_per_thread}")
    for channel in planned.channels.values():
        yield from _line_faults(channel)
    for chain in planned.rounds:
        yield from _column_faults(planned, chain)


def _held_faults(planned: Planned, place: Place) -> Iterator[Fault]:
    """Each parameter has one initial value, what a place updates it holds, and a program finds what it holds by halving."""
    held, owned = [held.parameter for held in place.held], {one.parameter for one in place.owned}
    if all(map(lt, held, held[1:])) and owned.issubset(held):
        return
    times = Counter(held)
    for number in sorted({*times, *owned}):
        if not (number in owned) <= times[number] <= 1:
            yield Fault("E1204", f"place {place.number}: {planned.parameters[number].name} is held {times[number]} times, not once")
    if list(times) != sorted(times):
        yield Fault("E1204", f"place {place.number}: what it holds is not in the order of parameters")


def _fixed_faults(planned: Planned, place: Place) -> Iterator[Fault]:
    """Each buffer once, of something that the plan has, as large as that is."""
    wanted = _wanted(planned, place)
    times = Counter([area.name for area in place.fixed])
    once = len(times) == len(place.fixed)
    for area in place.fixed:
        name, at, size, chain = area
        if once and wanted.get(name, "") in (size, None) and not at % LINE_BYTES and chain is None and not name.startswith(_OF_CHAINS):
            continue
        where = f"place {place.number}: {area.name}, {area.bytes} bytes at {area.at},"
        if area.name not in wanted:
            yield Fault("E1206", f"{where} is memory of nothing that this place has")
        elif area.chain != (chain := _chain_of(area.name)):
            yield Fault("E1206", f"{where} is said to be of {area.chain or 'no chain'}, and is of {chain or 'all chains'}")
        elif times[area.name] > 1:
            yield Fault("E1206", f"{where} is one of {times[area.name]} buffers of that name")
        elif wanted[area.name] not in (None, area.bytes):
            yield Fault("E1206", f"{where} should have {wanted[area.name]} bytes")
        if area.at % LINE_BYTES:
            yield Fault("E1206", f"{where} does not begin at a multiple of {LINE_BYTES}")


def _wanted(planned: Planned, place: Place) -> dict[str, int | None]:
    """The fixed buffers that a place may have: bytes by name, None where other proofs say how many."""
    unit = planned.unit
    wanted: dict[str, int | None] = dict.fromkeys(("record", "microbatches", "results"))
    wanted.update((f"{TRANSIENT}{chain}", None) for chain in planned.rounds)
    for held in place.held:
        name, kind, _, _ = planned.parameters[held.parameter]
        wanted[f"parameter {name}"] = unit * kind.stored
        if len(held.init.at) > 1:
            wanted[f"work of {name} init"] = None
        if held.copy is not None:
            wanted[f"copy of {name}"] = dtype_of(kind.dtype).bytes * kind.stored_copy
    for number, index, _, levels in place.summed:
        name, kind, _, _ = planned.parameters[number]
        wanted.update((f"gradient of {name} {index} {level}", unit * kind.stored) for level in range(len(levels)))
    for chunk in place.chunks.get("decode", ()):
        wanted.update((buffer.name, buffer.bytes) for buffer in chunk.buffers if buffer.name.startswith(KEPT))
    return wanted


def _chain_of(name: str) -> str | None:
    """The chain whose lists alone use a fixed buffer: what is of two chains may lie at one place."""
    if name.startswith(KEPT):
        return "decode"
    return name.removeprefix(TRANSIENT) if name.startswith(TRANSIENT) else None


def _arena_faults(place: Place) -> Iterator[Fault]:
    """What has one address has it for every microbatch; slots that alternate begin at whole lines, and arenas end with one."""
    if place.arena_bytes % LINE_BYTES:
        yield Fault("E1206", f"place {place.number}: an arena of {place.arena_bytes} bytes is no multiple of {LINE_BYTES}")
    regions = list(place.regions.values())
    if regions[:1] != [ARENA]:
        yield Fault("E1206", f"place {place.number}: the first of its regions is not the arena, of one slot at 0")
    for region in regions[1:]:
        if region.base % LINE_BYTES or (region.slots > 1 and region.stride % LINE_BYTES):
            text = f"{region.name}, slots of {region.stride} bytes at {region.base}, does not begin at multiples of {LINE_BYTES}"
            yield Fault("E1206", f"place {place.number}: {text}")


def _line_faults(channel: Channel) -> Iterator[Fault]:
    for what in ("inbox", "headers", "outbox", "slot_bytes"):
        if getattr(channel, what) % LINE_BYTES:
            yield Fault("E1206", f"channel {channel.name}: {what} {getattr(channel, what)} is no multiple of {LINE_BYTES}")


def _column_faults(planned: Planned, chain: str) -> Iterator[Fault]:
    """Each number that is counted on is left, once."""
    left = sorted(column for place in planned.places for chunk in place.chunks.get(chain, ()) for column, _ in chunk.values)
    wanted = list(range(len(planned.columns[chain].columns)))
    if left != wanted:
        yield Fault("E1204", f"{chain}: columns {wanted} are counted on, {left} are left")
