"""The uses of parameters that a gradient arrives for, in chain order."""

from __future__ import annotations

from collections.abc import Iterator

from mlc.frozen import frozen
from mlc.ir.program import Call, Step


@frozen
class Use:
    """The gradient of one use of a parameter by a call of the train chain.

    index:   among the parameter's uses, in chain order
    result:  the value of the call's unit that is this gradient
    phase:   F, I or W: what makes it
    """

    parameter: str
    index: int
    call: int
    result: str
    phase: str

    def buffer(self, level: int = 0) -> str:
        """The accumulator of a level of the tree of groups."""
        return f"gradient of {self.parameter} {self.index} {level}"


def parameter_uses(step: Step) -> tuple[Use, ...]:
    """Every use of the train chain, in chain order."""
    counts: dict[str, int] = {}
    uses: list[Use] = []
    for number, call in enumerate(step.program.train.calls):
        for parameter, result, phase in _call_uses(step, call):
            index = counts.get(parameter, 0)
            counts[parameter] = index + 1
            uses.append(Use(parameter, index, number, result, phase))
    return tuple(uses)


def _call_uses(step: Step, call: Call) -> Iterator[tuple[str, str, str]]:
    """(parameter, result, phase) of each gradient a call makes: accumulate effects, then derivatives."""
    unit, variant = step.program.units[call.unit], step.variant(call.unit)
    results = (variant.forward if variant else unit.function).results[unit.outputs :]
    for effect, name, result in zip(unit.effects, call.effects, results, strict=False):
        if effect.kind == "accumulate":
            yield name, result.name, "F"
    if variant is None:
        return
    names = dict(zip((p.name for p in unit.function.parameters), call.arguments, strict=True))
    for parameter, result, where in variant.d_params:
        yield names[parameter], result, "I" if where == "input_gradient" else "W"
