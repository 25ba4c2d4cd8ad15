"""Calls of @layer functions from the model: the body is elaborated once per kind of arguments, then instantiated with a path."""

from __future__ import annotations

from typing import Any

from mlc.elaborate import effects
from mlc.elaborate.calls import Caller, Frame, Given
from mlc.elaborate.failures import Poisoned
from mlc.elaborate.scopes import Scope, join
from mlc.elaborate.site import Site
from mlc.elaborate.trace import CallItem, LayerBody, ParameterSpec, Trace
from mlc.elaborate.values import FunctionValue, Poison, key_of, replace_tensors, tensors_in
from mlc.ir.types import Value


def call(it: Caller, function: FunctionValue, given: Given, site: Site) -> Any:
    """The value of a call of a layer function in the model."""
    values = it.bind(function, 0, given, site)
    body = _body(it, function, values, given, site)
    if body is None:
        raise Poisoned
    return _instantiate(it, function, body, values, site)


def _body(it: Caller, function: FunctionValue, values: dict[str, Any], given: Given, site: Site) -> LayerBody | None:
    key = (function, tuple((name, key_of(value)) for name, value in values.items()))
    for variant in ((key, it.training), (key, None)):
        if variant in it.bodies:
            return it.bodies[variant]
    trace = Trace("layer")
    body = _elaborate(it, function, values, trace, given, site)
    it.bodies[key, it.training if trace.reads_training else None] = body
    return body


def _elaborate(it: Caller, function: FunctionValue, values: dict[str, Any], trace: Trace, given: Given, site: Site) -> LayerBody | None:
    arguments: list[Value] = []
    fresh = {name: _fresh(trace, name, value, arguments) for name, value in values.items()}
    before = it.trace, it.scope, it.outer
    it.trace, it.scope, it.outer = trace, Scope(), site.span
    try:
        inner = Frame(function.module, function)
        it.match(inner, {p.name: fresh[p.name] for p in function.node.parameters}, given, site)
        returned = it.body(function, inner, site)
    finally:
        it.trace, it.scope, it.outer = before
    if isinstance(returned, Poison):
        return None
    return _finished(function, trace, tuple(arguments), returned)


def _fresh(trace: Trace, name: str, value: Any, arguments: list[Value]) -> Any:
    """The argument with its tensors replaced by leaves of the body."""
    tensors = tensors_in(value)
    if not tensors:
        return value
    leaves: dict[str, Any] = {}
    for tensor in tensors:
        leaf = trace.leaf("argument", f"{name}.{len(arguments)}", tensor.type, name)
        arguments.append(leaf)
        leaves[tensor.name] = leaf
    return replace_tensors(value, leaves)


def _finished(function: FunctionValue, trace: Trace, arguments: tuple[Value, ...], returned: Any) -> LayerBody:
    leaves = trace.leaves.values()
    outside = {leaf.value.name for leaf in leaves}
    results = tuple({t.name: t for t in tensors_in(returned) if t.name not in outside}.values())
    values = {leaf.name: leaf.value for leaf in leaves if leaf.role == "param"}
    specs = tuple(trace.specs.values())
    return LayerBody(
        name=function.name,
        arguments=arguments,
        parameters=specs,
        parameter_values=tuple(values[spec.name] for spec in specs),
        records=tuple(leaf for leaf in leaves if leaf.role == "record"),
        items=tuple(trace.items),  # type: ignore[arg-type]
        hints=trace.hints,
        returned=returned,
        results=results,
    )


def _instantiate(it: Caller, function: FunctionValue, body: LayerBody, values: dict[str, Any], site: Site) -> Any:
    trace = site.tracing
    arguments = tuple(t for value in values.values() for t in tensors_in(value))
    path = call_path(it, function)
    parameters = tuple(effects.declare(it, site, _located(it, spec, site)) for spec in body.parameters)
    records = {leaf.value.name: trace.leaf("record", leaf.name, leaf.value.type) for leaf in body.records}
    results = tuple(Value(trace.builder.fresh(body.hints.get(r.name, function.name)), r.type) for r in body.results)
    trace.items.append(CallItem(body, path, it.scope.prefix, arguments, parameters, results, site.span))
    inside = (*body.arguments, *body.parameter_values, *body.results)
    bound = {v.name: made for v, made in zip(inside, (*arguments, *parameters, *results), strict=True)}
    return replace_tensors(body.returned, {**bound, **records})


def _located(it: Caller, spec: ParameterSpec, site: Site) -> ParameterSpec:
    """A parameter of the body under the scope of this call."""
    name = join(it.scope.prefix, spec.name)
    if spec.shared is None:
        return ParameterSpec(name, spec.type, spec.init, spec.span, it.scope.shared, it.scope.entry)
    it.entries += 1
    return ParameterSpec(name, spec.type, spec.init, spec.span, join(it.scope.prefix, spec.shared), it.entries)


def call_path(it: Caller, function: FunctionValue) -> str:
    """The scope of the call, the function's name where it has none; "#k" for the k-th call, k >= 1, of one path."""
    path = it.scope.prefix or function.name
    count = it.paths.get(path, 0)
    it.paths[path] = count + 1
    return f"{path}#{count}" if count else path
