"""Scalar expressions and indices of the loop IR as C text, with no more parentheses than C needs."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from mlc.diagnostics import InternalError
from mlc.emit.literals import c_string
from mlc.lower.expression import (
    Atom,
    Checked,
    Counter,
    Datum,
    Expression,
    Index,
    Number,
    Operation,
    Position,
    Quotient,
    Random,
    Read,
    Ref,
    Remainder,
    Within,
)

_LARGEST_F32 = 3.4028234663852886e38

#: Binding strength of C operators, as far as they are used here.
ATOM, POSTFIX, UNARY, MULTIPLY, ADD, RELATION, EQUALITY, BIT_AND, BIT_OR, CHOICE = range(10, 0, -1)

_INFIX = {
    "add": ("+", ADD),
    "sub": ("-", ADD),
    "mul": ("*", MULTIPLY),
    "div": ("/", MULTIPLY),
    "less": ("<", RELATION),
    "less_equal": ("<=", RELATION),
    "equal": ("==", EQUALITY),
    "not_equal": ("!=", EQUALITY),
    "and": ("&", BIT_AND),
    "or": ("|", BIT_OR),
}

#: Scalar functions that mlc_kernel.h has as mlc_<name>.
_CALLS = (
    *("clamp", "floordiv", "mod", "pow", "floor", "sqrt", "exp", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos"),
    *("round_bf16", "round_f16"),
)

#: Those it has for f32 only.
_F32_CALLS = ("abs", "sign", "minimum", "maximum")
#: Those it has for i32 as mlc_<name>_i32: they wrap.
_I32_CALLS = ("add", "sub", "mul", "neg", "abs")
#: Scalar functions that make a bool.
_BOOLEAN = ("less", "less_equal", "equal", "not_equal", "and", "or", "not", "to_bool")

C_TYPES = {"f32": "float", "bf16": "uint16_t", "f16": "uint16_t", "i32": "int32_t", "bool": "uint8_t"}
LOCAL_TYPES = {"f32": "float", "i32": "int32_t", "bool": "int"}


def pointer_type(dtype: str, written: bool) -> str:
    """What a pointer to a buffer of this dtype points to; const unless it is written."""
    return C_TYPES[dtype] if written else f"const {C_TYPES[dtype]}"


@dataclass(frozen=True, slots=True)
class Text:
    """C text and how tightly its outermost operator binds."""

    text: str
    binds: int

    def within(self, binds: int) -> str:
        """The text as an operand of an operator that binds so tightly."""
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
    """A constant of C."""
    if node.dtype == "f32":
        text = float_literal(float(node.value))
    elif node.dtype == "bool":
        text = "1" if node.value else "0"
    else:
        text = str(int(node.value)) if int(node.value) > -(2**31) else "INT32_MIN"
    return Text(text, UNARY if text.startswith("-") else ATOM)


def index_text(index: Index, names: Names) -> Text:
    """An index as an int64_t expression."""
    parts: list[tuple[int, Text]] = []
    for atom, coefficient in index.terms:
        inner, factor = _atom_text(atom, names), abs(coefficient)
        text = inner if factor == 1 else Text(f"{factor} * {inner.within(UNARY)}", MULTIPLY)
        parts.append((coefficient, text))
    if index.constant or not parts:
        parts.append((index.constant, Text(str(abs(index.constant)), ATOM)))
    parts.sort(key=lambda p: p[0] < 0)
    (sign, first), *rest = parts
    if not rest and sign >= 0:
        return Text(first.within(MULTIPLY), first.binds if first.binds >= MULTIPLY else ATOM)
    text = ("-" if sign < 0 else "") + first.within(MULTIPLY)
    for sign, part in rest:
        text += (" - " if sign < 0 else " + ") + part.within(MULTIPLY)
    return Text(text, ADD if rest else UNARY)


def _atom_text(atom: Atom, names: Names) -> Text:
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
        case Checked():
            return "i32"
        case Operation(fn, args):
            if fn in _BOOLEAN:
                return "bool"
            if fn in ("to_f32", "to_i32"):
                return fn[3:]
            return dtype_of(args[1] if fn == "select" else args[0], names)


def expression_text(node: Expression, names: Names) -> Text:
    """An expression as C of type float, int32_t or int."""
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
        case Within():
            return _within_text(node, names)
        case Checked():
            return _checked_text(node, names)
        case Operation(fn, args):
            return _operation_text(fn, args, names)


def _checked_text(node: Checked, names: Names) -> Text:
    inner, element = expression_text(node.node, names).text, index_text(node.element, names).text
    said = c_string(node.where + (f" (index from input {', '.join(node.inputs)})" if node.inputs else ""))
    return Text(f"mlc_checked(env, {inner}, {node.extent}, {element}, {node.each}, {node.site}, {said})", POSTFIX)


def _within_text(node: Within, names: Names) -> Text:
    place = index_text(node.index, names).within(RELATION)
    least = f"{place} >= {node.low} && " if node.low else ""
    inside, outside = (expression_text(n, names).within(CHOICE) for n in (node.inside, node.outside))
    return Text(f"{least}{place} < {node.high} ? {inside} : {outside}", CHOICE)


def _operation_text(fn: str, args: tuple[Expression, ...], names: Names) -> Text:
    texts = [expression_text(a, names) for a in args]
    if fn in _I32_CALLS and dtype_of(args[0], names) == "i32":
        return Text(f"mlc_{fn}_i32({', '.join(t.text for t in texts)})", POSTFIX)
    if fn in _INFIX:
        symbol, binds = _INFIX[fn]
        return Text(f"{texts[0].within(binds)} {symbol} {texts[1].within(binds + 1)}", binds)
    if fn in _CALLS or (fn in _F32_CALLS and dtype_of(args[0], names) == "f32"):
        return Text(f"mlc_{fn}({', '.join(t.text for t in texts)})", POSTFIX)
    if fn in _F32_CALLS:
        return _integer_text(fn, texts)
    return _other_text(fn, args, texts, names)


def _other_text(fn: str, args: tuple[Expression, ...], texts: list[Text], names: Names) -> Text:
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
            if dtype_of(args[0], names) == "f32":
                return Text(f"mlc_i32_of_f32({texts[0].text})", POSTFIX)
            return texts[0] if dtype_of(args[0], names) == "i32" else Text(f"(int32_t){texts[0].within(UNARY)}", UNARY)
        case "to_bool":
            zero = "0.0f" if dtype_of(args[0], names) == "f32" else "0"
            return Text(f"{texts[0].within(EQUALITY + 1)} != {zero}", EQUALITY)
    raise InternalError(f"emit: no C for scalar function {fn}")


def _integer_text(fn: str, texts: list[Text]) -> Text:
    """sign, minimum or maximum of integers."""
    a = texts[0].within(EQUALITY)
    match fn:
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
