"""What each expression of the language gives: compile-time values are computed, operations on tensors become instructions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mlc.diagnostics import OpError
from mlc.elaborate import arithmetic, indexing
from mlc.elaborate.blocks import assigned_names
from mlc.elaborate.builtins import BUILTINS
from mlc.elaborate.calls import MISSING, Evaluator, Frame
from mlc.elaborate.failures import Failure, Poisoned, hint, inside
from mlc.elaborate.foreign import ATTRIBUTES, NAMES
from mlc.elaborate.site import Site
from mlc.elaborate.values import SCALAR, DType, Int, Option, ParameterView, Poison, describe, integer, shape_of
from mlc.ir.types import Value
from mlc.syntax import tree

#: Lists stand so deep in one another.
LEVELS = 20

#: A width or precision that nobody means.
_WIDE = re.compile(r"[0-9]{4}")


#: What a tensor is in place of a compile-time bool.
_MASKS = {
    "assert": "only compile-time values can be checked",
    "and": "write `a & b` for masks, each in parentheses",
    "or": "write `a | b` for masks, each in parentheses",
    "not": "write `~mask`",
}


def condition(it: Evaluator, node: tree.Expression, frame: Frame, what: str) -> bool:
    """A compile-time bool; `what` names in messages what wants it."""
    value = it.evaluate(node, frame)
    if isinstance(value, bool):
        return value
    if isinstance(value, Value):
        help = _MASKS.get(what, "write select(condition, a, b)")
        raise it.site(node, frame).fail("E0404", f"{what}: a tensor is not known at compile time: {value.type}", help)
    if integer(value) or value is None or isinstance(value, (str, tuple, float)):
        help = "compare it: `x > 0`, `x is not None`"
        raise it.site(node, frame).fail("E0403", f"{what}: wants a bool, got {describe(value)}", help)
    raise it.site(node, frame).fail("E0403", f"{what}: wants a bool, got {describe(value)}")


def _name(it: Evaluator, node: tree.Name, frame: Frame) -> Any:
    value = it.lookup(node.name, frame)
    if value is MISSING:
        raise _unknown(it, node, frame)
    if isinstance(value, Poison):
        raise Poisoned
    if isinstance(value, Option):
        it.option(value, inside(node.span, frame.call))
        return it.site(node, frame).tracing.leaf("record", value.name, SCALAR)
    return value


def _unknown(it: Evaluator, node: tree.Name, frame: Frame) -> Failure:
    span = inside(node.span, frame.call)
    if frame.function is not None and node.name in assigned_names(frame.function.node.body):
        help = "a branch that assigns it was not taken" if node.name not in frame.names else None
        return Failure("E0305", f"`{node.name}` has no value here", span, help)
    return Failure("E0301", f"unknown name `{node.name}`", span, hint(node.name, it.known_names(frame)))


def _literal(it: Evaluator, node: Any, frame: Frame) -> Any:
    return node.value


def _format(it: Evaluator, node: tree.Format, frame: Frame) -> str:
    text = "".join(part if isinstance(part, str) else _interpolated(it, part, frame) for part in node.parts)
    arithmetic.short(it.site(node, frame), len(text), "f-string")
    return text


def _interpolated(it: Evaluator, node: tree.Interpolation, frame: Frame) -> str:
    value = it.evaluate(node.value, frame)
    if isinstance(value, Value):
        raise it.site(node.value, frame).fail("E0403", f"a tensor is not known at compile time: {value.type}")
    try:
        return format(_shown(value), "" if _WIDE.search(node.spec) else node.spec)
    except (ValueError, TypeError):
        raise it.site(node, frame).fail("E0403", f"{describe(value)} cannot be written as `{node.spec}`") from None


def _shown(value: Any) -> Any:
    match value:
        case Int():
            return int(value)
        case tuple():
            return tuple(_shown(item) for item in value)
        case DType():
            return value.name
        case bool() | int() | float() | str() | None:
            return value
        case _:
            return describe(value)


def _sequence(it: Evaluator, node: Any, frame: Frame) -> tuple[Any, ...]:
    made = tuple(it.evaluate(item, frame) for item in node.items)
    arithmetic.short(it.site(node, frame), _leaves(made, LEVELS), "nested lists")
    return made


def _leaves(value: Any, levels: int) -> int:
    """Items of nested tuples; beyond LONGEST, or so many levels, more than any list may have."""
    if not isinstance(value, tuple):
        return 1
    total = arithmetic.LONGEST + 1 if levels == 0 else 0
    for item in value:
        total += _leaves(item, levels - 1) if total <= arithmetic.LONGEST and isinstance(item, tuple) else 1
    return total


def _record(it: Evaluator, node: tree.Record, frame: Frame) -> dict[str, Any]:
    return {pair.key.value: it.evaluate(pair.value, frame) for pair in node.items}


def _call(it: Evaluator, node: tree.Call, frame: Frame) -> Any:
    value = it.call(node, frame)
    if isinstance(value, Poison):
        raise Poisoned
    return value


def _subscript(it: Evaluator, node: tree.Subscript, frame: Frame) -> Any:
    value = it.evaluate(node.value, frame)
    items = tuple(_index(it, item, frame) for item in node.items)
    result = _located(indexing.subscript, it.site(node, frame), value, items)
    if isinstance(result, Poison):
        raise Poisoned
    return result


def _index(it: Evaluator, item: Any, frame: Frame) -> Any:
    if isinstance(item, tree.Slice):
        return indexing.Range(*(None if part is None else it.evaluate(part, frame) for part in (item.start, item.stop, item.step)))
    return it.evaluate(item, frame)


def _attribute(it: Evaluator, node: tree.Attribute, frame: Frame) -> Any:
    value = it.evaluate(node.value, frame)
    match value, node.name:
        case Value(), "shape":
            return shape_of(value)
        case Value(), "dtype":
            return DType(value.type.dtype)
        case ParameterView(), "name":
            it.reads_name = True
            return value.name
        case ParameterView(), "shape":
            return value.shape
        case _:
            return _no_attribute(it, node, value, frame)


def _no_attribute(it: Evaluator, node: tree.Attribute, value: Any, frame: Frame) -> Any:
    known = ["shape", "dtype"] if isinstance(value, Value) else ["name", "shape"] if isinstance(value, ParameterView) else []
    help = hint(node.name, known) or (f"it has {' and '.join(known)}" if known else None)
    if isinstance(value, Value):
        written = f"write {node.name}(x, ...)" if node.name in BUILTINS else help
        help = ATTRIBUTES.get(node.name) or NAMES.get(node.name) or written
    raise it.site(node, frame).fail("E0308", f"{describe(value)} has no `{node.name}`", help)


def _located(compute: Callable[..., Any], site: Site, *arguments: Any) -> Any:
    """compute(site, *arguments), with what an op's type rule finds wrong reported at the site."""
    try:
        return compute(site, *arguments)
    except OpError as error:
        raise site.fail(error.code, error.message, error.help) from None


def _unary(it: Evaluator, node: tree.Unary, frame: Frame) -> Any:
    return _located(arithmetic.unary, it.site(node, frame), node.operator, it.evaluate(node.value, frame))


def _binary(it: Evaluator, node: tree.Binary, frame: Frame) -> Any:
    left = it.evaluate(node.left, frame)
    right = it.evaluate(node.right, frame)
    return operate(it.site(node, frame), node.operator, left, right)


def operate(site: Site, operator: str, left: Any, right: Any) -> Any:
    """A binary operator of the language at a place."""
    return _located(arithmetic.binary, site, operator, left, right)


def _compare(it: Evaluator, node: tree.Compare, frame: Frame) -> Any:
    left = it.evaluate(node.left, frame)
    right = it.evaluate(node.right, frame)
    return _located(arithmetic.compare, it.site(node, frame), node.operator, left, right)


def _is(it: Evaluator, node: tree.Is, frame: Frame) -> bool:
    left = it.evaluate(node.left, frame)
    right = it.evaluate(node.right, frame)
    if left is not None and right is not None:
        raise it.site(node, frame).fail("E0406", "`is` compares with None only", "write `==`")
    return (left is right) != node.negated


def _in(it: Evaluator, node: tree.In, frame: Frame) -> bool:
    left = it.evaluate(node.left, frame)
    right = it.evaluate(node.right, frame)
    if isinstance(right, str) and isinstance(left, str):
        return (left in right) != node.negated
    if not isinstance(right, (tuple, dict)) or isinstance(left, Value):
        raise it.site(node, frame).fail("E0406", f"`in` does not take {describe(left)} and {describe(right)}")
    return any(arithmetic.equal(left, item) for item in right) != node.negated


def _not(it: Evaluator, node: tree.Not, frame: Frame) -> bool:
    return not condition(it, node.value, frame, "not")


def _and(it: Evaluator, node: tree.And, frame: Frame) -> bool:
    return condition(it, node.left, frame, "and") and condition(it, node.right, frame, "and")


def _or(it: Evaluator, node: tree.Or, frame: Frame) -> bool:
    return condition(it, node.left, frame, "or") or condition(it, node.right, frame, "or")


def _choose(it: Evaluator, node: tree.Choose, frame: Frame) -> Any:
    return it.evaluate(node.then if condition(it, node.condition, frame, "if") else node.otherwise, frame)


#: Each gives the value of an expression.
EXPRESSIONS: dict[type, Callable[[Evaluator, Any, Frame], Any]] = {
    tree.Name: _name,
    tree.Integer: _literal,
    tree.Float: _literal,
    tree.Boolean: _literal,
    tree.String: _literal,
    tree.NoneValue: lambda it, node, frame: None,
    tree.Dots: lambda it, node, frame: Ellipsis,
    tree.Format: _format,
    tree.Tuple: _sequence,
    tree.List: _sequence,
    tree.Record: _record,
    tree.Call: _call,
    tree.Subscript: _subscript,
    tree.Attribute: _attribute,
    tree.Unary: _unary,
    tree.Binary: _binary,
    tree.Compare: _compare,
    tree.Is: _is,
    tree.In: _in,
    tree.Not: _not,
    tree.And: _and,
    tree.Or: _or,
    tree.Choose: _choose,
}
