"""The list of instructions that elaboration appends to, with the leaves it reads: tensors that no instruction makes.

A trace is one body: of a layer, of the model, of an initial value, of an optimizer, or of the recipe's scalars.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlc.diagnostics import NO_SPAN, Span
from mlc.elaborate.values import Partial
from mlc.frozen import frozen, frozen_object
from mlc.ir.builder import Builder
from mlc.ir.function import Instruction
from mlc.ir.types import TensorType, Value
from mlc.ops import OPS

VIA = "elaborate"


class ParameterSpec(NamedTuple):
    """A parameter as its body names it: relative to the call. `shared` is the scope opened by share= that it lies in, `entry` the
    number of that opening."""

    name: str
    type: TensorType
    init: Partial
    span: Span
    shared: str | None
    entry: int


class Leaf(NamedTuple):
    """A tensor that no instruction of the trace makes. `role` is that of a Unit, "argument" for a tensor handed to a layer; `name`
    is what it is bound to."""

    value: Value
    role: str
    name: str


@frozen
class EffectItem:
    """An effect statement: `name` is the metric relative to the body, `target` the parameter of accumulate."""

    kind: str
    name: str
    target: Value | None
    value: Value
    span: Span


@frozen
class LayerBody:
    """A layer function elaborated once. `returned` is its value, with tensors of this body in it."""

    name: str
    arguments: tuple[Value, ...]
    parameters: tuple[ParameterSpec, ...]
    parameter_values: tuple[Value, ...]
    records: tuple[Leaf, ...]
    items: tuple[Instruction | EffectItem, ...]
    hints: dict[str, str]
    returned: Any
    results: tuple[Value, ...]


@frozen_object
class CallItem:
    """A call of a layer in the model: tensors bound to the body's arguments, parameters and results."""

    body: LayerBody
    path: str
    scope: str
    arguments: tuple[Value, ...]
    parameters: tuple[Value, ...]
    results: tuple[Value, ...]
    span: Span


Item = Instruction | EffectItem | CallItem


@dataclass(slots=True)
class Trace:
    """One body in the making.

    kind:     model, layer, init, update or recipe
    stream:   what random numbers of this body are keyed by
    hints:    value name -> name in the .dsl
    """

    kind: str
    stream: str = "call"
    items: list[Item] = field(default_factory=list)
    leaves: dict[str, Leaf] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    specs: dict[str, ParameterSpec] = field(default_factory=dict)
    effects: set[tuple[str, str]] = field(default_factory=set)
    states: dict[str, Value] = field(default_factory=dict)
    stores: dict[str, Value] = field(default_factory=dict)
    ordinal: int = 0
    reads_training: bool = False
    builder: Builder = field(init=False)

    def __post_init__(self) -> None:
        self.builder = Builder(OPS, VIA, NO_SPAN)
        self.builder.instructions = self.items  # type: ignore[assignment]

    def leaf(self, role: str, name: str, type_: TensorType, hint: str | None = None) -> Value:
        """The leaf bound to `name` in this role, made at its first use."""
        key = f"{role}:{name}"
        found = self.leaves.get(key)
        if found is None:
            value = Value(self.builder.fresh(hint or name), type_)
            found = self.leaves[key] = Leaf(value, role, name)
            self.hints[value.name] = hint or name
        return found.value

    def next_ordinal(self) -> int:
        self.ordinal += 1
        return self.ordinal - 1

    def give_name(self, value: Value, name: str) -> None:
        """Names a value after the variable that first holds it."""
        self.hints.setdefault(value.name, name)
