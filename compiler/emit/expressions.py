"""Scalar expressions and indices of the loop IR as C text, with no more parentheses than C needs."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from mlc.lower.index import Counter, Datum, Index, Quotient, Remainder
from mlc.lower.loops import Expression, Number, Operation, Position, Random, Read, Ref, Within

_LARGEST_F32 = 3.4028234663852886e38

#: Binding strength of C operators, as far as they are used here.
ATOM, POSTFIX, UNARY, MULTIPLY, ADD, RELATION, EQUALITY, BIT_AND, AND, OR, CHOICE = range(15, 4, -1)

_INFIX = {
    "add": ("+", ADD), "sub": ("-", ADD), "mul": ("*", MULTIPLY), "div": ("/", MULTIPLY), "less": ("<", RELATION),
    "less_equal": ("<=", RELATION), "equal": ("==", EQUALITY), "not_equal": ("!=", EQUALITY),
    "and": ("&", BIT_AND), "or": ("|", BIT_AND - 1), "xor": ("!=", EQUALITY),
}  # fmt: skip
_CALLS = {
    "floordiv": "mlc_floordiv", "mod": "mlc_mod", "sqrt": "mlc_sqrt", "exp": "mlc_exp", "log": "mlc_log", "log1p": "mlc_log1p",
    "tanh": "mlc_tanh", "sigmoid": "mlc_sigmoid", "erf": "mlc_erf", "sin": "mlc_sin", "cos": "mlc_cos", "floor": "mlc_floor",
    "pow": "mlc_pow", "round_bf16": "mlc_round_bf16", "round_f16": "mlc_round_f16",
}  # fmt: skip
_TYPED_CALLS = {"abs": "mlc_abs", "sign": "mlc_sign", "minimum": "mlc_minimum", "maximum": "mlc_maximum"}
_BOOLEAN = ("less", "less_equal", "equal", "not_equal", "and", "or", "xor", "not", "to_bool")

C_TYPES = {"f32": "float", "bf16": "uint16_t", "f16": "uint16_t", "i32": "int32_t", "bool": "uint8_t"}
LOCAL_TYPES = {"f32": "float", "i32": "int32_t", "bool": "int"}


@dataclass(frozen=True, slots=True)
class Text:
    """C text and how tightly its outermost operator binds."""

    text: str
    binds: int

    def within(self, binds: int) -> str:
        return self.text if self.binds >= binds else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Names:
    """What expressions refer to: C names and stored dtypes of buffers, dtypes of locals, C text of loop counters."""

    buffers: Mapping[str, tuple[str, str]]
    locals: Mapping[str, str]
    counters: Mapping[int, str]


def float_literal(value: float) -> str:
    """A C float constant of exactly f32(value)."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = repr(_shortest_f32(value))
    return text + "f" if any(c in text for c in ".en") else text + ".0f"


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


def number_text(node: Number) -> Text:
    if node.dtype == "f32":
        text = float_literal(float(node.value))
    elif node.dtype == "bool":
        text = "1" if node.value else "0"
    else:
        text = str(int(node.value)) if int(node.value) > -(2**31) else "INT32_MIN"
    return Text(text, UNARY if text.startswith("-") else ATOM)


def index_text(index: Index, names: Names) -> Text:
    """An index as an int64_t expression."""
    parts: list[tuple[int, str]] = []
    for atom, coefficient in index.terms:
        inner = _atom_text(atom, names)
        factor = abs(coefficient)
        parts.append((coefficient, f"{factor} * {inner.within(UNARY)}" if factor != 1 else inner.within(MULTIPLY)))
    if index.constant or not parts:
        parts.append((index.constant if index.constant else 1, str(abs(index.constant))))
    if len(parts) == 1 and parts[0][0] >= 0:
        only = parts[0][1]
        return Text(only, MULTIPLY if "*" in only or "/" in only or "%" in only else ATOM)
    parts.sort(key=lambda p: p[0] < 0)
    text = ("-" if parts[0][0] < 0 else "") + parts[0][1]
    for coefficient, part in parts[1:]:
        text += (" - " if coefficient < 0 else " + ") + part
    return Text(text, ADD if len(parts) > 1 else UNARY)


def _atom_text(atom, names: Names) -> Text:
    match atom:
        case Counter(n, _):
            text = names.counters[n]
            return Text(text, ATOM if text.isidentifier() else ADD)
        case Quotient(index, divisor):
            return Text(f"{index_text(index, names).within(MULTIPLY)} / {divisor}", MULTIPLY)
        case Remainder(index, divisor):
            return Text(f"{index_text(index, names).within(MULTIPLY)} % {divisor}", MULTIPLY)
        case Datum(key, _):
            return Text(f"(int64_t){expression_text(key, names).within(UNARY)}", UNARY)


def dtype_of(node: Expression, names: Names) -> str:
    """f32, i32 or bool."""
    match node:
        case Ref(name):
            return names.locals[name]
        case Number(_, dtype):
            return dtype
        case Read(buffer, _):
            stored = names.buffers[buffer][1]
            return stored if stored in ("i32", "bool") else "f32"
        case Position():
            return "i32"
        case Random():
            return "f32"
        case Within(_, _, _, inside, _):
            return dtype_of(inside, names)
        case Operation(fn, args):
            if fn in _BOOLEAN:
                return "bool"
            if fn in ("to_f32", "to_i32"):
                return fn[3:]
            return dtype_of(args[1] if fn == "select" else args[0], names)


def expression_text(node: Expression, names: Names) -> Text:
    match node:
        case Ref(name):
            return Text(name, ATOM)
        case Number():
            return number_text(node)
        case Read(buffer, index):
            name, stored = names.buffers[buffer]
            text = f"{name}[{index_text(index, names).text}]"
            return Text(f"mlc_f32_of_{stored}({text})" if stored in ("bf16", "f16") else text, POSTFIX)
        case Position(index):
            return Text(f"(int32_t){index_text(index, names).within(UNARY)}", UNARY)
        case Random(kind, ordinal, stream, index):
            path = "env->path" if stream == "call" else "MLC_MODEL_PATH"
            return Text(f"mlc_{kind}(env, {path}, {ordinal}, {index_text(index, names).text})", POSTFIX)
        case Within(index, low, high, inside, outside):
            place = index_text(index, names)
            conditions = [f"{place.within(RELATION)} >= {low}"] if low else []
            conditions.append(f"{place.within(RELATION)} < {high}")
            condition = " && ".join(conditions)
            return Text(
                f"{condition} ? {expression_text(inside, names).within(CHOICE)} : {expression_text(outside, names).within(CHOICE)}", CHOICE
            )
        case Operation(fn, args):
            return _operation_text(fn, args, names)


def _operation_text(fn: str, args: tuple[Expression, ...], names: Names) -> Text:
    texts = [expression_text(a, names) for a in args]
    if fn in _INFIX:
        symbol, binds = _INFIX[fn]
        return Text(f"{texts[0].within(binds)} {symbol} {texts[1].within(binds + 1)}", binds)
    if fn in _CALLS:
        return Text(f"{_CALLS[fn]}({', '.join(t.text for t in texts)})", POSTFIX)
    if fn in _TYPED_CALLS:
        if dtype_of(args[0], names) == "f32":
            return Text(f"{_TYPED_CALLS[fn]}({', '.join(t.text for t in texts)})", POSTFIX)
        return _integer_text(fn, texts)
    match fn:
        case "neg":
            return Text(f"-{texts[0].within(POSTFIX)}", UNARY)
        case "not":
            return Text(f"!{texts[0].within(POSTFIX)}", UNARY)
        case "select":
            return Text(f"{texts[0].within(CHOICE + 1)} ? {texts[1].within(CHOICE)} : {texts[2].within(CHOICE)}", CHOICE)
        case "to_f32":
            return texts[0] if dtype_of(args[0], names) == "f32" else Text(f"(float){texts[0].within(UNARY)}", UNARY)
        case "to_i32":
            return texts[0] if dtype_of(args[0], names) == "i32" else Text(f"(int32_t){texts[0].within(UNARY)}", UNARY)
        case "to_bool":
            zero = "0.0f" if dtype_of(args[0], names) == "f32" else "0"
            return Text(f"{texts[0].within(EQUALITY + 1)} != {zero}", EQUALITY)
    raise KeyError(f"emit: no C for scalar function {fn}")


def _integer_text(fn: str, texts: list[Text]) -> Text:
    a = texts[0].within(EQUALITY)
    match fn:
        case "abs":
            return Text(f"{a} < 0 ? -{texts[0].within(POSTFIX)} : {a}", CHOICE)
        case "sign":
            return Text(f"({a} > 0) - ({a} < 0)", ADD)
        case "minimum":
            b = texts[1].within(EQUALITY)
            return Text(f"{a} < {b} ? {a} : {b}", CHOICE)
        case _:
            b = texts[1].within(EQUALITY)
            return Text(f"{a} > {b} ? {a} : {b}", CHOICE)


def stored_text(value: Text, stored: str) -> str:
    """A value converted to the stored dtype."""
    if stored in ("bf16", "f16"):
        return f"mlc_{stored}_of_f32({value.text})"
    return value.text
