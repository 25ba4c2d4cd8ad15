"""That no two buffers of a place which are in use at once share a byte, and that all lie in its arena, those of peers in its inbox."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import itemgetter, le

from mlc.mesh import Cohort
from mlc.parallel.faults import Fault
from mlc.parallel.planned import HEADER_BYTES, Area, Channel, Place, Planned
from mlc.parallel.shards import LINE_BYTES, line_bytes
from mlc.parallel.tree import most_roots, tree_levels


def memory_faults(planned: Planned) -> Iterator[Fault]:
    """What is wrong with the addresses of a plan."""
    channels, unit = _channels_of_places(planned), planned.unit
    for place in planned.places:
        yield from _region_faults(planned, place)
        yield from _accumulator_faults(planned, place)
        yield from _inbox_faults(planned, place, channels[place.number])
        yield from _shard_faults(planned, place, unit)
        own = channels[place.number]
        yield from _overlaps(place, list(_areas(planned, place, own)), _turns(own))


def _channels_of_places(planned: Planned) -> defaultdict[int, list[Channel]]:
    """The channels that have memory on each place: those that begin or end there, and the tree."""
    found: defaultdict[int, list[Channel]] = defaultdict(list)
    everywhere = [place.number for place in planned.places]
    for channel in planned.channels.values():
        for number in dict.fromkeys(everywhere if channel.kind == "tree" else (channel.source, channel.target)):
            found[number].append(channel)
    return found


def _region_faults(planned: Planned, place: Place) -> Iterator[Fault]:
    """Slots that hold what is put there; inboxes and outboxes that are the channels' own."""
    for region in place.regions.values():
        if region.slots > 1 and region.stride < region.bytes:
            yield Fault("E1206", f"place {place.number}: {region.name} puts {region.bytes} bytes into slots of {region.stride}")
        side, _, name = region.name.partition(":")
        channel = planned.channels.get(name)
        if side not in ("in", "out") or not name:
            continue
        if channel is None:
            yield Fault("E1206", f"place {place.number}: {region.name} belongs to no channel")
            continue
        if place.number != (channel.target if side == "in" else channel.source):  # where the channel has no memory
            yield Fault("E1206", f"place {place.number}: {region.name} is the {side}box of another place")
        wanted = (channel.inbox, channel.slots) if side == "in" else (channel.outbox, channel.outbox_slots)
        if (region.base, region.slots) != wanted or region.stride != channel.slot_bytes:
            yield Fault("E1206", f"place {place.number}: {region.name} is not the {side}box of its channel")
        if region.bytes > channel.slot_bytes:
            yield Fault("E1206", f"place {place.number}: {region.name} puts {region.bytes} bytes into messages of {channel.slot_bytes}")


def _accumulator_faults(planned: Planned, place: Place) -> Iterator[Fault]:
    least = tree_levels(planned.groups, planned.dp)
    if place.levels < least:
        yield Fault("E1206", f"place {place.number}: {place.levels} accumulators a use, {planned.groups} groups need {least}")
    for parameter, _, _, levels in place.summed:
        if len(levels) != place.levels:
            name = planned.parameters[parameter].name
            yield Fault("E1206", f"place {place.number}: {name} has {len(levels)} accumulators for a tree of {place.levels} levels")


def _inbox_faults(planned: Planned, place: Place, channels: Sequence[Channel]) -> Iterator[Fault]:
    """What peers write lies in the inbox, which they share; all else lies behind it."""
    end = place.inbox_bytes
    for channel in channels:
        areas = list(_channel_areas(planned, place, channel))
        shared = areas if channel.kind == "tree" else areas[:2] if channel.target == place.number else []
        for area in areas:
            if area in shared and area.end > end:
                yield Fault("E1206", f"place {place.number}: {area.name} ends at byte {area.end} of an inbox of {end}")
            if area not in shared and area.at < end:
                yield Fault("E1206", f"place {place.number}: {area.name} begins at byte {area.at}, in the inbox of {end}")
    for name, at, size, _ in (*place.fixed, place.states, place.work, place.guests, *_rings(place)):
        if at < end and size:
            yield Fault("E1206", f"place {place.number}: {name} begins at byte {at}, in the inbox of {end}")


def _rings(place: Place) -> Iterator[Area]:
    """The private regions of a place, whole."""
    for region in place.regions.values():
        if region.name != "arena" and region.name.partition(":")[0] not in ("in", "out"):
            yield Area(region.name, region.base, region.stride * (region.slots - 1) + region.bytes, region.chain)


def _areas(planned: Planned, place: Place, channels: Sequence[Channel]) -> Iterator[Area]:
    """Everything of a place."""
    yield from place.fixed
    yield from (place.states, place.work, place.guests)
    yield from _rings(place)
    for channel in channels:
        yield from _channel_areas(planned, place, channel)


def _channel_areas(planned: Planned, place: Place, channel: Channel) -> Iterator[Area]:
    """Headers are always in use; an inbox and an outbox while their chain runs, for no message of it comes before its list begins."""
    peers = channel.peers(planned.dp)
    everywhere = channel.kind == "tree"
    if everywhere or channel.target == place.number:
        yield Area(f"headers of {channel.name}", channel.headers, peers * HEADER_BYTES, None)
        yield Area(f"inbox of {channel.name}", channel.inbox, peers * channel.slots * channel.slot_bytes, channel.chain)
    if everywhere or channel.source == place.number:
        size = peers * channel.outbox_slots * channel.slot_bytes
        yield Area(f"outbox of {channel.name}", channel.outbox, size, channel.chain)


def _shard_faults(planned: Planned, place: Place, unit: int) -> Iterator[Fault]:
    """What a replica has of its own lies in areas of which every replica of the place has one: the largest fits."""
    sharing = place.sharing(planned.dp, unit)
    parameters = {one.parameter: planned.parameters[one.parameter] for one in place.owned}
    buffers = {number: len(of.kind.states) for number, of in parameters.items()}
    apart = {one.parameter: parameters[one.parameter] for one in place.owned if one.sharing == "whole"}
    whole = {number: sum(line_bytes(of.kind.stored_state(n), unit) for n in range(len(of.kind.states))) for number, of in apart.items()}
    needs = (
        (place.states, sharing.most(buffers, whole)),
        (place.work, sharing.most({}, {one.parameter: one.work for one in place.owned})),
        (place.guests, _guest_bytes(planned, place, unit)),
    )
    for area, least in needs:
        if area.bytes < least:
            yield Fault("E1206", f"place {place.number}: {area.name} have {area.bytes} bytes, the largest shard of a replica needs {least}")
        if area.at % LINE_BYTES:
            yield Fault("E1206", f"place {place.number}: {area.name} begin at byte {area.at}, which is no multiple of {LINE_BYTES}")
        if area.end > place.arena_bytes:
            yield Fault("E1206", f"place {place.number}: {area.name} end at byte {area.end} of an arena of {place.arena_bytes}")


def _guest_bytes(planned: Planned, place: Place, unit: int) -> int:
    """The sums of a chunk that a replica keeps for an absent one, at most."""
    width = Cohort(planned.dp).most_hosted
    if not width:
        return 0
    most = 0
    for chunk in range(len(place.stages)):
        count = Counter(use.parameter for number, use in place.uses() if number == chunk)
        whole = {number: times * line_bytes(planned.parameters[number].kind.elements, unit) for number, times in count.items()}
        owners = {planned.parameters[number].owner for number in count}
        sharings = [planned.places[owner].sharing(planned.dp, unit) for owner in owners if owner < planned.pp]
        most = max(most, sum(sharing.most(count, whole, width) for sharing in sharings))
    return most * most_roots(planned.groups, planned.dp)


def _turns(channels: Sequence[Channel]) -> frozenset[str]:
    """The outboxes of chains that have one slot: they may share memory, for lifetimes.py sees that only one holds a message."""
    return frozenset(f"outbox of {c.name}" for c in channels if c.chain is not None and c.outbox_slots == 1)


def _overlaps(place: Place, areas: list[Area], turns: frozenset[str]) -> Iterator[Fault]:
    """A sweep over the arena; areas of two different chains are never in use at once. turns: nor are these"""
    spots = sorted([(at, at + size, name, chain) for name, at, size, chain in areas if size], key=itemgetter(0, 1, 2))
    tops = list(accumulate(map(itemgetter(1), spots), max))
    apart = [*map(le, tops, map(itemgetter(0), spots[1:])), False]
    inside = bool(spots) and spots[0][0] >= 0 and tops[-1] <= place.arena_bytes
    active: list[tuple[int, int, str, str | None]] = []
    top = 0
    for spot in spots[apart.index(False) if inside else 0 :]:  # those before the first overlap are done with
        at, end, name, chain = spot
        if at < 0 or end > place.arena_bytes:
            yield Fault("E1206", f"place {place.number}: {name} ends at byte {end} of an arena of {place.arena_bytes}")
        active = [] if at >= top else [other for other in active if other[1] > at]
        for _, others_end, other, others in active:
            if (others is None or chain is None or others == chain) and not (other in turns and name in turns):
                text = f"{name} at {at} overlaps {other}, which ends at {others_end}"
                yield Fault("E1206", f"place {place.number}: {text}")
        active.append(spot)
        if end > top:
            top = end
