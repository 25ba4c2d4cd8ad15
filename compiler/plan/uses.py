"""The uses of parameters that a gradient arrives for, in chain order."""

from __future__ import annotations

from typing import NamedTuple

from mlc.ir.program import Step


class Use(NamedTuple):
    """The gradient of one use of a parameter by a call of the train chain.

    ordinal: among the parameter's uses, in chain order
    result:  the value of the call's unit that is this gradient
    phase:   F, I or W: what makes it
    buffer:  its accumulator
    """

    parameter: str
    ordinal: int
    call: int
    result: str
    phase: str
    buffer: str

    def level(self, number: int) -> str:
        """The accumulator of a level of the tree of groups."""
        return _accumulator(self.parameter, self.ordinal, number)


def _accumulator(parameter: str, index: int, level: int) -> str:
    return f"gradient of {parameter} {index} {level}"


def parameter_uses(step: Step) -> tuple[Use, ...]:
    """Every use of the train chain, in chain order."""
    counts: dict[str, int] = {}
    uses: list[Use] = []
    alike: dict[int, list[tuple[int, str, str]]] = {}
    for number, call in enumerate(step.program.train.calls):
        if call.unit not in alike:
            alike[call.unit] = _unit_uses(step, call.unit)
        names = (*call.effects, *call.arguments)
        for at, result, phase in alike[call.unit]:
            parameter = names[at]
            index = counts[parameter] = counts.get(parameter, -1) + 1
            uses.append(Use(parameter, index, number, result, phase, _accumulator(parameter, index, 0)))
    return tuple(uses)


def _unit_uses(step: Step, number: int) -> list[tuple[int, str, str]]:
    """Of each gradient that a call of a unit makes, accumulate effects, then derivatives: which of the call's effects and arguments is the
    parameter; result and phase."""
    unit, variant = step.program.units[number], step.variant(number)
    results = (variant.forward if variant else unit.function).results[unit.outputs :]
    effects = enumerate(zip(unit.effects, results, strict=False))
    found = [(n, result.name, "F") for n, (effect, result) in effects if effect.kind == "accumulate"]
    if variant is None:
        return found
    at = {parameter.name: n for n, parameter in enumerate(unit.function.parameters, len(unit.effects))}
    return found + [(at[inside], result, "I" if where == "input_gradient" else "W") for inside, result, where in variant.d_params]
