"""Rules of pointwise ops, read as algebra. A rule never changes a bit: what holds for real numbers only is not here.

x y are values, k a number known at compile time (-k its negative), true false and digits are that number in every
element. For floats 0.0 and -0.0 differ: x + 0.0 is not x, because -0.0 + 0.0 is 0.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of, is_narrow
from mlc.ir.interpret import stored
from mlc.ir.op import Keys
from mlc.ir.types import TensorType, Value
from mlc.passes.rewrite import Call, Number, Rewriter, Rule, call

ALGEBRA = (
    ("neg (neg x)", "x"),
    ("not (not x)", "x"),
    ("abs (neg x)", "abs x"),
    ("abs (abs x)", "abs x"),
    ("floor (floor x)", "floor x"),
    ("add x -0.0", "x"),
    ("add -0.0 x", "x"),
    ("sub x 0.0", "x"),
    ("mul x 1.0", "x"),
    ("mul 1.0 x", "x"),
    ("div x 1.0", "x"),
    ("floordiv x 1", "x"),
    ("mul x -1.0", "neg x"),
    ("mul -1.0 x", "neg x"),
    ("div x -1.0", "neg x"),
    ("pow x 1.0", "x"),
    ("pow x 2.0", "mul x x"),
    ("add x (neg y)", "sub x y"),
    ("add (neg x) y", "sub y x"),
    ("sub x (neg y)", "add x y"),
    ("mul (neg x) (neg y)", "mul x y"),
    ("div (neg x) (neg y)", "div x y"),
    ("neg (mul x k)", "mul x -k"),
    ("neg (mul k x)", "mul x -k"),
    ("neg (div x k)", "div x -k"),
    ("mul (neg x) k", "mul x -k"),
    ("mul k (neg x)", "mul x -k"),
    ("div (neg x) k", "div x -k"),
    ("mul (neg x) y", "neg (mul x y)"),
    ("mul x (neg y)", "neg (mul x y)"),
    ("div (neg x) y", "neg (div x y)"),
    ("div x (neg y)", "neg (div x y)"),
    ("maximum x x", "x"),
    ("minimum x x", "x"),
    ("and x x", "x"),
    ("or x x", "x"),
    ("and x true", "x"),
    ("and true x", "x"),
    ("or x false", "x"),
    ("or false x", "x"),
    ("select true x y", "x"),
    ("select false x y", "y"),
    ("select c x x", "x"),
    ("select (not c) x y", "select c y x"),
)


@frozen
class Term:
    """op applied to terms."""

    op: str
    terms: tuple[Pattern, ...]


#: A name stands for any value, "k" for one that is a known number, "-k" for its negative.
Pattern = Term | Number | str


def _parse(text: str) -> Pattern:
    first, *others = _terms(iter(re.findall(r"[()]|[^\s()]+", text)))
    return Term(str(first), tuple(others)) if others else first


def _terms(tokens: Iterator[str]) -> Iterator[Pattern]:
    for token in tokens:
        if token == ")":
            return
        if token == "(":
            op, *inner = _terms(tokens)
            yield Term(str(op), tuple(inner))
        elif token in ("true", "false"):
            yield token == "true"
        else:
            yield float(token) if token[-1].isdigit() else token


def _equal(number: Number | None, wanted: Number) -> bool:
    if number is None or isinstance(number, bool) != isinstance(wanted, bool):
        return False
    if isinstance(number, float):
        return number == wanted and math.copysign(1, number) == math.copysign(1, wanted)
    return number == wanted


def _match(s: Rewriter, pattern: Pattern, value: Value, found: dict[str, Value]) -> bool:
    """Whether `value` has the form of the pattern; binds its names in `found`."""
    if isinstance(pattern, Term):
        maker = s.maker(value, pattern.op)
        return maker is not None and _match_all(s, pattern.terms, maker.operands, found)
    if not isinstance(pattern, str):
        return _equal(s.number.get(value.name), pattern)
    if pattern == "k" and value.name not in s.number:
        return False
    return found.setdefault(pattern, value).name == value.name


def _match_all(s: Rewriter, patterns: tuple[Pattern, ...], values: tuple[Value, ...], found: dict[str, Value]) -> bool:
    return all(_match(s, p, v, found) for p, v in zip(patterns, values, strict=True))


def _build(s: Rewriter, term: Pattern, found: dict[str, Value]) -> Value:
    if isinstance(term, Term):
        return s.value(term.op, *(_build(s, t, found) for t in term.terms))
    name = str(term)
    return s.value("neg", found[name[1:]]) if name.startswith("-") else found[name]


def _algebraic(pattern: Term, replacement: Pattern) -> Rule:
    def rule(s: Rewriter, wanted: Call) -> Call | Value | None:
        found: dict[str, Value] = {}
        if not _match_all(s, pattern.terms, wanted.operands, found):
            return None
        if isinstance(replacement, Term):
            return Call(replacement.op, tuple(_build(s, t, found) for t in replacement.terms))
        return found[str(replacement)]

    return rule


#: Every target computes these to the same bits, so the compiler may compute them.
FOLDED = (
    "neg", "abs", "sign", "sqrt", "floor", "not", "add", "sub", "mul", "div", "maximum", "minimum", "floordiv", "mod", "and", "or", "xor",
    "less", "less_equal", "equal", "not_equal", "select", "cast",
)  # fmt: skip


def _fold(s: Rewriter, wanted: Call) -> Call | None:
    """An op of known numbers is a known number; of 16-bit floats only where nothing is rounded."""
    if not all(v.name in s.number for v in wanted.operands):
        return None
    if wanted.op == "neg":
        return s.filled(-s.number[wanted.operands[0].name], wanted.operands[0].type)
    result = s.type_of(wanted)
    numbers = [np.array(s.number[v.name]) for v in wanted.operands]
    operands = tuple(stored(n, v.type) for n, v in zip(numbers, wanted.operands, strict=True))
    with np.errstate(all="ignore"):
        (array,) = s.builder.ops[wanted.op].meaning(operands, dict(wanted.attributes), Keys())
        number = stored(array, result).item()
    narrow = any(is_narrow(t.dtype) for t in (result, *(v.type for v in wanted.operands)))
    rounded = narrow and (array.item() != number or any(a.item() != b.item() for a, b in zip(numbers, operands, strict=True)))
    return None if rounded or (isinstance(number, float) and not math.isfinite(number)) else s.filled(number, result)


def hoist(s: Rewriter, wanted: Call) -> Call | None:
    """Computes before repeating: f(broadcast x, broadcast y) is broadcast f(x, y) when both are repeated alike."""
    makers = [s.maker(v, "broadcast") for v in wanted.operands]
    if not makers or None in makers:
        return None
    sources = [m.operands[0] for m in makers if m is not None]
    varied = [(v.type, m.attribute("axes")) for v, m in zip(sources, makers, strict=True) if m is not None and v.name not in s.number]
    first, axes = varied[0] if varied else (TensorType("f32"), ())
    if any(t.shape != first.shape or a != axes for t, a in varied):
        return None
    operands = tuple(s.fill(s.number[v.name], TensorType(v.type.dtype, first.dims)) if v.name in s.number else v for v in sources)
    inner = s.make(Call(wanted.op, operands, wanted.attributes), None)[0]
    return call("broadcast", inner, dims=s.type_of(wanted).dims, axes=axes)


def _halving(s: Rewriter, wanted: Call) -> Call | None:
    """Division by a power of two is multiplication by another."""
    x, y = wanted.operands
    number = s.number.get(y.name)
    if not isinstance(number, float) or not 2.0**-60 <= abs(number) <= 2.0**60 or abs(math.frexp(number)[0]) != 0.5:
        return None
    return call("mul", x, s.fill(1.0 / number, y.type))


def _cast(s: Rewriter, wanted: Call) -> Call | Value | None:
    """No cast to the same dtype, nor through one that holds every value."""
    (x,) = wanted.operands
    if wanted["dtype"] == x.type.dtype:
        return x
    maker = s.maker(x, "cast")
    if maker is None or x.type.dtype not in dtype_of(maker.operands[0].type.dtype).fits:
        return None
    return call("cast", maker.operands[0], dtype=wanted["dtype"])


def _by_op() -> dict[str, tuple[Rule, ...]]:
    rules: dict[str, list[Rule]] = {op: [_fold] for op in FOLDED}
    for text, replacement in ALGEBRA:
        pattern = _parse(text)
        assert isinstance(pattern, Term)
        rules.setdefault(pattern.op, []).append(_algebraic(pattern, _parse(replacement)))
    rules["div"].append(_halving)
    rules["cast"].append(_cast)
    return {op: tuple(of_op) for op, of_op in rules.items()}


#: Rules by op; `hoist` is tried on every pointwise op.
RULES = _by_op()
