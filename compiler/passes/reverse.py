"""Reverse mode: the instructions that take cotangents from the results of a function back to its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from mlc.diagnostics import NO_SPAN, InternalError
from mlc.frozen import frozen
from mlc.ir.builder import Builder
from mlc.ir.dtypes import dtype_of
from mlc.ir.function import Function, Instruction
from mlc.ir.op import NoGradient, Op
from mlc.ir.types import Value
from mlc.passes.pieces import LEAST_PIECES, joined
from mlc.passes.rewrite import renamed

#: Sums, and moves between a sum and the gradient of a parameter.
WIDENED = ("sum", "scatter_add", "put_along", "reshape", "transpose")


@frozen
class Derivative:
    """Instructions to run after those of the function, and the cotangent of each parameter that has one.

    seeds:      by result of the function: the incoming cotangent
    cotangents: by parameter: its cotangent; these are distinct, none is a seed
    """

    instructions: tuple[Instruction, ...]
    seeds: Mapping[str, Value]
    cotangents: Mapping[str, Value]


def active_values(function: Function, wanted: frozenset[str], ops: Mapping[str, Op]) -> set[str]:
    """Names of the float values through which a derivative reaches the parameters in `wanted`."""
    active = set(wanted)
    for i in function.instructions:
        if not isinstance(ops[i.op].vjp, NoGradient) and any(v.name in active for v in i.operands):
            active.update(v.name for v in i.results if v.type.is_float)
    return active


def reached_values(function: Function, active: set[str], arriving: set[str], ops: Mapping[str, Op]) -> set[str]:
    """Names of the active values that a cotangent reaches when it arrives for `arriving`."""
    reached = arriving & active
    for i in reversed(function.instructions):
        if not isinstance(ops[i.op].vjp, NoGradient) and any(v.name in reached for v in i.results):
            reached.update(v.name for v in i.operands if v.name in active)
    return reached


def derivative(
    function: Function, wanted: frozenset[str], arriving: frozenset[str], masters: frozenset[str], ops: Mapping[str, Op]
) -> Derivative:
    """The derivative with respect to the parameters `wanted`.

    arriving:   results that a cotangent arrives for
    masters:    parameters whose cotangents have the dtype of their masters
    """
    walk = _Walk(function, active_values(function, wanted, ops), masters, ops)
    seeds = {v.name: walk.seed(v) for v in function.results if v.name in arriving and v.name in walk.active}
    for instruction in reversed(function.instructions):
        walk.step(instruction)
    cotangents = {v.name: walk.target(v) for v in function.parameters if v.name in wanted}
    instructions = tuple(renamed(i, walk.names) for i in walk.builder.instructions)
    named = {name: Value(walk.names[v.name], v.type) for name, v in cotangents.items() if v is not None}
    return Derivative(instructions, seeds, named)


class _Walk:
    """The state of one reverse walk.

    parts:  by value, the cotangents that its readers sent, last reader first; they are added in this order
    names:  names that the cotangents made here get in the end, after the value they belong to
    fixed:  seeds and targets, which keep their names
    """

    def __init__(self, function: Function, active: set[str], masters: frozenset[str], ops: Mapping[str, Op]):
        taken = [v.name for v in function.parameters] + [v.name for i in function.instructions for v in i.results]
        span = function.instructions[-1].span if function.instructions else NO_SPAN
        self.builder = Builder(ops, "differentiate", span, taken)
        self.active = active
        self.masters = masters
        self.parts: dict[str, list[Value]] = {}
        self.names: dict[str, str] = {}
        self.fixed: set[str] = set()

    def seed(self, result: Value) -> Value:
        value = Value(self.builder.fresh(f"d.{result.name}"), result.type)
        self.parts.setdefault(result.name, []).append(value)
        self.fixed.add(value.name)
        return value

    def step(self, instruction: Instruction) -> None:
        """Send the cotangents of the results on to the operands."""
        rule = self.builder.ops[instruction.op].vjp
        if isinstance(rule, NoGradient) or not any(v.name in self.active for v in instruction.operands):
            return
        self.builder.span = instruction.span
        cotangents = tuple(self.total(v) for v in instruction.results)
        if all(c is None for c in cotangents):
            return
        for result, cotangent in zip(instruction.results, cotangents, strict=True):
            if cotangent is not None and cotangent.name not in self.fixed:
                self.names.setdefault(cotangent.name, self.builder.fresh(f"d.{result.name}"))
        for operand, part in zip(instruction.operands, rule(self.builder, instruction, cotangents), strict=True):
            if part is not None and operand.name in self.active:
                self.send(operand, part)

    def send(self, value: Value, part: Value) -> None:
        if not part.type.same(value.type):
            raise InternalError(f"differentiate: the cotangent of {value}: {value.type} is {part}: {part.type}")
        if value.name in self.masters:
            part = self.widened(part)
        self.parts.setdefault(value.name, []).append(part)

    def widened(self, part: Value) -> Value:
        """`part` in its wide dtype; what is summed for it is summed in that. (A contraction sums in it in any case.)"""
        wide = dtype_of(part.type.dtype).wide
        if part.type.dtype == wide:
            return part
        maker = next((i for i in reversed(self.builder.instructions) if part in i.results), None)
        if maker is None or maker.op not in WIDENED:
            return self.builder.one("cast", part, dtype=wide)
        attributes: dict[str, Any] = dict(maker.attributes)
        summed, *index = maker.operands
        return self.builder.one(maker.op, self.widened(summed), *index, **attributes)

    def total(self, value: Value) -> Value | None:
        """The sum of all that was sent to `value`."""
        parts = self.parts.pop(value.name, [])
        if not parts:
            return None
        first, *others = self._pieced(parts)
        for part in others:
            first = self.builder.one("add", first, part)
        return first

    def _pieced(self, parts: list[Value]) -> list[Value]:
        """The parts, with neighbours that fill a piece each put together."""
        if len(parts) < LEAST_PIECES:
            return parts
        pads = {i.results[0].name: i for i in self.builder.instructions if i.op == "pad"}
        whole: list[Value] = []
        for is_pad, run in groupby(parts, key=lambda v: v.name in pads):
            pieces = list(run)
            value = joined(self.builder, pieces, [pads[v.name] for v in pieces]) if is_pad else None
            whole += pieces if value is None else [value]
        return whole

    def target(self, parameter: Value) -> Value | None:
        """The cotangent of a parameter, as a value of its own that is named after it."""
        total = self.total(parameter)
        if total is None:
            return None
        if total.name in self.fixed:
            total = self.builder.one("copy", total)
        self.fixed.add(total.name)
        self.names[total.name] = self.builder.fresh(f"d.{parameter.name}")
        return total
