"""The abstract interpreter: runs functions of the language at compile time and appends the instructions they mean to a trace.

Compile-time values are computed, tensors become instructions. Only the branch that is taken is elaborated, loops are unrolled,
calls are inlined; calls of @layer functions from the model are elaborated once per kind of arguments (`layers.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlc.diagnostics import Note, OpError, Span
from mlc.elaborate import arithmetic, effects, indexing, kernels, layers, signatures
from mlc.elaborate.builtins import BUILTINS, CONSTANTS, REDUCTIONS, bind_builtin
from mlc.elaborate.calls import Frame, Given
from mlc.elaborate.failures import Failure, Poisoned, Reports, bare, callers, hint, inside
from mlc.elaborate.scopes import Scope
from mlc.elaborate.site import Site
from mlc.elaborate.trace import LayerBody, ParameterSpec, Trace
from mlc.elaborate.values import (
    POISON,
    Builtin,
    DType,
    FunctionValue,
    Int,
    Option,
    ParameterView,
    Partial,
    Poison,
    describe,
    integer,
    key_of,
    named,
    shape_of,
)
from mlc.ir.types import TensorType, Value
from mlc.syntax import tree

#: A block that ended without `return`.
RUNNING = object()
MISSING = object()
SCALAR = TensorType("f32")

#: kind of function -> names of the parameters the compiler supplies
SUPPLIED = {"init": 1, "curve": 2, "optimizer": 3}


@dataclass(slots=True)
class Interpreter:
    """What holds for one elaboration of the model; `calls.Caller` says what most fields are.

    globals:     the outermost scope: inits of the standard library
    supplied:    what the compiler gives an @init or @optimizer that is called by another
    curves:      values of the recipe's curves so far
    active:      functions that are being elaborated
    reads_name:  whether the recipe has read the name of the parameter it was called for
    """

    reports: Reports
    globals: Mapping[str, Any]
    precision: str = "f32"
    training: bool = True
    trace: Trace | None = None
    scope: Scope = field(default_factory=Scope)
    registry: dict[str, ParameterSpec] | None = None
    outer: Span | None = None
    pure: str | None = None
    entries: int = 0
    supplied: tuple[Any, ...] = ()
    bodies: dict[Any, LayerBody | None] = field(default_factory=dict)
    curves: dict[Any, Value] = field(default_factory=dict)
    paths: dict[str, int] = field(default_factory=dict)
    active: list[FunctionValue] = field(default_factory=list)
    reads_name: bool = False

    # --------------------------------------------------------------------------------------------- reporting

    def report(self, failure: Failure) -> None:
        if self.outer is not None:
            failure.span = _extended(failure.span, self.outer)
        self.reports.add(failure)

    def site(self, node: Any, frame: Frame) -> Site:
        return Site(inside(node.span, frame.call), self.trace)

    # --------------------------------------------------------------------------------------------- statements

    def run(self, statements: tuple[tree.Statement, ...], frame: Frame) -> Any:
        """The returned value, or RUNNING where none was returned."""
        for statement in statements:
            result = self.statement(statement, frame)
            if result is not RUNNING:
                return result
        return RUNNING

    def statement(self, statement: tree.Statement, frame: Frame) -> Any:
        """A mistake inside a user's statement is reported and its targets are poisoned; the library's go to the caller."""
        try:
            return _STATEMENTS[type(statement)](self, statement, frame)
        except Failure as failure:
            if frame.module.library:
                raise
            self.report(failure)
        except Poisoned:
            if frame.module.library:
                raise
        for name in assigned_names((statement,)):
            frame.names[name] = POISON
        return POISON if returns((statement,)) else RUNNING

    def assign(self, target: tree.Target, value: Any, node: Any, frame: Frame) -> None:
        if isinstance(target, tree.Name):
            self.assign_name(target, value, frame)
            return
        parts = self.unpacked(target, value, node, frame)
        for item, part in zip(target.items, parts, strict=True):
            assert isinstance(item, tree.Name)
            self.assign_name(item, part, frame)

    def unpacked(self, target: tree.Tuple, value: Any, node: Any, frame: Frame) -> tuple[Any, ...]:
        if isinstance(value, Poison):
            return (POISON,) * len(target.items)
        if not isinstance(value, tuple):
            raise self.site(node, frame).fail("E0407", f"cannot unpack {describe(value)} into {len(target.items)} names")
        if len(value) != len(target.items):
            raise self.site(node, frame).fail("E0407", f"cannot unpack {len(value)} values into {len(target.items)} names")
        return value

    def assign_name(self, target: tree.Name, value: Any, frame: Frame) -> None:
        frame.names[target.name] = value
        frame.assigned[target.name] = target.span
        if isinstance(value, Value) and self.trace is not None and target.name != "_":
            self.trace.give_name(value, target.name)

    def condition(self, node: tree.Expression, frame: Frame, what: str) -> bool:
        value = self.evaluate(node, frame)
        if isinstance(value, bool):
            return value
        if isinstance(value, Value):
            help = "write select(condition, a, b)" if what != "assert" else "only compile-time values can be checked"
            raise self.site(node, frame).fail("E0404", f"{what}: a tensor is not known at compile time: {value.type}", help)
        if integer(value) or value is None or isinstance(value, (str, tuple, float)):
            help = "compare it: `x > 0`, `x is not None`"
            raise self.site(node, frame).fail("E0403", f"{what}: wants a bool, got {describe(value)}", help)
        raise self.site(node, frame).fail("E0403", f"{what}: wants a bool, got {describe(value)}")

    # --------------------------------------------------------------------------------------------- expressions

    def evaluate(self, node: tree.Expression, frame: Frame) -> Any:
        return _EXPRESSIONS[type(node)](self, node, frame)

    def lookup(self, name: str, frame: Frame) -> Any:
        """What the name means here, MISSING where it means nothing."""
        value = frame.names.get(name, MISSING)
        if value is MISSING:
            value = frame.module.names.get(name, MISSING)
        if value is not MISSING:
            return value
        if name == "training":
            return self._training()
        if name == "real":
            return DType(self.precision)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in BUILTINS or name in effects.EFFECTS:
            return Builtin(name)
        return self.globals.get(name, MISSING)

    def _training(self) -> bool:
        if self.trace is not None:
            self.trace.reads_training = True
        return self.training

    def known_names(self, frame: Frame) -> list[str]:
        return [*frame.names, *frame.module.names, "training", "real", *CONSTANTS, *BUILTINS, *effects.EFFECTS, *self.globals]

    # --------------------------------------------------------------------------------------------- calls

    def call(self, node: tree.Call, frame: Frame) -> Any:
        site = self.site(node, frame)
        function = self.evaluate(node.function, frame)
        if not isinstance(function, (FunctionValue, Builtin)):
            raise self._not_callable(node, function, site, frame)
        positional = tuple(self.evaluate(a, frame) for a in node.arguments)
        keywords = {k.name: self.evaluate(k.value, frame) for k in node.keywords}
        try:
            if isinstance(function, Builtin):
                return self.call_builtin(function.name, positional, keywords, site)
            return self.call_function(function, Given(positional, keywords, node, frame), site)
        except OpError as error:
            raise site.fail(error.code, error.message, error.help) from None

    def _not_callable(self, node: tree.Call, value: Any, site: Site, frame: Frame) -> Failure:
        name = node.function.name if isinstance(node.function, tree.Name) else ""
        notes = (Note(f"`{name}` is assigned here", bare(frame.assigned[name])),) if name in frame.assigned else ()
        return Failure("E0306", f"{f'`{name}`' if name else 'this'} is {describe(value)}, it cannot be called", site.span, None, notes)

    def call_builtin(self, name: str, positional: tuple[Any, ...], keywords: dict[str, Any], site: Site) -> Any:
        if name in effects.EFFECTS:
            function = effects.EFFECTS[name]
            return function(self, site, **bind_builtin(site, name, function, 2, positional, keywords)[1])
        first = positional[0] if positional else keywords.get("x")
        reduces = name in REDUCTIONS and isinstance(first, Value)
        function = REDUCTIONS[name] if reduces else BUILTINS[name]
        variadic, bound = bind_builtin(site, name, function, 1, positional, keywords)
        return function(site, *variadic, **bound)

    def call_function(self, function: FunctionValue, given: Given, site: Site) -> Any:
        """A call, in the scope that name= or share= opens."""
        own = {p.name for p in function.node.parameters}
        opens = {k: v for k, v in given.keywords.items() if k in ("name", "share") and k not in own}
        if not opens:
            return self._dispatch(function, given, site)
        rest = {k: v for k, v in given.keywords.items() if k not in opens}
        before = self.scope
        self.scope = self._entered(opens.get("name"), opens.get("share"), site)
        try:
            return self._dispatch(function, Given(given.positional, rest, given.node, given.frame), site)
        finally:
            self.scope = before

    def _entered(self, name: Any, share: Any, site: Site) -> Scope:
        if name is not None and share is not None:
            raise site.fail("E0401", "a call has name= or share=, not both")
        opened = effects.check_name(site, "name=" if name is not None else "share=", name if name is not None else share)
        self.entries += 1
        return self.scope.enter(opened, share is not None, self.entries)

    def _dispatch(self, function: FunctionValue, given: Given, site: Site) -> Any:
        kind = self.trace.kind if self.trace is not None else "constant"
        match function.kind:
            case "model" | "train":
                raise site.fail("E0506", f"{function.name} is the @{function.kind} function: only the compiler calls it")
            case "init" if kind != "init":
                return self.partial(function, given, site)
            case "init":
                return self.inline(function, self.supplied[:1], given, site)
            case "optimizer" if kind == "recipe":
                return self.partial(function, given, site)
            case "optimizer" if kind == "update":
                return self.inline(function, self.supplied, given, site)
            case "optimizer":
                raise site.fail("E0509", f"{function.name} is an @optimizer: only @train and other optimizers call it")
            case "curve":
                return self._curve(function, given, site)
            case "layer" if kind == "model":
                return layers.call(self, function, given, site)
            case "kernel":
                return self._kernel(function, given, site)
            case _:
                return self.inline(function, (), given, site)

    def partial(self, function: FunctionValue, given: Given, site: Site) -> Partial:
        """A call whose first parameters come later. Tensors in it are scalars of the recipe."""
        self.bind(function, SUPPLIED[function.kind], given, site)
        return Partial(function, given.positional, tuple(given.keywords.items()), site.span, (function, *_exact_call(given)))

    def _curve(self, function: FunctionValue, given: Given, site: Site) -> Any:
        """The value of a curve; in the recipe equal calls are one value."""
        trace = site.tracing
        step, steps = (trace.leaf("record", name, SCALAR) for name in ("step", "steps"))
        if trace.kind != "recipe":
            return self.inline(function, (step, steps), given, site)
        key = (function, *_exact_call(given))
        if key not in self.curves:
            self.curves[key] = self.inline(function, (step, steps), given, site)
        return self.curves[key]

    def _kernel(self, function: FunctionValue, given: Given, site: Site) -> Any:
        inner, values = self.prepared(function, (), given, site)
        whole = kernels.whole(site, function, values)
        if whole is not None:
            return whole
        before = self.pure
        self.pure = function.name
        try:
            return self.body(function, inner, site)
        finally:
            self.pure = before

    def inline(self, function: FunctionValue, supplied: tuple[Any, ...], given: Given, site: Site) -> Any:
        """The value of a call whose body is elaborated here; `supplied` are the parameters the compiler gives."""
        inner, _ = self.prepared(function, supplied, given, site)
        return self.body(function, inner, site)

    def prepared(self, function: FunctionValue, supplied: tuple[Any, ...], given: Given, site: Site) -> tuple[Frame, dict[str, Any]]:
        """The frame of a call with its parameters bound, and their values by name."""
        values = self.bind(function, len(supplied), given, site)
        for parameter, value in zip(function.node.parameters, supplied, strict=False):
            values[parameter.name] = value
        inner = Frame(function.module, function, site.span)
        self.match(inner, values, given, site)
        return inner, {p.name: inner.names[p.name] for p in function.node.parameters}

    def body(self, function: FunctionValue, inner: Frame, site: Site) -> Any:
        if function in self.active:
            raise site.fail("E0409", f"{function.name} calls itself", "recursion is not part of the language: write a loop")
        self.active.append(function)
        try:
            result = self.run(function.node.body, inner)
        finally:
            self.active.pop()
        return None if result is RUNNING else result

    def bind(self, function: FunctionValue, skip: int, given: Given, site: Site) -> dict[str, Any]:
        """Values by parameter name, defaults included; the first `skip` parameters are the compiler's."""
        parameters = function.node.parameters[skip:]
        places = [p for p in parameters if not p.keyword_only]
        if len(given.positional) > len(places):
            raise site.fail("E0401", f"{function.name}: takes {len(places)} positional arguments, got {len(given.positional)}")
        values = {p.name: v for p, v in zip(places, given.positional, strict=False)}
        names = [p.name for p in parameters]
        for name, value in given.keywords.items():
            if name not in names:
                raise site.fail("E0401", f"{function.name}: has no parameter `{name}`", hint(name, names))
            if name in values:
                raise site.fail("E0401", f"{function.name}: `{name}` is given twice")
            values[name] = value
        if len(values) < len(parameters):
            self._defaults(function, values, site, skip)
        return values

    def _defaults(self, function: FunctionValue, values: dict[str, Any], site: Site, skip: int) -> None:
        outside = Frame(function.module, None, site.span)
        for parameter in function.node.parameters[skip:]:
            if parameter.name in values:
                continue
            if parameter.default is None:
                raise site.fail("E0401", f"{function.name}: `{parameter.name}` is missing")
            values[parameter.name] = self.evaluate(parameter.default, outside)

    def match(self, inner: Frame, values: dict[str, Any], given: Given, site: Site) -> None:
        """Checks arguments against annotations, compile-time ones first, and binds them and the letters of their types."""
        assert inner.function is not None
        names = self.names(inner)
        ordered = sorted(inner.function.node.parameters, key=lambda p: signatures.is_tensor(p.annotation))
        for parameter in ordered:
            value = values[parameter.name]
            if isinstance(value, Poison):
                raise Poisoned
            optional = value is None and isinstance(parameter.default, tree.NoneValue)
            if not optional:
                value = self._checked(names, parameter, value, inner.function, given, site)
            inner.names[parameter.name] = value

    def _checked(
        self, names: signatures.Names, parameter: tree.Parameter, value: Any, function: FunctionValue, given: Given, site: Site
    ) -> Any:
        try:
            return signatures.check(names, parameter.name, parameter.annotation, value)
        except signatures.Mismatch as mismatch:
            span = _argument_span(given, parameter.name, function, site)
            raise Failure("E0402", f"{function.name}({parameter.name}): {mismatch}", span) from None

    def names(self, frame: Frame) -> signatures.Names:
        return signatures.Names(
            lambda name: self.lookup(name, frame) is not MISSING,
            lambda node: self.evaluate(node, frame),
            lambda name, value: frame.names.__setitem__(name, value),
        )


def _exact_call(given: Given) -> tuple[Any, ...]:
    """A key of a call by the values it gives."""
    return (_exact(given.positional), tuple((k, _exact(v)) for k, v in sorted(given.keywords.items())))


def _exact(value: Any) -> Any:
    """A key by value: tensors by their name, which the recipe's trace gives to one value only."""
    match value:
        case Value():
            return (Value, value.name)
        case tuple():
            return tuple(_exact(item) for item in value)
        case _:
            return key_of(value)


def _extended(span: Span, outer: Span) -> Span:
    """The chain of `span` with `outer` as its last caller."""
    if any(s == outer for s in callers(span)):
        return span
    caller = outer if span.caller is None else _extended(span.caller, outer)
    return inside(bare(span), caller)


def _argument_span(given: Given, name: str, function: FunctionValue, site: Site) -> Span:
    """The place of an argument at its call."""
    node, frame = given.node, given.frame
    if node is None or frame is None:
        return site.span
    for keyword in node.keywords:
        if keyword.name == name:
            return inside(keyword.value.span, frame.call)
    skip = SUPPLIED.get(function.kind, 0)
    names = [p.name for p in function.node.parameters[skip:] if not p.keyword_only]
    at = names.index(name) if name in names else len(node.arguments)
    return inside(node.arguments[at].span, frame.call) if at < len(node.arguments) else site.span


# ------------------------------------------------------------------------------------------------- statements


def _assign(it: Interpreter, node: tree.Assign, frame: Frame) -> Any:
    it.assign(node.target, it.evaluate(node.value, frame), node.value, frame)
    return RUNNING


def _augment(it: Interpreter, node: tree.Augment, frame: Frame) -> Any:
    site = it.site(node, frame)
    value = it.evaluate(node.value, frame)
    it.assign_name(node.target, _operate(site, node.operator, it.evaluate(node.target, frame), value), frame)
    return RUNNING


def _annotate(it: Interpreter, node: tree.Annotate, frame: Frame) -> Any:
    value = it.evaluate(node.value, frame)
    it.assign_name(node.target, checked(it, node.target.name, node.annotation, value, node.value, frame), frame)
    return RUNNING


def checked(it: Interpreter, name: str, annotation: tree.Expression, value: Any, node: Any, frame: Frame) -> Any:
    """The value checked against an annotation inside a function."""
    if isinstance(value, Poison):
        raise Poisoned
    try:
        return signatures.check(it.names(frame), name, annotation, value)
    except signatures.Mismatch as mismatch:
        raise it.site(node, frame).fail("E0402", f"{name}: {mismatch}") from None


def _return(it: Interpreter, node: tree.Return, frame: Frame) -> Any:
    value = it.evaluate(node.value, frame)
    if frame.function is not None and frame.function.node.returns is not None:
        return checked(it, f"{frame.function.name} returns", frame.function.node.returns, value, node.value, frame)
    return value


def _assert(it: Interpreter, node: tree.Assert, frame: Frame) -> Any:
    if it.condition(node.condition, frame, "assert"):
        return RUNNING
    text = it.evaluate(node.message, frame) if node.message is not None else "assertion failed"
    raise it.site(node.condition, frame).fail("E0405", str(text))


def _branch(it: Interpreter, node: tree.Branch, frame: Frame) -> Any:
    return it.run(node.then if it.condition(node.condition, frame, "if") else node.otherwise, frame)


def _loop(it: Interpreter, node: tree.Loop, frame: Frame) -> Any:
    values = it.evaluate(node.values, frame)
    if not isinstance(values, tuple):
        help = "write range(n)" if integer(values) else None
        raise it.site(node.values, frame).fail("E0412", f"for: wants a range, list or shape, got {describe(values)}", help)
    for value in values:
        if isinstance(node.target, tree.Name) and integer(value):
            value = named(value, node.target.name)
        it.assign(node.target, value, node.values, frame)
        result = it.run(node.body, frame)
        if result is not RUNNING:
            return result
    return RUNNING


def _expression(it: Interpreter, node: tree.ExpressionStatement, frame: Frame) -> Any:
    it.evaluate(node.value, frame)
    return RUNNING


_STATEMENTS: dict[type, Callable[[Interpreter, Any, Frame], Any]] = {
    tree.Assign: _assign, tree.Augment: _augment, tree.Annotate: _annotate, tree.Return: _return, tree.Assert: _assert,
    tree.Branch: _branch, tree.Loop: _loop, tree.ExpressionStatement: _expression,
}  # fmt: skip


def assigned_names(statements: tuple[tree.Statement, ...]) -> list[str]:
    """Every name that the statements may assign."""
    names: list[str] = []
    for statement in statements:
        match statement:
            case tree.Assign(target=target) | tree.Annotate(target=target) | tree.Augment(target=target):
                names.extend(target_names(target))
            case tree.Branch(then=then, otherwise=otherwise):
                names.extend(assigned_names((*then, *otherwise)))
            case tree.Loop(target=target, body=body):
                names.extend([*target_names(target), *assigned_names(body)])
            case _:
                pass
    return names


def target_names(target: tree.Target) -> list[str]:
    if isinstance(target, tree.Name):
        return [target.name]
    return [item.name for item in target.items if isinstance(item, tree.Name)]


def returns(statements: tuple[tree.Statement, ...]) -> bool:
    """May one of the statements return?"""
    for statement in statements:
        match statement:
            case tree.Return():
                return True
            case tree.Branch(then=then, otherwise=otherwise) if returns((*then, *otherwise)):
                return True
            case tree.Loop(body=body) if returns(body):
                return True
            case _:
                pass
    return False


# ------------------------------------------------------------------------------------------------- expressions


def _name(it: Interpreter, node: tree.Name, frame: Frame) -> Any:
    value = it.lookup(node.name, frame)
    if value is MISSING:
        raise _unknown(it, node, frame)
    if isinstance(value, Poison):
        raise Poisoned
    if isinstance(value, Option):
        return it.site(node, frame).tracing.leaf("record", value.name, SCALAR)
    return value


def _unknown(it: Interpreter, node: tree.Name, frame: Frame) -> Failure:
    span = inside(node.span, frame.call)
    if frame.function is not None and node.name in assigned_names(frame.function.node.body):
        help = "a branch that assigns it was not taken" if node.name not in frame.names else None
        return Failure("E0305", f"`{node.name}` has no value here", span, help)
    return Failure("E0301", f"unknown name `{node.name}`", span, hint(node.name, it.known_names(frame)))


def _literal(it: Interpreter, node: Any, frame: Frame) -> Any:
    return node.value


def _integer(it: Interpreter, node: tree.Integer, frame: Frame) -> int:
    return node.value


def _format(it: Interpreter, node: tree.Format, frame: Frame) -> str:
    return "".join(part if isinstance(part, str) else _interpolated(it, part, frame) for part in node.parts)


def _interpolated(it: Interpreter, node: tree.Interpolation, frame: Frame) -> str:
    value = it.evaluate(node.value, frame)
    if isinstance(value, Value):
        raise it.site(node.value, frame).fail("E0403", f"a tensor is not known at compile time: {value.type}")
    try:
        return format(_shown(value), "" if _WIDE.search(node.spec) else node.spec)
    except (ValueError, TypeError):
        raise it.site(node, frame).fail("E0403", f"{describe(value)} cannot be written as `{node.spec}`") from None


#: A width or precision that nobody means.
_WIDE = re.compile(r"[0-9]{4}")


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


def _sequence(it: Interpreter, node: Any, frame: Frame) -> tuple[Any, ...]:
    return tuple(it.evaluate(item, frame) for item in node.items)


def _record(it: Interpreter, node: tree.Record, frame: Frame) -> dict[str, Any]:
    return {pair.key.value: it.evaluate(pair.value, frame) for pair in node.items}


def _call(it: Interpreter, node: tree.Call, frame: Frame) -> Any:
    value = it.call(node, frame)
    if isinstance(value, Poison):
        raise Poisoned
    return value


def _subscript(it: Interpreter, node: tree.Subscript, frame: Frame) -> Any:
    value = it.evaluate(node.value, frame)
    items = tuple(_index(it, item, frame) for item in node.items)
    site = it.site(node, frame)
    try:
        result = indexing.subscript(site, value, items)
    except OpError as error:
        raise site.fail(error.code, error.message, error.help) from None
    if isinstance(result, Poison):
        raise Poisoned
    return result


def _index(it: Interpreter, item: Any, frame: Frame) -> Any:
    if isinstance(item, tree.Slice):
        return indexing.Range(*(None if part is None else it.evaluate(part, frame) for part in (item.start, item.stop, item.step)))
    return it.evaluate(item, frame)


def _attribute(it: Interpreter, node: tree.Attribute, frame: Frame) -> Any:
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


def _no_attribute(it: Interpreter, node: tree.Attribute, value: Any, frame: Frame) -> Any:
    known = ["shape", "dtype"] if isinstance(value, Value) else ["name", "shape"] if isinstance(value, ParameterView) else []
    help = hint(node.name, known) or (f"it has {' and '.join(known)}" if known else None)
    if isinstance(value, Value) and node.name in BUILTINS:
        help = f"write {node.name}(x, ...)"
    raise it.site(node, frame).fail("E0308", f"{describe(value)} has no `{node.name}`", help)


def _unary(it: Interpreter, node: tree.Unary, frame: Frame) -> Any:
    site = it.site(node, frame)
    value = it.evaluate(node.value, frame)
    try:
        return arithmetic.unary(site, node.operator, value)
    except OpError as error:
        raise site.fail(error.code, error.message, error.help) from None


def _binary(it: Interpreter, node: tree.Binary, frame: Frame) -> Any:
    left = it.evaluate(node.left, frame)
    right = it.evaluate(node.right, frame)
    return _operate(it.site(node, frame), node.operator, left, right)


def _operate(site: Site, operator: str, left: Any, right: Any) -> Any:
    try:
        return arithmetic.binary(site, operator, left, right)
    except OpError as error:
        raise site.fail(error.code, error.message, error.help) from None


def _compare(it: Interpreter, node: tree.Compare, frame: Frame) -> Any:
    left = it.evaluate(node.left, frame)
    right = it.evaluate(node.right, frame)
    site = it.site(node, frame)
    try:
        return arithmetic.compare(site, node.operator, left, right)
    except OpError as error:
        raise site.fail(error.code, error.message, error.help) from None


def _is(it: Interpreter, node: tree.Is, frame: Frame) -> bool:
    left = it.evaluate(node.left, frame)
    right = it.evaluate(node.right, frame)
    if left is not None and right is not None:
        raise it.site(node, frame).fail("E0406", "`is` compares with None only", "write `==`")
    return (left is right) != node.negated


def _in(it: Interpreter, node: tree.In, frame: Frame) -> bool:
    left = it.evaluate(node.left, frame)
    right = it.evaluate(node.right, frame)
    if isinstance(right, str) and isinstance(left, str):
        return (left in right) != node.negated
    if not isinstance(right, (tuple, dict)) or isinstance(left, Value):
        raise it.site(node, frame).fail("E0406", f"`in` does not take {describe(left)} and {describe(right)}")
    return any(arithmetic.equal(left, item) for item in right) != node.negated


def _not(it: Interpreter, node: tree.Not, frame: Frame) -> bool:
    return not it.condition(node.value, frame, "not")


def _and(it: Interpreter, node: tree.And, frame: Frame) -> bool:
    return it.condition(node.left, frame, "and") and it.condition(node.right, frame, "and")


def _or(it: Interpreter, node: tree.Or, frame: Frame) -> bool:
    return it.condition(node.left, frame, "or") or it.condition(node.right, frame, "or")


def _choose(it: Interpreter, node: tree.Choose, frame: Frame) -> Any:
    return it.evaluate(node.then if it.condition(node.condition, frame, "if") else node.otherwise, frame)


_EXPRESSIONS: dict[type, Callable[[Interpreter, Any, Frame], Any]] = {
    tree.Name: _name, tree.Integer: _integer, tree.Float: _literal, tree.Boolean: _literal, tree.String: _literal,
    tree.NoneValue: lambda it, node, frame: None, tree.Dots: lambda it, node, frame: Ellipsis,
    tree.Format: _format, tree.Tuple: _sequence, tree.List: _sequence, tree.Record: _record, tree.Call: _call,
    tree.Subscript: _subscript, tree.Attribute: _attribute, tree.Unary: _unary, tree.Binary: _binary, tree.Compare: _compare,
    tree.Is: _is, tree.In: _in, tree.Not: _not, tree.And: _and, tree.Or: _or, tree.Choose: _choose,
}  # fmt: skip
