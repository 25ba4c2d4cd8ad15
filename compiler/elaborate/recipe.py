"""The recipe: the @train function called for each parameter, optimizers as Updates, rates as Scalars, initial values as Functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlc.diagnostics import Span
from mlc.elaborate.calls import Frame, Given
from mlc.elaborate.failures import Failure, Poisoned
from mlc.elaborate.interpreter import SUPPLIED, Interpreter
from mlc.elaborate.precision import PRECISIONS, in_range
from mlc.elaborate.scopes import Scope
from mlc.elaborate.site import Site
from mlc.elaborate.trace import VIA, ParameterSpec, Trace
from mlc.elaborate.units import function_key
from mlc.elaborate.values import SCALAR, FunctionValue, ParameterView, Partial, Poison, as_int, describe, number
from mlc.frozen import frozen
from mlc.ir.builder import FreshNames
from mlc.ir.flat import FLAT, flat
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Pointwise
from mlc.ir.program import Recipe, Scalar, Update
from mlc.ir.types import TensorType, Value
from mlc.ops import OPS

SETTINGS = ("clip", "precision", "microbatches", "groups")


class RecipeTrace(Trace):
    """The trace of the recipe's scalars: equal instructions are one value, so that equal rates of many parameters are one."""

    def __post_init__(self) -> None:
        Trace.__post_init__(self)
        made: dict[Any, tuple[Value, ...]] = {}
        emit = self.builder.emit

        def once(op: str, *operands: Value, hint: str | None = None, **attributes: Any) -> tuple[Value, ...]:
            key = (op, tuple(o.name for o in operands), tuple((k, repr(v)) for k, v in sorted(attributes.items())))
            if key not in made:
                made[key] = emit(op, *operands, hint=hint, **attributes)
            return made[key]

        self.builder.emit = once


def settings(it: Interpreter, function: FunctionValue) -> Recipe:
    """The arguments of @train."""
    decorator = next(d for d in function.node.decorators if d.name == "train")
    frame = Frame(function.module)
    given: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    for name, node in [*zip(SETTINGS, decorator.arguments, strict=False), *((k.name, k.value) for k in decorator.keywords)]:
        if name not in SETTINGS:
            raise Failure("E0401", f"@train: has no parameter `{name}`", decorator.span, f"it has {', '.join(SETTINGS)}")
        given[name] = _setting(name, it.evaluate(node, frame), node.span)
        spans[name] = node.span
    precision = given.get("precision", "f32")
    if given.get("clip") is not None:
        in_range(given["clip"], PRECISIONS[precision].f32, "E0509", "@train: clip", spans["clip"])
    return Recipe(given.get("clip"), precision, given.get("microbatches", 1), given.get("groups"))


def _setting(name: str, value: Any, span: Span) -> Any:
    match name:
        case "clip" if value is None or (number(value) and value > 0):
            return None if value is None else float(value)
        case "precision" if getattr(value, "name", "") in PRECISIONS:
            return value.name
        case "microbatches" if isinstance(value, int) and value >= 1:
            return int(value)
        case "groups" if value is None or (isinstance(value, int) and value >= 1):
            return None if value is None else int(value)
        case _:
            wants = {"clip": "a number above 0 or None", "precision": "f32, bf16 or f64"}.get(name, "an int from 1")
            raise Failure("E0509", f"@train: {name} is {wants}, got {describe(value)}", span)


@dataclass(slots=True)
class Recipes:
    """Elaborates rules, scalars and initial values; each distinct one once."""

    it: Interpreter
    trace: RecipeTrace
    scalars: list[Scalar] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    _scalar_names: dict[str, str] = field(default_factory=dict)
    _said: dict[Any, Partial | None] = field(default_factory=dict)
    _rules: dict[Any, int] = field(default_factory=dict)
    _update_keys: dict[Any, int] = field(default_factory=dict)
    _inits: dict[Any, Function] = field(default_factory=dict)
    _init_keys: dict[Any, Function] = field(default_factory=dict)

    # ----------------------------------------------------------------------------------------- rules

    def rule(self, function: FunctionValue, spec: ParameterSpec) -> Partial | None:
        """What the recipe says of one parameter; asked once a shape as long as it does not read names."""
        key = spec.type.dims
        if self.it.reads_name or key not in self._said:
            self._said[key] = self._rule(function, spec)
        return self._said[key]

    def _rule(self, function: FunctionValue, spec: ParameterSpec) -> Partial | None:
        if len(function.node.parameters) > 1:
            raise Failure("E0509", f"{function.name}: takes one parameter at most, p: parameter", function.node.span)
        site = Site(function.node.span, self.trace, self.it.precision.f32)
        view = ParameterView(spec.name, tuple(as_int(d) for d in spec.type.dims))
        values = {p.name: view for p in function.node.parameters}
        before = self.it.trace
        self.it.trace = self.trace
        try:
            inner = Frame(function.module, function)
            self.it.match(inner, values, Given(), site)
            rule = self.it.body(function, inner, site)
        finally:
            self.it.trace = before
        if isinstance(rule, Poison):
            raise Poisoned
        if rule is not None and not (isinstance(rule, Partial) and rule.function.kind == "optimizer"):
            raise Failure("E0509", f"{function.name}: returns an optimizer or None, got {describe(rule)}", function.node.span)
        return rule

    def update(self, rule: Partial, spec: ParameterSpec) -> int:
        """The number of the update of a parameter of this shape by this rule."""
        key = (rule.key, spec.type.shape)
        if key not in self._rules:
            self._rules[key] = self._update(rule, spec)
        return self._rules[key]

    def _update(self, rule: Partial, spec: ParameterSpec) -> int:
        arguments = {k: self._scalar_names_in(rule, k, v) for k, v in self._given(rule).items()}
        made = self._elaborated(rule, TensorType("f32", spec.type.dims), arguments)
        key = (made.states, made.scalars, made.elementwise, function_key(made.function))
        if key not in self._update_keys:
            self._update_keys[key] = len(self.updates)
            self.updates.append(self._named(made))
        return self._update_keys[key]

    def _named(self, update: Update) -> Update:
        """The update's function under a name of its own."""
        taken = sum(1 for u in self.updates if u.function.name.partition(".")[0] == update.function.name)
        if not taken:
            return update
        f = update.function
        return Update(
            Function(f"{f.name}.{taken}", f.parameters, f.instructions, f.results), update.states, update.scalars, update.elementwise
        )

    def _given(self, rule: Partial) -> dict[str, Any]:
        site = Site(rule.span, self.trace, self.it.precision.f32)
        return self.it.bind(rule.function, SUPPLIED["optimizer"], Given(rule.positional, dict(rule.keywords)), site)

    def _scalar_names_in(self, rule: Partial, name: str, value: Any) -> Any:
        """The argument with tensors replaced by the names of scalars."""
        match value:
            case Value():
                return ScalarName(self.scalar(value, f"{rule.function.name}.{name}", rule.span))
            case tuple():
                return tuple(self._scalar_names_in(rule, name, item) for item in value)
            case _:
                return value

    def _elaborated(self, rule: Partial, type_: TensorType, arguments: dict[str, Any]) -> Update:
        trace = Trace("update")
        p, g = trace.leaf("p", "p", type_), trace.leaf("g", "g", type_)
        step = trace.leaf("record", "step", SCALAR)
        given = {k: _leaves(trace, v) for k, v in arguments.items()}
        new = self._run(rule, trace, (p, g, step), given)
        if isinstance(new, Poison):
            raise Poisoned
        site = Site(rule.span, trace, self.it.precision.f32)
        if not isinstance(new, Value) or not new.type.same(type_):
            got = describe(new)
            raise site.fail("E0509", f"{rule.function.name}: returns the new p, {type_}, got {got}")
        return _finished(rule.function.name, trace, p, g, new, site)

    def _run(self, rule: Partial, trace: Trace, supplied: tuple[Any, ...], given: dict[str, Any]) -> Any:
        it = self.it
        before = it.trace, it.supplied, it.scope
        it.trace, it.supplied, it.scope = trace, supplied, Scope()
        try:
            return it.inline(rule.function, supplied, Given((), given), Site(rule.span, trace, it.precision.f32))
        finally:
            it.trace, it.supplied, it.scope = before

    # ----------------------------------------------------------------------------------------- scalars

    def scalar(self, value: Value, hint: str, span: Span, name: str | None = None) -> str:
        """The name of the record scalar that holds this value of the recipe's trace."""
        leaf = next((leaf for leaf in self.trace.leaves.values() if leaf.value.name == value.name), None)
        if leaf is not None and name is None:
            return leaf.name
        if value.name not in self._scalar_names or name is not None:
            made = name or FreshNames(s.name for s in self.scalars).name(hint)
            self._scalar_names[value.name] = made
            self.scalars.append(Scalar(made, None, False, self.curve(value, made, span), span))
        return self._scalar_names[value.name]

    def curve(self, value: Value, name: str, span: Span) -> Function:
        """The part of the recipe's trace that makes this value."""
        needed = {value.name}
        instructions: list[Instruction] = []
        for item in reversed(self.trace.items):
            if isinstance(item, Instruction) and any(r.name in needed for r in item.results):
                needed.update(o.name for o in item.operands)
                instructions.append(item)
        parameters = tuple(Value(leaf.name, leaf.value.type) for leaf in self.trace.leaves.values() if leaf.value.name in needed)
        renamed = {leaf.value.name: leaf.name for leaf in self.trace.leaves.values()}
        return tidy(name, parameters, instructions[::-1], (value,), renamed, self.trace.hints, span)

    # ----------------------------------------------------------------------------------------- initial values

    def init(self, spec: ParameterSpec) -> Function:
        """The function of the initial value; over a flat tensor where every element is computed alone."""
        key = (spec.init.key, spec.type.shape)
        if key not in self._inits:
            made = self._init(spec)
            self._inits[key] = self._init_keys.setdefault(function_key(made), made)
        return self._inits[key]

    def _init(self, spec: ParameterSpec) -> Function:
        trace = Trace("init")
        dims = spec.type.dims
        rule = spec.init
        site = Site(rule.span, trace, self.it.precision.f32)
        given = self.it.bind(rule.function, SUPPLIED["init"], Given(rule.positional, dict(rule.keywords)), site)
        value = self._run(rule, trace, (tuple(as_int(d) for d in dims),), given)
        if isinstance(value, Poison):
            raise Poisoned
        type_ = TensorType("f32", dims)
        if not isinstance(value, Value) or not value.type.same(type_):
            raise site.fail("E0509", f"{rule.function.name}: returns an initial value {type_}, got {describe(value)}")
        function = tidy(f"init.{rule.function.name}", (), _live(trace, [value]), (value,), {}, trace.hints, rule.span)
        return flat(function, type_.shape) if elementwise(function, type_.shape, True) else function


@frozen
class ScalarName:
    """Stands for a record scalar among the arguments of a rule."""

    name: str


def _leaves(trace: Trace, value: Any) -> Any:
    match value:
        case ScalarName():
            return trace.leaf("record", value.name, SCALAR)
        case tuple():
            return tuple(_leaves(trace, item) for item in value)
        case _:
            return value


def _live(trace: Trace, roots: list[Value]) -> list[Instruction]:
    live = {r.name for r in roots}
    found: list[Instruction] = []
    for item in reversed(trace.items):
        if isinstance(item, Instruction) and any(r.name in live for r in item.results):
            live.update(o.name for o in item.operands)
            found.append(item)
    return found[::-1]


def _finished(name: str, trace: Trace, p: Value, g: Value, new: Value, site: Site) -> Update:
    """The update of a traced optimizer: unused scalars dropped, states in the order of their first use."""
    reads = {leaf.name: leaf.value for leaf in trace.leaves.values() if leaf.role == "state"}
    states = [*reads, *(s for s in trace.stores if s not in reads)]
    results = [new, *(trace.stores.get(s, reads.get(s)) for s in states)]
    roots = [r for r in results if r is not None]
    instructions = _live(trace, roots)
    used = {o.name for i in instructions for o in i.operands}
    records = [leaf for leaf in trace.leaves.values() if leaf.role == "record" and leaf.value.name in used]
    leaves = [p, g]
    for s, result in zip(states, roots[1:], strict=True):
        leaves.append(reads[s] if s in reads else trace.leaf("state", s, result.type))
    parameters = (*leaves, *(leaf.value for leaf in records))
    function = tidy(name, parameters, instructions, tuple(roots), {}, trace.hints, site.span)
    shape = p.type.shape
    typed = tuple((s, leaf.type) for s, leaf in zip(states, leaves[2:], strict=True))
    scalars = tuple(leaf.name for leaf in records)
    if not elementwise(function, shape, False):
        return Update(function, typed, scalars, False)
    return Update(flat(function, shape), tuple((s, TensorType("f32", (FLAT,))) for s in states), scalars, True)


def tidy(
    name: str,
    parameters: tuple[Value, ...],
    instructions: list[Instruction],
    results: tuple[Value, ...],
    renamed: dict[str, str],
    hints: dict[str, str],
    span: Span,
) -> Function:
    """A function with values named after variables, and results distinct and no parameters."""
    names = FreshNames(p.name for p in parameters)
    known = {old: Value(new, SCALAR) for old, new in renamed.items()} | {p.name: p for p in parameters}
    made: list[Instruction] = []
    for i in instructions:
        outs = tuple(Value(names.name(hints.get(r.name, i.op)), r.type) for r in i.results)
        made.append(Instruction(i.op, tuple(known[o.name] for o in i.operands), i.attributes, outs, i.span, i.via))
        known.update((r.name, out) for r, out in zip(i.results, outs, strict=True))
    seen = {p.name for p in parameters}
    final: list[Value] = []
    for result in results:
        value = known[result.name]
        if value.name in seen:
            copied = Value(names.name(f"{value.name}.next"), value.type)
            made.append(Instruction("copy", (value,), (), (copied,), span, VIA))
            value = copied
        seen.add(value.name)
        final.append(value)
    return Function(name, parameters, tuple(made), tuple(final))


def elementwise(function: Function, shape: tuple[int, ...], random: bool) -> bool:
    """Is every value a scalar or of this shape, and every element computed from its own place alone?"""
    values = (*function.parameters, *(r for i in function.instructions for r in i.results))
    if not shape or any(v.type.shape not in ((), shape) for v in values):
        return False
    return all(_alone(i, random) for i in function.instructions) and all(r.type.shape == shape for r in function.results)


def _alone(instruction: Instruction, random: bool) -> bool:
    if instruction.op.startswith("random_"):
        return random
    if instruction.op == "broadcast":
        return instruction.operands[0].type.dims == ()
    return instruction.op in ("constant", "copy", "stop_gradient") or isinstance(OPS[instruction.op].lowering, Pointwise)
