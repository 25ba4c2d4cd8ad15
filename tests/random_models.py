"""Random well-typed models as .dsl text, drawn by Hypothesis, so that a failing one shrinks to a few lines.

A model is a few layers; each takes every value that lives, adds some operations, and hands on what no line has read. Values stay of the
size of 1: what can grow is scaled or bounded where it is made, so that rounding stays comparable to the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

#: Sizes of dims: 1, primes, multiples of vector widths and one past them.
SIZES = (1, 2, 3, 5, 7, 8, 13, 16, 17, 33)

#: Named dims; the first is the batch.
NAMES = ("batch", "p", "q", "r")

#: A value of more elements is dropped.
MOST_ELEMENTS = 40000

UNARY = (
    "tanh({x})",
    "sigmoid({x})",
    "sin({x})",
    "cos({x})",
    "erf({x})",
    "softplus({x})",
    "-{x}",
    "abs({x})",
    "sign({x}) * {x}",
    "tanh({x}) * {x}",
    "maximum({x}, 0.0)",
    "exp(-{x} * {x})",
    "sqrt({x} * {x} + 0.1)",
    "rsqrt({x} * {x} + 0.5)",
    "log({x} * {x} + 0.5)",
    "log1p({x} * {x})",
    "silu({x})",
    "gelu({x})",
    "gelu({x}, exact=False)",
    "(tanh({x}) + 1.5) ** 1.5",
    "stop_gradient({x}) * 0.5",
    "floor({x} * 3.0) / 3.0 + 0.1 * {x}",
    "cast(cast({x} * 4.0, i32), f32) / 4.0 - {x}",
)

BINARY = (
    "{x} + {y}",
    "{x} - {y}",
    "{x} * tanh({y})",
    "{x} / ({y} * {y} + 0.5)",
    "maximum({x}, {y})",
    "minimum({x}, {y})",
    "select({x} > {y}, {x}, 0.5 * {y})",
    "select(({x} > 0.0) & ~({y} <= 0.3), sin({x}) * {y}, 1.0)",
    "(sigmoid({x}) + 0.5) ** tanh({y})",
)

REDUCED = ("mean({x}, axis={a})", "max({x}, axis={a})", "sum({x}, axis={a}) / {n}.0", "logsumexp({x}, axis={a})")

ALONG = ("softmax({x}, axis={a})", "cumsum({x}, axis={a}) / {n}.0", "{x} - logsumexp({x}, axis={a}, keepdims=True)")

NORMALIZED = (
    "layer_norm({x}, eps=1e-2, name={n})",
    "rms_norm({x}, eps=1e-2, name={n})",
    "linear({x}, {m}, name={n})",
    "swiglu({x}, {m}, name={n})",
)

RANDOM = ("{x} + 0.1 * random_normal({x}.shape)", "dropout({x}, 0.25)", "{x} * random_uniform({x}.shape)")


@dataclass(frozen=True)
class Tensor:
    """A value of the program: its name and dims, each a dim expression of the language."""

    name: str
    dims: tuple[str, ...]


@dataclass
class Source:
    """A program being written. `live`: what later lines may read; `read`: the names some line has read."""

    draw: Callable
    sizes: dict[str, int]
    lines: list[str] = field(default_factory=list)
    live: list[Tensor] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    made: int = 0

    def size(self, dim: str) -> int:
        return math.prod(self.sizes[name] if name in self.sizes else int(name) for name in dim.split(" * "))

    def elements(self, t: Tensor) -> int:
        return math.prod(self.size(d) for d in t.dims)

    def fresh(self, prefix: str = "v") -> str:
        self.made += 1
        return f"{prefix}{self.made}"

    def pick(self, choices: tuple | list) -> object:
        return self.draw(st.sampled_from(choices))

    def tensor(self, rank: int = 1, dims: tuple[str, ...] | None = None) -> Tensor | None:
        """One of the last live tensors of at least this rank, or of these dims."""
        fitting = [t for t in self.live if (len(t.dims) >= rank if dims is None else t.dims == dims)][-5:]
        if not fitting:
            return None
        chosen = self.pick(fitting)
        self.read.add(chosen.name)
        return chosen

    def axis(self, t: Tensor) -> int:
        return self.draw(st.integers(0, len(t.dims) - 1))

    def put(self, text: str, dims: tuple[str, ...], live: bool = True) -> Tensor:
        made = Tensor(self.fresh(), dims)
        self.lines.append(f"    {made.name} = {text}")
        if live and self.elements(made) <= MOST_ELEMENTS:
            self.live.append(made)
        return made


def replaced(t: Tensor, axis: int, *dims: str) -> tuple[str, ...]:
    """The dims of t with others in place of one."""
    return (*t.dims[:axis], *dims, *t.dims[axis + 1 :])


def unary(s: Source) -> None:
    x = s.tensor()
    s.put(s.pick(UNARY).format(x=x.name), x.dims)


def binary(s: Source) -> None:
    x = s.tensor()
    y = s.tensor(dims=x.dims)
    s.put(s.pick(BINARY).format(x=x.name, y=y.name), x.dims)


def stretched(s: Source) -> None:
    """A reduction kept as a dim of 1, combined with what it came from."""
    x = s.tensor()
    axis = s.axis(x)
    y = s.put(f"{s.pick(('mean', 'max'))}({x.name}, axis={axis}, keepdims=True)", replaced(x, axis, "1"), live=False)
    s.put(s.pick(BINARY[:4]).format(x=x.name, y=y.name), x.dims)


def added_front(s: Source) -> None:
    """A tensor of fewer dims, aligned at the right."""
    x = s.tensor(2)
    if x is not None:
        y = s.put(f"mean({x.name}, axis=0)", x.dims[1:], live=False)
        s.put(s.pick(BINARY[:4]).format(x=x.name, y=y.name), x.dims)


def reduced(s: Source) -> None:
    x = s.tensor(2)
    if x is not None:
        axis = s.axis(x)
        s.put(s.pick(REDUCED).format(x=x.name, a=axis, n=s.size(x.dims[axis])), replaced(x, axis))


def along(s: Source) -> None:
    x = s.tensor()
    axis = s.axis(x)
    s.put(s.pick(ALONG).format(x=x.name, a=axis, n=s.size(x.dims[axis])), x.dims)


def permuted(s: Source) -> None:
    x = s.tensor(2)
    if x is not None:
        order = s.draw(st.permutations(range(len(x.dims))))
        s.put(f"transpose({x.name}, [{', '.join(map(str, order))}])", tuple(x.dims[i] for i in order))


def merged(s: Source) -> None:
    """Two neighbouring dims become one."""
    x = s.tensor(2)
    if x is not None:
        at = s.draw(st.integers(0, len(x.dims) - 2))
        dims = (*x.dims[:at], f"{x.dims[at]} * {x.dims[at + 1]}", *x.dims[at + 2 :])
        s.put(f"reshape({x.name}, [{', '.join(dims)}])", dims)


def sliced(s: Source) -> None:
    x = s.tensor()
    axis = s.axis(x)
    size = s.size(x.dims[axis])
    begin = s.draw(st.integers(0, size - 1))
    end = s.draw(st.integers(begin + 1, size))
    step = s.draw(st.integers(1, 3))
    index = ", ".join([":"] * axis + [f"{begin}:{end}:{step}"])
    s.put(f"{x.name}[{index}]", replaced(x, axis, str(len(range(begin, end, step)))))


def joined(s: Source) -> None:
    x = s.tensor()
    axis = s.axis(x)
    s.put(f"concat([{x.name}, 0.5 * {x.name}], axis={axis})", replaced(x, axis, str(2 * s.size(x.dims[axis]))))


def halved(s: Source) -> None:
    x = s.tensor()
    axis = s.axis(x)
    size = s.size(x.dims[axis])
    if size > 1:
        first = s.draw(st.integers(1, size - 1))
        a, b = s.fresh(), s.fresh()
        s.lines.append(f"    {a}, {b} = split({x.name}, [{first}, {size - first}], axis={axis})")
        s.live += [Tensor(a, replaced(x, axis, str(first))), Tensor(b, replaced(x, axis, str(size - first)))]


def contracted(s: Source) -> None:
    """A matrix product with a parameter, stored either way."""
    x = s.tensor()
    n, m = x.dims[-1], s.pick(NAMES)
    init = f"init=normal({1 / math.sqrt(s.size(n))!r})"
    name = s.fresh("w")
    if s.draw(st.booleans()):
        s.put(f'{x.name} @ param("{name}", [{n}, {m}], {init})', (*x.dims[:-1], m))
    else:
        s.put(f'{x.name} @ transpose(param("{name}", [{m}, {n}], {init}))', (*x.dims[:-1], m))


def correlated(s: Source) -> None:
    """The rows of a matrix, or of each matrix of a batch, all against all."""
    x = s.tensor(2)
    if x is not None and len(x.dims) <= 3:
        spec = "ij,kj->ik" if len(x.dims) == 2 else "bij,bkj->bik"
        scale = 1 / math.sqrt(s.size(x.dims[-1]))
        s.put(f'einsum("{spec}", {x.name}, tanh({x.name})) * {scale!r}', (*x.dims[:-1], x.dims[-2]))


def scaled(s: Source) -> None:
    """A parameter along the last dim."""
    x = s.tensor()
    s.put(f'{x.name} * param("{s.fresh("w")}", [{x.dims[-1]}], init=normal(1.0))', x.dims)


def normalized(s: Source) -> None:
    x = s.tensor()
    kind, m = s.pick(NORMALIZED), s.pick(NAMES)
    dims = (*x.dims[:-1], m) if kind.startswith("linear") else x.dims
    s.put(kind.format(x=x.name, n=f'"{s.fresh("n")}"', m=m), dims)


def gathered(s: Source) -> None:
    """Rows by a computed index, some twice."""
    x = s.tensor()
    axis = s.axis(x)
    m = s.pick(NAMES)
    s.put(f"gather({x.name}, arange({m}) * 3 % {s.size(x.dims[axis])}, axis={axis})", replaced(x, axis, m))


def scattered(s: Source) -> None:
    x = s.tensor()
    n, m = x.dims[0], s.pick(NAMES)
    s.put(f"scatter_add({x.name}, arange({n}) * 5 % {s.size(m)}, {m})", (m, *x.dims[1:]))


def largest(s: Source) -> None:
    """Of the last dim, by top-k, by argmax and take_along, or by argmax and one-hot."""
    x = s.tensor(2)
    if x is None:
        return
    match s.pick(("top_k", "take_along", "one_hot")):
        case "top_k":
            a, b = s.fresh(), s.fresh()
            s.lines.append(f"    {a}, {b} = top_k({x.name}, {s.draw(st.integers(1, s.size(x.dims[-1])))})")
            s.put(f"mean({a}, axis=-1)", x.dims[:-1])
        case "take_along":
            s.put(f"take_along({x.name}, argmax({x.name}, axis=-1)[..., None], axis=-1)[..., 0]", x.dims[:-1])
        case _:
            s.put(f"one_hot(argmax({x.name}, axis=-1), {x.dims[-1]}, dtype=f32) * {x.name}", x.dims)


def attended(s: Source) -> None:
    """One head of attention over the second dim."""
    x = s.tensor(3)
    if x is not None and len(x.dims) == 3:
        heads = (*x.dims[:2], "1", x.dims[2])
        a = s.put(f"reshape({x.name}, [{', '.join(heads)}])", heads, live=False)
        y = s.put(f"attention({a.name}, tanh({a.name}), {a.name}, causal={s.draw(st.booleans())})", heads, live=False)
        s.put(f"reshape({y.name}, {x.name}.shape)", x.dims)


def randomized(s: Source) -> None:
    x = s.tensor()
    s.put(s.pick(RANDOM).format(x=x.name), x.dims)


OPERATIONS = (
    unary, unary, binary, binary, stretched, added_front, reduced, along, permuted, merged, sliced, joined, halved, contracted, contracted,
    correlated, scaled, normalized, gathered, scattered, largest, attended, randomized,
)  # fmt: skip

HEADER = '''"""A random model."""
from mlc.attention import attention
from mlc.nn import dropout, gelu, layer_norm, linear, rms_norm, silu, swiglu
from mlc.optim import sgd
from mlc.rates import constant

rate: f32 = 0.1
'''


def annotated(tensors: list[Tensor]) -> str:
    return ", ".join(f"{t.name}: real[{', '.join(t.dims)}]" for t in tensors)


def layer(s: Source, at: int, operations: int) -> str:
    """Write one layer on the live tensors; afterwards its results are live. Returns the call."""
    parameters = list(s.live)
    first = len(s.lines)
    for _ in range(operations):
        s.pick(OPERATIONS)(s)
    s.put(f"tanh({parameters[0].name})", parameters[0].dims)
    s.live = [t for t in s.live if t not in parameters and t.name not in s.read]
    names = ", ".join(t.name for t in s.live)
    s.lines[first:first] = ["", "", "@layer", f"def layer{at}({annotated(parameters)}):"]
    s.lines.append(f"    return {names}")
    return f'    {names} = layer{at}({", ".join(t.name for t in parameters)}, name="layer{at}")'


@st.composite
def models(draw: Callable, operations: int = 20) -> tuple[str, dict[str, int]]:
    """A model of at most `operations` operations, and the sizes of its dims."""
    sizes = {name: draw(st.sampled_from(SIZES)) for name in NAMES}
    inputs = [Tensor("x", ("batch", "p", "q")), Tensor("y", ("batch", "r"))]
    s = Source(draw, sizes, live=list(inputs))
    count = draw(st.integers(3, operations))
    layers = draw(st.integers(1, min(3, count)))
    calls = [layer(s, at, count // layers) for at in range(layers)]
    constants = [f"{name}: dim = {size}" for name, size in sizes.items()]
    losses = " + ".join(f"mean(tanh({t.name}) * ({t.name} + 0.3))" for t in s.live)
    body = ["", "", "@model", f"def program({annotated(inputs)}):", *calls, f"    return {losses}"]
    recipe = ["", "", "@train()", "def recipe():", "    return sgd(rate=constant(rate))", ""]
    return HEADER + "\n".join([*constants, *s.lines, *body, *recipe]), sizes
