"""Scalar expressions and indices of the loop IR as C text, with no more parentheses than C needs."""

from __future__ import annotations

from collections.abc import Mapping

from mlc.diagnostics import InternalError
from mlc.emit.dtypes import register, stored
from mlc.emit.literals import c_string
from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of as table_row
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

#: Scalar functions that make a bool.
_BOOLEAN = ("less", "less_equal", "equal", "not_equal", "and", "or", "not", "to_bool")

#: Scalar functions whose result is of another dtype than their first argument, beside those that make a bool.
_CASTS = {"to_f32": "f32", "to_f64": "f64", "to_i32": "i32", "round_bf16": "f32", "round_f16": "f32"}


def pointer_type(dtype: str, written: bool) -> str:
    """What a pointer to a buffer of this dtype points to; const unless it is written."""
    return stored(dtype).type if written else f"const {stored(dtype).type}"


@frozen
class Text:
    """C text and how tightly its outermost operator binds."""

    text: str
    binds: int

    def within(self, binds: int) -> str:
        """The text as an operand of an operator that binds so tightly."""
        return self.text if self.binds >= binds else f"({self.text})"


@frozen
class Names:
    """What expressions refer to: C names and stored dtypes of buffers, dtypes of locals, C text of loop counters."""

    buffers: Mapping[str, tuple[str, str]]
    locals: Mapping[str, str]
    counters: Mapping[int, str]


def number_text(node: Number) -> Text:
    """A constant of C."""
    text = register(node.dtype).literal(node.value)
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
    """The dtype of the register that an expression is computed in."""
    match node:
        case Ref(name):
            return names.locals[name]
        case Number(_, dtype):
            return dtype
        case Read(buffer, _):
            return table_row(names.buffers[buffer][1]).register
        case Position():
            return "i32"
        case Random(dtype=dtype):
            return dtype
        case Within(_, _, _, inside, _):
            return dtype_of(inside, names)
        case Checked():
            return "i32"
        case Operation(fn, args):
            if fn in _BOOLEAN:
                return "bool"
            if fn in _CASTS:
                return _CASTS[fn]
            return dtype_of(args[1] if fn == "select" else args[0], names)


def expression_text(node: Expression, names: Names) -> Text:
    """An expression as C of the type of its register."""
    match node:
        case Ref(name):
            return Text(name, ATOM)
        case Number():
            return number_text(node)
        case Read(buffer, index):
            name, dtype = names.buffers[buffer]
            text, read = f"{name}[{index_text(index, names).text}]", stored(dtype).read
            return Text(f"{read}({text})" if read else text, POSTFIX)
        case Position(index):
            return Text(f"(int32_t){index_text(index, names).within(UNARY)}", UNARY)
        case Random(kind, ordinal, stream, index, dtype):
            path = "env->path" if stream == "call" else "MLC_MODEL_PATH"
            return Text(f"{register(dtype).functions[kind]}(env, {path}, {ordinal}, {index_text(index, names).text})", POSTFIX)
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
    dtype = dtype_of(args[0], names)
    call = register(dtype).functions.get(fn)
    if call:
        return Text(f"{call}({', '.join(t.text for t in texts)})", POSTFIX)
    if fn in _INFIX:
        symbol, binds = _INFIX[fn]
        return Text(f"{texts[0].within(binds)} {symbol} {texts[1].within(binds + 1)}", binds)
    if dtype == "i32" and fn in _INTEGER:
        return _integer_text(fn, texts)
    return _other_text(fn, dtype, texts)


def _other_text(fn: str, dtype: str, texts: list[Text]) -> Text:
    match fn:
        case "neg":
            return Text(f"-{texts[0].within(POSTFIX)}", UNARY)
        case "not":
            return Text(f"!{texts[0].within(POSTFIX)}", UNARY)
        case "select":
            return Text(f"{texts[0].within(CHOICE + 1)} ? {texts[1].within(CHOICE)} : {texts[2].within(CHOICE)}", CHOICE)
        case "to_bool":
            return Text(f"{texts[0].within(EQUALITY + 1)} != {register(dtype).literal(0)}", EQUALITY)
        case "to_f32" | "to_f64" | "to_i32":
            to = _CASTS[fn]
            return texts[0] if to == dtype else Text(f"({register(to).type}){texts[0].within(UNARY)}", UNARY)
    raise InternalError(f"emit: target c has no scalar function {fn} of {dtype}")


#: Scalar functions of integers that are written out.
_INTEGER = ("sign", "minimum", "maximum")


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


def stored_text(value: Text, dtype: str) -> str:
    """A value converted to the stored dtype."""
    write = stored(dtype).write
    return f"{write}({value.text})" if write else value.text
