"""Give every tensor of a training program its address, and every rank its rows.

    Lowered  ->  Plan: rows with addresses, parameters with accumulators and states, the size of the arena

The arena holds, in this order: the step record, inputs and scalars of a microbatch, parameters, optimizer states, gradient
accumulators, then one region that the train, evaluate and sample chains lay out each for itself, buffers whose lives do not
overlap sharing bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlc.diagnostics import InternalError
from mlc.ir.program import Chain, Program
from mlc.ir.types import TensorType
from mlc.lower.layout import aligned, lay_out
from mlc.lower.program import Lowered
from mlc.lower.scratch import scratch_bytes
from mlc.plan.backward import add_backward_rows
from mlc.plan.forward import ChainRows, forward_rows, weight_row
from mlc.plan.memory import Memory
from mlc.plan.parameters import place_parameters
from mlc.plan.placed import PlacedChain, PlacedRow, Plan
from mlc.plan.timeline import Place, Slot, Timeline


def plan(lowered: Lowered, microbatches: int | None = None, groups: int | None = None) -> Plan:
    """Plan a program of one rank.

    microbatches, groups: M and G; the recipe's when not given
    """
    program = lowered.step.program
    microbatches = microbatches or program.recipe.microbatches
    groups = groups or program.recipe.groups or math.gcd(microbatches, 8)
    memory = Memory(lowered, groups)
    train = forward_rows(lowered, memory, program.train, True)
    add_backward_rows(lowered, memory, train)
    others = [forward_rows(lowered, memory, chain, False) for chain in (program.evaluate, program.sample) if chain is not None]
    parameters = place_parameters(lowered, memory)
    weights = [weight_row(lowered, memory, rows.chain) for rows in (train, *others)]
    layouts = [_laid_out(rows.timeline, memory.bytes) for rows in (train, *others)]
    chains = [
        _placed_chain(program, rows, addresses, *weight)
        for rows, (addresses, _), weight in zip((train, *others), layouts, weights, strict=True)
    ]
    return Plan(
        lowered=lowered,
        arena_bytes=max(end for _, end in layouts),
        scratch_bytes_per_thread=aligned(max((scratch_bytes(r) for r in lowered.routines), default=0)),
        record=memory.record,
        seed=memory.seed,
        parameters=parameters,
        inputs=tuple(memory.inputs.values()),
        train=chains[0],
        backward=_placed_rows(train.timeline, layouts[0][0])[train.forward_rows :],
        evaluate=chains[1],
        sample=chains[2] if len(chains) > 2 else None,
        microbatches=microbatches,
        groups=groups,
        levels=memory.levels,
    )


def _laid_out(timeline: Timeline, base: int) -> tuple[dict[str, int], int]:
    """Addresses of the buffers of a timeline that some row is given, from `base`, and the end of all."""
    offsets, size = lay_out({k: s for k, s in timeline.sizes.items() if k in timeline.lives}, timeline.lives)
    return {key: base + offset for key, offset in offsets.items()}, base + size


def _placed_rows(timeline: Timeline, addresses: Mapping[str, int]) -> tuple[PlacedRow, ...]:
    def address(place: Place) -> int:
        return addresses[place.key] if isinstance(place, Slot) else place

    return tuple(PlacedRow(r.routine, tuple(address(p) for p in r.places), r.path, r.name) for r in timeline.rows)


def _placed_chain(program: Program, rows: ChainRows, addresses: Mapping[str, int], weight: PlacedRow | None, weight_at: int) -> PlacedChain:
    def state(name: str) -> int:
        return addresses[f"state.{name}"]

    chain = rows.chain
    return PlacedChain(
        rows=_placed_rows(rows.timeline, addresses)[: rows.forward_rows],
        loss=None if chain.loss is None else state(chain.loss),
        losses=tuple(rows.losses),
        metrics=(*rows.metrics, *((name, state(s)) for name, s in chain.metrics)),
        weight=weight,
        weight_at=weight_at,
        logits=None if chain.logits is None else (_state_type(program, chain, chain.logits), state(chain.logits)),
    )


def _state_type(program: Program, chain: Chain, name: str) -> TensorType:
    for call in chain.calls:
        if name in call.results:
            return program.units[call.unit].function.results[call.results.index(name)].type
    raise InternalError(f"plan: no call makes state {name}")
