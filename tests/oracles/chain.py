"""Runs a Program or a Step with the NumPy interpreter, chain call by chain call: what a compiled program is to compute.

Forward walks the train chain; backward walks it the other way, input gradient then weight gradient of each call, as an executor
does: it reads what the variant says is saved and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mlc.ir.function import Function
from mlc.ir.interpret import interpret
from mlc.ir.op import Keys, Op
from mlc.ir.program import Call, Chain, Program, Step, Unit, Variant, path_hash

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """Of one microbatch. `gradients`: parameter -> d loss, without the weight; `fed`: parameter -> what accumulate gave."""

    loss: float
    weight: float
    states: dict[str, np.ndarray]
    reports: dict[str, float]
    fed: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a walk over a chain needs. `scalars`: every record scalar by name."""

    program: Program
    ops: Mapping[str, Op]
    parameters: Arrays
    inputs: Arrays
    scalars: Mapping[str, float]
    keys: Keys
    float64: bool

    def argument(self, role: str, name: str, states: Arrays) -> np.ndarray:
        match role:
            case "param":
                return self.parameters[name]
            case "input":
                return self.inputs[name]
            case "record":
                return np.asarray(self.scalars[name])
            case _:
                return states[name]

    def arguments(self, unit: Unit, names: tuple[str, ...], states: Arrays) -> dict[str, np.ndarray]:
        """By the name of the function's parameter."""
        bound = zip(unit.function.parameters, unit.roles, names, strict=True)
        return {value.name: self.argument(role, name, states) for value, role, name in bound}

    def call(self, function: Function, values: Arrays, path: str) -> tuple[np.ndarray, ...]:
        keys = replace(self.keys, path=path_hash(path))
        return interpret(function, [values[p.name] for p in function.parameters], self.ops, keys, self.float64)


def record(program: Program, step: int, steps: int, options: Mapping[str, float], ops: Mapping[str, Op], float64: bool) -> dict[str, float]:
    """Every scalar of the step record: step, steps, options (their defaults unless given) and curves."""
    scalars: dict[str, float] = {"step": float(step), "steps": float(steps)}
    for scalar in program.scalars:
        if scalar.curve is None:
            scalars.setdefault(scalar.name, options.get(scalar.name, scalar.value or 0.0))
            continue
        arguments = [np.asarray(scalars[p.name]) for p in scalar.curve.parameters]
        scalars[scalar.name] = float(interpret(scalar.curve, arguments, ops, Keys(), float64)[0])
    return scalars


def forward(run: Run, chain: Chain, made: Step | None = None) -> tuple[Result, list[dict[str, np.ndarray]]]:
    """The loss with every effect, and what each call keeps for its derivative (with a step)."""
    states: dict[str, np.ndarray] = {}
    reports: dict[str, float] = {}
    fed: dict[str, np.ndarray] = {}
    kept: list[dict[str, np.ndarray]] = []
    added = 0.0
    for call in chain.calls:
        unit = run.program.units[call.unit]
        values = run.arguments(unit, call.arguments, states)
        variant = None if made is None else made.variant(call.unit)
        function = unit.function if variant is None else variant.forward
        results = run.call(function, values, call.path)
        kept.append(values | {v.name: r for v, r in zip(function.results, results, strict=True)})
        states |= dict(zip(call.results, results[: unit.outputs], strict=True))
        for effect, name, value in zip(unit.effects, call.effects, results[unit.outputs :], strict=False):
            match effect.kind:
                case "add_loss":
                    added += float(value)
                case "report":
                    reports[name] = float(value)
                case _:
                    fed[name] = value
    loss = float(states[chain.loss]) + added if chain.loss is not None else added
    return Result(loss, weight(run, chain), states, reports | {n: float(states[s]) for n, s in chain.metrics}, fed), kept


def weight(run: Run, chain: Chain) -> float:
    if chain.weight is None:
        return 1.0
    at, names = chain.weight
    unit = run.program.units[at]
    return float(run.call(unit.function, run.arguments(unit, names, {}), "")[0])


def step(run: Run, made: Step) -> Result:
    """Forward and backward of the train chain."""
    chain = run.program.train
    result, kept = forward(run, chain, made)
    cotangents: dict[str, np.ndarray] = {chain.loss: np.ones(())} if chain.loss is not None else {}
    for call, values in zip(reversed(chain.calls), reversed(kept), strict=True):
        variant = made.variant(call.unit)
        assert variant is not None, f"{call.path} has no derivative"
        backward(run, call, variant, values, cotangents, result.gradients)
    return result


def backward(run: Run, call: Call, variant: Variant, values: dict[str, np.ndarray], cotangents: dict, gradients: dict) -> None:
    """Input gradient, then weight gradient of one call; adds into the cotangents of states and the gradients of parameters."""
    unit = run.program.units[call.unit]
    results = {v.name for v in unit.function.results} | {v.name for v in unit.function.parameters}
    seen = {name: value for name, value in values.items() if name in results or name in variant.saved}
    for i, name in enumerate(variant.d_results):
        if name is not None:
            seen[name] = incoming(unit, call, i, cotangents)
    made = dict(zip((v.name for v in variant.input_gradient.results), run.call(variant.input_gradient, seen, call.path), strict=True))
    late = {name: value for name, value in seen.items() if name not in variant.saved or name in variant.saved_w}
    late |= {name: made[name] for name in variant.pending}
    made |= dict(zip((v.name for v in variant.weight_gradient.results), run.call(variant.weight_gradient, late, call.path), strict=True))
    names = dict(zip((p.name for p in unit.function.parameters), call.arguments, strict=True))
    for parameter, result in variant.d_states:
        add(cotangents, names[parameter], made[result])
    for parameter, result, _ in variant.d_params:
        add(gradients, names[parameter], made[result])


def incoming(unit: Unit, call: Call, result: int, cotangents: Arrays) -> np.ndarray:
    """The cotangent of a unit's result: that of its state, or 1 for an added loss."""
    if result >= unit.outputs:
        return np.ones(())
    shape = unit.function.results[result].type.shape
    return cotangents.get(call.results[result], np.zeros(shape))


def add(sums: dict[str, np.ndarray], name: str, value: np.ndarray) -> None:
    sums[name] = sums[name] + value if name in sums else value


def update(
    program: Program, ops: Mapping[str, Op], name: str, values: dict[str, np.ndarray], g: np.ndarray, scalars: Mapping[str, float]
) -> None:
    """One step of the optimizer of a parameter, in double precision. `values`: the parameter, and its states as name/state; in place."""
    (parameter,) = (p for p in program.parameters if p.name == name)
    if parameter.update is None:
        return
    rule = program.updates[parameter.update]
    names = [name, *(f"{name}/{state}" for state, _ in rule.states)]
    own = [values.setdefault(key, np.zeros(g.shape)) for key in names]
    record = [np.asarray(scalars[s]) for s in rule.scalars]
    if not rule.elementwise:
        values |= dict(zip(names, interpret(rule.function, [own[0], g, *own[1:], *record], ops, Keys(), True), strict=True))
        return
    (block,) = rule.function.parameters[0].type.shape
    blocks = [blocked(array, block) for array in (own[0], g, *own[1:])]
    made = [interpret(rule.function, [*rows, *record], ops, Keys(), True) for rows in zip(*blocks, strict=True)]
    for key, rows in zip(names, zip(*made, strict=True), strict=True):
        values[key] = np.concatenate(rows)[: g.size].reshape(g.shape)


def blocked(array: np.ndarray, block: int) -> np.ndarray:
    """[blocks, block]: the flat elements, padded with zeros. An elementwise rule is a function of one block."""
    padded = np.zeros(-(-array.size // block) * block)
    padded[: array.size] = array.ravel()
    return padded.reshape(-1, block)
