"""What a checkpoint of a model must match, one item a line: names, shapes, and hashes of what is computed.

Nothing in the items depends on the layout, on spans, on names of values and dims, or on the file. A hash stands for a layer function,
an optimizer's rule, a curve or the chain, so that the lines stay short: their number grows with parameters and functions only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from mlc.ir.function import Attribute, Function, Instruction
from mlc.ir.program import Program, Unit, Update
from mlc.ir.types import Dim, TensorType
from mlc.lower.program import Lowered
from mlc.parallel.planned import Planned


def model_items(lowered: Lowered, plan: Planned) -> str:
    """All items of a plan of a program. mlc_checkpoint_load compares them one by one and names the first that differs."""
    program = lowered.step.program
    lines = [f"parameter.{p.name}={_sizes(p.type.shape)}" for p in program.parameters]
    lines += [f"precision={program.recipe.precision}", f"clip={program.recipe.clip}"]
    for parameter, planned in zip(program.parameters, plan.parameters, strict=True):
        rule = None if planned.kind.update is None else lowered.updates[planned.kind.update].function.name
        lines.append(f"update.{parameter.name}={rule}")
    lines += [f"input.{i.name}={i.type.dtype}[{_sizes(i.type.shape)}]" for i in program.inputs]
    lines += [f"microbatches={plan.microbatches}", f"groups={plan.groups}"]
    lines += [f"rule.{update.function.name}={rule_hash(update)}" for update in program.updates]
    lines += [f"curve.{s.name}={function_hash(s.curve, True)}" for s in program.scalars if s.curve is not None]
    lines += [f"layer.{unit.name}={unit_hash(unit)}" for unit in _trained(program)]
    lines += [f"chain={chain_hash(program)}"]
    return "\n".join(lines) + "\n"


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _trained(program: Program) -> list[Unit]:
    """The layer functions of the train chain, each once."""
    numbers = [call.unit for call in program.train.calls]
    numbers += [program.train.weight[0]] if program.train.weight else []
    return [program.units[number] for number in dict.fromkeys(numbers)]


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# What a function computes, without the names that people gave.


def function_hash(function: Function, named: bool = False) -> str:
    """Sixteen hex digits that differ where two functions compute something else. named: parameters are known by their names."""
    return _hash(_function_lines(function, named))


def _function_lines(function: Function, named: bool) -> list[str]:
    numbers = {p.name: p.name if named else str(n) for n, p in enumerate(function.parameters)}
    lines = [f"in {numbers[p.name]} {_type(p.type)}" for p in function.parameters]
    for instruction in function.instructions:
        lines.append(_instruction_line(instruction, numbers))
    return [*lines, "out " + " ".join(numbers[r.name] for r in function.results)]


#: Attributes that the type of the result says too, and that versions before did not have.
_TYPED = (("random_uniform", "dtype"), ("random_normal", "dtype"))


def _instruction_line(instruction: Instruction, numbers: dict[str, str]) -> str:
    """One instruction, which adds its results to the numbers."""
    operands = [numbers[v.name] for v in instruction.operands]
    for result in instruction.results:
        numbers[result.name] = f"%{len(numbers)}"
    attributes = [f"{key}={_attribute(value)}" for key, value in instruction.attributes if (instruction.op, key) not in _TYPED]
    return " ".join([instruction.op, *operands, *attributes, "->", *(_type(r.type) for r in instruction.results)])


def _type(kind: TensorType) -> str:
    return f"{kind.dtype}[{_sizes(kind.shape)}]"


def _attribute(value: Attribute) -> str:
    match value:
        case Dim():
            return str(value.size)
        case tuple():
            return f"({' '.join(map(_attribute, value))})"
        case _:
            return repr(value)


# What is made of functions.


def rule_hash(update: Update) -> str:
    """An optimizer's rule: its function, and the scalars that it reads by name."""
    states = [f"state {name}" for name, _ in update.states]
    return _hash([*_function_lines(update.function, False), *states, *(f"scalar {name}" for name in update.scalars)])


def unit_hash(unit: Unit) -> str:
    """A layer function, with what its parameters are and what leaves it sideways."""
    places = {p.name: n for n, p in enumerate(unit.function.parameters)}
    effects = [f"{e.kind} {places[e.name] if e.kind == 'accumulate' else ''}" for e in unit.effects]
    return _hash([*_function_lines(unit.function, False), " ".join(unit.roles), str(unit.outputs), *effects])


def chain_hash(program: Program) -> str:
    """Which layer function is called on what, in order; what the loss and its weight are. The functions have items of their own."""
    chain = program.train
    numbers = {id(unit): n for n, unit in enumerate(_trained(program))}
    states: dict[str, str] = {}
    lines: list[str] = []
    random = {number: program.units[number].random for number in {call.unit for call in chain.calls}}
    for call in chain.calls:
        unit = program.units[call.unit]
        arguments = [states.get(name, name) for name in call.arguments]
        lines.append(" ".join([str(numbers[id(unit)]), call.path if random[call.unit] else "", *arguments]))
        states.update((name, f"%{len(states) + n}") for n, name in enumerate(call.results))
    if chain.weight:
        number, names = chain.weight
        lines.append(" ".join(["weight", str(numbers[id(program.units[number])]), *map(str, names)]))
    return _hash([*lines, f"loss {states.get(chain.loss or '', 'none')}"])
