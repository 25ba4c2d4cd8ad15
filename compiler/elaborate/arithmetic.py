"""Operators and scalar functions: on compile-time numbers they give numbers, on tensors they emit instructions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mlc.elaborate import contractions
from mlc.elaborate.site import Site
from mlc.elaborate.values import MOST_BITS, Int, combine, describe, integer, multiply, number
from mlc.ir.types import Value

#: Loops are unrolled: no tuple is longer.
LONGEST = 100_000

TENSOR_OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "&": "and", "|": "or"}

#: operator -> op, and whether the operands change places
COMPARISONS = {
    "<": ("less", False), "<=": ("less_equal", False), ">": ("less", True), ">=": ("less_equal", True),
    "==": ("equal", False), "!=": ("not_equal", False),
}  # fmt: skip

NUMBER_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "log1p": math.log1p, "tanh": math.tanh, "erf": math.erf,
    "sin": math.sin, "cos": math.cos, "abs": abs,
    "rsqrt": lambda x: 1.0 / math.sqrt(x),
    "sigmoid": lambda x: 1.0 / (1.0 + math.exp(-x)),
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "floor": math.floor,
    "sign": lambda x: (x > 0) - (x < 0),
}  # fmt: skip


def binary(site: Site, operator: str, a: Any, b: Any) -> Any:
    """a operator b."""
    if not (isinstance(a, Value) or isinstance(b, Value)):
        return _plain_binary(site, operator, a, b)
    if operator == "@":
        return contractions.matmul(site, a, b)
    if operator == "**":
        return power(site, a, b)
    x, y = site.together(f"`{operator}`", a, b)
    return site.one(TENSOR_OPERATORS[operator], x, y)


def _plain_binary(site: Site, operator: str, a: Any, b: Any) -> Any:
    match a, b:
        case (bool(), _) | (_, bool()) if operator in "&|":
            help = f"write `{'and' if operator == '&' else 'or'}`"
            raise site.fail("E0406", f"`{operator}` is for masks; got {describe(a)} and {describe(b)}", help)
        case (str(), str()) if operator == "+":
            short(site, len(a) + len(b), "`+`")
            return a + b
        case (tuple(), tuple()) if operator == "+":
            short(site, len(a) + len(b), "`+`")
            return (*a, *b)
        case (tuple(), int()) if operator == "*" and integer(b):
            short(site, len(a) * b, "`*`")
            return a * int(b)
        case _ if number(a) and number(b):
            return _arithmetic(site, operator, a, b)
        case _:
            raise site.fail("E0406", f"`{operator}` does not take {describe(a)} and {describe(b)}")


def short(site: Site, items: int, what: str) -> None:
    """raises: E0414 for more than a list or text may have"""
    if items > LONGEST:
        raise site.fail("E0414", f"{what}: {items:,} items are more than a list or text at compile time may have, {LONGEST:,}")


def _arithmetic(site: Site, operator: str, a: Any, b: Any) -> Any:
    try:
        size = _NUMBERS[operator](_bare(a), _bare(b))
    except ZeroDivisionError:
        raise site.fail("E0411", f"division by zero: {_text(a)} {operator} {_text(b)}") from None
    except (OverflowError, ValueError):
        raise site.fail("E0411", f"{_text(a)} {operator} {_text(b)} is not a number") from None
    except KeyError:
        raise site.fail("E0406", f"`{operator}` does not take {describe(a)} and {describe(b)}") from None
    if isinstance(size, complex):
        raise site.fail("E0411", f"{_text(a)} {operator} {_text(b)} is not a real number")
    if not integer(size):
        return _real(site, operator, a, b, size)
    if size.bit_length() > MOST_BITS:
        raise site.fail("E0411", f"`{operator}` gives a number of more than {MOST_BITS} bits")
    return multiply(a, b) if operator == "*" else combine(operator, a, b, size)


def _real(site: Site, operator: str, a: Any, b: Any, value: float) -> float:
    """A result that is a number, or as infinite as an operand. raises: E0411"""
    if math.isnan(value) or (math.isinf(value) and math.isfinite(a) and math.isfinite(b)):
        help = None if math.isnan(value) else "write inf if that is meant"
        raise site.fail("E0411", f"{_text(a)} {operator} {_text(b)} is not a number", help)
    return value


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and abs(b) * (max(a.bit_length(), 1) - 1) > MOST_BITS:
        raise OverflowError
    return a**b


_NUMBERS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": _power,
}


def _bare(value: Any) -> Any:
    return int(value) if isinstance(value, Int) else value


def _text(value: Any) -> str:
    return repr(_bare(value))


def power(site: Site, a: Any, b: Any) -> Value:
    """a ** b with a tensor on at least one side: small powers are products and roots."""
    match a, b:
        case Value(), 1:
            return a
        case Value(), 2:
            return site.one("mul", a, a)
        case Value(), 3:
            return site.one("mul", site.one("mul", a, a), a)
        case Value(), 4:
            square = site.one("mul", a, a)
            return site.one("mul", square, square)
        case Value(), 0.5 if a.type.is_float:
            return site.one("sqrt", a)
        case Value(), float() | int() if b == -0.5 and a.type.is_float:
            return site.one("rsqrt", a)
        case _:
            x, y = site.together("`**`", a, b)
            return site.one("pow", x, y)


def compare(site: Site, operator: str, a: Any, b: Any) -> Any:
    """a operator b: a bool, or a mask where a tensor takes part."""
    if isinstance(a, Value) or isinstance(b, Value):
        if a is None or b is None:
            raise site.fail("E0406", f"`{operator}` does not take None", "write `is None`")
        op, swapped = COMPARISONS[operator]
        x, y = site.together(f"`{operator}`", a, b)
        return site.one(op, y, x) if swapped else site.one(op, x, y)
    if operator == "==":
        return equal(a, b)
    if operator == "!=":
        return not equal(a, b)
    ordered = (number(a) and number(b)) or (isinstance(a, str) and isinstance(b, str))
    if not ordered:
        raise site.fail("E0406", f"`{operator}` does not take {describe(a)} and {describe(b)}")
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]


def equal(a: Any, b: Any) -> bool:
    """Equality of compile-time values; labels of dims do not matter, a bool is not a number."""
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b)


def unary(site: Site, operator: str, a: Any) -> Any:
    if isinstance(a, Value):
        return site.one("neg" if operator == "-" else "not", a)
    if operator == "-" and number(a):
        return -_bare(a)
    if operator == "~" and isinstance(a, bool):
        raise site.fail("E0406", "`~` is for masks", "write `not`")
    raise site.fail("E0406", f"`{operator}` does not take {describe(a)}")


def scalar_function(site: Site, name: str, x: Any) -> Any:
    """A function of one number, on a tensor or a compile-time number."""
    if isinstance(x, Value):
        return site.one(name, x)
    if not number(x):
        raise site.fail("E0403", f"{name}: wants a tensor or a number, got {describe(x)}")
    try:
        return NUMBER_FUNCTIONS[name](_bare(x))
    except (ValueError, OverflowError, ZeroDivisionError):
        raise site.fail("E0411", f"{name}({_text(x)}) is not a number") from None


def extreme(site: Site, name: str, a: Any, b: Any) -> Any:
    """minimum or maximum of two."""
    if isinstance(a, Value) or isinstance(b, Value):
        x, y = site.together(name, a, b)
        return site.one(name, x, y)
    if not (number(a) and number(b)):
        raise site.fail("E0403", f"{name}: wants tensors or numbers, got {describe(a)} and {describe(b)}")
    return (min if name == "minimum" else max)(a, b)


def select(site: Site, condition: Any, a: Any, b: Any) -> Any:
    """Elementwise a where the mask is true, else b."""
    if isinstance(condition, bool):
        return a if condition else b
    mask = site.tensor(condition, "select")
    if not (isinstance(a, Value) or isinstance(b, Value)):
        a = site.constant(a, _common_dtype(site, a, b))
    x, y = (v if isinstance(v, Value) else site.adapt(v, (a if isinstance(a, Value) else b).type, "select") for v in (a, b))
    return site.one("select", *site.align(mask, x, y, op="select"))


def _common_dtype(site: Site, a: Any, b: Any) -> str:
    if isinstance(a, bool) and isinstance(b, bool):
        return "bool"
    if number(a) and number(b):
        return "i32" if integer(a) and integer(b) else "f32"
    raise site.fail("E0403", f"select: wants tensors or numbers, got {describe(a)} and {describe(b)}")
