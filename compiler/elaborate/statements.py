"""What each statement of the language does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlc.elaborate import signatures
from mlc.elaborate.calls import RUNNING, Evaluator, Frame
from mlc.elaborate.expressions import condition, operate
from mlc.elaborate.failures import Poisoned
from mlc.elaborate.values import POISON, Poison, describe, integer, named
from mlc.ir.types import Value
from mlc.syntax import tree


def _assign(it: Evaluator, target: tree.Target, value: Any, node: Any, frame: Frame) -> None:
    if isinstance(target, tree.Name):
        _assign_name(it, target, value, frame)
        return
    items = [item for item in target.items if isinstance(item, tree.Name)]
    for item, part in zip(items, _unpacked(it, target, value, node, frame), strict=True):
        _assign_name(it, item, part, frame)


def _unpacked(it: Evaluator, target: tree.Tuple, value: Any, node: Any, frame: Frame) -> tuple[Any, ...]:
    if isinstance(value, Poison):
        return (POISON,) * len(target.items)
    if not isinstance(value, tuple):
        raise it.site(node, frame).fail("E0407", f"cannot unpack {describe(value)} into {len(target.items)} names")
    if len(value) != len(target.items):
        raise it.site(node, frame).fail("E0407", f"cannot unpack {len(value)} values into {len(target.items)} names")
    return value


def _assign_name(it: Evaluator, target: tree.Name, value: Any, frame: Frame) -> None:
    frame.names[target.name] = value
    frame.assigned[target.name] = target.span
    if isinstance(value, Value) and it.trace is not None and target.name != "_":
        it.trace.give_name(value, target.name)


def _checked(it: Evaluator, name: str, annotation: tree.Expression, value: Any, node: Any, frame: Frame) -> Any:
    """The value checked against an annotation inside a function."""
    if isinstance(value, Poison):
        raise Poisoned
    try:
        return signatures.check(it.names(frame), name, annotation, value)
    except signatures.Mismatch as mismatch:
        raise it.site(node, frame).fail("E0402", f"{name}: {mismatch}") from None


def _assignment(it: Evaluator, node: tree.Assign, frame: Frame) -> Any:
    _assign(it, node.target, it.evaluate(node.value, frame), node.value, frame)
    return RUNNING


def _augment(it: Evaluator, node: tree.Augment, frame: Frame) -> Any:
    site = it.site(node, frame)
    value = it.evaluate(node.value, frame)
    _assign_name(it, node.target, operate(site, node.operator, it.evaluate(node.target, frame), value), frame)
    return RUNNING


def _annotate(it: Evaluator, node: tree.Annotate, frame: Frame) -> Any:
    value = it.evaluate(node.value, frame)
    _assign_name(it, node.target, _checked(it, node.target.name, node.annotation, value, node.value, frame), frame)
    return RUNNING


def _return(it: Evaluator, node: tree.Return, frame: Frame) -> Any:
    value = it.evaluate(node.value, frame)
    if frame.function is not None and frame.function.node.returns is not None:
        return _checked(it, f"{frame.function.name} returns", frame.function.node.returns, value, node.value, frame)
    return value


def _assert(it: Evaluator, node: tree.Assert, frame: Frame) -> Any:
    if condition(it, node.condition, frame, "assert"):
        return RUNNING
    text = it.evaluate(node.message, frame) if node.message is not None else "assertion failed"
    raise it.site(node.condition, frame).fail("E0405", str(text))


def _branch(it: Evaluator, node: tree.Branch, frame: Frame) -> Any:
    return it.run(node.then if condition(it, node.condition, frame, "if") else node.otherwise, frame)


def _loop(it: Evaluator, node: tree.Loop, frame: Frame) -> Any:
    values = it.evaluate(node.values, frame)
    if not isinstance(values, tuple):
        help = "write range(n)" if integer(values) else None
        raise it.site(node.values, frame).fail("E0412", f"for: wants a range, list or shape, got {describe(values)}", help)
    for value in values:
        if isinstance(node.target, tree.Name) and integer(value):
            value = named(value, node.target.name)
        _assign(it, node.target, value, node.values, frame)
        result = it.run(node.body, frame)
        if result is not RUNNING:
            return result
    return RUNNING


def _expression(it: Evaluator, node: tree.ExpressionStatement, frame: Frame) -> Any:
    it.evaluate(node.value, frame)
    return RUNNING


#: Each runs a statement; the value is what it returns from the function, RUNNING where it does not return.
STATEMENTS: dict[type, Callable[[Evaluator, Any, Frame], Any]] = {
    tree.Assign: _assignment,
    tree.Augment: _augment,
    tree.Annotate: _annotate,
    tree.Return: _return,
    tree.Assert: _assert,
    tree.Branch: _branch,
    tree.Loop: _loop,
    tree.ExpressionStatement: _expression,
}
