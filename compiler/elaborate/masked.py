"""Losses that are divided by a number of their own microbatch, in a model that returns no weight.

    loss = sum(select(kept, losses, 0.0)) / count        count: how many targets of the microbatch are kept

The mean of such means over microbatches is not the mean over the kept targets of the step: it depends on how records fall into
microbatches. With "weight": count in the record it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

from mlc.elaborate.failures import Failure
from mlc.ir.function import Function, Instruction
from mlc.ir.program import Call, Chain, Unit
from mlc.ir.types import Value

MESSAGE = "the loss is a mean over {what}, and the model returns no weight: it depends on how records fall into microbatches"
COUNTED = 'return the number that it is divided by: {"loss": total / count, "weight": count}'


def masked_losses(chain: Chain, units: list[Unit]) -> Iterator[Failure]:
    """A warning for each division of the loss by a number that differs from microbatch to microbatch."""
    if chain.weight is not None:
        return
    active = {chain.loss}
    found: dict[tuple[int, tuple[bool, ...]], tuple[set[str], Sequence[Instruction]]] = {}  # of a unit, by what of it is wanted
    for call in reversed(chain.calls):
        unit = units[call.unit]
        wanted = (*(name in active for name in call.results), *(e.kind == "add_loss" for e in unit.effects))
        if (call.unit, wanted) not in found:
            live, instructions = _needed(unit.function, wanted)
            found[call.unit, wanted] = live, instructions if any(_warnings(unit, call, instructions)) else ()
        live, instructions = found[call.unit, wanted]
        for parameter, role, name in zip(unit.function.parameters, unit.roles, call.arguments, strict=True):
            if role == "state" and parameter.name in live:
                active.add(name)
        yield from _warnings(unit, call, instructions)


def _needed(function: Function, wanted: Sequence[bool]) -> tuple[set[str], list[Instruction]]:
    """What the wanted results are made of: names of values, and the instructions in their order."""
    live = {r.name for r, w in zip(function.results, wanted, strict=True) if w}
    made: list[Instruction] = []
    for instruction in reversed(function.instructions):
        if any(r.name in live for r in instruction.results):
            live.update(v.name for v in instruction.operands)
            made.append(instruction)
    return live, made[::-1]


def _warnings(unit: Unit, call: Call, instructions: Sequence[Instruction]) -> Iterator[Failure]:
    if not instructions:
        return
    inputs = {p.name: name for p, role, name in zip(unit.function.parameters, unit.roles, call.arguments, strict=True) if role == "input"}
    data = _of_data(unit, instructions)
    reciprocals = {i.results[0].name for i in instructions if i.op == "div" and _is_reciprocal(i.operands, data)}
    for instruction in instructions:
        attributes = dict(instruction.attributes)
        if instruction.op == "cross_entropy" and attributes["ignore"] is not None:
            message = MESSAGE.format(what=f"the targets that are not {attributes['ignore']}")
            yield Failure("W0502", message, instruction.span, _fix(inputs, instruction.operands[1], attributes["ignore"]))
        elif _divides(instruction, data, reciprocals):
            message = MESSAGE.format(what="a number of places that the data decides")
            yield Failure("W0502", message, instruction.span, COUNTED)


def _fix(inputs: Mapping[str, str], targets: Value, ignore: object) -> str:
    if targets.name in inputs:
        return f'add to the record: "weight": sum(cast({inputs[targets.name]} != {ignore}, f32))'
    return f'add to the record how many targets count: "weight": sum(cast(targets != {ignore}, f32))'


def _divides(instruction: Instruction, data: Mapping[str, bool], reciprocals: set[str]) -> bool:
    """total / count, or total * (1 / count)"""
    match instruction.op:
        case "div":
            return _is_count(instruction.operands, data)
        case "mul":
            return any(_is_count((a, b), data) and b.name in reciprocals for a, b in permutations(instruction.operands))
        case _:
            return False


def _is_reciprocal(operands: tuple[Value, ...], data: Mapping[str, bool]) -> bool:
    """A number that is the same in every microbatch, by one that is not."""
    number, count = operands
    return not data.get(number.name, True) and data.get(count.name, False)


def _is_count(operands: tuple[Value, ...], data: Mapping[str, bool]) -> bool:
    """total / count: two scalars, the second made of data alone and the first not."""
    total, count = operands
    scalars = not total.type.dims and not count.type.dims
    return scalars and total.name not in data and data.get(count.name, False)


def _of_data(unit: Unit, instructions: Sequence[Instruction]) -> dict[str, bool]:
    """The values that neither parameters nor states reach: do they depend on data?"""
    pure = {p.name: role == "input" for p, role in zip(unit.function.parameters, unit.roles, strict=True) if role in ("input", "record")}
    for instruction in instructions:
        if all(v.name in pure for v in instruction.operands):
            drawn = instruction.op.startswith("random_") or any(pure[v.name] for v in instruction.operands)
            pure.update((r.name, drawn) for r in instruction.results)
    return pure
