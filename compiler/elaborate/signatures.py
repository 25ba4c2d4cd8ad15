"""Annotations: what a parameter, a local variable or a return may be. Checks arguments and binds single letters to dims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlc.elaborate.builtins import TYPE_NAMES
from mlc.elaborate.failures import Failure, hint
from mlc.elaborate.precision import Precision
from mlc.elaborate.values import DType, Int, ParameterView, Partial, as_int, describe, integer, named, number
from mlc.frozen import frozen
from mlc.ir.dtypes import DTYPES, dtype_of
from mlc.ir.types import Dim, Value
from mlc.syntax import tree

TENSOR_NAMES = (*DTYPES, "real")
SCALAR_NAMES = tuple(name for name in TENSOR_NAMES if name != "bool")


def tensor_text(kind: str) -> str:
    """A tensor of TENSOR_NAMES in words."""
    match kind:
        case "real":
            return "a float tensor"
        case "bool":
            return "a bool tensor (a mask)"
        case _:
            return f"{'a' if kind[0] == 'b' else 'an'} {kind} tensor"


@frozen
class Names:
    """How an annotation reads and binds names of the function it belongs to."""

    known: Callable[[str], bool]
    evaluate: Callable[[tree.Expression], Any]
    bind: Callable[[str, Any], None]
    precision: Precision

    def kind(self, name: str) -> str:
        """One of TENSOR_NAMES, in which f64 is what it is while a file is elaborated; `real` stays what any float fits."""
        return name if name == "real" else self.precision.named(name)


class Mismatch(Exception):
    """The value is not what the annotation says: "wants ..., got ..."."""


def is_tensor(annotation: tree.Expression) -> bool:
    """Does the annotation ask for a tensor with dims? Those are matched after the compile-time parameters."""
    return isinstance(annotation, tree.Subscript)


def check(names: Names, name: str, annotation: tree.Expression, value: Any) -> Any:
    """The value as the annotation has it. Raises Mismatch."""
    match annotation:
        case tree.Subscript(value=tree.Name(name=dtype)) if dtype in TENSOR_NAMES:
            return _tensor(names, names.kind(dtype), annotation, value)
        case tree.Name(name=kind) if kind in TYPE_NAMES:
            return _named(name, names.kind(kind), value)
        case tree.Tuple(items=items) | tree.List(items=items):
            return _tuple(names, name, items, value)
        case tree.Name(name=kind):
            raise Failure("E0410", f"`{kind}` is not a type", annotation.span, hint(kind, TYPE_NAMES))
        case _:
            help = "write f32[batch, width], real[...], dim, int, float, bool, str, shape, init or dtype"
            raise Failure("E0410", "not a type", annotation.span, help)


def _tuple(names: Names, name: str, items: tuple[tree.Expression, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) != len(items):
        raise Mismatch(f"wants a tuple of {len(items)}, got {describe(value)}")
    return tuple(check(names, name, item, part) for item, part in zip(items, value, strict=True))


def _named(name: str, kind: str, value: Any) -> Any:
    if kind in SCALAR_NAMES:
        return _scalar(kind, value)
    return _compile_time(name, kind, value)


def _scalar(kind: str, value: Any) -> Any:
    """A run-time scalar, or a number known now."""
    match value:
        case Value() if value.type.dims == () and fits(kind, value.type.dtype):
            return value
        case _ if kind == "i32" and integer(value):
            return int(value)
        case _ if kind != "i32" and number(value):
            return float(value)
        case _:
            raise Mismatch(f"wants {'an i32' if kind == 'i32' else 'a float'} scalar, got {describe(value)}")


def _compile_time(name: str, kind: str, value: Any) -> Any:
    match kind:
        case "dim" if integer(value) and value >= 1:
            return named(value, name)
        case "int" if integer(value):
            return named(value, name) if value >= 1 else value
        case "float" if number(value):
            return float(value)
        case "bool" if isinstance(value, bool):
            return value
        case "str" if isinstance(value, str):
            return value
        case "shape" if isinstance(value, tuple) and all(integer(v) for v in value):
            return value
        case "init" if isinstance(value, Partial) and value.function.kind == "init":
            return value
        case "dtype" if isinstance(value, DType):
            return value
        case "parameter" if isinstance(value, ParameterView):
            return value
        case _:
            raise Mismatch(f"wants {_article(kind)}, got {describe(value)}")


def _article(kind: str) -> str:
    special = {
        "dim": "a dim (an int from 1)", "int": "an int", "shape": "a shape like [batch, width]", "init": "an init like normal(0.02)",
        "parameter": "a parameter", "bool": "a compile-time bool",
    }  # fmt: skip
    return special.get(kind, f"a compile-time {kind}")


def fits(kind: str, dtype: str) -> bool:
    return dtype_of(dtype).is_float if kind == "real" else dtype == kind


def _tensor(names: Names, kind: str, annotation: tree.Subscript, value: Any) -> Value:
    if not isinstance(value, Value) or not fits(kind, value.type.dtype):
        raise Mismatch(f"wants {tensor_text(kind)}, got {describe(value)}")
    wanted: list[str] = []
    if not _match_dims(names, annotation.items, value.type.dims, wanted):
        raise Mismatch(f"wants {kind}[{', '.join(wanted)}], got {value.type}")
    return value


def _match_dims(names: Names, items: tuple[Any, ...], dims: tuple[Dim, ...], wanted: list[str]) -> bool:
    """Do the items describe the dims? Unknown letters are bound from left to right; `wanted` collects the items for messages."""
    patterns = _patterns(names, items)
    open_ended = bool(patterns) and patterns[0] is Ellipsis
    if open_ended:
        wanted.append("...")
        patterns = patterns[1:]
    fixed = len(dims) >= len(patterns) if open_ended else len(dims) == len(patterns)
    tail = list(dims[len(dims) - len(patterns) :]) if fixed else [None] * len(patterns)
    agreed = fixed
    for pattern, d in zip(patterns, tail, strict=True):
        agreed = _match_dim(names, pattern, d, wanted) and agreed
    return agreed


def _match_dim(names: Names, pattern: Any, d: Dim | None, wanted: list[str]) -> bool:
    if isinstance(pattern, tree.Name) and pattern.name != "_" and not names.known(pattern.name):
        wanted.append(pattern.name)
        if d is not None:
            names.bind(pattern.name, as_int(d))
        return True
    if isinstance(pattern, tree.Name) and pattern.name == "_":
        wanted.append("_")
        return True
    value = _pattern_value(names, pattern)
    text = str(value.dim) if isinstance(value, Int) else str(value)
    name = pattern.name if isinstance(pattern, tree.Name) else ""
    wanted.append(f"{name}={int(value)}" if name and isinstance(value, Int) else text)
    return d is not None and d.size == value


def _pattern_value(names: Names, pattern: Any) -> int:
    if isinstance(pattern, int):
        return pattern
    value = names.evaluate(pattern)
    if not integer(value):
        raise Failure("E0410", f"a dim in a type is an int, not {describe(value)}", pattern.span)
    return value


def _patterns(names: Names, items: tuple[Any, ...]) -> list[Any]:
    """The items with shapes written out: names, expressions, ints of shapes, and a leading Ellipsis."""
    patterns: list[Any] = []
    for at, item in enumerate(items):
        match item:
            case tree.Dots() if at == 0:
                patterns.append(Ellipsis)
            case tree.Dots() | tree.Slice():
                raise Failure("E0410", "`...` comes first in a type, and a slice does not belong there", item.span)
            case tree.Name(name=name) if name == "_" or (len(name) == 1 and not names.known(name)):
                patterns.append(item)
            case _:
                patterns.extend([item] if _waits(names, item) else _written_out(names, item))
    return patterns


def _waits(names: Names, item: tree.Expression) -> bool:
    """Does the expression read a letter that an earlier item of the same type binds?"""
    match item:
        case tree.Name(name=name):
            return len(name) == 1 and not names.known(name)
        case tree.Binary(left=left, right=right):
            return _waits(names, left) or _waits(names, right)
        case _:
            return False


def _written_out(names: Names, item: tree.Expression) -> list[Any]:
    value = names.evaluate(item)
    return list(value) if isinstance(value, tuple) else [item]
