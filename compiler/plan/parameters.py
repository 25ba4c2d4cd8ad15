"""Parameters with the rows that set and update them."""

from __future__ import annotations

from mlc.ir.program import Parameter
from mlc.ir.types import TensorType
from mlc.lower.program import Lowered
from mlc.plan.memory import Memory
from mlc.plan.placed import PlacedParameter, PlacedRow

#: States of a parameter's optimizer: (name, type, address).
States = tuple[tuple[str, TensorType, int], ...]


def place_parameters(lowered: Lowered, memory: Memory) -> tuple[PlacedParameter, ...]:
    """The parameters of the program, once the rows of all chains have taken their accumulators."""
    return tuple(_placed(lowered, memory, n, p) for n, p in enumerate(lowered.step.program.parameters))


def _placed(lowered: Lowered, memory: Memory, number: int, parameter: Parameter) -> PlacedParameter:
    name, master = parameter.name, memory.masters[parameter.name]
    routine = lowered.inits[number]
    init = PlacedRow(routine, (master, *memory.work(routine.work_bytes)), name, f"{name} init")
    states: States = ()
    update = None
    if parameter.update is not None and memory.uses[name]:
        states = _states(lowered, memory, parameter, parameter.update)
        update = _update(lowered, memory, parameter, parameter.update, states)
    return PlacedParameter(parameter, master, memory.copies.get(name), tuple(memory.uses[name]), states, init, update)


def _states(lowered: Lowered, memory: Memory, parameter: Parameter, number: int) -> States:
    rule = lowered.step.program.updates[number]
    kinds = [(name, parameter.type if rule.elementwise else kind) for name, kind in rule.states]
    return tuple((name, TensorType("f32", kind.dims), memory.take(4 * kind.size)) for name, kind in kinds)


def _update(lowered: Lowered, memory: Memory, parameter: Parameter, number: int, states: States) -> PlacedRow:
    """The row of an optimizer's rule; one that is not elementwise writes beside what it reads."""
    rule, routine = lowered.step.program.updates[number], lowered.updates[number]
    master, gradient = memory.masters[parameter.name], memory.uses[parameter.name][0][0]
    places = [at for _, _, at in states]
    if routine.name in lowered.flat:
        results = [master, *places]
    else:
        results = [memory.take(4 * parameter.type.size), *(memory.take(4 * kind.size) for _, kind, _ in states)]
    scalars = [memory.scalars[name] for name in rule.scalars]
    at = (master, gradient, *places, *results, *scalars, *memory.work(routine.work_bytes))
    return PlacedRow(routine, at, parameter.name, f"{parameter.name} update")
