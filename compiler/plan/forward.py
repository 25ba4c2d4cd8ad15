"""The forward rows of a chain, and the row of a microbatch's weight."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlc.ir.program import Call, Chain
from mlc.lower.program import Lowered
from mlc.plan.memory import Memory
from mlc.plan.placed import PlacedRow
from mlc.plan.timeline import Place, Timeline


@dataclass(slots=True)
class ChainRows:
    """The rows of a chain in order, before its buffers have addresses.

    losses, metrics:  (name, address) of the effects
    places:           of each call's values, by name
    forward_rows:     rows of the timeline before the backward half
    """

    chain: Chain
    timeline: Timeline = field(default_factory=Timeline)
    losses: list[tuple[str, int]] = field(default_factory=list)
    metrics: list[tuple[str, int]] = field(default_factory=list)
    places: list[dict[str, Place]] = field(default_factory=list)
    forward_rows: int = 0


def forward_rows(lowered: Lowered, memory: Memory, chain: Chain, train: bool) -> ChainRows:
    """The forward rows of a chain; what leaves it lives to its end.

    train: accumulate effects are uses of their parameters; else nothing reads them
    """
    rows = ChainRows(chain)
    timeline = rows.timeline
    for number, call in enumerate(chain.calls):
        effects = _effects(lowered, memory, rows, number, train)
        rows.places.append(_forward(lowered, memory, timeline, number, call, effects))
    rows.forward_rows = len(timeline.rows)
    for name in (chain.loss, chain.logits, *(state for _, state in chain.metrics)):
        if name is not None:
            first, _ = timeline.lives[f"state.{name}"]
            timeline.lives[f"state.{name}"] = (first, rows.forward_rows)
    return rows


def _effects(lowered: Lowered, memory: Memory, rows: ChainRows, number: int, train: bool) -> list[Place]:
    """The places of a call's effects."""
    call = rows.chain.calls[number]
    unit = lowered.step.program.units[call.unit]
    places: list[Place] = []
    for n, (effect, name) in enumerate(zip(unit.effects, call.effects, strict=True)):
        if effect.kind == "accumulate":
            kind = unit.function.results[unit.outputs + n].type
            places.append(memory.use(name) if train else rows.timeline.slot(f"{number}.effect.{n}", kind))
            continue
        at = memory.take(4)
        places.append(at)
        found = rows.losses if effect.kind == "add_loss" else rows.metrics
        found.append((name, at))
    return places


def _forward(lowered: Lowered, memory: Memory, timeline: Timeline, number: int, call: Call, effects: list[Place]) -> dict[str, Place]:
    """Append the forward row of a call; returns where its values lie, by name."""
    step = lowered.step
    unit, routine, variant = step.program.units[call.unit], lowered.forward[call.unit], step.variants[call.unit]
    places = {p.name: memory.argument(timeline, unit, call, n) for n, p in enumerate(unit.function.parameters)}
    results = variant.forward.results if variant else unit.function.results
    for n, result in enumerate(results):
        if n < unit.outputs:
            places[result.name] = timeline.slot(f"state.{call.results[n]}", result.type)
        elif n < unit.outputs + len(effects):
            places[result.name] = effects[n - unit.outputs]
        else:
            places[result.name] = timeline.slot(f"{number}.{result.name}", result.type)
    timeline.add(routine, [places[b] for b in routine.binds], call.path, f"{call.path or unit.name} forward")
    return places


def weight_row(lowered: Lowered, memory: Memory, chain: Chain) -> tuple[PlacedRow | None, int]:
    """The row that makes the weight of a microbatch, None where it is 1; the address of the weight."""
    at = memory.take(4)
    if chain.weight is None:
        return None, at
    number, arguments = chain.weight
    unit, routine = lowered.step.program.units[number], lowered.forward[number]
    bound = [memory.bound(role, name) for role, name in zip(unit.roles, arguments, strict=True)]
    return PlacedRow(routine, (*bound, at, *memory.work(routine.work_bytes)), "", "weight"), at
