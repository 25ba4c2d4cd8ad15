"""The forward rows of a stage: the weight of a microbatch where it makes a loss, its calls, what passes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.ir.program import CHOICES, STATES, Call, Unit
from mlc.ir.types import Value
from mlc.lower.program import Lowered
from mlc.plan.rows import INPUT, StageRows, input_buffer
from mlc.plan.stages import StagedChain

#: (call, result of its unit) -> the accumulator of a use.
Accumulators = Mapping[tuple[int, str], str]

#: Where the values of each call lie: call -> value -> buffer.
Values = dict[int, dict[str, str]]


def add_forward_rows(lowered: Lowered, staged: StagedChain, uses: Accumulators, choices: Sequence[str], rows: StageRows) -> Values:
    """Append the forward rows of a stage; returns where the values of its calls lie.

    uses:     of the train chain, where accumulate effects add to gradients; elsewhere nothing reads them
    choices:  per call of the train chain; elsewhere none, for nothing lives on
    """
    values: Values = {}
    alike: dict[int, list[str]] = {}
    received = staged.received(rows.stage)
    if _leaves_column(lowered, staged, rows.stage):
        _add_weight(lowered, staged, rows)
    for number in staged.calls[rows.stage]:
        if rows.rounded:
            _round_parameters(lowered, staged, rows, number)
        values[number] = _add_call(lowered, staged, uses, choices[number] if choices else CHOICES[0], rows, number, alike)
    for state in staged.sent(rows.stage):
        if state in received:
            kind = staged.types[state]
            buffers = [rows.buffer(f"received.{state}", kind), rows.buffer(f"state.{state}", kind)]
            rows.add("F", lowered.copies[kind.key], buffers, "", f"{state} passes")
    return values


def _prefixes(unit: Unit, rounds: bool) -> list[str]:
    """How the buffer of each parameter of a unit begins that is called as the argument; "" where there is more to it."""
    beginnings = {"param": "" if rounds else "parameter ", **dict.fromkeys(("state", "input", "kept"), "")}
    return [beginnings.get(role, "scalar ") for role in unit.roles]


def _add_call(
    lowered: Lowered,
    staged: StagedChain,
    uses: Accumulators,
    choice: str,
    rows: StageRows,
    number: int,
    alike: dict[int, list[str]],
) -> dict[str, str]:
    """Append the forward row of a call; returns where its values lie, by name. What it makes again has another place in between.

    alike: how buffers begin, by unit
    """
    call, step = staged.chain.calls[number], lowered.step
    unit, routine, variant = step.program.units[call.unit], lowered.forward[call.unit], step.variant(call.unit)
    remade = remade_values(lowered, call, choice)
    if call.unit not in alike:
        alike[call.unit] = _prefixes(unit, bool(rows.rounded))
    pairs = enumerate(zip(alike[call.unit], call.arguments, strict=True))
    given = [prefix + name if prefix else _argument(lowered, staged, rows, call, n) for n, (prefix, name) in pairs]
    values = dict(zip([parameter.name for parameter in unit.function.parameters], given, strict=True))
    results = variant.forward.results if variant else unit.function.results
    noted = unit.outputs + len(unit.effects)
    for n, result in enumerate(results[:noted]):
        if n < unit.outputs:
            values[result.name] = rows.buffer(f"state.{call.results[n]}", lowered.stored(call.unit, result))
        elif unit.effects[n - unit.outputs].kind == "keep":
            values[result.name] = rows.keep(call.effects[n - unit.outputs], lowered.stored(call.unit, result))
        elif (number, result.name) in uses:
            values[result.name] = uses[number, result.name]
        else:
            passing = "passing." if result.name in remade else ""
            values[result.name] = rows.buffer(f"{number}.{passing}{result.name}", lowered.stored(call.unit, result))
    values |= _saved(lowered, rows, number, call, results[noted:], remade)
    for effect, name, result in zip(unit.effects, call.effects, results[unit.outputs :], strict=False):
        if effect.kind in ("add_loss", "report"):
            (rows.losses if effect.kind == "add_loss" else rows.metrics).append((name, values[result.name]))
    rows.add("F", routine, [values[b] for b in routine.binds], call.path, f"{call.path or unit.name} forward")
    return values


def _saved(
    lowered: Lowered, rows: StageRows, number: int, call: Call, results: Sequence[Value], remade: Sequence[str]
) -> Mapping[str, str]:
    """Where what the forward row of a call makes lies that at most rows of the way back read. Where there are none: as in other calls."""
    if not rows.onward:
        names = {result.name: f"{'passing.' if result.name in remade else ''}{result.name}" for result in results}
        return {result.name: rows.buffer(f"{number}.{names[result.name]}", lowered.stored(call.unit, result)) for result in results}
    routine = lowered.forward[call.unit].name
    if routine not in rows.saved:
        rows.saved[routine] = {of.name: rows.only(routine, f"{routine}.{of.name}", lowered.stored(call.unit, of).bytes) for of in results}
    return rows.saved[routine]


def remade_values(lowered: Lowered, call: Call, choice: str) -> tuple[str, ...]:
    """The saved values of a call that are not kept from its forward row on."""
    variant, again = lowered.step.variant(call.unit), lowered.again_of(call.unit, choice)
    if choice == STATES:
        return variant.saved if variant is not None else ()
    return again.remade if again is not None else ()


def _round_parameters(lowered: Lowered, staged: StagedChain, rows: StageRows, number: int) -> None:
    """Append the rows that round masters to the copies which a call is the first of its stage to read."""
    call = staged.chain.calls[number]
    unit = lowered.step.program.units[call.unit]
    for value, role, name in zip(unit.function.parameters, unit.roles, call.arguments, strict=True):
        copy = f"copy of {name}"
        if role == "param" and name in rows.rounded and copy not in rows.sizes:
            stored = lowered.stored(call.unit, value)
            routine = lowered.rounded[lowered.parameters[name].master.key, stored.key]
            rows.add("F", routine, [f"parameter {name}", rows.buffer(copy, stored)], "", f"{name} rounded")


def _argument(lowered: Lowered, staged: StagedChain, rows: StageRows, call: Call, n: int) -> str:
    """The buffer of an argument of a call."""
    unit = lowered.step.program.units[call.unit]
    role, name, parameter = unit.roles[n], call.arguments[n], unit.function.parameters[n]
    match role:
        case "state":
            made = "received" if name in staged.received(rows.stage) else "state"
            return rows.buffer(f"{made}.{name}", lowered.stored(call.unit, parameter))
        case "input":
            return _input(rows, name)
        case "param":
            return f"{'copy of' if name in rows.rounded else 'parameter'} {name}"
        case "kept":
            return rows.keep(name, lowered.stored(call.unit, parameter))
    return f"scalar {name}"


def _input(rows: StageRows, name: str) -> str:
    rows.inputs[name] = None
    return input_buffer(name)


def _leaves_column(lowered: Lowered, staged: StagedChain, stage: int) -> bool:
    """Whether the stage leaves a number of a microbatch, which its weight goes with."""
    if staged.chain.logits is not None:
        return False
    units = lowered.step.program.units
    states = {staged.chain.loss, *(state for _, state in staged.chain.metrics)}
    calls = [staged.chain.calls[n] for n in staged.calls[stage]]
    return any(states & set(call.results) or any(e.kind != "accumulate" for e in units[call.unit].effects) for call in calls)


def _add_weight(lowered: Lowered, staged: StagedChain, rows: StageRows) -> None:
    """Append the row that makes the weight of a microbatch from inputs, where there is one."""
    if staged.chain.weight is None:
        return
    number, arguments = staged.chain.weight
    unit = lowered.step.program.units[number]
    bound = [_input(rows, name) if role == "input" else f"scalar {name}" for role, name in zip(unit.roles, arguments, strict=True)]
    for name, parameter in zip(bound, unit.function.parameters, strict=True):
        if name.startswith(INPUT):
            rows.buffer(name, parameter.type)
    rows.weight = rows.buffer("weight", unit.function.results[0].type)
    rows.add("F", lowered.forward[number], [*bound, rows.weight], "", "weight")
