"""Give every tensor of a training program its address, and every rank its rows.

    Lowered  ->  Plan: rows with addresses, parameters with accumulators and states, the size of the arena

The arena holds, in this order: the step record, inputs and scalars of a microbatch, parameters, optimizer states, gradient
accumulators, then one region that the train, evaluate and sample chains lay out each for itself, buffers whose lives do not
overlap sharing bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlc.diagnostics import InternalError
from mlc.ir.program import Call, Chain, Parameter, Program, Unit, Variant
from mlc.ir.types import TensorType
from mlc.lower.program import Lowered, scratch_bytes
from mlc.lower.routine import ALIGNMENT, Routine, lay_out
from mlc.plan.timeline import Place, Slot, Timeline

#: Bytes of mlc_record before its scalars.
RECORD_HEAD_BYTES = 64

SCALAR = TensorType("f32")


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row with addresses."""

    routine: Routine
    at: tuple[int, ...]
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class PlacedParameter:
    """A parameter with its addresses. `copy` None: the forward pass reads the master. accumulators[use][level]."""

    parameter: Parameter
    master: int
    copy: int | None
    accumulators: tuple[tuple[int, ...], ...]
    states: tuple[tuple[str, TensorType, int], ...]
    init: PlacedRow
    update: PlacedRow | None


@dataclass(frozen=True, slots=True)
class PlacedChain:
    """A chain with addresses; `losses` are add_loss effects, `metrics` reports and metrics, each (name, address)."""

    rows: tuple[PlacedRow, ...]
    loss: int | None
    losses: tuple[tuple[str, int], ...]
    metrics: tuple[tuple[str, int], ...]
    weight: PlacedRow | None
    weight_at: int
    logits: tuple[TensorType, int] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before a program runs. Addresses are bytes from the start of the rank's arena."""

    lowered: Lowered
    arena_bytes: int
    scratch_bytes_per_thread: int
    record: int
    seed: int
    parameters: tuple[PlacedParameter, ...]
    inputs: tuple[int, ...]
    train: PlacedChain
    backward: tuple[PlacedRow, ...]
    evaluate: PlacedChain
    sample: PlacedChain | None
    microbatches: int
    groups: int
    levels: int

    @property
    def program(self) -> Program:
        return self.lowered.step.program


class _Arena:
    """Hands out addresses that live for the whole run."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int) -> int:
        at = self.bytes
        self.bytes += -(-size // ALIGNMENT) * ALIGNMENT
        return at


class _Planner:
    def __init__(self, lowered: Lowered, microbatches: int, groups: int):
        self.lowered = lowered
        self.program = lowered.step.program
        self.variants = lowered.step.variants
        self.microbatches = microbatches
        self.groups = groups
        self.levels = 1 + max(g.bit_count() for g in range(groups))
        self.arena = _Arena()
        scalars = ["step", "steps", *(s.name for s in self.program.scalars)]
        self.record = self.arena.take(RECORD_HEAD_BYTES + 4 * len(scalars))
        self.scalars = {name: self.record + RECORD_HEAD_BYTES + 4 * n for n, name in enumerate(scalars)}
        self.seed = self.arena.take(4)
        self.inputs = {i.name: self.arena.take(i.type.bytes) for i in self.program.inputs}
        self.masters = {p.name: self.arena.take(4 * p.type.size) for p in self.program.parameters}
        self.copies = {p.name: self.arena.take(p.type.bytes) for p in self.program.parameters if p.type.dtype != "f32"}
        self.uses: dict[str, list[tuple[int, ...]]] = {p.name: [] for p in self.program.parameters}
        self.kinds = {p.name: p for p in self.program.parameters}

    def use(self, parameter: str) -> int:
        """An accumulator for one more use of a parameter; returns the address of its level 0."""
        size = 4 * self.kinds[parameter].type.size
        self.uses[parameter].append(tuple(self.arena.take(size) for _ in range(self.levels)))
        return self.uses[parameter][-1][0]

    # Chains.

    def argument(self, timeline: Timeline, unit: Unit, call: Call, slot: int) -> Place:
        role, name = unit.roles[slot], call.arguments[slot]
        match role:
            case "param":
                return self.copies.get(name, self.masters[name])
            case "input":
                return self.inputs[name]
            case "record":
                return self.scalars[name]
        return timeline.slot(f"state.{name}", unit.function.parameters[slot].type)

    def forward(self, timeline: Timeline, number: int, call: Call, effects: dict[int, Place]) -> dict[str, Place]:
        """Append the forward row of a call; returns where its values lie, by name."""
        unit, routine, variant = self.program.units[call.unit], self.lowered.forward[call.unit], self.variants[call.unit]
        places = {p.name: self.argument(timeline, unit, call, n) for n, p in enumerate(unit.function.parameters)}
        results = variant.forward.results if variant else unit.function.results
        for n, result in enumerate(results):
            if n < unit.outputs:
                places[result.name] = timeline.slot(f"state.{call.results[n]}", result.type)
            elif n < unit.outputs + len(unit.effects):
                places[result.name] = effects[n - unit.outputs]
            else:
                places[result.name] = timeline.slot(f"{number}.{result.name}", result.type)
        timeline.add(routine, [places[b] for b in routine.binds], call.path, f"{call.path or unit.name} forward")
        return places

    def effects(
        self, timeline: Timeline, number: int, call: Call, train: bool, found: dict[str, list[tuple[str, int]]]
    ) -> dict[int, Place]:
        unit = self.program.units[call.unit]
        out: dict[int, Place] = {}
        for n, (effect, name) in enumerate(zip(unit.effects, call.effects, strict=True)):
            value = unit.function.results[unit.outputs + n]
            if effect.kind == "accumulate":
                out[n] = self.use(name) if train else timeline.slot(f"{number}.effect.{n}", value.type)
                continue
            at = self.arena.take(4)
            out[n] = at
            found["losses" if effect.kind == "add_loss" else "metrics"].append((name, at))
        return out

    def chain(self, timeline: Timeline, chain: Chain, train: bool) -> tuple[dict, list[dict[str, Place]]]:
        """Append the forward rows of a chain; returns what leaves it, and the places of each call's values."""
        found: dict[str, list[tuple[str, int]]] = {"losses": [], "metrics": []}
        places = []
        for number, call in enumerate(chain.calls):
            places.append(self.forward(timeline, number, call, self.effects(timeline, number, call, train, found)))
        end = len(timeline.rows)
        for name in (chain.loss, chain.logits, *(state for _, state in chain.metrics)):
            if name is not None:
                first, _ = timeline.lives[f"state.{name}"]
                timeline.lives[f"state.{name}"] = (first, end)
        return found, places

    def placed(self, timeline: Timeline, base: int, offsets: dict[str, int]) -> list[PlacedRow]:
        def address(place: Place) -> int:
            return base + offsets[place.key] if isinstance(place, Slot) else place

        return [PlacedRow(r.routine, tuple(address(p) for p in r.places), r.path, r.name) for r in timeline.rows]

    def weight(self, chain: Chain) -> tuple[PlacedRow | None, int]:
        at = self.arena.take(4)
        if chain.weight is None:
            return None, at
        number, arguments = chain.weight
        unit, routine = self.program.units[number], self.lowered.forward[number]
        call = Call(number, "", arguments, (), ())
        places = [self.argument(Timeline(), unit, call, n) for n in range(len(arguments))]
        work = [self.arena.take(routine.work_bytes)] if routine.work_bytes else []
        return PlacedRow(routine, (*places, at, *work), "", "weight"), at

    # The backward half of a step.

    def backward(self, timeline: Timeline, chain: Chain, places: list[dict[str, Place]]) -> None:
        uses = [self.param_uses(call) for call in chain.calls]
        written: set[str] = set()
        for number in reversed(range(len(chain.calls))):
            variant = self.variants[chain.calls[number].unit]
            if variant is not None:
                self._gradients(timeline, chain, number, variant, {**places[number], **uses[number]}, written)

    def param_uses(self, call: Call) -> dict[str, Place]:
        """An accumulator for each parameter gradient a call makes, by the name of the result."""
        variant, unit = self.variants[call.unit], self.program.units[call.unit]
        if variant is None:
            return {}
        slots = {p.name: n for n, p in enumerate(unit.function.parameters)}
        return {result: self.use(call.arguments[slots[p]]) for p, result, _ in variant.d_params}

    def _gradients(
        self, timeline: Timeline, chain: Chain, number: int, variant: Variant, places: dict[str, Place], written: set[str]
    ) -> None:
        call = chain.calls[number]
        unit = self.program.units[call.unit]
        for n, cotangent in enumerate(variant.d_results):
            if cotangent is not None:
                places[cotangent] = self._cotangent(timeline, chain, call, unit, n, written)
        sums = self._state_gradients(timeline, number, call, unit, variant, places, written)
        kept = {r.name: r for r in variant.input_gradient.results}
        for name in variant.pending:
            if name in self.lowered.kept[call.unit]:
                places[name] = places[self.lowered.kept[call.unit][name]]
                continue
            over = self._over(call.unit, variant, name)
            places[name] = places[over] if over else timeline.slot(f"{number}.pending.{name}", kept[name].type)
        label = call.path or unit.name
        for routine, which in (
            (self.lowered.input_gradient[call.unit], "input gradient"),
            (self.lowered.weight_gradient[call.unit], "weight gradient"),
        ):
            if routine is not None:
                timeline.add(routine, [places[b] for b in routine.binds], call.path, f"{label} {which}")
            if which == "input gradient":
                for total, part, kind in sums:
                    routine = self.lowered.adds[kind.dtype, kind.size]
                    timeline.add(routine, [total, part, total], call.path, f"{label} sum of gradients")

    def _over(self, unit: int, variant: Variant, pending: str) -> str | None:
        """The saved value a pending one may be written over: it is read for the last time as this one is made."""
        routine = self.lowered.input_gradient[unit]
        over = dict(routine.in_place).get(pending) if routine else None
        later = {p.name for p in variant.weight_gradient.parameters}
        return over if over in variant.saved and over not in later else None

    def _cotangent(self, timeline: Timeline, chain: Chain, call: Call, unit: Unit, n: int, written: set[str]) -> Place:
        if n >= unit.outputs or call.results[n] == chain.loss:
            return self.seed
        state, kind = call.results[n], unit.function.results[n].type
        slot = timeline.slot(f"gradient.{state}", kind)
        if state not in written:
            timeline.add(self.lowered.zeros[kind.dtype, kind.size], [slot], call.path, f"{call.path or unit.name} zero")
        return slot

    def _state_gradients(
        self, timeline: Timeline, number: int, call: Call, unit: Unit, variant: Variant, places: dict[str, Place], written: set[str]
    ) -> list[tuple[Place, Place, TensorType]]:
        """Places of the gradients of the states a call reads; what must be added afterwards as (total, part, type)."""
        sums: list[tuple[Place, Place, TensorType]] = []
        slots = {p.name: n for n, p in enumerate(unit.function.parameters)}
        for parameter, result in variant.d_states:
            state, kind = call.arguments[slots[parameter]], unit.function.parameters[slots[parameter]].type
            total = timeline.slot(f"gradient.{state}", kind)
            if state not in written:
                written.add(state)
                places[result] = total
                continue
            places[result] = timeline.slot(f"{number}.part.{result}", kind)
            sums.append((total, places[result], kind))
        return sums

    # Parameters.

    def parameter(self, number: int, parameter: Parameter) -> PlacedParameter:
        master = self.masters[parameter.name]
        init = self._init(number, parameter, master)
        used = bool(self.uses[parameter.name])
        states: tuple[tuple[str, TensorType, int], ...] = ()
        update = None
        if parameter.update is not None and used:
            rule = self.program.updates[parameter.update]
            kinds = [(name, parameter.type if rule.elementwise else kind) for name, kind in rule.states]
            states = tuple((name, TensorType("f32", k.dims), self.arena.take(4 * k.size)) for name, k in kinds)
            update = self._update(parameter, master, states)
        return PlacedParameter(
            parameter, master, self.copies.get(parameter.name), tuple(self.uses[parameter.name]), states, init, update
        )  # fmt: skip

    def _init(self, number: int, parameter: Parameter, master: int) -> PlacedRow:
        routine = self.lowered.inits[number]
        work = (self.arena.take(routine.work_bytes),) if routine.work_bytes else ()
        return PlacedRow(routine, (master, *work), parameter.name, f"{parameter.name} init")

    def _update(self, parameter: Parameter, master: int, states: tuple[tuple[str, TensorType, int], ...]) -> PlacedRow:
        assert parameter.update is not None
        rule, routine = self.program.updates[parameter.update], self.lowered.updates[parameter.update]
        inputs = [master, self.uses[parameter.name][0][0], *(at for _, _, at in states)]
        scalars = [self.scalars[name] for name in rule.scalars]
        if routine.name in self.lowered.flat:
            results = [master, *(at for _, _, at in states)]
        else:
            results = [self.arena.take(4 * parameter.type.size), *(self.arena.take(4 * k.size) for _, k, _ in states)]
        work = [self.arena.take(routine.work_bytes)] if routine.work_bytes else []
        return PlacedRow(routine, (*inputs, *results, *scalars, *work), parameter.name, f"{parameter.name} update")


def plan(lowered: Lowered, microbatches: int | None = None, groups: int | None = None) -> Plan:
    """Plan a program of one rank.

    microbatches, groups: M and G; the recipe's when not given
    """
    recipe = lowered.step.program.recipe
    m = microbatches or recipe.microbatches
    g = groups or recipe.groups or math.gcd(m, 8)
    planner = _Planner(lowered, m, g)
    program = planner.program
    chains: list[tuple[Timeline, Chain, dict, int]] = []
    for chain, train in ((program.train, True), (program.evaluate, False), (program.sample, False)):
        if chain is None:
            continue
        timeline = Timeline()
        found, places = planner.chain(timeline, chain, train)
        split = len(timeline.rows)
        if train:
            planner.backward(timeline, chain, places)
            found["forward_rows"] = split
        chains.append((timeline, chain, found, split))
    parameters = tuple(planner.parameter(n, p) for n, p in enumerate(program.parameters))
    weights = [planner.weight(chain) for _, chain, _, _ in chains]
    base = planner.arena.bytes
    placed_chains = []
    backward: tuple[PlacedRow, ...] = ()
    region = 0
    for (timeline, chain, found, split), (weight, weight_at) in zip(chains, weights, strict=True):
        offsets, size = lay_out({k: s for k, s in timeline.sizes.items() if k in timeline.lives}, timeline.lives)
        region = max(region, size)
        rows = planner.placed(timeline, base, offsets)
        backward = tuple(rows[split:]) or backward
        placed_chains.append(_placed_chain(chain, found, rows[:split], base, offsets, weight, weight_at, program))
    scratch = max((scratch_bytes(r) for r in lowered.routines), default=0)
    return Plan(
        lowered=lowered, arena_bytes=base + region, scratch_bytes_per_thread=-(-scratch // ALIGNMENT) * ALIGNMENT, record=planner.record,
        seed=planner.seed, parameters=parameters, inputs=tuple(planner.inputs.values()), train=placed_chains[0], backward=backward,
        evaluate=placed_chains[1], sample=placed_chains[2] if len(placed_chains) > 2 else None, microbatches=m, groups=g,
        levels=planner.levels,
    )  # fmt: skip


def _placed_chain(
    chain: Chain,
    found: dict,
    rows: list[PlacedRow],
    base: int,
    offsets: dict[str, int],
    weight: PlacedRow | None,
    weight_at: int,
    program: Program,
) -> PlacedChain:
    def state(name: str) -> int:
        return base + offsets[f"state.{name}"]

    metrics = [*found["metrics"], *((name, state(s)) for name, s in chain.metrics)]
    logits = None
    if chain.logits is not None:
        kind = _state_type(program, chain, chain.logits)
        logits = (kind, state(chain.logits))
    loss = None if chain.loss is None else state(chain.loss)
    return PlacedChain(tuple(rows), loss, tuple(found["losses"]), tuple(metrics), weight, weight_at, logits)


def _state_type(program: Program, chain: Chain, name: str) -> TensorType:
    for call in chain.calls:
        if name in call.results:
            return program.units[call.unit].function.results[call.results.index(name)].type
    raise InternalError(f"plan: no call makes state {name}")
