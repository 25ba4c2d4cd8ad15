"""Softmax and log-sum-exp along one axis."""

from __future__ import annotations

import math

import numpy as np

from mlc.ir.builder import Builder
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Composite, Keys, Op, Sample
from mlc.ir.types import TensorType, Value
from mlc.ops.broadcasting import cast_to, constant_like, spread, widened, zeros
from mlc.ops.families import Array, Arrays, given, other_dtypes
from mlc.ops.letters import corresponding, same_but_axis
from mlc.ops.rules import FLOATS, Types, check_axis, check_count, check_dtype, reduced_dims

Cotangents = tuple[Value | None, ...]


def _five_an_element(instruction: Instruction) -> int:
    """max, sub, exp, sum and div."""
    return 5 * instruction.operands[0].type.size


def exponentials(b: Builder, x: Value, axis: int) -> Value:
    """exp(x - max(x)) along an axis: for softmax, whose rows hold a finite element."""
    peak = b.one("max", x, axes=(axis,), keepdims=True)
    return b.one("exp", b.one("sub", x, spread(b, peak, x.type.dims, (axis,), True)))


def log_sum_exp(b: Builder, x: Value, axis: int) -> Value:
    """log(sum(exp(x))) with the axis dropped, in simpler ops. A row of -inf gives -inf, one with inf gives inf."""
    peak = b.one("max", x, axes=(axis,), keepdims=False)
    finite = b.one("less", b.one("abs", peak), constant_like(b, math.inf, peak.type))
    peak = b.one("select", finite, peak, zeros(b, peak.type))
    total = b.one("sum", b.one("exp", b.one("sub", x, spread(b, peak, x.type.dims, (axis,), False))), axes=(axis,), keepdims=False)
    return b.one("add", b.one("log", total), peak)


def log_sum_exp_meaning(x: Array, axis: int) -> Array:
    """log(sum(exp(x))) with the axis dropped."""
    peak = np.max(x, axis=axis, keepdims=True)
    peak = np.where(np.abs(peak) < np.inf, peak, np.zeros_like(peak))
    return np.log(np.sum(np.exp(x - peak), axis=axis)) + np.squeeze(peak, axis)


def _softmax_rule(types: Types, attributes: Attributes) -> Types:
    check_count("softmax", types, 1)
    (x,) = types
    check_dtype("softmax", x, FLOATS)
    check_axis("softmax", attributes["axis"], x)
    return (x,)


def _softmax_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    (x,) = operands
    e = np.exp(x - np.max(x, axis=attributes["axis"], keepdims=True))
    return (e / np.sum(e, axis=attributes["axis"], keepdims=True),)


def _softmax_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    """y * (dy - sum(dy * y))"""
    (dy,) = cotangents
    if dy is None:
        return (None,)
    axis, y = given(instruction)["axis"], instruction.result
    inner = b.one("sum", b.one("mul", dy, y), axes=(axis,), keepdims=True)
    return (b.one("mul", y, b.one("sub", dy, spread(b, inner, y.type.dims, (axis,), True))),)


def _softmax_expand(b: Builder, instruction: Instruction) -> tuple[Value, ...]:
    """In the wide dtype, rounded once."""
    (x,) = instruction.operands
    axis = given(instruction)["axis"]
    e = exponentials(b, widened(b, x), axis)
    total = b.one("sum", e, axes=(axis,), keepdims=True)
    y = b.one("div", e, spread(b, total, x.type.dims, (axis,), True))
    return (cast_to(b, y, x.type.dtype),)


def _at(axis: int, **others: bool):
    return tuple(sorted({"axis": axis, **others}.items()))


SOFTMAX = Op(
    name="softmax",
    doc="exp(x) / sum(exp(x)) along an axis",
    attributes=("axis",),
    type_rule=_softmax_rule,
    meaning=_softmax_meaning,
    vjp=_softmax_vjp,
    factors=corresponding(same_but_axis),
    lowering=Composite(_softmax_expand),
    flops=_five_an_element,
    samples=(
        Sample(("f32[7]",), _at(0), ("normal",)),
        Sample(("f32[3, 17]",), _at(1), ("normal",)),
        Sample(("f32[a=2, b=5, c=3]",), _at(1), ("normal",)),
        Sample(("f32[4, 1]",), _at(1), ("normal",)),
        *other_dtypes(Sample(("f32[3, 7]",), _at(1), ("normal",)), FLOATS),
    ),
)


def _logsumexp_rule(types: Types, attributes: Attributes) -> Types:
    check_count("logsumexp", types, 1)
    (x,) = types
    check_dtype("logsumexp", x, FLOATS)
    return (TensorType(x.dtype, reduced_dims("logsumexp", x, attributes)),)


def _logsumexp_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    (x,) = operands
    y = log_sum_exp_meaning(x, attributes["axis"])
    return (np.expand_dims(y, attributes["axis"]) if attributes["keepdims"] else y,)


def _logsumexp_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    """dy * exp(x - lse)"""
    (dy,) = cotangents
    if dy is None:
        return (None,)
    (x,) = instruction.operands
    axes, keepdims = (given(instruction)["axis"],), given(instruction)["keepdims"]
    share = b.one("exp", b.one("sub", x, spread(b, instruction.result, x.type.dims, axes, keepdims)))
    return (b.one("mul", spread(b, dy, x.type.dims, axes, keepdims), share),)


def _logsumexp_expand(b: Builder, instruction: Instruction) -> tuple[Value, ...]:
    """In the wide dtype, rounded once."""
    (x,) = instruction.operands
    y = log_sum_exp(b, widened(b, x), given(instruction)["axis"])
    if instruction.attribute("keepdims"):
        y = b.one("reshape", y, dims=instruction.result.type.dims)
    return (cast_to(b, y, x.type.dtype),)


LOGSUMEXP = Op(
    name="logsumexp",
    doc="log(sum(exp(x))) along an axis",
    attributes=("axis", "keepdims"),
    type_rule=_logsumexp_rule,
    meaning=_logsumexp_meaning,
    vjp=_logsumexp_vjp,
    factors=corresponding(same_but_axis),
    lowering=Composite(_logsumexp_expand),
    flops=_five_an_element,
    samples=(
        Sample(("f32[7]",), _at(0, keepdims=False), ("normal",)),
        Sample(("f32[3, 17]",), _at(1, keepdims=True), ("normal",)),
        Sample(("f32[a=2, b=5, c=3]",), _at(1, keepdims=False), ("normal",)),
        Sample(("f32[4, 1]",), _at(0, keepdims=True), ("normal",)),
        *other_dtypes(Sample(("f32[3, 7]",), _at(1, keepdims=False), ("normal",)), FLOATS),
    ),
)

NORMALIZERS = (SOFTMAX, LOGSUMEXP)
