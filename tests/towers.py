"""Programs in which a value is read in many places, many times over: where computing it in each would double at every level.

A tower is a chain of levels; each reads the one below at shifted places, as pieces, by rows, or through moves that compose badly.
With a derivative beside it, every level is read once more on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from mlc.diagnostics import NO_SPAN
from mlc.ir.builder import Builder
from mlc.ir.function import Function
from mlc.ir.types import TensorType, Value, dim
from mlc.ops import OPS
from mlc.ops.broadcasting import broadcast_to, constant_like
from mlc.passes.expand import expand
from mlc.passes.reverse import derivative
from mlc.passes.simplify import simplify

SHAPES = ((4, 9), (3, 8, 5), (2, 6, 10), (2, 16, 3), (24,))


def shifted(b: Builder, x: Value, axis: int) -> Value:
    """x moved by one along an axis, by a concatenation with zeros."""
    d = x.type.dims
    zero = b.one("broadcast", b.one("constant", dtype=x.type.dtype, value=0.0), dims=(*d[:axis], dim(1), *d[axis + 1 :]), axes=())
    return b.one("concat", zero, cut(b, x, axis, 0, d[axis].size - 1), axis=axis)


def cut(b: Builder, x: Value, axis: int, start: int, stop: int) -> Value:
    shape = x.type.shape
    starts = tuple(start if a == axis else 0 for a in range(len(shape)))
    stops = tuple(stop if a == axis else n for a, n in enumerate(shape))
    return b.one("slice", x, starts=starts, stops=stops, steps=(1,) * len(shape))


def padded(b: Builder, x: Value, axis: int) -> Value:
    """x moved by one along an axis, by a pad."""
    piece = cut(b, x, axis, 0, x.type.shape[axis] - 1)
    starts = tuple(int(a == axis) for a in range(len(x.type.shape)))
    return b.one("pad", piece, dims=x.type.dims, starts=starts, steps=(1,) * len(starts))


def add_shifted(b: Builder, x: Value, axis: int, w: Value) -> Value:
    return b.one("add", x, b.one("mul", shifted(b, x, axis), broadcast_to(b, w, x.type.dims)))


def add_padded(b: Builder, x: Value, axis: int, w: Value) -> Value:
    return b.one("add", b.one("mul", x, broadcast_to(b, w, x.type.dims)), padded(b, x, axis))


def maximum_of_slices(b: Builder, x: Value, axis: int, w: Value) -> Value:
    n = x.type.shape[axis]
    if n < 4:
        return b.one("maximum", x, shifted(b, x, axis))
    y = cut(b, x, axis, 0, n - 2)
    for k in (1, 2):
        y = b.one("maximum", y, cut(b, x, axis, k, n - 2 + k))
    return b.one("concat", y, cut(b, x, axis, n - 2, n), axis=axis)


def recombined(b: Builder, x: Value, axis: int, w: Value) -> Value:
    """Cut in two, each half a function of both, put together the other way round."""
    n = x.type.shape[axis]
    if n < 2:
        return add_padded(b, x, axis, w)
    left, right = cut(b, x, axis, 0, n // 2), cut(b, x, axis, n - n // 2, n)
    mixed = b.one("sub", b.one("mul", left, right), left)
    rest = cut(b, x, axis, n // 2, n - n // 2) if n % 2 else None
    return b.one("concat", mixed, *(() if rest is None else (rest,)), b.one("add", left, right), axis=axis)


def stacked(b: Builder, x: Value, axis: int, w: Value) -> Value:
    """Every slice along an axis by itself, then put together: a loop over time."""
    h, made = cut(b, x, axis, 0, 1), []
    for t in range(x.type.shape[axis]):
        h = b.one("add", b.one("mul", h, constant_like(b, 0.5, h.type)), cut(b, x, axis, t, t + 1))
        made.append(h)
    return b.one("concat", *made, axis=axis)


def turned(b: Builder, x: Value, axis: int, w: Value) -> Value:
    """Through another shape, where rows and columns change places."""
    rank = len(x.type.dims)
    flat = b.one("reshape", b.one("transpose", x, permutation=tuple(reversed(range(rank)))), dims=x.type.dims)
    return b.one("add", flat, b.one("mul", x, x))


def centred(b: Builder, x: Value, axis: int, w: Value) -> Value:
    mean = b.one("sum", x, axes=(axis,), keepdims=True)
    return b.one("sub", x, broadcast_to(b, b.one("mul", mean, constant_like(b, 1 / x.type.shape[axis], mean.type)), x.type.dims))


def scaled(b: Builder, x: Value, axis: int, w: Value) -> Value:
    """By something dear that is made of a vector and broadcast."""
    s = w
    for _ in range(4):
        s = b.one("mul", b.one("add", s, w), constant_like(b, 0.5, w.type))
    return b.one("mul", x, broadcast_to(b, b.one("tanh", s), x.type.dims))


LEVELS: tuple[Callable[[Builder, Value, int, Value], Value], ...] = (
    add_shifted, add_padded, maximum_of_slices, recombined, stacked, turned, centred, scaled,
)  # fmt: skip


def tower(levels: Sequence[tuple[int, int]], shape: Sequence[int], results: Sequence[int], dtype: str, backward: bool) -> Function:
    """A tower of (number of a level, axis) over parameters of `shape`; results are further levels by number, beside the top."""
    dims = tuple(dim(n, "") for n in shape)
    x, w = Value("x", TensorType(dtype, dims)), Value("w", TensorType(dtype, dims[-1:]))
    b = Builder(OPS, "test", NO_SPAN, ("x", "w"))
    h = b.one("mul", x, x)
    made = []
    for number, axis in levels:
        h = LEVELS[number](b, h, axis % len(shape), w)
        made.append(h)
    chosen = tuple({made[n % len(made)].name: made[n % len(made)] for n in (*results, len(made) - 1)}.values())
    function = simplify(Function("tower", (x, w), tuple(b.instructions), chosen), OPS)
    if backward:
        function = with_gradients(function)
    return simplify(expand(function, OPS), OPS)


def with_gradients(function: Function) -> Function:
    """Forward and backward in one: cotangents are further parameters, gradients further results."""
    names = frozenset(p.name for p in function.parameters)
    made = derivative(function, names, frozenset(r.name for r in function.results), frozenset(), OPS)
    parameters = (*function.parameters, *made.seeds.values())
    results = (*function.results, *made.cotangents.values())
    return Function("tower", parameters, (*function.instructions, *made.instructions), results)


def towers(most_levels: int = 12) -> st.SearchStrategy[Function]:
    level = st.tuples(st.integers(0, len(LEVELS) - 1), st.integers(0, 2))
    return st.builds(
        tower,
        st.lists(level, min_size=1, max_size=most_levels),
        st.sampled_from(SHAPES),
        st.lists(st.integers(0, most_levels), max_size=2),
        st.sampled_from(("f32", "f32", "bf16")),
        st.booleans(),
    )
