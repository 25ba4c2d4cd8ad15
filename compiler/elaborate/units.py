"""Units: functions assembled from layer bodies and code of the model, and the table that keeps equal ones once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mlc.diagnostics import NO_SPAN
from mlc.elaborate.effects import ACCUMULATES
from mlc.elaborate.failures import Failure
from mlc.elaborate.scopes import join
from mlc.elaborate.trace import VIA, CallItem, EffectItem, Leaf
from mlc.frozen import frozen
from mlc.ir.builder import FreshNames
from mlc.ir.function import Attribute, Function, Instruction
from mlc.ir.program import Effect, Unit
from mlc.ir.types import Dim, TensorType, Value

ROLES = ("state", "input", "param", "record")
STATE = 3


@frozen
class Binding:
    """A parameter of a unit: its role and what it is bound to (a state by the name of its value in the model's trace)."""

    role: str
    name: str
    value: Value


@frozen
class EffectName:
    """The full name of an effect: a metric, or the parameter that accumulate feeds."""

    name: str
    parameter: bool


def _reads(item: Instruction | EffectItem) -> tuple[Value, ...]:
    if isinstance(item, Instruction):
        return item.operands
    return (item.value,) if item.target is None else (item.value, item.target)


def hint_of(value: Value, hints: Mapping[str, str]) -> str:
    return hints.get(value.name) or re.sub(r"\.[0-9]+$", "", value.name)


class Assembler:
    """Collects the instructions of one unit. Values of the model that are no states are cloned where they are first read."""

    def __init__(
        self, leaves: Mapping[str, Leaf], definitions: Mapping[str, Instruction], kinds: Mapping[str, int], hints: Mapping[str, str]
    ):
        self.leaves = leaves
        self.definitions = definitions
        self.kinds = kinds
        self.hints = hints
        self.instructions: list[Instruction] = []
        self.bindings: dict[tuple[str, str], Binding] = {}
        self.cloned_parameters: set[str] = set()
        self.effects: list[tuple[Effect, Value, str | None]] = []
        self.results: list[Value] = []
        self.outputs = 0
        self._model: dict[str, Value] = {}
        self._names = FreshNames()
        self._cloning = 0

    def hint(self, value: Value) -> str:
        """The name of a value of the model: its variable, else what its name was made from."""
        return hint_of(value, self.hints)

    # ----------------------------------------------------------------------------------------- parameters

    def _parameter(self, role: str, name: str, type_: TensorType, hint: str) -> Value:
        found = self.bindings.get((role, name))
        if found is None:
            found = self.bindings[role, name] = Binding(role, name, Value(self._names.name(hint), type_))
        if role == "param" and self._cloning:
            self.cloned_parameters.add(name)
        return found.value

    def ordered(self) -> list[Binding]:
        return sorted(self.bindings.values(), key=lambda b: ROLES.index(b.role))

    def model_value(self, value: Value, hint: str | None = None) -> Value:
        """A value of the model inside this unit: made here, a parameter, or cloned."""
        if value.name in self._model:
            return self._model[value.name]
        leaf = self.leaves.get(value.name)
        if leaf is not None:
            return self._parameter(leaf.role, leaf.name, value.type, hint or leaf.name)
        if self.kinds[value.name] == STATE:
            return self._parameter("state", value.name, value.type, hint or self.hint(value))
        self._cloning += 1
        self._clone(self.definitions[value.name])
        self._cloning -= 1
        return self._model[value.name]

    # ----------------------------------------------------------------------------------------- instructions

    def _clone(self, instruction: Instruction) -> None:
        operands = tuple(self.model_value(o) for o in instruction.operands)
        self._model.update(self._append(instruction, operands, self.hints))

    def _append(self, instruction: Instruction, operands: tuple[Value, ...], hints: Mapping[str, str]) -> dict[str, Value]:
        results = tuple(Value(self._names.name(hints.get(r.name, instruction.op)), r.type) for r in instruction.results)
        self.instructions.append(Instruction(instruction.op, operands, instruction.attributes, results, instruction.span, instruction.via))
        return {r.name: made for r, made in zip(instruction.results, results, strict=True)}

    def add_call(self, call: CallItem, items: Sequence[Instruction | EffectItem]) -> None:
        """The body of a call, its arguments read from the model."""
        body = call.body
        outer = {b.name: a for b, a in zip(body.arguments, call.arguments, strict=True)}
        own = {v.name: (spec, given) for v, spec, given in zip(body.parameter_values, body.parameters, call.parameters, strict=True)}
        records = {leaf.value.name: leaf for leaf in body.records}
        local: dict[str, Value] = {}

        def read(value: Value) -> Value:
            if value.name not in local:
                if value.name in outer:
                    local[value.name] = self.model_value(outer[value.name], body.hints.get(value.name))
                elif value.name in own:
                    spec, given = own[value.name]
                    local[value.name] = self._parameter("param", self.leaves[given.name].name, value.type, spec.name)
                else:
                    local[value.name] = self._parameter("record", records[value.name].name, value.type, records[value.name].name)
            return local[value.name]

        needed = {v.name for i in items for v in _reads(i)}
        for value in (*body.arguments, *body.parameter_values):
            if value.name in needed and (value.name in own or not self._cloned(outer[value.name])):
                read(value)
        for item in items:
            if isinstance(item, EffectItem):
                self._effect(item, read(item.value), read(item.target) if item.target is not None else None, call.scope)
            else:
                local.update(self._append(item, tuple(read(o) for o in item.operands), body.hints))
        self._model.update((made.name, local[r.name]) for r, made in zip(body.results, call.results, strict=True) if r.name in local)

    def _cloned(self, value: Value) -> bool:
        """Is it a value of the model that each unit makes for itself?"""
        return value.name not in self.leaves and self.kinds[value.name] != STATE

    def add_item(self, item: Instruction | EffectItem) -> None:
        """Code of the model."""
        if isinstance(item, EffectItem):
            self._effect(item, self.model_value(item.value), self.model_value(item.target) if item.target is not None else None, "")
        else:
            self._clone(item)

    def _effect(self, item: EffectItem, value: Value, target: Value | None, scope: str) -> None:
        if target is None:
            self.effects.append((Effect(item.kind, item.name), value, join(scope, item.name)))
            return
        binding = next((b for b in self.bindings.values() if b.value is target), None)
        if binding is None or binding.role != "param":
            raise Failure("E0504", ACCUMULATES, item.span)
        self.effects.append((Effect("accumulate", target.name), value, None))

    def effect_names(self) -> tuple[EffectName, ...]:
        bound = {b.value.name: b.name for b in self.bindings.values()}
        return tuple(EffectName(bound[e.name], True) if name is None else EffectName(name, False) for e, _, name in self.effects)

    def finish(self, outputs: Sequence[Value]) -> None:
        """Results: the outputs, then the effects; distinct, and none a parameter."""
        wanted = [(self.model_value(v), self.hint(v)) for v in outputs]
        wanted.extend((value, effect.name) for effect, value, _ in self.effects)
        seen = {b.value.name for b in self.bindings.values()}
        for value, hint in wanted:
            result = self._copied(value, hint) if value.name in seen else value
            seen.add(result.name)
            self.results.append(result)
        self.outputs = len(outputs)

    def _copied(self, value: Value, hint: str) -> Value:
        span = next((i.span for i in self.instructions for r in i.results if r.name == value.name), NO_SPAN)
        result = Value(self._names.name(hint), value.type)
        self.instructions.append(Instruction("copy", (value,), (), (result,), span, VIA))
        return result

    def unit(self, name: str) -> Unit:
        ordered = self.ordered()
        function = Function(name, tuple(b.value for b in ordered), tuple(self.instructions), tuple(self.results))
        return Unit(name, function, tuple(b.role for b in ordered), self.outputs, tuple(e for e, _, _ in self.effects))


class UnitTable:
    """Units by number; equal up to names and labels are one."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self._known: dict[object, int] = {}
        self._names: dict[str, int] = {}

    def add(self, name: str, assembler: Assembler) -> int:
        unit = assembler.unit(name)
        key = unit_key(unit)
        if key not in self._known:
            self._known[key] = len(self.units)
            self.units.append(self._renamed(unit))
        return self._known[key]

    def _renamed(self, unit: Unit) -> Unit:
        taken = self._names.get(unit.name, 0)
        self._names[unit.name] = taken + 1
        if not taken:
            return unit
        name = f"{unit.name}.{taken}"
        function = Function(name, unit.function.parameters, unit.function.instructions, unit.function.results)
        return Unit(name, function, unit.roles, unit.outputs, unit.effects)


def unit_key(unit: Unit) -> object:
    """Equal for units that are equal up to names, labels and spans."""
    names = [p.name for p in unit.function.parameters]
    effects = tuple((e.kind, names.index(e.name) if e.kind == "accumulate" else e.name) for e in unit.effects)
    return (unit.roles, unit.outputs, effects, function_key(unit.function))


def function_key(function: Function) -> object:
    """Equal for functions that are equal up to names, labels and spans."""
    numbers: dict[str, int] = {}
    for value in function.parameters:
        numbers[value.name] = len(numbers)
    rows: list[object] = [tuple(type_key(p.type) for p in function.parameters)]
    for i in function.instructions:
        operands = tuple(numbers[o.name] for o in i.operands)
        for r in i.results:
            numbers[r.name] = len(numbers)
        rows.append((i.op, operands, attributes_key(i.attributes), tuple(type_key(r.type) for r in i.results)))
    rows.append(tuple(numbers[r.name] for r in function.results))
    return tuple(rows)


def type_key(type_: TensorType) -> object:
    return (type_.dtype, type_.shape)


def attributes_key(attributes: tuple[tuple[str, Attribute], ...]) -> object:
    return tuple((name, _attribute_key(value)) for name, value in attributes)


def _attribute_key(value: Attribute) -> object:
    match value:
        case Dim():
            return (Dim, value.size)
        case tuple():
            return tuple(_attribute_key(v) for v in value)
        case _:
            return (type(value), repr(value))
