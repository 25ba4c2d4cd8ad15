"""Give every tensor of a training program its address, and every rank its rows and its lists.

    Lowered, Layout  ->  Plan

stages.py cuts each chain; forward.py, backward.py make the rows of a stage; regions.py says which buffers live between actions;
channels.py and lists.py turn schedules into lists with transfers; parameters.py and shards.py share parameters out; place.py gives
addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlc.diagnostics import InternalError
from mlc.lower.layout import aligned
from mlc.lower.program import Lowered
from mlc.lower.scratch import scratch_bytes
from mlc.parallel.planned import Channel
from mlc.plan.chains import plan_chain
from mlc.plan.channels import segment_channel, tree_channel
from mlc.plan.layout import Layout
from mlc.plan.parameters import held_parameters, piece_sizes, place_shares, plan_parameters
from mlc.plan.place import FLOAT_BYTES, PlacePlanner, Sketch, place_inboxes
from mlc.plan.placed import Place, Plan
from mlc.plan.shards import roots, tree_levels
from mlc.plan.stages import staged_chains
from mlc.plan.uses import parameter_uses


def plan(lowered: Lowered, layout: Layout) -> Plan:
    """Plan a program for all ranks of a layout."""
    _check(lowered, layout)
    staged = staged_chains(lowered.step, layout)
    uses = parameter_uses(lowered.step)
    chains = tuple(plan_chain(lowered, layout, chain, uses) for chain in staged)
    parameters = plan_parameters(lowered, layout, staged, uses)
    shares = place_shares(lowered, layout, parameters)
    sketch = Sketch(
        lowered=lowered,
        layout=layout,
        chains=chains,
        uses=uses,
        parameters=parameters,
        held=held_parameters(lowered, layout, staged, parameters),
        shares=shares,
        pieces=piece_sizes(parameters, shares),
        levels=tree_levels(layout.groups, layout.dp),
    )
    places, channels = _places(sketch)
    train = lowered.step.program.train.calls
    units = lowered.step.program.units
    return Plan(
        lowered=lowered,
        layout=layout,
        scratch_bytes_per_thread=aligned(max((scratch_bytes(r) for r in lowered.routines), default=0)),
        calls=tuple(tuple(train[n].path or units[train[n].unit].name for n in numbers) for numbers in layout.cuts),
        parameters=parameters,
        columns={chain.staged.kind: chain.columns for chain in chains},
        channels=channels,
        places=places,
        levels=sketch.levels,
        rounds={chain.staged.kind: chain.table.schedule.microbatches for chain in chains},
        flops=sum(row.routine.flops for rows in chains[0].rows for row in rows.rows),
    )


def _check(lowered: Lowered, layout: Layout) -> None:
    """The parts of a layout fit each other, and it holds every call once."""
    calls = [number for cut in layout.cuts for number in cut]
    shape = (layout.schedule.ranks, layout.schedule.chunks, layout.schedule.microbatches * layout.dp, layout.schedule.stages)
    if shape != (layout.pp, layout.chunks, layout.microbatches, layout.stages):
        raise InternalError(f"plan: schedule {shape} is not of the layout")
    if calls != list(range(len(lowered.step.program.train.calls))) or layout.microbatches % layout.groups or layout.groups % layout.dp:
        raise InternalError(f"plan: {layout.groups} groups and stages of calls {calls} are not of the program")


def _places(sketch: Sketch) -> tuple[tuple[Place, ...], tuple[Channel, ...]]:
    """Every place, and the channels with all addresses."""
    channels, inboxes = place_inboxes(_channels(sketch), sketch.layout)
    places: list[Place] = []
    outboxes: dict[str, int] = {}
    for number, inbox_bytes in enumerate(inboxes):
        planner = PlacePlanner(sketch, number, channels, inbox_bytes)
        places.append(planner.run())
        outboxes.update((c.name, c.outbox) for c in planner.channels.values() if c.source == number)
    return tuple(places), tuple(replace(c, outbox=outboxes.get(c.name, c.outbox)) for c in channels)


def _channels(sketch: Sketch) -> list[Channel]:
    """All channels without addresses, in the order of the table: chains, gradients, values, the tree."""
    layout = sketch.layout
    channels = [channel for chain in sketch.chains for channel in chain.channels]
    for name, kind, sizes in (("reduce", "reduction", _reduced(sketch)), ("share", "reduction", _shared(sketch)), *_spread(sketch)):
        for (source, target), size in sorted(sizes.items()):
            if size:
                ends = f"{name}.{source}" if source == target else f"{name}.{source}.{target}"
                channels.append(segment_channel(ends, kind, source, target, size))
    return [*channels, tree_channel()] if layout.pp * layout.dp > 1 else channels


def _used(sketch: Sketch) -> list[tuple[int, int]]:
    """(parameter, stage) of every use."""
    return [(number, stage) for number, parameter in enumerate(sketch.parameters) for stage, _ in parameter.uses]


def _reduced(sketch: Sketch) -> dict[tuple[int, int], int]:
    """Per place, the most bytes of gradients of a chunk that one replica sends another."""
    layout = sketch.layout
    if layout.dp == 1:
        return {}
    most = max(roots(replica, layout.groups, layout.dp) for replica in range(layout.dp))
    totals = [[0] * layout.dp for _ in range(layout.stages)]
    for number, stage in _used(sketch):
        for replica, elements in enumerate(sketch.pieces[number]):
            totals[stage][replica] += most * aligned(FLOAT_BYTES * elements)
    sizes: dict[tuple[int, int], int] = {}
    for stage, place in enumerate(layout.schedule.placement):
        sizes[place, place] = max(sizes.get((place, place), 0), *totals[stage])
    return sizes


def _shared(sketch: Sketch) -> dict[tuple[int, int], int]:
    """Per pair of places, the most bytes of gradients that a replica sends to the owner."""
    return _most(sketch, [(sketch.layout.schedule.placement[stage], number) for number, stage in _used(sketch)], True)


def _spread(sketch: Sketch) -> list[tuple[str, str, dict[tuple[int, int], int]]]:
    """The channels of new values: from the owner to other holders, and on each place between replicas."""
    held = [(place, number) for place, numbers in enumerate(sketch.held) for number in numbers]
    moved = [(place, number) for place, number in held if sketch.parameters[number].update is not None]
    spread = {(owner, holder): size for (holder, owner), size in _most(sketch, moved, False).items()}
    gathered: dict[tuple[int, int], list[int]] = {}
    for place, number in moved if sketch.layout.dp > 1 else []:
        totals = gathered.setdefault((place, place), [0] * sketch.layout.dp)
        for replica, elements in enumerate(sketch.pieces[number]):
            totals[replica] += elements * _value_bytes(sketch, number)
    return [("spread", "parameter", spread), ("gather", "parameter", {ends: max(totals) for ends, totals in gathered.items()})]


def _most(sketch: Sketch, pairs: Sequence[tuple[int, int]], gradients: bool) -> dict[tuple[int, int], int]:
    """(place, owner) -> the most bytes over replicas, of (place, parameter) pairs whose parameter another place owns."""
    totals: dict[tuple[int, int], list[int]] = {}
    for place, number in pairs:
        owner = sketch.parameters[number].owner
        if owner != place:
            found = totals.setdefault((place, owner), [0] * sketch.layout.dp)
            for replica, elements in enumerate(sketch.pieces[number]):
                found[replica] += elements * (FLOAT_BYTES if gradients else _value_bytes(sketch, number))
    return {ends: max(sizes) for ends, sizes in totals.items()}


def _value_bytes(sketch: Sketch, number: int) -> int:
    """Bytes of an element as it is sent after an update: of the copy that rows read, else of the master."""
    kind = sketch.lowered.step.program.parameters[number].type
    return kind.bytes // kind.size
