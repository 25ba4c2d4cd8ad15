"""The functions of the language: one Python function each, `BUILTINS` by name. Their signatures are those of the language."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from mlc.elaborate import arithmetic, contractions
from mlc.elaborate.arithmetic import LONGEST
from mlc.elaborate.failures import hint
from mlc.elaborate.foreign import foreign_parameter
from mlc.elaborate.site import Site
from mlc.elaborate.values import DType, Int, as_dim, describe, integer, number, quotient, sized
from mlc.ir.dtypes import DTYPES
from mlc.ir.types import MOST_ELEMENTS, ONE, Dim, Factor, Value, too_large
from mlc.ops.broadcasting import constant_value
from mlc.ops.rules import plain

REQUIRED = inspect.Parameter.empty
F32 = DType("f32")


def bind_builtin(
    site: Site, name: str, function: Callable[..., Any], skip: int, positional: tuple[Any, ...], keywords: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for the function's parameters after the first `skip`: in order for one that takes any number, else by name."""
    parameters = _parameters(function)[skip:]
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_POSITIONAL:
        return _variadic(site, name, parameters, positional, keywords), {}
    if len(positional) > len(parameters):
        help = "a shape is one list: [batch, width]" if parameters and parameters[-1].name == "shape" else None
        raise site.fail("E0401", f"{name}: takes {len(parameters)} arguments, got {len(positional)}", help)
    bound = {p.name: v for p, v in zip(parameters, positional, strict=False)}
    names = [p.name for p in parameters]
    for key, value in keywords.items():
        if key not in names:
            raise site.fail("E0401", f"{name}: has no parameter `{key}`", foreign_parameter(key, names) or hint(key, names))
        if key in bound:
            raise site.fail("E0401", f"{name}: `{key}` is given twice")
        bound[key] = value
    missing = [p.name for p in parameters if p.default is REQUIRED and p.name not in bound]
    if missing:
        raise site.fail("E0401", f"{name}: `{missing[0]}` is missing")
    return (), bound


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())


def _variadic(
    site: Site, name: str, parameters: tuple[inspect.Parameter, ...], positional: tuple[Any, ...], keywords: Mapping[str, Any]
) -> tuple[Any, ...]:
    if keywords:
        raise site.fail("E0401", f"{name}: has no parameter `{next(iter(keywords))}`")
    if len(positional) < len(parameters) - 1:
        raise site.fail("E0401", f"{name}: `{parameters[len(positional)].name}` is missing")
    return positional


# ------------------------------------------------------------------------------------------------- reading arguments


def as_shape(site: Site, value: Any, what: str, of: Value | None = None) -> tuple[Dim, ...]:
    """Dims of a shape: a list or tuple of ints from 1. `of`: the tensor whose elements fill it."""
    if not isinstance(value, tuple):
        raise site.fail("E0403", f"{what}: wants a shape like [batch, width], got {describe(value)}")
    for item in value:
        if not integer(item):
            raise site.fail("E0403", f"{what}: a shape holds ints, got {describe(item)}")
        if item < 1:
            raise site.fail("E0403", f"{what}: a dim is at least 1, got {int(item)}", _rest(value, of) if item == -1 else None)
    size = math.prod(int(item) for item in value)
    if size > MOST_ELEMENTS:
        refusal = too_large(what, size)
        raise site.fail(refusal.code, refusal.message)
    return tuple(as_dim(item) for item in value)


def _rest(shape: tuple[Any, ...], of: Value | None) -> str:
    """Help for a -1 that would stand for whatever is left."""
    others = math.prod(int(item) for item in shape if integer(item) and item != -1)
    elements = math.prod(dim.size for dim in of.type.dims) if of is not None else 0
    one = elements > 0 and others > 0 and elements % others == 0 and sum(item == -1 for item in shape) == 1
    left = f", {elements // others} here" if one else ""
    return f"every dim of a shape is written: the product of those it is made of{left}"


def as_dtype(site: Site, value: Any, what: str) -> str:
    if isinstance(value, DType):
        return value.name
    raise site.fail("E0403", f"{what}: wants a dtype, got {describe(value)}")


def as_axis(site: Site, x: Value, axis: Any, what: str) -> int:
    at = site.integer(axis, f"{what} axis")
    rank = len(x.type.dims)
    if not -rank <= at < rank:
        raise site.fail("E0204", f"{what}: axis {int(at)} is out of range for {x.type}")
    return int(at) % rank


def as_axes(site: Site, x: Value, axis: Any, what: str) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(len(x.type.dims)))
    axes = tuple(as_axis(site, x, a, what) for a in (axis if isinstance(axis, tuple) else (axis,)))
    if len(set(axes)) != len(axes):
        raise site.fail("E0204", f"{what}: an axis is given twice for {x.type}")
    return tuple(sorted(axes))


def as_bool(site: Site, value: Any, what: str) -> bool:
    if isinstance(value, bool):
        return value
    raise site.fail("E0403", f"{what}: wants True or False, got {describe(value)}")


def as_sequence(site: Site, value: Any, what: str) -> tuple[Any, ...]:
    if isinstance(value, tuple) and value:
        return value
    raise site.fail("E0403", f"{what}: wants a list that is not empty, got {describe(value)}")


# ------------------------------------------------------------------------------------------------- elementwise


def _scalar_function(name: str) -> Callable[..., Any]:
    def function(site: Site, x: Any) -> Any:
        return arithmetic.scalar_function(site, name, x)

    return function


def minimum(site: Site, a: Any, b: Any) -> Any:
    return arithmetic.extreme(site, "minimum", a, b)


def maximum(site: Site, a: Any, b: Any) -> Any:
    return arithmetic.extreme(site, "maximum", a, b)


def select(site: Site, condition: Any, a: Any, b: Any) -> Any:
    return arithmetic.select(site, condition, a, b)


def cast(site: Site, x: Any, dtype: Any) -> Any:
    to = as_dtype(site, dtype, "cast")
    if not isinstance(x, Value):
        if number(x) or isinstance(x, bool):
            return constant_value(x, to)
        raise site.fail("E0403", f"cast: wants a tensor or a number, got {describe(x)}")
    return x if x.type.dtype == to else site.one("cast", x, dtype=to)


def stop_gradient(site: Site, x: Any) -> Value:
    return site.one("stop_gradient", site.tensor(x, "stop_gradient"))


# ------------------------------------------------------------------------------------------------- reductions


def sum_(site: Site, x: Any, axis: Any = None, keepdims: Any = False) -> Any:
    if isinstance(x, tuple) and axis is None:
        total: Any = 0
        for item in x:
            total = arithmetic.binary(site, "+", total, item)
        return total
    tensor = site.tensor(x, "sum")
    if tensor.type.dtype == "bool":
        raise site.fail("E0208", f"sum: wants numbers, got {tensor.type}", "write sum(cast(mask, f32)), or i32 to count exactly")
    return site.one("sum", tensor, axes=as_axes(site, tensor, axis, "sum"), keepdims=as_bool(site, keepdims, "sum"))


def mean(site: Site, x: Any, axis: Any = None, keepdims: Any = False) -> Value:
    tensor = site.float_tensor(x, "mean")
    axes = as_axes(site, tensor, axis, "mean")
    total = site.one("sum", tensor, axes=axes, keepdims=as_bool(site, keepdims, "mean"))
    count = math.prod(tensor.type.dims[a].size for a in axes)
    return arithmetic.binary(site, "*", total, 1.0 / count) if count > 1 else total


def var(site: Site, x: Any, axis: Any = None, keepdims: Any = False) -> Value:
    tensor = site.float_tensor(x, "var")
    difference = arithmetic.binary(site, "-", tensor, mean(site, tensor, axis, True))
    return mean(site, site.one("mul", difference, difference), axis, keepdims)


def max_(site: Site, x: Any, *more: Any) -> Any:
    return _most(site, "max", x, more)


def min_(site: Site, x: Any, *more: Any) -> Any:
    return _most(site, "min", x, more)


def _most(site: Site, name: str, x: Any, more: tuple[Any, ...]) -> Any:
    items = (x, *more) if more else x
    if not isinstance(items, tuple) or not items or not all(number(i) for i in items):
        help = f"write {name}imum(a, b) for tensors elementwise"
        raise site.fail("E0403", f"{name}: wants compile-time numbers, got {describe(items)}", help)
    return (max if name == "max" else min)(items)


def tensor_max(site: Site, x: Any, axis: Any = None, keepdims: Any = False) -> Value:
    tensor = _reduced(site, "max", x, axis)
    return site.one("max", tensor, axes=as_axes(site, tensor, axis, "max"), keepdims=as_bool(site, keepdims, "max"))


def tensor_min(site: Site, x: Any, axis: Any = None, keepdims: Any = False) -> Value:
    return site.one("neg", tensor_max(site, site.one("neg", _reduced(site, "min", x, axis)), axis, keepdims))


def _reduced(site: Site, name: str, x: Any, axis: Any) -> Value:
    """x. Refuses a second operand where the axis stands."""
    if isinstance(axis, (float, Value)):
        help = f"write {name}imum(a, b) for the {'larger' if name == 'max' else 'smaller'} of two, element by element"
        raise site.fail("E0403", f"{name}: reduces one tensor, over an axis; got {describe(axis)} for the axis", help)
    return site.tensor(x, name)


def argmax(site: Site, x: Any, axis: Any = -1) -> Value:
    tensor = site.tensor(x, "argmax")
    return site.one("argmax", tensor, axis=as_axis(site, tensor, axis, "argmax"))


def cumsum(site: Site, x: Any, axis: Any, reverse: Any = False) -> Value:
    tensor = site.tensor(x, "cumsum")
    return site.one("cumsum", tensor, axis=as_axis(site, tensor, axis, "cumsum"), reverse=as_bool(site, reverse, "cumsum"))


def top_k(site: Site, x: Any, k: Any) -> tuple[Value, ...]:
    """The k largest of the last dim and their indices."""
    tensor = site.tensor(x, "top_k")
    (d,) = as_shape(site, (k,), "top_k")
    return site.builder.emit("top_k", tensor, k=d)


def softmax(site: Site, x: Any, axis: Any = -1) -> Value:
    tensor = site.float_tensor(x, "softmax")
    return site.one("softmax", tensor, axis=as_axis(site, tensor, axis, "softmax"))


def logsumexp(site: Site, x: Any, axis: Any = -1, keepdims: Any = False) -> Value:
    tensor = site.float_tensor(x, "logsumexp")
    return site.one("logsumexp", tensor, axis=as_axis(site, tensor, axis, "logsumexp"), keepdims=as_bool(site, keepdims, "logsumexp"))


# ------------------------------------------------------------------------------------------------- made of nothing


def arange(site: Site, n: Any) -> Value:
    (d,) = as_shape(site, (n,), "arange")
    return site.one("iota", dim=d if d.factors else plain(1))


def full(site: Site, shape: Any, value: Any, dtype: Any = None) -> Value:
    dims = as_shape(site, shape, "full")
    if dtype is not None:
        kind = as_dtype(site, dtype, "full")
    else:
        kind = "bool" if isinstance(value, bool) else "i32" if integer(value) else "f32"
    if isinstance(value, Value):
        raise site.fail("E0403", f"full: wants a number, got {describe(value)}", "write broadcast(x, shape)")
    if not (number(value) or isinstance(value, bool)):
        raise site.fail("E0403", f"full: wants a number, got {describe(value)}")
    return site.broadcast(site.constant(value, kind), dims)


def one_hot(site: Site, index: Any, n: Any, dtype: Any = F32) -> Value:
    """[..., n]: 1 where the last axis is the index, else 0."""
    tensor = site.tensor(index, "one_hot")
    (d,) = as_shape(site, (n,), "one_hot")
    wide = site.one("reshape", tensor, dims=(*tensor.type.dims, ONE))
    mask = site.one("equal", *site.align(wide, arange(site, n if d.factors else sized(plain(1))), op="one_hot"))
    return cast(site, mask, dtype)


# ------------------------------------------------------------------------------------------------- moves


def reshape(site: Site, x: Any, shape: Any) -> Value:
    tensor = site.tensor(x, "reshape")
    dims = as_shape(site, (shape,) if integer(shape) and shape == -1 else shape, "reshape", tensor)
    return tensor if dims == tensor.type.dims else site.one("reshape", tensor, dims=dims)


def transpose(site: Site, x: Any, order: Any = None) -> Value:
    """The last two dims swapped, or the dims in the given order."""
    tensor = site.tensor(x, "transpose")
    rank = len(tensor.type.dims)
    if order is None:
        if rank < 2:
            raise site.fail("E0204", f"transpose: wants at least two dims, got {tensor.type}")
        return site.one("transpose", tensor, permutation=(*range(rank - 2), rank - 1, rank - 2))
    axes = tuple(as_axis(site, tensor, a, "transpose") for a in as_sequence(site, order, "transpose"))
    return tensor if axes == tuple(range(rank)) else site.one("transpose", tensor, permutation=axes)


def broadcast(site: Site, x: Any, shape: Any) -> Value:
    tensor = site.tensor(x, "broadcast")
    dims = as_shape(site, shape, "broadcast")
    if len(dims) < len(tensor.type.dims):
        raise site.fail("E0210", f"broadcast: {tensor.type} has more dims than the shape")
    return site.broadcast(tensor, dims)


def concat(site: Site, parts: Any, axis: Any = 0) -> Value:
    tensors = [site.tensor(p, "concat") for p in as_sequence(site, parts, "concat")]
    return site.one("concat", *tensors, axis=as_axis(site, tensors[0], axis, "concat"))


def stack(site: Site, parts: Any, axis: Any = 0) -> Value:
    """The tensors along a new axis."""
    tensors = [site.tensor(p, "stack") for p in as_sequence(site, parts, "stack")]
    rank = len(tensors[0].type.dims) + 1
    at = int(site.integer(axis, "stack axis"))
    if not -rank <= at < rank:
        raise site.fail("E0204", f"stack: axis {at} is out of range for {len(tensors)} of {tensors[0].type}")
    at %= rank
    wide = [site.one("reshape", t, dims=(*t.type.dims[:at], ONE, *t.type.dims[at:])) for t in tensors]
    return site.one("concat", *wide, axis=at)


def split(site: Site, x: Any, parts: Any, axis: Any = 0) -> tuple[Value, ...]:
    """Equal parts by their number, or parts of the given sizes."""
    tensor = site.tensor(x, "split")
    at = as_axis(site, tensor, axis, "split")
    d = tensor.type.dims[at]
    if isinstance(parts, tuple):
        sizes = as_shape(site, parts, "split")
    else:
        count = int(site.integer(parts, "split"))
        arithmetic.short(site, count, "split")
        if count < 1 or d.size % count:
            raise site.fail("E0207", f"split: {count} does not divide dim {d} of {tensor.type}")
        part = quotient(d, Dim((Factor("", count),))) if count > 1 else d
        sizes = (part,) * count
    return site.builder.emit("split", tensor, axis=at, sizes=sizes)


def gather(site: Site, x: Any, index: Any, axis: Any = 0) -> Value:
    tensor = site.tensor(x, "gather")
    return site.one("gather", tensor, site.tensor(index, "gather"), axis=as_axis(site, tensor, axis, "gather"))


def take_along(site: Site, x: Any, index: Any, axis: Any = -1) -> Value:
    tensor = site.tensor(x, "take_along")
    return site.one("take_along", tensor, site.tensor(index, "take_along"), axis=as_axis(site, tensor, axis, "take_along"))


def scatter_add(site: Site, rows: Any, index: Any, n: Any) -> Value:
    """[n, ...]: the rows added up at their indices."""
    (d,) = as_shape(site, (n,), "scatter_add")
    return site.one("scatter_add", site.tensor(rows, "scatter_add"), site.tensor(index, "scatter_add"), dim=d)


def einsum(site: Site, spec: Any, *operands: Any) -> Value:
    if not operands:
        raise site.fail("E0209", "einsum: wants at least one tensor")
    return contractions.einsum(site, spec, operands)


# ------------------------------------------------------------------------------------------------- random numbers


def random_uniform(site: Site, shape: Any) -> Value:
    return _random(site, "random_uniform", shape)


def random_normal(site: Site, shape: Any) -> Value:
    return _random(site, "random_normal", shape)


def _random(site: Site, op: str, shape: Any) -> Value:
    trace = site.tracing
    if trace.kind in ("recipe", "update"):
        raise site.fail("E0514", f"{op}: no random numbers in a recipe, rate or optimizer")
    return site.one(op, dims=as_shape(site, shape, op), dtype="f32", ordinal=trace.next_ordinal(), stream=trace.stream)


# ------------------------------------------------------------------------------------------------- compile time


def len_(site: Site, x: Any) -> int:
    if isinstance(x, (tuple, str)):
        return len(x)
    if isinstance(x, Value):
        raise site.fail("E0403", f"len: wants a tuple or a string, got {describe(x)}", "write len(x.shape)")
    raise site.fail("E0403", f"len: wants a tuple or a string, got {describe(x)}")


def range_(site: Site, start: Any, stop: Any = None, step: Any = 1) -> tuple[int, ...]:
    bounds = [int(site.integer(v, "range")) for v in ((0, start) if stop is None else (start, stop))]
    by = int(site.integer(step, "range"))
    if by == 0:
        raise site.fail("E0403", "range: the step is 0")
    numbers = range(bounds[0], bounds[1], by)
    if len(numbers) > LONGEST:
        raise site.fail("E0414", f"range: {len(numbers)} numbers are more than a loop at compile time may have, {LONGEST}")
    return tuple(numbers)


def zip_(site: Site, *parts: Any) -> tuple[Any, ...]:
    for part in parts:
        if not isinstance(part, tuple):
            raise site.fail("E0403", f"zip: wants tuples, got {describe(part)}")
    if len({len(part) for part in parts}) > 1:
        raise site.fail("E0403", f"zip: lengths differ: {', '.join(str(len(p)) for p in parts)}")
    return tuple(zip(*parts, strict=True))


def int_(site: Site, x: Any) -> int:
    if isinstance(x, Int):
        return x
    if isinstance(x, Value):
        raise site.fail("E0403", f"int: wants a compile-time number, got {describe(x)}", "write cast(x, i32)")
    try:
        return int(x)
    except (TypeError, ValueError, OverflowError):
        raise site.fail("E0403", f"int: {describe(x)} is not an integer") from None


def float_(site: Site, x: Any) -> float:
    if isinstance(x, Value):
        raise site.fail("E0403", f"float: wants a compile-time number, got {describe(x)}", "write cast(x, f32)")
    try:
        return float(x)
    except (TypeError, ValueError, OverflowError):
        raise site.fail("E0403", f"float: {describe(x)} is not a number") from None


def glob(site: Site, name: Any, *patterns: Any) -> bool:
    """Does the name match one of the patterns? `*` matches any characters, dots too."""
    for text in (name, *patterns):
        if not isinstance(text, str):
            raise site.fail("E0403", f"glob: wants strings, got {describe(text)}")
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


BUILTINS: dict[str, Callable[..., Any]] = {
    **{name: _scalar_function(name) for name in arithmetic.NUMBER_FUNCTIONS},
    "minimum": minimum, "maximum": maximum, "select": select, "cast": cast, "stop_gradient": stop_gradient,
    "sum": sum_, "mean": mean, "var": var, "max": max_, "min": min_, "argmax": argmax, "cumsum": cumsum, "top_k": top_k,
    "softmax": softmax, "logsumexp": logsumexp,
    "arange": arange, "full": full, "one_hot": one_hot,
    "reshape": reshape, "transpose": transpose, "broadcast": broadcast, "concat": concat, "stack": stack, "split": split,
    "gather": gather, "take_along": take_along, "scatter_add": scatter_add, "einsum": einsum,
    "random_uniform": random_uniform, "random_normal": random_normal,
    "len": len_, "range": range_, "zip": zip_, "int": int_, "float": float_, "glob": glob,
}  # fmt: skip

#: What `max` and `min` are on a tensor: reductions.
REDUCTIONS: dict[str, Callable[..., Any]] = {"max": tensor_max, "min": tensor_min}

#: Values the language names.
CONSTANTS: dict[str, Any] = {
    "pi": math.pi, "inf": math.inf,
    **{name: DType(name) for name in DTYPES},
}  # fmt: skip

#: Names that mean something in annotations only.
TYPE_NAMES = ("dim", "int", "float", "str", "shape", "init", "dtype", "parameter", "real", *DTYPES)
