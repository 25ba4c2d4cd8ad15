"""Functions of two tensors of equal type, element by element; and select and cast."""

from __future__ import annotations

import numpy as np

from mlc.diagnostics import InternalError
from mlc.ir.builder import Builder
from mlc.ir.dtypes import DTYPES, FLOAT_DTYPES, dtype_of
from mlc.ir.factors import Correspondence
from mlc.ir.function import Instruction
from mlc.ir.op import Apply, Arg, Attributes, ByAttribute, Keys, NoGradient, Op, Pointwise, Sample
from mlc.ir.types import TensorType, Value
from mlc.ops.broadcasting import constant_like, zeros
from mlc.ops.families import SHAPES, Arrays, X, apply, binary, comparison, elements, times
from mlc.ops.letters import corresponding, same
from mlc.ops.rules import ANY, NUMBERS, Types, check_count, check_dtype, merged_dims, same_dtype, same_sizes

Slopes = tuple[Value, Value]


def _mul_slopes(b: Builder, x: Value, y: Value, _z: Value, dz: Value) -> Slopes:
    return b.one("mul", dz, y), b.one("mul", dz, x)


def _div_slopes(b: Builder, _x: Value, y: Value, z: Value, dz: Value) -> Slopes:
    dx = b.one("div", dz, y)
    return dx, b.one("neg", b.one("mul", dx, z))


def _pow_slopes(b: Builder, x: Value, y: Value, z: Value, dz: Value) -> Slopes:
    """x ** y: y x^(y-1), and z log x where x > 0 (0 elsewhere)."""
    one, zero = constant_like(b, 1.0, x.type), zeros(b, x.type)
    lowered = b.one("pow", x, b.one("sub", y, one))
    slope = b.one("select", b.one("equal", y, zero), zero, b.one("mul", y, lowered))
    positive = b.one("less", zero, x)
    log = b.one("log", b.one("select", positive, x, one))
    return b.one("mul", dz, slope), b.one("mul", dz, b.one("mul", b.one("select", positive, z, zero), log))


def _extreme_slopes(larger: bool):
    """All to the operand that was taken, half to each where they are equal."""

    def slopes(b: Builder, x: Value, y: Value, _z: Value, dz: Value) -> Slopes:
        tie = b.one("equal", x, y)
        half = times(b, dz, 0.5)
        zero = zeros(b, dz.type)
        first = b.one("less", y, x) if larger else b.one("less", x, y)
        dx = b.one("select", tie, half, b.one("select", first, dz, zero))
        dy = b.one("select", tie, half, b.one("select", first, zero, dz))
        return dx, dy

    return slopes


INTEGER = NoGradient("the operands are integers")
MASK = NoGradient("the operands are bool")

ARITHMETIC = (
    binary("add", "x + y", np.add, lambda b, x, y, z, dz: (dz, dz), NUMBERS, linear=((0, 1),)),
    binary("sub", "x - y", np.subtract, lambda b, x, y, z, dz: (dz, b.one("neg", dz)), NUMBERS, linear=((0, 1),)),
    binary("mul", "x * y", np.multiply, _mul_slopes, NUMBERS, linear=((0,), (1,))),
    binary("div", "x / y", np.divide, _div_slopes, draw=("normal", "positive"), linear=((0,),)),
    binary("pow", "x to the power y", np.power, _pow_slopes, draw=("positive", "normal")),
    binary("maximum", "the larger of x and y; on ties each gets half the gradient", np.maximum, _extreme_slopes(True), NUMBERS),
    binary("minimum", "the smaller of x and y; on ties each gets half the gradient", np.minimum, _extreme_slopes(False), NUMBERS),
    binary("floordiv", "x / y rounded to minus infinity", np.floor_divide, INTEGER, ("i32",), ("index:90", "nonzero")),
    binary("mod", "x - y * floordiv(x, y): the sign of y", np.mod, INTEGER, ("i32",), ("index:90", "nonzero")),
    binary("and", "both", np.logical_and, MASK, ("bool",), ("mask", "mask")),
    binary("or", "either or both", np.logical_or, MASK, ("bool",), ("mask", "mask")),
    binary("xor", "exactly one", np.logical_xor, MASK, ("bool",), ("mask", "mask"), "not_equal"),
)

COMPARISONS = (
    comparison("less", "x < y", np.less),
    comparison("less_equal", "x <= y", np.less_equal),
    comparison("equal", "x == y", np.equal),
    comparison("not_equal", "x != y", np.not_equal),
)


def _select_rule(types: Types, _attributes: Attributes) -> Types:
    check_count("select", types, 3)
    condition, x, y = types
    if condition.dtype != "bool":
        check_dtype("select", condition, ("bool",))
    same_dtype("select", (x, y))
    same_sizes("select", types)
    return (TensorType(x.dtype, merged_dims((x, y, condition))),)


def _select_meaning(operands: Arrays, _attributes: Attributes, _keys: Keys) -> Arrays:
    return (np.where(*operands),)


def _select_vjp(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    (dz,) = cotangents
    condition, x, _y = instruction.operands
    if dz is None or not x.type.is_float:
        return (None, None, None)
    zero = zeros(b, dz.type)
    return (None, b.one("select", condition, dz, zero), b.one("select", condition, zero, dz))


SELECT = Op(
    name="select",
    doc="x where the condition is true, y elsewhere",
    attributes=(),
    type_rule=_select_rule,
    meaning=_select_meaning,
    vjp=_select_vjp,
    factors=corresponding(same, (1, 2)),
    lowering=Pointwise(apply("select", Arg(0), Arg(1), Arg(2))),
    flops=elements,
    samples=(
        *(Sample((f"bool[{s}]", f"f32[{s}]", f"f32[{s}]"), (), ("mask", "normal", "normal")) for s in SHAPES),
        Sample(("bool[5]", "bf16[5]", "bf16[5]"), (), ("mask", "normal", "normal")),
        Sample(("bool[5]", "i32[5]", "i32[5]"), (), ("mask", "normal", "normal")),
        Sample(("bool[5]", "bool[5]", "bool[5]"), (), ("mask", "mask", "mask")),
    ),
)


def _cast_rule(types: Types, attributes: Attributes) -> Types:
    check_count("cast", types, 1)
    dtype = attributes["dtype"]
    if dtype not in DTYPES:
        raise InternalError(f"cast: unknown dtype {dtype!r}")
    return (TensorType(dtype, types[0].dims),)


def _cast_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    """To a float dtype the value is kept: whoever stores the result rounds it."""
    (x,) = operands
    match attributes["dtype"]:
        case "i32":
            return (np.trunc(x).astype(np.int32),)
        case "bool":
            return (x != 0,)
        case _:
            return (x if x.dtype.kind == "f" else x.astype(np.float64),)


def _cast_vjp(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    (dy,) = cotangents
    source = instruction.operands[0].type.dtype
    if dy is None or source not in FLOAT_DTYPES or not instruction.result.type.is_float:
        return (None,)
    return (dy if dy.type.dtype == source else b.one("cast", dy, dtype=source),)


def _cast_linear(instruction: Instruction) -> tuple[frozenset[int], ...]:
    """To a wider float: rounding sums is not summing what is rounded."""
    source, made = instruction.operands[0].type, instruction.result.type
    wide = source.dtype == made.dtype or made.dtype in dtype_of(source.dtype).fits
    return (frozenset([0]),) if source.is_float and made.is_float and wide else ()


CAST = Op(
    name="cast",
    doc="x in another dtype: floats round to nearest even, f64 to 16 bits by way of f32; to i32 truncates toward zero, to bool is x != 0",
    attributes=("dtype",),
    type_rule=_cast_rule,
    meaning=_cast_meaning,
    vjp=_cast_vjp,
    factors=Correspondence(same, _cast_linear, None, None),
    lowering=Pointwise(
        ByAttribute(
            "dtype",
            (
                ("f32", Apply("to_f32", (X,))),
                ("f64", Apply("to_f64", (X,))),
                ("bf16", Apply("round_bf16", (Apply("to_f32", (X,)),))),
                ("f16", Apply("round_f16", (Apply("to_f32", (X,)),))),
                ("i32", Apply("to_i32", (X,))),
                ("bool", Apply("to_bool", (X,))),
            ),
        )
    ),
    flops=lambda instruction: 0,
    samples=tuple(
        Sample((f"{source}[3, 5]",), (("dtype", to),), ("mask" if source == "bool" else "normal",)) for source in ANY for to in ANY
    ),
)

BINARY = (*ARITHMETIC, *COMPARISONS, SELECT, CAST)
