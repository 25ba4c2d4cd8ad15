"""Functions of one tensor, element by element."""

from __future__ import annotations

import math

import numpy as np

from mlc.ir.builder import Builder
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Const, Coordinates, Keys, NoGradient, Op, Pointwise, Sample, View
from mlc.ir.types import Value
from mlc.ops.broadcasting import constant_like
from mlc.ops.families import SHAPES, Array, Arrays, X, apply, elements, no_flops, times, unary
from mlc.ops.letters import SAME, corresponding, same
from mlc.ops.rules import ANY, NUMBERS, Types, check_count, elementwise

STEPWISE = NoGradient("constant between steps")


def _one_minus(b: Builder, value: Value) -> Value:
    return b.one("sub", constant_like(b, 1.0, value.type), value)


def _abs_slope(b: Builder, x: Value, _y: Value, dy: Value) -> Value:
    return b.one("mul", dy, b.one("sign", x))


def _sqrt_slope(b: Builder, _x: Value, y: Value, dy: Value) -> Value:
    return b.one("div", times(b, dy, 0.5), y)


def _rsqrt_slope(b: Builder, _x: Value, y: Value, dy: Value) -> Value:
    cube = b.one("mul", b.one("mul", y, y), y)
    return b.one("mul", times(b, dy, -0.5), cube)


def _log1p_slope(b: Builder, x: Value, _y: Value, dy: Value) -> Value:
    return b.one("div", dy, b.one("add", x, constant_like(b, 1.0, x.type)))


def _tanh_slope(b: Builder, _x: Value, y: Value, dy: Value) -> Value:
    return b.one("mul", dy, _one_minus(b, b.one("mul", y, y)))


def _sigmoid_slope(b: Builder, _x: Value, y: Value, dy: Value) -> Value:
    return b.one("mul", dy, b.one("mul", y, _one_minus(b, y)))


def _erf_slope(b: Builder, x: Value, _y: Value, dy: Value) -> Value:
    bell = b.one("exp", b.one("neg", b.one("mul", x, x)))
    return b.one("mul", times(b, dy, 2.0 / math.sqrt(math.pi)), bell)


def _cos_slope(b: Builder, x: Value, _y: Value, dy: Value) -> Value:
    return b.one("neg", b.one("mul", dy, b.one("sin", x)))


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


NEG = unary("neg", "-x", np.negative, apply("neg", X), lambda b, x, y, dy: b.one("neg", dy), dtypes=NUMBERS, linear=((0,),))
ABS = unary("abs", "the magnitude of x; its slope at 0 is 0", np.abs, apply("abs", X), _abs_slope, dtypes=NUMBERS)
SIGN = unary("sign", "-1, 0 or 1", np.sign, apply("sign", X), STEPWISE, dtypes=NUMBERS)
SQRT = unary("sqrt", "the square root", np.sqrt, apply("sqrt", X), _sqrt_slope, "positive")
RSQRT = unary("rsqrt", "1 / sqrt(x)", lambda x: 1 / np.sqrt(x), apply("div", Const(1.0), apply("sqrt", X)), _rsqrt_slope, "positive")
EXP = unary("exp", "e to the power x", np.exp, apply("exp", X), lambda b, x, y, dy: b.one("mul", dy, y))
LOG = unary("log", "the natural logarithm", np.log, apply("log", X), lambda b, x, y, dy: b.one("div", dy, x), "positive")
LOG1P = unary("log1p", "log(1 + x), exact for small x", np.log1p, apply("log1p", X), _log1p_slope, "unit")
TANH = unary("tanh", "the hyperbolic tangent", np.tanh, apply("tanh", X), _tanh_slope)
SIGMOID = unary("sigmoid", "1 / (1 + exp(-x))", lambda x: 1 / (1 + np.exp(-x)), apply("sigmoid", X), _sigmoid_slope)
ERF = unary("erf", "the error function", _erf, apply("erf", X), _erf_slope)
SIN = unary("sin", "the sine", np.sin, apply("sin", X), lambda b, x, y, dy: b.one("mul", dy, b.one("cos", x)))
COS = unary("cos", "the cosine", np.cos, apply("cos", X), _cos_slope)
FLOOR = unary("floor", "the largest integer that is not above x", np.floor, apply("floor", X), STEPWISE)
SOFTPLUS = unary(
    "softplus",
    "log(1 + exp(x))",
    _softplus,
    apply("add", apply("maximum", X, Const(0.0)), apply("log1p", apply("exp", apply("neg", apply("abs", X))))),
    lambda b, x, y, dy: b.one("mul", dy, b.one("sigmoid", x)),
)


def _mask_rule(types: Types, _attributes: Attributes) -> Types:
    return (elementwise("not", types, 1, ("bool",)),)


NOT = Op(
    name="not",
    doc="true where x is false",
    attributes=(),
    type_rule=_mask_rule,
    meaning=lambda operands, _attributes, _keys: (np.logical_not(operands[0]),),
    vjp=NoGradient("the result is bool"),
    factors=SAME,
    lowering=Pointwise(apply("not", X)),
    flops=elements,
    samples=tuple(Sample((f"bool[{shape}]",), (), ("mask",)) for shape in SHAPES),
)


def _same_rule(op: str):
    def type_rule(types: Types, _attributes: Attributes) -> Types:
        check_count(op, types, 1)
        return types

    return type_rule


def _identity(operands: Arrays, _attributes: Attributes, _keys: Keys) -> Arrays:
    return (operands[0].copy(),)


def _copy_vjp(_b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    return cotangents if instruction.operands[0].type.is_float else (None,)


def _same_place(_copy: Instruction, _result: int, at: Coordinates) -> Coordinates:
    return at


_IDENTITY_SAMPLES = (
    *(Sample((f"f32[{shape}]",), (), ("normal",)) for shape in SHAPES),
    *(Sample((f"{dtype}[3, 5]",), (), ("mask" if dtype == "bool" else "normal",)) for dtype in ANY[1:]),
)

STOP_GRADIENT = Op(
    name="stop_gradient",
    doc="x, through which no gradient passes",
    attributes=(),
    type_rule=_same_rule("stop_gradient"),
    meaning=_identity,
    vjp=NoGradient("that is its purpose"),
    factors=corresponding(same, (0,)),
    lowering=Pointwise(X),
    flops=no_flops,
    samples=_IDENTITY_SAMPLES,
)

COPY = Op(
    name="copy",
    doc="x under another name",
    attributes=(),
    type_rule=_same_rule("copy"),
    meaning=_identity,
    vjp=_copy_vjp,
    factors=corresponding(same, (0,)),
    lowering=View("copy", _same_place, _same_place, False),
    flops=no_flops,
    samples=_IDENTITY_SAMPLES,
)

UNARY = (NEG, ABS, SIGN, SQRT, RSQRT, EXP, LOG, LOG1P, TANH, SIGMOID, ERF, SIN, COS, FLOOR, SOFTPLUS, NOT, STOP_GRADIENT, COPY)
