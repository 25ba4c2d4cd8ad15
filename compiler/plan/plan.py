"""Give every tensor of a training program its address, and every rank its rows and its lists.

    Lowered, Layout  ->  Planned

stages.py cuts each chain; forward.py, backward.py make the rows of a stage; regions.py says which buffers live between actions;
channels.py and lists.py turn schedules into lists with transfers; parameters.py says who owns and holds which parameter; place.py gives
addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlc.diagnostics import InternalError
from mlc.ir.dtypes import dtype_of
from mlc.lower.layout import aligned
from mlc.lower.program import Lowered
from mlc.lower.scratch import scratch_bytes
from mlc.mesh import Cohort
from mlc.parallel.planned import STRIP_ELEMENTS, STRIPS, Channel, Place, Planned, PlannedParameter, StageNote
from mlc.parallel.tree import most_roots, tree_levels
from mlc.plan.chains import PlannedChain, plan_chain
from mlc.plan.channels import segment_channel, tree_channel
from mlc.plan.endings import chain_endings
from mlc.plan.layout import Layout
from mlc.plan.parameters import held_parameters, place_sharings, plan_parameters, rounded_parameters
from mlc.plan.place import PlacePlanner, Sketch, place_inboxes
from mlc.plan.routines import Routines, called_routines
from mlc.plan.stages import staged_chains
from mlc.plan.sweeps import plan_sweeps
from mlc.plan.uses import Use, parameter_uses


def plan(lowered: Lowered, layout: Layout) -> Planned:
    """Plan a program for all ranks of a layout."""
    _check(lowered, layout)
    staged = staged_chains(lowered, layout)
    uses = parameter_uses(lowered.step)
    parameters = plan_parameters(lowered, layout, staged, uses)
    held = held_parameters(lowered, layout, staged, parameters)
    rounded = rounded_parameters(lowered, layout, held)
    endings = {chain.kind: chain_endings(chain.kind, layout, parameters, held) for chain in staged}
    chains = tuple(plan_chain(lowered, layout, chain, uses, rounded, endings[chain.kind]) for chain in staged)
    program = lowered.step.program
    sketch = Sketch(
        lowered=lowered,
        layout=layout,
        chains=chains,
        uses=_by_call(uses),
        numbers={parameter.name: number for number, parameter in enumerate(program.parameters)},
        parameters=parameters,
        held=held,
        rounded=rounded,
        sharings=place_sharings(lowered, layout, parameters),
        levels=tree_levels(layout.groups, layout.dp),
        scalars=("step", "steps", *(scalar.name for scalar in program.scalars)),
        routines=_routines(lowered, chains, parameters, held),
    )
    places, channels = _places(sketch)
    train = program.train.calls
    scratch = max((*map(scratch_bytes, lowered.routines), _strip_bytes(lowered, parameters)))
    return Planned(
        model=program.name,
        mesh=layout.mesh,
        schedule=layout.schedule.name,
        microbatches=layout.microbatches,
        groups=layout.groups,
        scratch_bytes_per_thread=aligned(scratch + lowered.rules.scratch),
        flops=sum(row.routine.flops for rows in chains[0].rows for row in rows.rows if not row.again),
        recomputed_flops=sum(row.routine.flops for rows in chains[0].rows for row in rows.rows if row.again),
        stages=layout.schedule.placement,
        calls=tuple(tuple(train[n].path or program.units[train[n].unit].name for n in numbers) for numbers in layout.cuts),
        recompute=tuple(tuple(layout.choices[n] for n in numbers) for numbers in layout.cuts),
        notes=layout.notes or tuple(StageNote({}, "") for _ in layout.cuts),
        parameters=parameters,
        scalars=sketch.scalars,
        routines=sketch.routines.signatures,
        columns={chain.staged.kind: chain.columns for chain in chains},
        sweeps=plan_sweeps(lowered, layout, parameters),
        channels={channel.name: channel for channel in channels},
        places=places,
        rounds={chain.staged.kind: chain.table.schedule.microbatches for chain in chains},
        undecoded=program.undecoded,
    )


def _routines(
    lowered: Lowered, chains: Sequence[PlannedChain], parameters: Sequence[PlannedParameter], held: Sequence[Sequence[int]]
) -> Routines:
    """The routines that some row of some place calls."""
    called = [row.routine for chain in chains for rows in chain.rows for row in rows.rows]
    called += [lowered.inits[number] for numbers in held for number in numbers]
    called += [lowered.updates[number] for number in {p.kind.update for p in parameters} if number is not None]
    return called_routines(lowered, called)


def _by_call(uses: Sequence[Use]) -> dict[int, list[Use]]:
    found: dict[int, list[Use]] = {}
    for use in uses:
        found.setdefault(use.call, []).append(use)
    return found


def _check(lowered: Lowered, layout: Layout) -> None:
    """The parts of a layout fit each other, and it holds every call once."""
    calls = [number for cut in layout.cuts for number in cut]
    shape = (layout.schedule.ranks, layout.schedule.chunks, layout.schedule.microbatches * layout.dp, layout.schedule.stages)
    if shape != (layout.pp, layout.chunks, layout.microbatches, layout.stages):
        raise InternalError(f"plan: schedule {shape} is not of the layout")
    if len(layout.choices) != len(calls):
        raise InternalError(f"plan: {len(layout.choices)} choices for {len(calls)} calls")
    if calls != list(range(len(lowered.step.program.train.calls))) or layout.microbatches % layout.groups or layout.groups % layout.dp:
        raise InternalError(f"plan: {layout.groups} groups and stages of calls {calls} are not of the program")


def _strip_bytes(lowered: Lowered, parameters: Sequence[PlannedParameter]) -> int:
    """Scratch of a thread for elements of parameters in canonical order, where some lie otherwise."""
    arranged = any(parameter.kind.arranged is not None for parameter in parameters)
    return STRIPS * STRIP_ELEMENTS * dtype_of(lowered.step.program.wide).bytes if arranged else 0


def _places(sketch: Sketch) -> tuple[tuple[Place, ...], tuple[Channel, ...]]:
    """Every place, and the channels with all addresses."""
    channels, inboxes = place_inboxes(_channels(sketch), sketch.layout)
    places: list[Place] = []
    outboxes: dict[str, int] = {}
    own: list[list[Channel]] = [[] for _ in inboxes]
    for channel in channels:
        for number in {channel.source, channel.target} - {-1}:
            own[number].append(channel)
    for number, inbox_bytes in enumerate(inboxes):
        planner = PlacePlanner(sketch, number, own[number], inbox_bytes)
        places.append(planner.run())
        outboxes.update((c.name, c.outbox) for c in planner.channels.values() if c.source == number)
    return tuple(places), tuple(replace(c, outbox=outboxes.get(c.name, c.outbox)) for c in channels)


def _channels(sketch: Sketch) -> list[Channel]:
    """All channels without addresses, in the order of the table: chains, gradients and values between places and replicas, the tree."""
    layout = sketch.layout
    channels = [channel for chain in sketch.chains for channel in chain.boxes.channels]
    for name, kind, sizes in (("share", "reduction", _shared(sketch)), ("spread", "parameter", _spread(sketch))):
        for (source, target), size in sorted(sizes.items()):
            channels.append(segment_channel(f"{name}.{source}.{target}", kind, source, target, size))
    for place, size in sorted(_exchanged(sketch).items()):
        channels.append(segment_channel(f"replicas.{place}", "replicas", place, place, size, Cohort(layout.dp).blocks))
    return [*channels, tree_channel()] if layout.mesh.ranks > 1 else channels


def _used(sketch: Sketch) -> list[tuple[int, int]]:
    """(parameter, place) of every use."""
    placement = sketch.layout.schedule.placement
    return [(number, placement[stage]) for number, parameter in enumerate(sketch.parameters) for stage, _ in parameter.uses]


def _exchanged(sketch: Sketch) -> dict[int, int]:
    """Per place that has something for other replicas, a bound for the bytes of a message: all sums that there are of its gradients."""
    if sketch.layout.dp == 1:
        return {}
    sizes: dict[int, int] = {}
    most = most_roots(sketch.layout.groups, sketch.layout.dp)
    elements = [p.type.size for p in sketch.lowered.step.program.parameters]
    unit = dtype_of(sketch.lowered.step.program.wide).bytes
    for number, place in _used(sketch):
        sizes[place] = sizes.get(place, 0) + most * aligned(unit * elements[number])
    for place, number in _moved(sketch):
        sizes.setdefault(place, aligned(unit * elements[number]))
    return sizes


def _moved(sketch: Sketch) -> list[tuple[int, int]]:
    """(place, parameter) for every place that holds a parameter which changes."""
    held = [(place, number) for place, numbers in enumerate(sketch.held) for number in numbers]
    return [(place, number) for place, number in held if sketch.parameters[number].kind.update is not None]


def _shared(sketch: Sketch) -> dict[tuple[int, int], int]:
    """(place, owner) -> the most bytes of gradients that a replica sends to the owner."""
    found: dict[tuple[int, int], int] = {}
    unit = dtype_of(sketch.lowered.step.program.wide).bytes
    for number, place in _used(sketch):
        owner = sketch.parameters[number].owner
        if owner != place:
            found[place, owner] = found.get((place, owner), 0) + _share_bytes(sketch, number, unit)
    return found


def _spread(sketch: Sketch) -> dict[tuple[int, int], int]:
    """(owner, place) -> the most bytes of values that a replica of the owner sends."""
    found: dict[tuple[int, int], int] = {}
    for place, number in _moved(sketch):
        owner = sketch.parameters[number].owner
        if owner != place:
            found[owner, place] = found.get((owner, place), 0) + _share_bytes(sketch, number, _value_bytes(sketch, number))
    return found


def _share_bytes(sketch: Sketch, number: int, each: int) -> int:
    """A bound for what a replica has of a parameter, of elements of so many bytes."""
    sharing = sketch.sharings[sketch.parameters[number].owner]
    most = sharing.most({number: 1}, {number: sharing.unit * sketch.lowered.step.program.parameters[number].type.size})
    return most * each // sharing.unit


def _value_bytes(sketch: Sketch, number: int) -> int:
    """Bytes of an element as it is sent after an update: of the copy that rows read, else of the master."""
    kind = sketch.lowered.step.program.parameters[number].type
    return kind.bytes // kind.size
