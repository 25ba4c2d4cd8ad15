"""What C has for each dtype: types, constants, conversions and functions. A dtype or function that is not here is not emitted."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from mlc.frozen import frozen_by_name
from mlc.ir.dtypes import row

_LARGEST_F32 = 3.4028234663852886e38


def _f32_literal(value: float) -> str:
    """A C float constant of exactly f32(value)."""
    return _float_literal(_shortest_f32(value), "f") if math.isfinite(value) else _infinite(value)


def _float_literal(value: float, suffix: str) -> str:
    text = repr(value)
    return text + suffix if any(c in text for c in ".e") else f"{text}.0{suffix}"


def _infinite(value: float) -> str:
    return "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"


def _shortest_f32(value: float) -> float:
    """The decimal with the fewest digits that rounds to f32(value)."""
    exact = _f32(max(-_LARGEST_F32, min(_LARGEST_F32, value)))
    for digits in range(1, 10):
        short = float(f"{exact:.{digits}g}")
        if abs(short) <= _LARGEST_F32 and _f32(short) == exact:
            return short
    return exact


def _f32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def _f64_literal(value: float) -> str:
    return _float_literal(float(value), "") if math.isfinite(value) else _infinite(value)


def _i32_literal(value: float) -> str:
    return str(int(value)) if int(value) > -(2**31) else "INT32_MIN"


def _bool_literal(value: float) -> str:
    return "1" if value else "0"


@frozen_by_name
class Stored:
    """A dtype in memory.

    type:       of an element
    name:       in enum mlc_dtype
    read:       the function that takes a stored element to its register; "" where it is one
    write:      the function that takes it back
    """

    type: str
    name: str
    read: str
    write: str


@frozen_by_name
class Register:
    """A dtype that is computed with.

    type:       of a local
    literal:    a constant of it
    least:      what a maximum starts from; "": there is none
    functions:  what its functions of mlc_kernel.h are called, by scalar function
    kernels:    what the runtime's kernels are called that sum in it, "" behind their names for f32; None: it has none
    """

    type: str
    literal: Callable[[float], str]
    least: str
    functions: dict[str, str]
    kernels: str | None


#: Scalar functions of floats that mlc_kernel.h has.
_FLOAT_CALLS = (
    *("abs", "sign", "minimum", "maximum", "sqrt", "exp", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "floor", "pow"),
    *("random_uniform", "random_normal"),
)

#: What integers have; some wrap, as in NumPy.
_I32_CALLS = {fn: f"mlc_{fn}_i32" for fn in ("add", "sub", "mul", "neg", "abs")} | {fn: f"mlc_{fn}" for fn in ("floordiv", "mod", "clamp")}

STORED = {
    "f32": Stored(type="float", name="MLC_F32", read="", write=""),
    "bf16": Stored(type="uint16_t", name="MLC_BF16", read="mlc_f32_of_bf16", write="mlc_bf16_of_f32"),
    "f16": Stored(type="uint16_t", name="MLC_F16", read="mlc_f32_of_f16", write="mlc_f16_of_f32"),
    "f64": Stored(type="double", name="MLC_F64", read="", write=""),
    "i32": Stored(type="int32_t", name="MLC_I32", read="", write=""),
    "bool": Stored(type="uint8_t", name="MLC_BOOL", read="", write=""),
}

REGISTERS = {
    "f32": Register(
        type="float", literal=_f32_literal, least="-INFINITY", kernels="",
        functions={fn: f"mlc_{fn}" for fn in (*_FLOAT_CALLS, "round_bf16", "round_f16")} | {"to_i32": "mlc_i32_of_f32"},
    ),
    "f64": Register(
        type="double", literal=_f64_literal, least="-INFINITY", kernels="_f64",
        functions={fn: f"mlc_{fn}_f64" for fn in _FLOAT_CALLS} | {"to_i32": "mlc_i32_of_f64"},
    ),
    "i32": Register(type="int32_t", literal=_i32_literal, least="INT32_MIN", kernels=None, functions=_I32_CALLS),
    "bool": Register(type="int", literal=_bool_literal, least="", kernels=None, functions={}),
}  # fmt: skip


def stored(dtype: str) -> Stored:
    return row(STORED, dtype, "memory of target c")


def register(dtype: str) -> Register:
    return row(REGISTERS, dtype, "arithmetic of target c")


def kernel_name(name: str, dtype: str) -> str:
    """A kernel of the runtime that sums in this dtype."""
    suffixes = {known: of.kernels for known, of in REGISTERS.items() if of.kernels is not None}
    return name + row(suffixes, dtype, f"{name} of target c")
