"""What an expression of the language can be while it is elaborated.

Tensors are `ir.Value`s. Compile-time values are Python's own: int, float, bool, str, tuple, None and dict (a record), besides
the classes below. An int that has a label is an `Int`; a plain int is a literal, or computed from literals alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from mlc.diagnostics import Span
from mlc.frozen import frozen, frozen_object
from mlc.ir.program import Following
from mlc.ir.types import ONE, Dim, Factor, TensorType, Value, dim, product
from mlc.ops.rules import label
from mlc.syntax import tree


class Int(int):
    """An integer that carries the dim it was written as."""

    dim: Dim


@frozen
class DType:
    """`f32`, `bf16`, `f16`, `i32`, `bool`."""

    name: str


#: Options that every program has, and the numbers that it counts itself: no run-time constant can be one (runtime/src/command/options.c).
PROGRAM_OPTIONS = frozenset(
    (
        *("allow", "checkpoint", "completion", "data", "evaluate", "every", "fit", "fresh", "grace", "hash", "help", "keep", "log"),
        *("order", "profile", "prompt", "resume", "sample", "seed", "step", "steps", "temperature", "threads", "timeout", "trace"),
        *("transport", "version", "weights"),
    )
)


@frozen
class Option:
    """A run-time constant of a file: `rate: f32 = 3e-4`. code, what: how a value that the program cannot hold is reported."""

    name: str
    value: float
    span: Span = field(compare=False)
    code: str = field(compare=False)
    what: str = field(compare=False)


@frozen
class ParameterView:
    """What the recipe sees of a parameter."""

    name: str
    shape: tuple[int, ...]


@frozen_object
class FunctionValue:
    """A function of a file. `kind` is its decorator: plain, layer, kernel, model, train, init, curve or optimizer."""

    node: tree.FunctionDef
    module: ModuleScope
    kind: str

    @property
    def name(self) -> str:
        return self.node.name


@frozen
class Partial:
    """A call of an @init or @optimizer function: the compiler supplies the first parameters later.

    `arguments` are those written at the call, `key` identifies function and arguments.
    """

    function: FunctionValue = field(compare=False)
    positional: tuple[Any, ...] = field(compare=False)
    keywords: tuple[tuple[str, Any], ...] = field(compare=False)
    span: Span = field(compare=False)
    key: tuple[Any, ...]


@frozen
class Builtin:
    """A function of the language itself."""

    name: str


@frozen_object
class ModuleScope:
    """A loaded file: its names. `library` says that it belongs to the standard library."""

    name: str
    file: str
    library: bool
    names: dict[str, Any]
    spans: dict[str, Span]


class Poison:
    """Stands for a value whose computation was already reported as an error."""


POISON = Poison()

SCALAR = TensorType("f32")


@frozen
class Tensor:
    """In a key: a tensor argument, by its type."""

    type: TensorType


#: Of a whole number: far beyond every size, and each is a float too.
MOST_BITS = 1023


def number(value: Any) -> bool:
    """Is it a compile-time int or float (a bool is not)?"""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def sized(d: Dim) -> Int:
    """The int of a dim."""
    value = Int(d.size)
    value.dim = d
    return value


def single(text: str, size: int) -> Int:
    """An int from 1 with a label."""
    return sized(Dim((Factor(text, int(size)),)))


def as_dim(value: int) -> Dim:
    """The dim an int stands for: only a literal 1 stretches."""
    return value.dim if isinstance(value, Int) else dim(value)


def as_int(d: Dim) -> int:
    """The int of a dim of a tensor."""
    return 1 if d == ONE else sized(d)


def shape_of(value: Value) -> tuple[int, ...]:
    return tuple(as_int(d) for d in value.type.dims)


def named(value: int, name: str) -> int:
    """`value` labelled `name` when it has no label yet."""
    if isinstance(value, Int) and any(f.label for f in value.dim.factors):
        return value
    return single(name, value) if value >= 1 else int(value)


#: A label of more factors says nothing to anyone.
MOST_FACTORS = 32
MOST_LABEL = 400


def multiply(a: int, b: int) -> int:
    size = int(a) * int(b)
    if size < 1 or not (isinstance(a, Int) or isinstance(b, Int)):
        return size
    made = product([as_dim(a), as_dim(b)])
    return sized(made) if len(made.factors) <= MOST_FACTORS else size


def combine(operator: str, a: int, b: int, size: int) -> int:
    """The int `size` = a operator b, labelled by the expression when an operand has a label."""
    if size < 1 or not (isinstance(a, Int) or isinstance(b, Int)):
        return size
    if operator == "//" and b > 0 and a % b == 0:
        return sized(quotient(as_dim(a), as_dim(b)))
    text = f"{_operand(a)}{operator}{_operand(b)}"
    return single(text, size) if len(text) <= MOST_LABEL else size


def quotient(a: Dim, b: Dim) -> Dim:
    """The dim of a // b, b dividing a: factors of b leave a where they occur in it, else the label is the expression."""
    rest = list(a.factors)
    for factor in b.factors:
        if factor not in rest:
            return _labelled_quotient(a, b)
        rest.remove(factor)
    return Dim(tuple(rest)) if rest else Dim((Factor(f"{label(a) or a.size}//{label(b) or b.size}", 1),))


def _labelled_quotient(a: Dim, b: Dim) -> Dim:
    size = a.size // b.size
    over = label(a)
    under = label(b)
    if over and under.startswith(f"{over}//"):
        return Dim((Factor(under[len(over) + 2 :].strip("()"), size),))
    plain = [f for f in a.factors if not f.label and f.size % b.size == 0]
    if not under and plain:
        at = a.factors.index(plain[0])
        reduced = plain[0].size // b.size
        return Dim((*a.factors[:at], *([Factor("", reduced)] if reduced > 1 else []), *a.factors[at + 1 :]))
    if not over and not under:
        return Dim((Factor("", size),))
    return Dim((Factor(f"{_grouped(over or str(a.size))}//{_grouped(under or str(b.size))}", size),))


def _operand(value: int) -> str:
    text = label(value.dim) if isinstance(value, Int) else ""
    return _grouped(text or str(int(value)))


def _grouped(text: str) -> str:
    return f"({text})" if any(c in text for c in "+-/%") else text


def tensors_in(value: Any) -> list[Value]:
    """The tensors inside a value, in order."""
    match value:
        case Value():
            return [value]
        case tuple():
            return [t for item in value for t in tensors_in(item)]
        case dict():
            return [t for item in value.values() for t in tensors_in(item)]
        case _:
            return []


def replace_tensors(value: Any, into: Mapping[str, Any]) -> Any:
    """`value` with every tensor replaced by the one its name maps to."""
    match value:
        case Value():
            return into[value.name]
        case tuple():
            return tuple(replace_tensors(item, into) for item in value)
        case dict():
            return {k: replace_tensors(item, into) for k, item in value.items()}
        case _:
            return value


def key_of(value: Any) -> Any:
    """What identifies an argument for memoisation: tensors by their type, the rest by value and label."""
    match value:
        case Value():
            return Tensor(value.type)
        case Int():
            return (Int, value.dim)
        case bool() | int() | float() | str():
            return (type(value), repr(value))
        case tuple():
            return tuple(key_of(item) for item in value)
        case dict():
            return tuple((k, key_of(item)) for k, item in value.items())
        case Partial():
            return value.key
        case _:
            return value


def describe(value: Any) -> str:
    """The value as messages name it."""
    match value:
        case Value():
            return str(value.type)
        case None:
            return "None"
        case bool():
            return f"the bool {value}"
        case int():
            return f"the int {int(value)}"
        case float():
            return f"the float {value!r}"
        case str():
            return f'the string "{value}"'
        case tuple():
            return f"a tuple of {len(value)}"
        case dict():
            return "a record"
        case DType():
            return f"the dtype {value.name}"
        case FunctionValue() | Builtin():
            return f"the function {value.name}"
        case Partial():
            return f"{value.function.name}(...)"
        case Option():
            return f"the run-time constant {value.name}"
        case Following():
            return "following(...)"
        case _:
            return type(value).__name__.lower()
