"""Constructors of whole families of ops: a call gives a unary, binary or comparison op all its rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlc.ir.builder import Builder
from mlc.ir.function import Instruction
from mlc.ir.op import Apply, Arg, Attributes, Keys, NoGradient, Op, Pointwise, Sample, Scalar
from mlc.ir.types import TensorType, Value
from mlc.ops.broadcasting import constant_like
from mlc.ops.letters import SAME, corresponding, same
from mlc.ops.rules import ANY, FLOATS, NUMBERS, Types, elementwise

Array = np.ndarray
Arrays = tuple[np.ndarray, ...]

X = Arg(0)
Y = Arg(1)

#: Shapes every elementwise op is tried on: a scalar, size 1, primes, no multiple of a vector width, several axes.
SHAPES = ("", "1", "7", "3, 1, 5", "2, 17")


def given(instruction: Instruction) -> dict[str, Any]:
    """The attributes of an instruction that its type rule has accepted."""
    return dict(instruction.attributes)


def apply(fn: str, *args: Scalar) -> Apply:
    return Apply(fn, args)


def elements(instruction: Instruction) -> int:
    """FLOPs of a pointwise op: one an element of the result."""
    return instruction.results[0].type.size


def operand_elements(instruction: Instruction) -> int:
    """FLOPs of a reduction or scan: one an element of the operand."""
    return instruction.operands[0].type.size


def no_flops(_instruction: Instruction) -> int:
    return 0


def elementwise_samples(count: int, dtypes: tuple[str, ...], draw: tuple[str, ...]) -> tuple[Sample, ...]:
    """f32 on every shape of SHAPES, the other dtypes on one."""
    first = [Sample((f"{dtypes[0]}[{shape}]",) * count, (), draw) for shape in SHAPES]
    others = [Sample((f"{dtype}[3, 5]",) * count, (), draw if dtype != "i32" else ("normal",) * count) for dtype in dtypes[1:]]
    return (*first, *others)


def other_dtypes(sample: Sample, dtypes: tuple[str, ...]) -> tuple[Sample, ...]:
    """The sample with its f32 operands in each of the other dtypes."""
    return tuple(_in_dtype(sample, dtype) for dtype in dtypes if dtype != "f32")


def _in_dtype(sample: Sample, dtype: str) -> Sample:
    floats = [t.startswith("f32[") for t in sample.operands]
    operands = tuple(f"{dtype}{t[3:]}" if f else t for t, f in zip(sample.operands, floats, strict=True))
    draw = tuple("mask" if f and dtype == "bool" else how for how, f in zip(sample.draw, floats, strict=True))
    return Sample(operands, sample.attributes, draw)


def unary(
    name: str,
    doc: str,
    meaning: Callable[[Array], Any],
    scalar: Scalar,
    slope: Callable[[Builder, Value, Value, Value], Value] | NoGradient,
    draw: str = "normal",
    dtypes: tuple[str, ...] = FLOATS,
    linear: tuple[tuple[int, ...], ...] = (),
) -> Op:
    """An op of one tensor. slope(builder, x, y, cotangent of y) gives the cotangent of x; `linear` are sets of operands."""

    def type_rule(types: Types, _attributes: Attributes) -> Types:
        return (elementwise(name, types, 1, dtypes),)

    def evaluate(operands: Arrays, _attributes: Attributes, _keys: Keys) -> Arrays:
        return (np.asarray(meaning(operands[0])),)

    def vjp(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
        assert not isinstance(slope, NoGradient)
        (cotangent,) = cotangents
        (x,) = instruction.operands
        if cotangent is None or not x.type.is_float:
            return (None,)
        return (slope(b, x, instruction.result, cotangent),)

    return Op(
        name=name,
        doc=doc,
        attributes=(),
        type_rule=type_rule,
        meaning=evaluate,
        vjp=slope if isinstance(slope, NoGradient) else vjp,
        factors=corresponding(same, *linear),
        lowering=Pointwise(scalar),
        flops=elements,
        samples=elementwise_samples(1, dtypes, (draw,)),
    )


def binary(
    name: str,
    doc: str,
    meaning: Callable[[Array, Array], Any],
    slopes: Callable[[Builder, Value, Value, Value, Value], tuple[Value, Value]] | NoGradient,
    dtypes: tuple[str, ...] = FLOATS,
    draw: tuple[str, str] = ("normal", "normal"),
    function: str | None = None,
    linear: tuple[tuple[int, ...], ...] = (),
) -> Op:
    """An op of two tensors of equal type. slopes(builder, x, y, z, cotangent of z) gives the cotangents of x and y;
    `function` is the scalar function where it is not named like the op; `linear` are sets of operands."""

    def type_rule(types: Types, _attributes: Attributes) -> Types:
        return (elementwise(name, types, 2, dtypes),)

    def evaluate(operands: Arrays, _attributes: Attributes, _keys: Keys) -> Arrays:
        return (np.asarray(meaning(*operands)),)

    def vjp(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
        assert not isinstance(slopes, NoGradient)
        (cotangent,) = cotangents
        x, y = instruction.operands
        if cotangent is None or not x.type.is_float:
            return (None, None)
        return slopes(b, x, y, instruction.result, cotangent)

    return Op(
        name=name,
        doc=doc,
        attributes=(),
        type_rule=type_rule,
        meaning=evaluate,
        vjp=slopes if isinstance(slopes, NoGradient) else vjp,
        factors=corresponding(same, *linear),
        lowering=Pointwise(apply(function or name, X, Y)),
        flops=elements,
        samples=elementwise_samples(2, dtypes, draw),
    )


def comparison(name: str, doc: str, meaning: Callable[[Array, Array], Any]) -> Op:
    """A test of two tensors of equal type; the result is bool."""
    allowed = NUMBERS if name.startswith("less") else ANY

    def type_rule(types: Types, _attributes: Attributes) -> Types:
        return (TensorType("bool", elementwise(name, types, 2, allowed).dims),)

    def evaluate(operands: Arrays, _attributes: Attributes, _keys: Keys) -> Arrays:
        return (np.asarray(meaning(*operands)),)

    draw = ("index:3", "index:3")
    return Op(
        name=name,
        doc=doc,
        attributes=(),
        type_rule=type_rule,
        meaning=evaluate,
        vjp=NoGradient("the result is bool"),
        factors=SAME,
        lowering=Pointwise(apply(name, X, Y)),
        flops=elements,
        samples=(
            *(Sample((f"f32[{shape}]",) * 2, (), ("normal", "normal")) for shape in SHAPES),
            Sample(("bf16[3, 5]",) * 2, (), ("normal", "normal")),
            Sample(("i32[4, 3]",) * 2, (), draw),
        ),
    )


def times(b: Builder, value: Value, number: float) -> Value:
    """value * number."""
    return b.one("mul", value, constant_like(b, number, value.type))
