"""The abstract interpreter: runs functions of the language at compile time and appends the instructions they mean to a trace.

Compile-time values are computed, tensors become instructions. Only the branch that is taken is elaborated, loops are unrolled,
calls are inlined; calls of @layer functions from the model are elaborated once per kind of arguments (`layers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlc.diagnostics import InternalError, Note, OpError, Span
from mlc.elaborate import effects, kernels, layers, signatures
from mlc.elaborate.blocks import assigned_names, returns
from mlc.elaborate.builtins import BUILTINS, CONSTANTS, REDUCTIONS, bind_builtin
from mlc.elaborate.calls import MISSING, RUNNING, Frame, Given
from mlc.elaborate.expressions import EXPRESSIONS
from mlc.elaborate.failures import Exhausted, Failure, Poisoned, Reports, bare, callers, hint, inside
from mlc.elaborate.foreign import FILLS, foreign_parameter
from mlc.elaborate.precision import PRECISIONS, Precision, in_range
from mlc.elaborate.scopes import Scope
from mlc.elaborate.site import Site
from mlc.elaborate.statements import STATEMENTS
from mlc.elaborate.trace import LayerBody, ParameterSpec, Trace
from mlc.elaborate.values import POISON, SCALAR, Builtin, DType, FunctionValue, Option, Partial, Poison, describe, key_of
from mlc.ir.program import ACTIVATIONS, SETTINGS
from mlc.ir.types import Value
from mlc.syntax import tree

#: What a model may ask of the compiler: some ten seconds, and bodies that a C compiler still takes.
MOST_WORK = 2_000_000
MOST_INSTRUCTIONS = 200_000

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
    work:        expressions evaluated so far
    options:     run-time constants by name, those of the compiled file and those that were read
    settings:    what `Program.constants` says of calls in the model, in order of appearance
    """

    reports: Reports
    globals: Mapping[str, Any]
    precision: Precision = PRECISIONS["f32"]
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
    work: int = 0
    options: dict[str, Option] = field(default_factory=dict)
    settings: dict[tuple[str, float], None] = field(default_factory=dict)

    def report(self, failure: Failure) -> None:
        """Collect a mistake, with the call of the layer that is being elaborated as its last caller."""
        if self.outer is not None:
            failure.span = _extended(failure.span, self.outer)
        self.reports.add(failure)

    def option(self, option: Option, span: Span) -> None:
        """Note a run-time constant that is read. The program's option has its bare name, so two files cannot have one each."""
        first = self.options.setdefault(option.name, option)
        if first is option:
            in_range(option.value, self.precision.f32, option.code, option.what, option.span)
        if first.span == option.span:
            return
        files = " and ".join(f"{o.span.file}:{o.span.line}" for o in (first, option))
        message = f"`{option.name}` is a run-time constant of two files, {files}: both would be --{option.name}"
        raise Failure("E0309", message, span, "import one of them, or give it another name")

    def site(self, node: Any, frame: Frame) -> Site:
        """The place of a node, with the call that led there."""
        return Site(inside(node.span, frame.call), self.trace, self.precision.f32)

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
            return STATEMENTS[type(statement)](self, statement, frame)
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

    def evaluate(self, node: tree.Expression, frame: Frame) -> Any:
        self.work += 1
        if self.work > MOST_WORK:
            raise Exhausted(f"more than {MOST_WORK:,} expressions are evaluated at compile time", inside(node.span, frame.call))
        if self.trace is not None and len(self.trace.items) > MOST_INSTRUCTIONS:
            message = f"more than {MOST_INSTRUCTIONS:,} instructions in one body"
            raise Exhausted(message, inside(node.span, frame.call), "loops are unrolled: use ops over whole tensors, or @layer calls")
        return EXPRESSIONS[type(node)](self, node, frame)

    def lookup(self, name: str, frame: Frame) -> Any:
        """What the name means here, MISSING where it means nothing."""
        value = frame.names.get(name, MISSING)
        if value is MISSING:
            value = frame.module.names.get(name, MISSING)
        if value is not MISSING:
            return value
        if name == "training":
            return self._training()
        if name in ("real", "f64"):
            return DType(self.precision.named(name))
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
            help = FILLS.get(function.name) if function.module.library else None
            raise site.fail("E0401", f"{function.name}: takes {len(places)} positional arguments, got {len(given.positional)}", help)
        values = {p.name: v for p, v in zip(places, given.positional, strict=False)}
        names = [p.name for p in parameters]
        for name, value in given.keywords.items():
            if name not in names:
                raise site.fail("E0401", f"{function.name}: has no parameter `{name}`", foreign_parameter(name, names) or hint(name, names))
            if name in values:
                raise site.fail("E0401", f"{function.name}: `{name}` is given twice")
            values[name] = value
        if len(values) < len(parameters):
            self._defaults(function, values, site, skip)
        if self.trace is not None and self.trace.kind in ("model", "layer"):
            self._note_settings(function, values)
        return values

    def _note_settings(self, function: FunctionValue, values: dict[str, Any]) -> None:
        if function.name in ACTIVATIONS:
            self.settings[f"{function.name}.called", 1.0] = None
        for name, value in values.items():
            if name in SETTINGS and isinstance(value, (int, float)):
                self.settings[f"{function.name}.{name}", float(value)] = None

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
        function = inner.function
        if function is None:
            raise InternalError("elaborate: arguments are bound outside of a function")
        names = self.names(inner)
        ordered = sorted(function.node.parameters, key=lambda p: signatures.is_tensor(p.annotation))
        for parameter in ordered:
            value = values[parameter.name]
            if isinstance(value, Poison):
                raise Poisoned
            optional = value is None and isinstance(parameter.default, tree.NoneValue)
            if not optional:
                value = self._checked(names, parameter, value, function, given, site)
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
            self.precision,
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
