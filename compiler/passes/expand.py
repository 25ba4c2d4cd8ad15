"""Expansion: ops that are compositions of others, written out before lowering.

before:  %y = softmax %x {axis=1} : f32[4, 8]       after:  %max = max %x {axes=(1), keepdims=true} : f32[4, 1]
                                                            ... sub, exp, sum ...
                                                            %y = div %exp, %sum.all : f32[4, 8]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import is_

from mlc.ir.builder import Builder
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Composite, Op
from mlc.ir.types import Value
from mlc.passes.rewrite import renamed


def expand(function: Function, ops: Mapping[str, Op]) -> Function:
    """An equal function without Composite ops and without stop_gradient; results keep their names. Runs after differentiation."""
    taken = {v.name for v in function.parameters} | {v.name for i in function.instructions for v in i.results}
    values = {v.name: v for v in function.parameters}
    made: list[Instruction] = []
    for instruction in function.instructions:
        for inner in _expanded(_retyped(instruction, values, ops), ops, taken):
            made.append(_retyped(inner, values, ops))
            values.update({v.name: v for v in made[-1].results})
    if len(made) == len(function.instructions) and all(map(is_, made, function.instructions)):
        return function
    return replace(function, instructions=tuple(made), results=tuple(values[v.name] for v in function.results))


def _retyped(instruction: Instruction, values: Mapping[str, Value], ops: Mapping[str, Op]) -> Instruction:
    """The instruction on operands as they are typed now: an expansion may lose labels of dims."""
    operands = tuple(values.get(v.name, v) for v in instruction.operands)
    if operands == instruction.operands:
        return instruction
    types = ops[instruction.op].type_rule(tuple(v.type for v in operands), dict(instruction.attributes))
    return replace(instruction, operands=operands, results=tuple(Value(v.name, t) for v, t in zip(instruction.results, types, strict=True)))


def _expanded(instruction: Instruction, ops: Mapping[str, Op], taken: set[str]) -> list[Instruction]:
    """Instructions that make the results of this one."""
    if instruction.op == "stop_gradient":
        return [replace(instruction, op="copy")]
    lowering = ops[instruction.op].lowering
    if not isinstance(lowering, Composite):
        return [instruction]
    b = Builder(ops, instruction.op, instruction.span, taken)
    values = lowering.expand(b, instruction)
    made = _under_names(b.instructions, values, instruction)
    taken.update(v.name for i in made for v in i.results)
    return [inner for i in made for inner in _expanded(i, ops, taken)]


def _under_names(made: list[Instruction], values: tuple[Value, ...], instruction: Instruction) -> list[Instruction]:
    """The instructions with `values` renamed to the results of `instruction`; one that is no new value is copied."""
    own = {v.name for i in made for v in i.results}
    names: dict[str, str] = {}
    copies: list[Instruction] = []
    for value, result in zip(values, instruction.results, strict=True):
        if value.name in own and value.name not in names:
            names[value.name] = result.name
        else:
            copies.append(Instruction("copy", (value,), (), (result,), instruction.span, instruction.op))
    return [renamed(i, names) for i in (*made, *copies)]
