"""Sums, maxima and what runs along one axis: cumsum, top_k, argmax."""

from __future__ import annotations

import numpy as np

from mlc.diagnostics import OpError
from mlc.ir.builder import Builder
from mlc.ir.factors import Join
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Keys, NoGradient, Op, Reduction, Sample, Scan
from mlc.ir.types import TensorType, Value, dim
from mlc.ops.broadcasting import spread, zeros
from mlc.ops.families import Arrays, given, operand_elements, other_dtypes
from mlc.ops.letters import NAMES, WHOLE, Letters, corresponding, lettered, same_but, same_but_axis
from mlc.ops.rules import NUMBERS, Types, check_axis, check_count, check_dtype, check_positions, reduced_dims

Cotangents = tuple[Value | None, ...]


def _reduction_rule(op: str):
    def type_rule(types: Types, attributes: Attributes) -> Types:
        check_count(op, types, 1)
        (x,) = types
        check_dtype(op, x, NUMBERS)
        return (TensorType(x.dtype, reduced_dims(op, x, attributes)),)

    return type_rule


def _sum_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    (x,) = operands
    return (np.sum(x, axis=attributes["axes"], keepdims=attributes["keepdims"], dtype=x.dtype),)


def _max_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    return (np.max(operands[0], axis=attributes["axes"], keepdims=attributes["keepdims"]),)


def _repeated(b: Builder, instruction: Instruction, value: Value) -> Value:
    """A value of the result's shape, repeated along the reduced axes."""
    return spread(b, value, instruction.operands[0].type.dims, **given(instruction))


def _sum_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    if dy is None or not dy.type.is_float:
        return (None,)
    return (_repeated(b, instruction, dy),)


def _max_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    (x,) = instruction.operands
    if dy is None or not dy.type.is_float:
        return (None,)
    tied = b.one("equal", x, _repeated(b, instruction, instruction.result))
    count = b.one("sum", b.one("cast", tied, dtype=x.type.dtype), **given(instruction))
    share = _repeated(b, instruction, b.one("div", dy, count))
    return (b.one("select", tied, share, zeros(b, x.type)),)


def _axes(axes: tuple[int, ...], keepdims: bool):
    return (("axes", axes), ("keepdims", keepdims))


def _reduction_letters(join: Join):
    def letters(instruction: Instruction) -> Letters:
        axes, keepdims = instruction.attribute("axes"), instruction.attribute("keepdims")
        names = NAMES[: len(instruction.operands[0].type.dims)]
        kept = [WHOLE if d in axes else name for d, name in enumerate(names) if keepdims or d not in axes]
        return lettered(instruction, (names, kept), {names[a]: join for a in axes})

    return letters


def _reduction_samples(draw: str) -> tuple[Sample, ...]:
    return (
        Sample(("f32[7]",), _axes((0,), False), (draw,)),
        Sample(("f32[1, 1]",), _axes((1,), True), (draw,)),
        Sample(("f32[5, 37]",), _axes((1,), False), (draw,)),
        Sample(("f32[5, 37]",), _axes((0,), True), (draw,)),
        Sample(("f32[3, 4, 5]",), _axes((0, 2), False), (draw,)),
        Sample(("f32[a=3, b=4, c=5]",), _axes((1,), True), (draw,)),
        Sample(("f32[3, 4, 5]",), _axes((0, 1, 2), False), (draw,)),
        Sample(("f32[2, 3]",), _axes((), False), (draw,)),
        *other_dtypes(Sample(("f32[5, 7]",), _axes((1,), True), (draw,)), NUMBERS),
    )


SUM = Op(
    name="sum",
    doc="the sum over axes; 16-bit floats are summed in f32",
    attributes=("axes", "keepdims"),
    type_rule=_reduction_rule("sum"),
    meaning=_sum_meaning,
    vjp=_sum_vjp,
    factors=corresponding(_reduction_letters(Join.SUM), (0,)),
    lowering=Reduction("sum"),
    flops=operand_elements,
    samples=_reduction_samples("normal"),
)

MAX = Op(
    name="max",
    doc="the largest element over axes; elements that tie share the gradient",
    attributes=("axes", "keepdims"),
    type_rule=_reduction_rule("max"),
    meaning=_max_meaning,
    vjp=_max_vjp,
    factors=corresponding(_reduction_letters(Join.MAX)),
    lowering=Reduction("max"),
    flops=operand_elements,
    samples=_reduction_samples("distinct"),
)


def _axis_rule(op: str):
    def type_rule(types: Types, attributes: Attributes) -> Types:
        check_count(op, types, 1)
        (x,) = types
        check_dtype(op, x, NUMBERS)
        check_axis(op, attributes["axis"], x)
        return (x,)

    return type_rule


def _argmax_rule(types: Types, attributes: Attributes) -> Types:
    check_count("argmax", types, 1)
    (x,) = types
    check_dtype("argmax", x, NUMBERS)
    dims = reduced_dims("argmax", x, {"axis": attributes["axis"], "keepdims": False})
    check_positions("argmax", x.dims[attributes["axis"]])
    return (TensorType("i32", dims),)


def _argmax_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    return (np.asarray(np.argmax(operands[0], axis=attributes["axis"]), np.int32),)


ARGMAX = Op(
    name="argmax",
    doc="the index of the largest element along an axis, the lowest one on ties",
    attributes=("axis",),
    type_rule=_argmax_rule,
    meaning=_argmax_meaning,
    vjp=NoGradient("the result is an index"),
    factors=corresponding(same_but_axis),
    lowering=Scan("argmax"),
    flops=operand_elements,
    samples=(
        Sample(("f32[7]",), (("axis", 0),), ("normal",)),
        Sample(("f32[3, 5, 2]",), (("axis", 1),), ("normal",)),
        *other_dtypes(Sample(("f32[3, 5]",), (("axis", 1),), ("normal",)), NUMBERS),
        Sample(("i32[4, 9]",), (("axis", 0),), ("index:3",)),
    ),
)


def _cumsum_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    (x,) = operands
    axis = attributes["axis"]
    if not attributes["reverse"]:
        return (np.cumsum(x, axis=axis, dtype=x.dtype),)
    return (np.flip(np.cumsum(np.flip(x, axis), axis=axis, dtype=x.dtype), axis),)


def _cumsum_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    if dy is None or not dy.type.is_float:
        return (None,)
    return (b.one("cumsum", dy, axis=instruction.attribute("axis"), reverse=not instruction.attribute("reverse")),)


CUMSUM = Op(
    name="cumsum",
    doc="element i is the sum of elements 0 to i along an axis (i to the last when reverse)",
    attributes=("axis", "reverse"),
    type_rule=_axis_rule("cumsum"),
    meaning=_cumsum_meaning,
    vjp=_cumsum_vjp,
    factors=corresponding(same_but_axis, (0,)),
    lowering=Scan("cumsum"),
    flops=operand_elements,
    samples=(
        Sample(("f32[7]",), (("axis", 0), ("reverse", False)), ("normal",)),
        Sample(("f32[3, 5, 2]",), (("axis", 1), ("reverse", True)), ("normal",)),
        Sample(("f32[1, 4]",), (("axis", 0), ("reverse", False)), ("normal",)),
        *other_dtypes(Sample(("f32[3, 5]",), (("axis", 1), ("reverse", False)), ("normal",)), NUMBERS),
    ),
)


def _top_k_rule(types: Types, attributes: Attributes) -> Types:
    check_count("top_k", types, 1)
    (x,) = types
    check_dtype("top_k", x, NUMBERS)
    check_axis("top_k", len(x.dims) - 1, x)
    k = attributes["k"]
    if not 1 <= k.size <= x.dims[-1].size:
        raise OpError("E0206", f"top_k: cannot take {k} of the last dim of {x}")
    check_positions("top_k", x.dims[-1])
    dims = (*x.dims[:-1], k)
    return (TensorType(x.dtype, dims), TensorType("i32", dims))


def _top_k_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    (x,) = operands
    indices = np.argsort(-x, axis=-1, kind="stable")[..., : attributes["k"].size]
    return (np.take_along_axis(x, indices, -1), indices.astype(np.int32))


def _top_k_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    dvalues, _ = cotangents
    if dvalues is None or not dvalues.type.is_float:
        return (None,)
    dims = instruction.operands[0].type.dims
    return (b.one("put_along", dvalues, instruction.results[1], axis=len(dims) - 1, dim=dims[-1]),)


TOP_K = Op(
    name="top_k",
    doc="the k largest elements along the last axis in falling order, and their indices; the lowest index first on ties",
    attributes=("k",),
    type_rule=_top_k_rule,
    meaning=_top_k_meaning,
    vjp=_top_k_vjp,
    factors=corresponding(lambda i: same_but(i, len(i.operands[0].type.dims) - 1)),
    lowering=Scan("top_k"),
    flops=operand_elements,
    samples=(
        Sample(("f32[7]",), (("k", dim(3)),), ("distinct",)),
        Sample(("f32[2, 3, 5]",), (("k", dim(2, "active")),), ("distinct",)),
        Sample(("f32[4, 1]",), (("k", dim(1, "active")),), ("distinct",)),
        *other_dtypes(Sample(("f32[3, 5]",), (("k", dim(5)),), ("distinct",)), NUMBERS),
        Sample(("i32[3, 8]",), (("k", dim(4)),), ("index:3",)),
    ),
)

REDUCTIONS = (SUM, MAX, ARGMAX, CUMSUM, TOP_K)
