"""What each call of the train chain costs: seconds of its three parts, and the bytes a rank must hold for it.

    Lowered  ->  one CallCost per call

Bytes are kept by how they add up, for a stage is a range of calls and a rank holds several stages: parameters count once a
rank whoever uses them, gradient accumulators once a use, optimizer states once in the pipeline (at the call that uses the
parameter first), values that live from forward to backward once a stage for each microbatch in flight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.ir.program import CHOICES, Call, Parameter, Program, Unit, Variant
from mlc.ir.types import Value
from mlc.lower.arrangement import Stored, StoredParameter
from mlc.lower.program import Lowered
from mlc.lower.routine import Routine
from mlc.lower.rules import Machine
from mlc.mesh import Cohort
from mlc.parallel.roofline import routine_seconds


class ParameterUse(NamedTuple):
    """A parameter as one call needs it.

    value_bytes:        the master, and the copy in the dtype of the forward pass where that is narrower
    state_bytes:        optimizer state and what the update writes beside it; at the call of the first use only, else 0
    accumulator_bytes:  of this use, over all levels of the tree of groups; 0 where no gradient arrives
    """

    name: str
    value_bytes: int
    state_bytes: int
    accumulator_bytes: int


@frozen
class Kept:
    """A state or an input that the backward of a call reads, for one microbatch.

    to_weight: until the weight gradient of some call, else until the input gradient
    """

    name: str
    bytes: int
    to_weight: bool


@frozen
class CallCost:
    """One call of the chain, in numbers. Seconds and bytes are of one microbatch, on one core.

    unit, path:        the layer function and the call path, "block" and "h.3"
    choice:            what its backward pass makes again; again_seconds of the seconds of its gradients go into that
    saved_bytes:       values kept from forward to input gradient
    saved_w_bytes:     values kept from forward to weight gradient
    pending_bytes:     values from input gradient to weight gradient, made again or for the first time
    kept:              states and inputs that the backward reads
    work_bytes:        the largest work memory of its routines, with what is made again and goes no further
    fused_bytes:       pending values that take room of their own when the weight gradient follows at once
    guest_bytes:       sums of its gradients that a replica keeps for an absent one
    crossing_bytes:    states that a cut behind this call sends, skip connections included
    makes:             the names of the states it makes
    """

    unit: str
    path: str
    forward_seconds: float
    input_gradient_seconds: float
    weight_gradient_seconds: float
    parameters: tuple[ParameterUse, ...]
    saved_bytes: int
    saved_w_bytes: int
    pending_bytes: int
    kept: tuple[Kept, ...]
    work_bytes: int
    fused_bytes: int
    crossing_bytes: int
    makes: tuple[str, ...]
    choice: str = CHOICES[0]
    again_seconds: float = 0.0
    guest_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Forward, input gradient and weight gradient of one microbatch."""
        return self.forward_seconds + self.input_gradient_seconds + self.weight_gradient_seconds

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.path or self.unit


def call_costs(
    lowered: Lowered, levels: int = 1, replicas: int = 1, choice: str = CHOICES[0], copies: bool = True, roots: int = 1
) -> tuple[CallCost, ...]:
    """The cost of every call of the train chain, in order.

    levels:    accumulators a use: the group being folded and the group sums held beside it
    replicas:  dp: elementwise optimizer states are shared out among them
    choice:    what every call makes again, as far as it can
    copies:    whether copies of parameters in the dtype of the forward pass last
    roots:     sums of a gradient that a replica has at most, where it keeps those of an absent one (mlc.mesh.Cohort)
    """
    program = lowered.step.program
    parameters = _ParameterSizes(lowered, levels, replicas, copies)
    hosted = roots * Cohort(replicas).most_hosted
    states = _states(lowered)
    crossing = _crossing_bytes(program, states)
    units = {number: _UnitCost(lowered, number, choice) for number in sorted({call.unit for call in program.train.calls})}
    to_weight = _kept_to_weight(program, units)
    return tuple(
        CallCost(
            unit=program.units[call.unit].name,
            path=call.path,
            forward_seconds=units[call.unit].seconds[0],
            input_gradient_seconds=units[call.unit].seconds[1],
            weight_gradient_seconds=units[call.unit].seconds[2],
            parameters=parameters.of_call(number),
            saved_bytes=units[call.unit].saved_bytes,
            saved_w_bytes=units[call.unit].saved_w_bytes,
            pending_bytes=units[call.unit].pending_bytes,
            kept=tuple(Kept(name, kind.bytes, name in to_weight) for name, kind in _kept(lowered, call, units[call.unit])),
            work_bytes=units[call.unit].work_bytes,
            fused_bytes=units[call.unit].fused_bytes,
            crossing_bytes=crossing[number],
            makes=call.results,
            choice=units[call.unit].choice,
            again_seconds=units[call.unit].again_seconds,
            guest_bytes=-(-hosted * parameters.gradient_bytes(number) // replicas),
        )
        for number, call in enumerate(program.train.calls)
    )


class _UnitCost:
    """What all calls of one unit have in common. reads: names of what its backward reads; late_reads: of what its weight gradient does"""

    def __init__(self, lowered: Lowered, number: int, choice: str):
        variant, again = lowered.step.variant(number, choice), lowered.again_of(number, choice)
        forward, early, late = lowered.forward[number], lowered.input_gradient[number], lowered.weight_gradient[number]
        machine = lowered.rules.machine
        self.choice = variant.choice if variant is not None and again is not None else CHOICES[0]
        self.again_seconds = 0.0 if again is None else _seconds(again.routine, machine)
        seconds = [_seconds(routine, machine) for routine in (forward, early, late)]
        seconds[1 if early is not None else 2] += self.again_seconds
        self.seconds = tuple(seconds)
        saved = {r.name: lowered.stored(number, r).bytes for r in variant.forward.results} if variant else {}
        remade = set(again.remade) if again is not None else set[str]()
        late_bytes = sum(saved[name] for name in variant.saved_w if name in remade) if variant else 0
        remade_bytes = sum(saved[name] for name in remade)
        self.saved_bytes = sum(saved[n] for n in variant.saved if n not in variant.saved_w and n not in remade) if variant else 0
        self.saved_w_bytes = sum(saved[name] for name in variant.saved_w if name not in remade) if variant else 0
        self.pending_bytes = (_pending_bytes(lowered, number, variant) if variant else 0) + late_bytes
        routines = [r for r in (forward, early, late, again and again.routine) if r is not None]
        self.work_bytes = max(routine.work_bytes for routine in routines) + remade_bytes - late_bytes
        self.fused_bytes = (_fused_bytes(lowered, number, variant) if variant else 0) + late_bytes
        plain = lowered.step.variant(number)
        self.late_reads = _read_names(plain, "weight_gradient") if plain else set[str]()
        self.reads = self.late_reads | _read_names(plain, "input_gradient") if plain else set[str]()
        if plain is not None and again is not None:
            self.reads |= {p.name for p in again.routine.function.parameters}


def _seconds(routine: Routine | None, machine: Machine) -> float:
    return 0.0 if routine is None else routine_seconds(routine, machine)


def _pending_bytes(lowered: Lowered, number: int, variant: Variant) -> int:
    """Pending values, and the cotangents that the weight gradient reads itself."""
    made = {r.name: lowered.stored(number, r).bytes for r in variant.input_gradient.results}
    cotangents = {name for name in variant.d_results if name is not None}
    read = sum(lowered.stored(number, p).bytes for p in variant.weight_gradient.parameters if p.name in cotangents)
    return sum(made[name] for name in variant.pending) + read


def _fused_bytes(lowered: Lowered, number: int, variant: Variant) -> int:
    """Pending values that neither stay where a cotangent lies nor take the place of a saved value read for the last time."""
    routine, later = lowered.input_gradient[number], _read_names(variant, "weight_gradient")
    in_place = dict(routine.in_place) if routine else {}
    free = {name for name, over in in_place.items() if over in variant.saved and over not in later}
    made = {r.name: lowered.stored(number, r).bytes for r in variant.input_gradient.results}
    return sum(made[name] for name in variant.pending if name not in free and name not in lowered.kept[number])


def _kept(lowered: Lowered, call: Call, cost: _UnitCost) -> Iterator[tuple[str, Stored]]:
    """States and inputs, each once, that the backward of a call reads. cost: of its unit"""
    seen: set[str] = set()
    for value, name in _bound_values(lowered.step.program.units[call.unit], call):
        if value.name in cost.reads and name not in seen:
            seen.add(name)
            yield name, lowered.stored(call.unit, value)


def _bound_values(unit: Unit, call: Call) -> Iterator[tuple[Value, str]]:
    """(value of the unit, name in the chain) of the states and inputs a call reads and the states it makes."""
    for role, value, name in zip(unit.roles, unit.function.parameters, call.arguments, strict=True):
        if role in ("state", "input"):
            yield value, name
    for value, name in zip(unit.function.results[: unit.outputs], call.results, strict=True):
        yield value, name


def _read_names(variant: Variant, which: str) -> set[str]:
    function = variant.input_gradient if which == "input_gradient" else variant.weight_gradient
    return {p.name for p in function.parameters}


def _kept_to_weight(program: Program, units: Mapping[int, _UnitCost]) -> set[str]:
    """States and inputs that some weight gradient reads."""
    found: set[str] = set()
    for call in program.train.calls:
        read = units[call.unit].late_reads
        found.update(name for value, name in _bound_values(program.units[call.unit], call) if value.name in read)
    return found


def _states(lowered: Lowered) -> dict[str, Stored]:
    """The states of the train chain."""
    program = lowered.step.program
    return {
        name: lowered.stored(call.unit, value)
        for call in program.train.calls
        for value, name in zip(program.units[call.unit].function.results, call.results, strict=False)
    }


def _crossing_bytes(program: Program, states: dict[str, Stored]) -> list[int]:
    """For each call, the bytes of the states made by it or before it and read after it."""
    made: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, call in enumerate(program.train.calls):
        made.update(dict.fromkeys(call.results, number))
        last.update(dict.fromkeys(program.units[call.unit].bound("state", call.arguments), number))
    changes = [0] * (len(program.train.calls) + 1)
    for name, end in last.items():
        changes[made[name]] += states[name].bytes
        changes[end] -= states[name].bytes
    return list(accumulate(changes[:-1]))


class _ParameterSizes:
    """Bytes of the parameters of each call. The first use of a parameter is that of its owner."""

    def __init__(self, lowered: Lowered, levels: int, replicas: int, copies: bool):
        self.lowered = lowered
        self.copies = copies
        self.levels = levels
        self.replicas = replicas
        self.wide = lowered.step.program.wide
        self.unit = dtype_of(self.wide).bytes
        self.parameters = {p.name: p for p in lowered.step.program.parameters}
        self.alike: dict[tuple[int, int | None, int, bool], tuple[int, int, int]] = {}
        self.uses = [self._uses(call) for call in lowered.step.program.train.calls]
        self.first: dict[str, int] = {}
        for number, uses in enumerate(self.uses):
            for name in uses:
                self.first.setdefault(name, number)
        self.trained = {name for uses in self.uses for name, count in uses.items() if count}

    def of_call(self, number: int) -> tuple[ParameterUse, ...]:
        return tuple(self._use(self.parameters[name], count, number) for name, count in self.uses[number].items())

    def gradient_bytes(self, number: int) -> int:
        """The gradients of the uses of a call, one each."""
        return sum(self.lowered.parameters[name].master.bytes * count for name, count in self.uses[number].items())

    def _uses(self, call: Call) -> dict[str, int]:
        """The parameters of a call -> how many of its gradients or effects reach each."""
        unit, variant = self.lowered.step.program.units[call.unit], self.lowered.step.variant(call.unit)
        bound = dict(zip((p.name for p in unit.function.parameters), call.arguments, strict=True))
        uses = dict.fromkeys(unit.bound("param", call.arguments), 0)
        for inside, _, _ in variant.d_params if variant else ():
            uses[bound[inside]] += 1
        for effect, name in zip(unit.effects, call.effects, strict=True):
            if effect.kind == "accumulate":
                uses[name] = uses.get(name, 0) + 1
        return uses

    def _use(self, parameter: Parameter, count: int, number: int) -> ParameterUse:
        name, update, stored = parameter.name, parameter.update, self.lowered.parameters[parameter.name]
        key = id(stored), update, count, self.first[name] == number and name in self.trained
        if key not in self.alike:
            self.alike[key] = self._bytes(stored, *key[1:])
        return ParameterUse(name, *self.alike[key])

    def _bytes(self, stored: StoredParameter, update: int | None, count: int, owned: bool) -> tuple[int, int, int]:
        """Of values, states and accumulators of a use, as all parameters of a kind have them."""
        value_bytes = stored.master.bytes + (stored.copy.bytes if self.copies and stored.copy is not None else 0)
        state_bytes = self._bytes_of_states(stored, self.lowered.updates[update]) if owned and update is not None else 0
        return value_bytes, state_bytes, stored.master.bytes * self.levels * count

    def _bytes_of_states(self, stored: StoredParameter, routine: Routine) -> int:
        """On the fullest replica; an update that does not run in place has room for its results."""
        states = sum(state.bytes for state in stored.states)
        if routine.name in self.lowered.flat:
            return -(-states // self.replicas)
        return stored.master.bytes + 2 * states + routine.work_bytes
