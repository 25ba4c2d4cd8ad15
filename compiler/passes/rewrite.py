"""The ground that peephole rules stand on: a call that may be rewritten, and what is known of the values made so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlc.frozen import frozen
from mlc.ir.builder import Builder
from mlc.ir.function import Attribute, Function, Instruction
from mlc.ir.op import Op
from mlc.ir.types import TensorType, Value

Number = float | int | bool

#: Operands may change places without a change of bits (a NaN's payload apart).
COMMUTATIVE = ("add", "mul", "and", "or", "xor", "equal", "not_equal")


@frozen
class Call:
    """An instruction that has no results yet."""

    op: str
    operands: tuple[Value, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()

    def __getitem__(self, attribute: str) -> Any:
        return dict(self.attributes)[attribute]


def call(op: str, *operands: Value, **attributes: Attribute) -> Call:
    return Call(op, operands, tuple(sorted(attributes.items())))


@dataclass(slots=True)
class Rewriter:
    """The function that is being made: its instructions, and what is known of its values by name.

    builder:  appends instructions, makes fresh names
    rules:    by op: each is given the rewriter and a call, and returns an equal value, an equal call, or None
    uses:     how often the source function reads a value
    made:     the instruction that makes a value; parameters have none
    number:   the number that every element of a value is
    seen:     results of every call made, by what it computes
    """

    builder: Builder
    rules: Mapping[str, tuple[Rule, ...]]
    uses: Mapping[str, int] = field(default_factory=dict)
    made: dict[str, Instruction] = field(default_factory=dict)
    number: dict[str, Number] = field(default_factory=dict)
    seen: dict[Any, tuple[Value, ...]] = field(default_factory=dict)

    def maker(self, value: Value, op: str) -> Instruction | None:
        """The instruction that makes `value` when it is an `op`."""
        instruction = self.made.get(value.name)
        return instruction if instruction is not None and instruction.op == op else None

    def type_of(self, wanted: Call) -> TensorType:
        """The type of the first result."""
        return self.types_of(wanted)[0]

    def types_of(self, wanted: Call) -> tuple[TensorType, ...]:
        return self.builder.ops[wanted.op].type_rule(tuple(v.type for v in wanted.operands), dict(wanted.attributes))

    def value(self, op: str, *operands: Value, **attributes: Attribute) -> Value:
        """The result of a further call, simplified."""
        return self.make(call(op, *operands, **attributes), None)[0]

    def filled(self, number: Number, tensor_type: TensorType) -> Call:
        """A tensor of this type with `number` in every element."""
        scalar = call("constant", dtype=tensor_type.dtype, value=number)
        return call("broadcast", self.make(scalar, None)[0], dims=tensor_type.dims, axes=()) if tensor_type.dims else scalar

    def fill(self, number: Number, tensor_type: TensorType) -> Value:
        return self.make(self.filled(number, tensor_type), None)[0]

    def make(self, wanted: Call, source: Instruction | None) -> tuple[Value, ...]:
        """Values equal to the results of `wanted`; an instruction made for it takes the names of `source`'s results."""
        found = self._rewritten(wanted)
        if isinstance(found, Value):
            return (found,)
        key = _key(found)
        if key not in self.seen:
            self.seen[key] = self._append(found, source)
        return self.seen[key]

    def _rewritten(self, wanted: Call) -> Call | Value:
        """`wanted` after the rules, each tried again after one has fired. Every rule leads to a simpler call, so this ends."""
        while True:
            for rule in self.rules.get(wanted.op, ()):
                found = rule(self, wanted)
                if isinstance(found, Value):
                    return found
                if found is not None:
                    wanted = found
                    break
            else:
                return wanted

    def _append(self, wanted: Call, source: Instruction | None) -> tuple[Value, ...]:
        if source is not None and (wanted.op, wanted.operands, wanted.attributes) == (source.op, source.operands, source.attributes):
            instruction = source
        else:
            names = [v.name for v in source.results] if source else [self.builder.fresh(wanted.op)]
            results = tuple(Value(n, t) for n, t in zip(names, self.types_of(wanted), strict=True))
            span, via = (source.span, source.via) if source else (self.builder.span, self.builder.via)
            instruction = Instruction(wanted.op, wanted.operands, wanted.attributes, results, span, via)
        self.builder.instructions.append(instruction)
        for result in instruction.results:
            self.made[result.name] = instruction
        self._note_number(instruction)
        return instruction.results

    def _note_number(self, instruction: Instruction) -> None:
        if instruction.op == "constant":
            self.number[instruction.result.name] = instruction.attribute("value")
        if instruction.op == "broadcast" and instruction.operands[0].name in self.number:
            self.number[instruction.result.name] = self.number[instruction.operands[0].name]


#: An equal value, an equal call, or None where the rule does not apply.
Rule = Callable[[Rewriter, Call], "Call | Value | None"]


def _key(wanted: Call) -> Any:
    names = tuple(v.name for v in wanted.operands)
    return wanted.op, tuple(sorted(names)) if wanted.op in COMMUTATIVE else names, _typed(wanted.attributes)


def _typed(attribute: Any) -> Any:
    """Equal for equal attributes only: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(attribute, tuple) and type(attribute) is tuple:
        return tuple(_typed(a) for a in attribute)
    return (type(attribute), repr(attribute)) if isinstance(attribute, bool | int | float) else attribute


def use_counts(function: Function) -> dict[str, int]:
    """How often each value is read, as an operand or as a result of the function."""
    counts: dict[str, int] = {}
    for value in (v for reads in (*(i.operands for i in function.instructions), function.results) for v in reads):
        counts[value.name] = counts.get(value.name, 0) + 1
    return counts


def live(instructions: list[Instruction], wanted: set[str]) -> list[Instruction]:
    """The instructions that the values named `wanted` depend on, in order."""
    needed = set(wanted)
    kept = []
    for instruction in reversed(instructions):
        if any(v.name in needed for v in instruction.results):
            kept.append(instruction)
            needed.update(v.name for v in instruction.operands)
    return kept[::-1]


def renamed(instruction: Instruction, names: Mapping[str, str]) -> Instruction:
    """The instruction with the values in `names` under their other names."""
    touched = (*instruction.operands, *instruction.results)
    if all(names.get(v.name, v.name) == v.name for v in touched):
        return instruction
    operands, results = (
        tuple(Value(names.get(v.name, v.name), v.type) for v in group) for group in (instruction.operands, instruction.results)
    )
    return replace(instruction, operands=operands, results=results)


def rewriter(function: Function, ops: Mapping[str, Op], rules: Mapping[str, tuple[Rule, ...]]) -> Rewriter:
    names = [v.name for v in function.parameters] + [v.name for i in function.instructions for v in i.results]
    span = function.instructions[0].span
    return Rewriter(Builder(ops, "simplify", span, names), rules, use_counts(function))
