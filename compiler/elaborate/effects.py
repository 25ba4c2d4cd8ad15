"""Builtins that reach beyond the value they give: parameters, effects, optimizer state, defaults of inputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mlc.elaborate.builtins import as_dtype, as_shape
from mlc.elaborate.calls import Caller
from mlc.elaborate.scopes import join
from mlc.elaborate.site import Site
from mlc.elaborate.trace import EffectItem, Leaf, ParameterSpec
from mlc.elaborate.values import Partial, describe, integer
from mlc.ir.dtypes import dtype_of
from mlc.ir.program import Following
from mlc.ir.types import TensorType, Value

ACCUMULATES = "accumulate: the first argument is a parameter itself, not a value computed from one"
PATH = re.compile(r"[A-Za-z0-9_*-]+(\.[A-Za-z0-9_*-]+)*")


def check_name(site: Site, what: str, name: Any) -> str:
    """A path like "attn.c_attn": letters, digits, `_`, `-` and `*`, joined by dots."""
    if not isinstance(name, str):
        raise site.fail("E0403", f"{what} wants a string, got {describe(name)}")
    if not PATH.fullmatch(name):
        raise site.fail("E0515", f'{what} "{name}" is not a path', "letters, digits, `_`, `-` and `*`, joined by dots")
    return name


def _inside_model(it: Caller, site: Site, what: str) -> None:
    if it.pure is not None:
        raise site.fail("E0510", f"{what}: {it.pure} is a @kernel, it only computes")
    if site.tracing.kind not in ("model", "layer"):
        raise site.fail("E0513", f"{what} belongs into the model")


def param(it: Caller, site: Site, name: Any, shape: Any, init: Any, dtype: Any = None) -> Value:
    """The parameter of this name under the open scopes."""
    _inside_model(it, site, "param")
    path = join(it.scope.prefix, check_name(site, "param", name))
    if not isinstance(init, Partial) or init.function.kind != "init":
        raise site.fail("E0403", f"param: init wants an init like normal(0.02), got {describe(init)}", _init_hint(init))
    kind = it.precision.real if dtype is None else as_dtype(site, dtype, "param")
    if kind == "f64":
        raise site.fail("E0202", "param: a parameter is f64 in a recipe of that precision only", "write @train(precision=f64)")
    if not dtype_of(kind).is_float:
        raise site.fail("E0202", f"param: a parameter is a float tensor, not {kind}")
    type_ = TensorType(kind, as_shape(site, shape, "param"))
    return declare(it, site, ParameterSpec(path, type_, init, site.span, it.scope.shared, it.scope.entry))


def _init_hint(init: Any) -> str | None:
    kind = getattr(init, "kind", None)
    return f"write {init.name}(...)" if kind == "init" else None


def declare(it: Caller, site: Site, spec: ParameterSpec) -> Value:
    """The leaf of a parameter in the current trace; the same path twice is allowed inside share= only."""
    trace = site.tracing
    before = trace.specs.get(spec.name)
    if before is None:
        _check_registered(it, site, spec)
    else:
        _check_again(site, before, spec)
    trace.specs[spec.name] = spec
    return trace.leaf("param", spec.name, (before or spec).type)


def _check_again(site: Site, before: ParameterSpec, spec: ParameterSpec) -> None:
    if spec.shared is None or before.shared != spec.shared or before.entry == spec.entry:
        raise site.fail("E0501", f'a parameter "{spec.name}" exists already', 'name the call (name="...") or share it (share="...")')
    if not before.type.same(spec.type):
        raise site.fail("E0502", f'shared parameter "{spec.name}" is {before.type} in one use and {spec.type} in another')


def _check_registered(it: Caller, site: Site, spec: ParameterSpec) -> None:
    """Outside training only parameters of the training elaboration exist."""
    if it.registry is None or site.tracing.kind != "model":
        return
    known = it.registry.get(spec.name)
    if known is None:
        raise site.fail("E0503", f'parameter "{spec.name}" exists in evaluation but not in training')
    if not known.type.same(spec.type):
        raise site.fail("E0503", f'parameter "{spec.name}" is {known.type} in training and {spec.type} in evaluation')


def add_loss(it: Caller, site: Site, name: Any, value: Any) -> None:
    _effect(it, site, "add_loss", name, value)


def report(it: Caller, site: Site, name: Any, value: Any) -> None:
    _effect(it, site, "report", name, value)


def _effect(it: Caller, site: Site, kind: str, name: Any, value: Any) -> None:
    _inside_model(it, site, kind)
    path = join(it.scope.prefix, check_name(site, kind, name))
    tensor = scalar(site, value, f'{kind} "{path}"')
    if (kind, path) in site.tracing.effects and it.scope.shared is None:
        raise site.fail("E0504", f'{kind} "{path}" is given twice', 'name the call (name="...")')
    site.tracing.effects.add((kind, path))
    site.tracing.items.append(EffectItem(kind, path, None, tensor, site.span))


def scalar(site: Site, value: Any, what: str) -> Value:
    """An f32 scalar; a number becomes one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return site.constant(float(value), "f32")
    tensor = site.tensor(value, what)
    if tensor.type.dims or tensor.type.dtype != "f32":
        raise site.fail("E0504", f"{what}: wants an f32 scalar, got {tensor.type}", "take a mean or a sum, and cast to f32")
    return tensor


def accumulate(it: Caller, site: Site, p: Any, value: Any) -> None:
    """Gives a parameter its g in place of a gradient."""
    _inside_model(it, site, "accumulate")
    target = site.tensor(p, "accumulate")
    leaf = leaf_of(site, target)
    if leaf is None or leaf.role not in ("param", "argument"):
        raise site.fail("E0504", ACCUMULATES)
    tensor = site.tensor(value, "accumulate")
    if tensor.type.dtype != "f32" or tensor.type.shape != target.type.shape:
        raise site.fail("E0504", f"accumulate: wants f32 of the parameter's shape, {target.type}, got {tensor.type}")
    site.tracing.items.append(EffectItem("accumulate", "", target, tensor, site.span))


def leaf_of(site: Site, value: Value) -> Leaf | None:
    return next((leaf for leaf in site.tracing.leaves.values() if leaf.value is value), None)


def state(it: Caller, site: Site, name: Any, shape: Any) -> Value:
    """What the last step stored under this name, zero at first."""
    trace = site.tracing
    if trace.kind != "update":
        raise site.fail("E0511", "state belongs into an @optimizer")
    check_name(site, "state", name)
    type_ = TensorType("f32", as_shape(site, shape, "state"))
    value = trace.leaf("state", name, type_)
    if value.type.shape != type_.shape:
        raise site.fail("E0511", f'state "{name}" is {value.type} and {type_}')
    return value


def store(it: Caller, site: Site, name: Any, value: Any) -> None:
    """Sets the state of this name for the next step."""
    trace = site.tracing
    if trace.kind != "update":
        raise site.fail("E0511", "store belongs into an @optimizer")
    check_name(site, "store", name)
    if name in trace.stores:
        raise site.fail("E0511", f'store "{name}" is given twice')
    tensor = site.tensor(value, "store")
    known = trace.leaves.get(f"state:{name}")
    if tensor.type.dtype != "f32" or (known is not None and known.value.type.shape != tensor.type.shape):
        wanted = known.value.type if known is not None else "f32"
        raise site.fail("E0511", f'store "{name}": wants {wanted}, got {tensor.type}')
    trace.stores[name] = tensor


def following(it: Caller, site: Site, of: Any, shift: Any = 1) -> Following:
    """Default of an input: the input `of`, `shift` tokens later."""
    if not isinstance(of, str):
        raise site.fail("E0512", f"following: wants the name of an input, got {describe(of)}")
    if not integer(shift) or shift < 1:
        raise site.fail("E0512", f"following: the shift is an int from 1, got {describe(shift)}")
    return Following(of, int(shift))


EFFECTS: dict[str, Callable[..., Any]] = {
    "param": param, "add_loss": add_loss, "report": report, "accumulate": accumulate,
    "state": state, "store": store, "following": following,
}  # fmt: skip
