"""Random well-typed programs over the op table, and arguments for them: a Hypothesis strategy.

Every value carries bounds of its elements, so that no program leaves the domain of an op, and none overflows: an operand
that an op cannot take is squashed first. Kinks (maximum, comparisons, top_k) are met at random points only, where a derivative exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from op_samples import draw_argument

from mlc.diagnostics import NO_SPAN
from mlc.ir.builder import Builder
from mlc.ir.function import Function
from mlc.ir.types import ONE, Dim, TensorType, Value, dim, product
from mlc.ops import OPS
from mlc.ops.broadcasting import align, broadcast_to, constant_like

#: Sizes of dims: 1, primes, none a multiple of a vector width.
SIZES = (1, 2, 3, 5, 7, 11)

#: Elements of a value, and the magnitude of an element, stay below these.
MOST_ELEMENTS = 1500
LARGEST = 50.0


@dataclass(frozen=True, slots=True)
class RandomProgram:
    """draws: how the argument of each parameter is drawn, as in `Sample.draw`."""

    function: Function
    draws: tuple[str, ...]

    def arguments(self, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [draw_argument(how, p.type, rng) for p, how in zip(self.function.parameters, self.draws, strict=True)]


@dataclass(frozen=True, slots=True)
class Bounded:
    """A value whose elements are between low and high."""

    value: Value
    low: float
    high: float

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def size(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass(slots=True)
class Draft:
    """A program that is being made."""

    draw: Callable[[st.SearchStrategy], object]
    builder: Builder
    floats: tuple[str, ...]
    random: bool
    parameters: list[tuple[Value, str]] = field(default_factory=list)
    pool: list[Bounded] = field(default_factory=list)

    def choose(self, among: Sequence):
        return self.draw(st.sampled_from(list(among)))

    def number(self, least: int, most: int) -> int:
        return self.draw(st.integers(least, most))  # type: ignore[return-value]

    def yes(self) -> bool:
        return self.draw(st.booleans())  # type: ignore[return-value]

    def dims(self, least: int, most: int) -> tuple[Dim, ...]:
        return tuple(dim(self.choose(SIZES), self.choose(("", "a", "b"))) for _ in range(self.number(least, most)))

    def parameter(self, t: TensorType, how: str, low: float, high: float) -> Bounded:
        value = Value(self.builder.fresh(f"x{len(self.parameters)}"), t)
        self.parameters.append((value, how))
        return self.keep(value, low, high)

    def keep(self, value: Value, low: float, high: float) -> Bounded:
        bounded = Bounded(value, low, high)
        self.pool.append(bounded)
        return bounded

    def pick(self, dtypes: Sequence[str], accept: Callable[[Bounded], bool] = lambda v: True) -> Bounded:
        """A value of the pool; a late one rather than an early one. A parameter is added where there is none."""
        found = [v for v in self.pool if v.type.dtype in dtypes and accept(v)]
        if found:
            return found[-1 - min(self.number(0, len(found) - 1), self.number(0, len(found) - 1))]
        dtype = dtypes[0]
        rank = self.number(1, 3)
        if dtype == "bool":
            return self.parameter(TensorType("bool", self.dims(rank, rank)), "mask", 0, 1)
        if dtype == "i32":
            return self.parameter(TensorType("i32", self.dims(rank, rank)), "index:5", 0, 4)
        return self.parameter(TensorType(dtype, self.dims(rank, rank)), "unit", -0.9, 0.9)

    def float(self, accept: Callable[[Bounded], bool] = lambda v: True) -> Bounded:
        return self.pick(self.floats, accept)

    def squashed(self, v: Bounded, low: float, high: float) -> Bounded:
        """v itself, or something of it between low and high: a sigmoid, scaled and moved."""
        if low <= v.low and v.high <= high:
            return v
        b = self.builder
        unit = b.one("sigmoid", v.value)
        scaled = b.one("mul", unit, constant_like(b, high - low, unit.type))
        return self.keep(b.one("add", scaled, constant_like(b, low, unit.type)), low, high)

    def tame(self, v: Bounded) -> Bounded:
        """A float of moderate size."""
        return self.squashed(v, -2.0, 3.0) if v.size > LARGEST else v


UNARY: dict[str, tuple[float, float, Callable[[float, float], tuple[float, float]]]] = {
    "neg": (-LARGEST, LARGEST, lambda a, b: (-b, -a)),
    "abs": (-LARGEST, LARGEST, lambda a, b: (0.0, max(-a, b))),
    "sign": (-LARGEST, LARGEST, lambda a, b: (-1.0, 1.0)),
    "floor": (-LARGEST, LARGEST, lambda a, b: (math.floor(a), b)),
    "sqrt": (0.1, LARGEST, lambda a, b: (math.sqrt(a), math.sqrt(b))),
    "rsqrt": (0.1, LARGEST, lambda a, b: (1 / math.sqrt(b), 1 / math.sqrt(a))),
    "exp": (-3.0, 3.0, lambda a, b: (math.exp(a), math.exp(b))),
    "log": (0.1, LARGEST, lambda a, b: (math.log(a), math.log(b))),
    "log1p": (-0.8, LARGEST, lambda a, b: (math.log1p(a), math.log1p(b))),
    "tanh": (-LARGEST, LARGEST, lambda a, b: (-1.0, 1.0)),
    "sigmoid": (-LARGEST, LARGEST, lambda a, b: (0.0, 1.0)),
    "erf": (-LARGEST, LARGEST, lambda a, b: (-1.0, 1.0)),
    "sin": (-LARGEST, LARGEST, lambda a, b: (-1.0, 1.0)),
    "cos": (-LARGEST, LARGEST, lambda a, b: (-1.0, 1.0)),
    "softplus": (-LARGEST, LARGEST, lambda a, b: (0.0, b + 1.0 if b > 0 else 1.0)),
    "stop_gradient": (-LARGEST, LARGEST, lambda a, b: (a, b)),
    "copy": (-LARGEST, LARGEST, lambda a, b: (a, b)),
}


def unary(d: Draft) -> None:
    op = d.choose(list(UNARY))
    low, high, bounds = UNARY[op]
    x = d.squashed(d.float(), low, high)
    d.keep(d.builder.one(op, x.value), *bounds(x.low, x.high))


def pair(d: Draft, dtypes: Sequence[str]) -> tuple[Bounded, Bounded]:
    """Two values of one dtype and equal dims: equal ones, or by broadcasting, or with a number."""
    x = d.pick(dtypes)
    others = [v for v in d.pool if v.type.dtype == x.type.dtype and (v.type.shape == x.type.shape or _stretches(v, x))]
    if d.yes() and x.type.dtype != "bool":
        number = d.choose((-1.5, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0)) if x.type.is_float else d.number(-2, 3)
        return x, Bounded(constant_like(d.builder, number, x.type), number, number)
    y = d.choose(others)
    a, b = align(d.builder, x.value, y.value)
    return Bounded(a, x.low, x.high), Bounded(b, y.low, y.high)


def _stretches(v: Bounded, x: Bounded) -> bool:
    """Whether v broadcasts to the dims of x."""
    have, want = v.type.dims, x.type.dims
    return len(have) <= len(want) and all(
        a.stretches or (a.size == b.size and not b.stretches) for a, b in zip(have[::-1], want[::-1], strict=False)
    )


def binary(d: Draft) -> None:
    x, y = pair(d, d.floats if d.yes() else ("i32", *d.floats))
    b = d.builder
    if x.type.dtype == "i32":
        return integer(d, x, y)
    x, y = d.tame(x), d.tame(y)
    corners = [p * q for p in (x.low, x.high) for q in (y.low, y.high)]
    match d.choose(("add", "sub", "mul", "div", "pow", "maximum", "minimum")):
        case "add":
            d.keep(b.one("add", x.value, y.value), x.low + y.low, x.high + y.high)
        case "sub":
            d.keep(b.one("sub", x.value, y.value), x.low - y.high, x.high - y.low)
        case "mul":
            d.keep(b.one("mul", x.value, y.value), min(corners), max(corners))
        case "div":
            y = d.squashed(y, 0.5, 4.0) if y.low <= 0.4 <= 0.4 + y.high else y
            if min(abs(y.low), abs(y.high)) < 0.4 or y.low * y.high < 0:
                y = d.squashed(y, 0.5, 4.0)
            d.keep(b.one("div", x.value, y.value), -2.5 * x.size, 2.5 * x.size)
        case "pow":
            x, y = d.squashed(x, 0.3, 3.0), d.squashed(y, -3.0, 3.0)
            d.keep(b.one("pow", x.value, y.value), 0.0, 40.0)
        case op:
            d.keep(b.one(op, x.value, y.value), min(x.low, y.low), max(x.high, y.high))


def integer(d: Draft, x: Bounded, y: Bounded) -> None:
    op = d.choose(("add", "sub", "mul", "maximum", "minimum", "floordiv", "mod"))
    if op in ("floordiv", "mod"):
        number = d.number(1, 5)
        y = Bounded(constant_like(d.builder, number, x.type), number, number)
    limit = x.size * y.size + x.size + y.size
    if limit < 1e6:
        d.keep(d.builder.one(op, x.value, y.value), -limit if op != "mod" else 0, limit if op != "mod" else y.high - 1)


def compare(d: Draft) -> None:
    x, y = pair(d, (*d.floats, "i32"))
    d.keep(d.builder.one(d.choose(("less", "less_equal", "equal", "not_equal")), x.value, y.value), 0, 1)


def logic(d: Draft) -> None:
    x = d.pick(("bool",))
    y = d.pick(("bool",), lambda v: v.type.shape == x.type.shape)
    op = d.choose(("and", "or", "xor", "not")) if y.type.shape == x.type.shape else "not"
    d.keep(d.builder.one(op, *((x.value,) if op == "not" else (x.value, y.value))), 0, 1)


def select(d: Draft) -> None:
    x, y = pair(d, (*d.floats, "i32"))
    mask = d.pick(("bool",), lambda v: _stretches(v, x))
    if _stretches(mask, x):
        condition = broadcast_to(d.builder, mask.value, x.type.dims)
        d.keep(d.builder.one("select", condition, x.value, y.value), min(x.low, y.low), max(x.high, y.high))


def cast(d: Draft) -> None:
    x = d.pick((*d.floats, "i32", "bool"))
    dtype = d.choose((*d.floats, "f64" if "f64" in d.floats else "f32", "i32", "bool"))
    if dtype == "i32" and x.type.is_float:
        x = d.tame(x)
    low, high = (0, 1) if dtype == "bool" else (min(x.low, 0), x.high)
    d.keep(d.builder.one("cast", x.value, dtype=dtype), low, high)


def generate(d: Draft) -> None:
    b = d.builder
    match d.choose(("constant", "iota", *(("random_uniform", "random_normal") if d.random else ()))):
        case "constant":
            number = d.choose((-1.0, 0.25, 1.0, 3.0))
            d.keep(b.one("constant", dtype=d.choose(d.floats), value=number), number, number)
        case "iota":
            value = b.one("iota", dim=dim(d.choose(SIZES), d.choose(("", "a"))))
            d.keep(value, 0, value.type.size - 1)
        case op:
            low, high = (0.0, 1.0) if op == "random_uniform" else (-8.0, 8.0)
            dtype = "f64" if "f64" in d.floats else "f32"
            d.keep(b.one(op, dims=d.dims(0, 3), dtype=dtype, ordinal=len(b.instructions), stream=d.choose(("call", "model"))), low, high)


def _axes(d: Draft, v: Bounded) -> tuple[int, ...]:
    return tuple(a for a in range(len(v.type.dims)) if d.yes())


def reduce(d: Draft) -> None:
    x = d.tame(d.float())
    axes, keepdims = _axes(d, x), d.yes()
    count = math.prod(x.type.shape[a] for a in axes)
    if d.yes():
        d.keep(d.builder.one("max", x.value, axes=axes, keepdims=keepdims), x.low, x.high)
    else:
        d.keep(d.builder.one("sum", x.value, axes=axes, keepdims=keepdims), min(0, count * x.low), max(0, count * x.high))


def along_axis(d: Draft) -> None:
    x = d.tame(d.float(lambda v: len(v.type.dims) > 0))
    if not x.type.dims:
        return
    b, axis = d.builder, d.number(0, len(x.type.dims) - 1)
    size = x.type.shape[axis]
    match d.choose(("softmax", "logsumexp", "cumsum", "argmax", "top_k")):
        case "softmax":
            d.keep(b.one("softmax", d.squashed(x, -8.0, 8.0).value, axis=axis), 0.0, 1.0)
        case "logsumexp":
            d.keep(b.one("logsumexp", x.value, axis=axis, keepdims=d.yes()), x.low, x.high + math.log(size))
        case "cumsum":
            d.keep(b.one("cumsum", x.value, axis=axis, reverse=d.yes()), min(0, size * x.low), max(0, size * x.high))
        case "argmax":
            d.keep(b.one("argmax", x.value, axis=axis), 0, size - 1)
        case _:
            last = x.type.shape[-1]
            values, indices = b.emit("top_k", x.value, k=dim(d.number(1, last), "k"))
            d.keep(values, x.low, x.high)
            d.keep(indices, 0, last - 1)


ANY = ("i32", "bool")


def move(d: Draft) -> None:
    x = d.pick((*d.floats, *ANY)) if d.yes() else d.float()
    b, dims = d.builder, x.type.dims
    rank = len(dims)
    match d.choose(("reshape", "transpose", "slice", "pad", "broadcast")):
        case "reshape":
            d.keep(b.one("reshape", x.value, dims=_reshaped(d, dims)), x.low, x.high)
        case "transpose":
            d.keep(b.one("transpose", x.value, permutation=tuple(d.draw(st.permutations(range(rank))))), x.low, x.high)  # type: ignore[arg-type]
        case "slice":
            starts = tuple(d.number(0, n - 1) for n in x.type.shape)
            stops = tuple(d.number(s + 1, n) for s, n in zip(starts, x.type.shape, strict=True))
            d.keep(b.one("slice", x.value, starts=starts, stops=stops, steps=tuple(d.number(1, 3) for _ in dims)), x.low, x.high)
        case "pad" if x.type.dtype != "bool":
            starts, steps = tuple(d.number(0, 2) for _ in dims), tuple(d.number(1, 2) for _ in dims)
            padded = tuple(dim(s + (n - 1) * t + 1 + d.number(0, 2)) for s, t, n in zip(starts, steps, x.type.shape, strict=True))
            if math.prod(p.size for p in padded) <= MOST_ELEMENTS:
                d.keep(b.one("pad", x.value, dims=padded, starts=starts, steps=steps), min(0, x.low), max(0, x.high))
        case _:
            added = d.dims(0, 2)
            wide = (*added, *(dim(d.choose(SIZES), "s") if e.stretches else e for e in dims))
            if math.prod(w.size for w in wide) <= MOST_ELEMENTS and rank + len(added) <= 5:
                d.keep(b.one("broadcast", x.value, dims=wide, axes=tuple(range(len(added), len(wide)))), x.low, x.high)


def _reshaped(d: Draft, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Neighbours merged, or an axis of one element put in or taken out."""
    place = d.number(0, len(dims))
    if d.yes() or len(dims) < 2:
        return (*dims[:place], ONE, *dims[place:]) if len(dims) < 5 else dims
    place = min(place, len(dims) - 2)
    return (*dims[:place], product(dims[place : place + 2]), *dims[place + 2 :])


def parts(d: Draft) -> None:
    x = d.float(lambda v: len(v.type.dims) > 0)
    if not x.type.dims:
        return
    axis = d.number(0, len(x.type.dims) - 1)
    if d.yes():
        first = d.number(1, x.type.shape[axis])
        sizes = tuple(Dim() if n == 1 and d.yes() else dim(n, "part") for n in (first, x.type.shape[axis] - first) if n)
        for part in d.builder.emit("split", x.value, axis=axis, sizes=sizes):
            d.keep(part, x.low, x.high)
        return
    others = [
        v
        for v in d.pool
        if v.type.dtype == x.type.dtype and _off_axis(v, axis) == _off_axis(x, axis) and len(v.type.dims) == len(x.type.dims)
    ]
    joined = [x, *(d.choose(others) for _ in range(d.number(0, 2)))]
    if sum(v.type.size for v in joined) <= MOST_ELEMENTS:
        d.keep(d.builder.one("concat", *(v.value for v in joined), axis=axis), min(v.low for v in joined), max(v.high for v in joined))


def _off_axis(v: Bounded, axis: int) -> tuple[int, ...]:
    return tuple(n for a, n in enumerate(v.type.shape) if a != axis)


def _index(d: Draft, dims: tuple[Dim, ...], limit: int) -> Value:
    """An index tensor with values in [0, limit): of the pool or a parameter."""
    shape = tuple(e.size for e in dims)
    found = [v for v in d.pool if v.type.dtype == "i32" and v.low >= 0 and v.high < limit and v.type.shape == shape]
    if found and d.yes():
        return d.choose(found).value
    return d.parameter(TensorType("i32", dims), f"index:{limit}", 0, limit - 1).value


def gather(d: Draft) -> None:
    x = d.float(lambda v: len(v.type.dims) > 0)
    if not x.type.dims:
        return
    b, axis = d.builder, d.number(0, len(x.type.dims) - 1)
    limit = x.type.shape[axis]
    if d.yes():
        dims = d.dims(0, 2)
        if x.type.size // limit * math.prod(e.size for e in dims) <= MOST_ELEMENTS:
            d.keep(b.one("gather", x.value, _index(d, dims, limit), axis=axis), x.low, x.high)
        return
    dims = (*x.type.dims[:axis], dim(d.choose(SIZES)), *x.type.dims[axis + 1 :])
    d.keep(b.one("take_along", x.value, _index(d, dims, limit), axis=axis), x.low, x.high)


def scatter(d: Draft) -> None:
    x = d.tame(d.float(lambda v: len(v.type.dims) > 0))
    if not x.type.dims:
        return
    b, target = d.builder, dim(d.choose(SIZES), "rows")
    most = x.size * x.type.size
    if d.yes():
        index = _index(d, x.type.dims[: d.number(1, len(x.type.dims))], target.size)
        made = b.one("scatter_add", x.value, index, dim=target)
    else:
        made = b.one("put_along", x.value, _index(d, x.type.dims, target.size), axis=d.number(0, len(x.type.dims) - 1), dim=target)
    d.keep(made, -most, most)


def contract(d: Draft) -> None:
    x = d.squashed(d.float(), -3.0, 3.0)
    y = d.squashed(d.pick((x.type.dtype,)), -3.0, 3.0)
    left = "abcdefgh"[: len(x.type.dims)]
    free = list(left)
    right = ""
    for place, size in enumerate(y.type.shape):
        shared = [letter for letter in free if x.type.shape[left.index(letter)] == size]
        letter = d.choose(shared) if shared and d.number(0, 3) else "ijklmnop"[place]
        free = [f for f in free if f != letter]
        right += letter
    inner = {letter for letter in left if letter in right and d.number(0, 2)}
    out = "".join(d.draw(st.permutations([letter for letter in dict.fromkeys(left + right) if letter not in inner])))  # type: ignore[arg-type]
    sizes = {**dict(zip(left, x.type.shape, strict=True)), **dict(zip(right, y.type.shape, strict=True))}
    if math.prod(sizes[letter] for letter in out) <= MOST_ELEMENTS:
        most = x.size * y.size * math.prod(sizes[letter] for letter in inner)
        d.keep(d.builder.one("contract", x.value, y.value, spec=f"{left},{right}->{out}"), -most, most)


def attention(d: Draft) -> None:
    b, t, s, g, r, e, v = (dim(d.choose((1, 2, 3, 5))) for _ in range(7))
    dtype = d.choose(d.floats)
    q = d.parameter(TensorType(dtype, (b, t, dim(g.size * r.size), e)), "unit", -0.9, 0.9)
    k = d.parameter(TensorType(dtype, (b, s, g, e)), "unit", -0.9, 0.9)
    values = d.parameter(TensorType(dtype, (b, s, g, v)), "unit", -0.9, 0.9)
    masks = [d.parameter(TensorType("bool", (b, s)), "mask", 0, 1)] if d.yes() and s.size > 1 and b.size > 1 else []
    y, _ = d.builder.emit("attention", *(p.value for p in (q, k, values, *masks)), causal=d.yes(), scale=d.choose((0.5, 1.0)))
    d.keep(y, -0.9, 0.9)


def cross_entropy(d: Draft) -> None:
    logits = d.tame(d.float(lambda v: len(v.type.dims) > 0))
    if not logits.type.dims:
        return
    targets = _index(d, logits.type.dims[:-1], logits.type.shape[-1])
    loss, _ = d.builder.emit("cross_entropy", logits.value, targets, ignore=None, z=d.choose((0.0, 0.01)))
    d.keep(loss, 0.0, 2 * LARGEST + 100)


STEPS = (unary, unary, unary, binary, binary, binary, binary, compare, logic, select, cast, generate, reduce, reduce, along_axis)
STEPS += (move, move, move, parts, gather, scatter, contract, contract, attention, cross_entropy)


@st.composite
def programs(draw, max_ops: int = 20, floats: tuple[str, ...] = ("f32",), random: bool = False) -> RandomProgram:
    """A program of at most `max_ops` steps, each an op with what it needs around it.

    floats:  the float dtypes that occur
    random:  whether random_uniform and random_normal occur
    """
    d = Draft(draw, Builder(OPS, "test", NO_SPAN), floats, random)
    for _ in range(draw(st.integers(1, 3))):
        d.parameter(TensorType(d.choose(floats), d.dims(0, 3)), "unit", -0.9, 0.9)
    for _ in range(draw(st.integers(1, max_ops))):
        d.choose(STEPS)(d)
    instructions = tuple(d.builder.instructions)
    read = {v.name for i in instructions for v in i.operands}
    made = [v for i in instructions for v in i.results]
    results = tuple(v for v in made if v.name not in read) or tuple(made[-1:])
    if not made:
        x = d.parameters[0][0]
        results = (d.builder.one("copy", x),)
    used = [(p, how) for p, how in d.parameters if any(p in i.operands for i in d.builder.instructions)]
    function = Function("program", tuple(p for p, _ in used), tuple(d.builder.instructions), results)
    return RandomProgram(function, tuple(how for _, how in used))
