"""What people type from PyTorch and NumPy: each name with a replacement in this language that does the same.

The first text in backquotes of each row is an expression; tests/test_foreign.py compiles it, so that the help is true.
"""

from __future__ import annotations

from collections.abc import Collection

#: name -> help. Expressions are over x and y: real[batch, 8], mask: bool[batch, 8], i: i32[batch].
NAMES: dict[str, str] = {
    "relu": "write `maximum(x, 0.0)`",
    "leaky_relu": "write `maximum(x, 0.01 * x)`",
    "where": "write `select(mask, x, y)`",
    "masked_fill": "write `select(mask, -inf, x)`",
    "clamp": "write `minimum(maximum(x, 0.0), 1.0)`",
    "clip": "write `minimum(maximum(x, 0.0), 1.0)`",
    "pow": "write `x ** 2.0`",
    "power": "write `x ** 2.0`",
    "square": "write `x * x`",
    "log_softmax": "write `x - logsumexp(x, axis=-1, keepdims=True)`",
    "tril": "write `select(arange(8)[:, None] >= arange(8), x[0], 0.0)`",
    "triu": "write `select(arange(8)[:, None] <= arange(8), x[0], 0.0)`",
    "sort": "write `top_k(x, 8)`: the values in descending order, and their indices",
    "argsort": "write `top_k(x, 8)[1]`: the indices in descending order",
    "topk": "write `top_k(x, 3)`",
    "argmin": "write `argmax(-x)`",
    "matmul": "write `x @ transpose(y)`",
    "mm": "write `x @ transpose(y)`",
    "bmm": "write `x @ transpose(y)`",
    "dot": "write `x @ transpose(y)`",
    "cat": "write `concat([x, y], axis=-1)`",
    "concatenate": "write `concat([x, y], axis=-1)`",
    "hstack": "write `concat([x, y], axis=-1)`",
    "unsqueeze": "write `x[:, None]`",
    "expand_dims": "write `x[:, None]`",
    "squeeze": "write `x[:, 0]`",
    "view": "write `reshape(x, [batch * 8])`",
    "flatten": "write `reshape(x, [batch * 8])`",
    "permute": "write `transpose(x, [1, 0])`",
    "swapaxes": "write `transpose(x, [1, 0])`",
    "expand": "write `broadcast(x, [3, batch, 8])`",
    "broadcast_to": "write `broadcast(x, [3, batch, 8])`",
    "chunk": "write `split(x, 2, axis=-1)`",
    "zeros_like": "write `full(x.shape, 0.0)`",
    "ones_like": "write `full(x.shape, 1.0)`",
    "full_like": "write `full(x.shape, 2.0)`",
    "empty": "write `full([batch, 8], 0.0)`",
    "rand": "write `random_uniform([batch, 8])`",
    "randn": "write `random_normal([batch, 8])`",
    "std": "write `sqrt(var(x))`",
    "norm": "write `sqrt(sum(x * x))`",
    "prod": "write `exp(sum(log(x)))` for positive numbers",
    "amax": "write `max(x, axis=-1)`",
    "amin": "write `min(x, axis=-1)`",
    "any": "write `max(cast(mask, f32)) > 0.0`",
    "all": "write `min(cast(mask, f32)) > 0.0`",
    "logical_and": "write `mask & mask`",
    "logical_or": "write `mask | mask`",
    "logical_not": "write `~mask`",
    "detach": "write `stop_gradient(x)`",
    "astype": "write `cast(x, bf16)`",
    "linspace": "write `cast(arange(8), f32) / 7.0`",
    "eye": "write `one_hot(arange(8), 8)`",
    "index_select": "write `gather(x, i)`",
    "take": "write `gather(x, i)`",
    "outer": "write `x[:, :, None] * y[:, None]`",
    "isnan": "write `x != x`",
    "print": 'write `report("name", mean(x))`: the program prints it each step',
    "tan": "write `sin(x) / cos(x)`",
    "Linear": "write `linear(x, 16)`, after `from mlc.nn import linear`",
    "Dropout": "write `dropout(x, 0.1)`, after `from mlc.nn import dropout`",
    "LayerNorm": "write `layer_norm(x)`, after `from mlc.nn import layer_norm`",
    "RMSNorm": "write `rms_norm(x)`, after `from mlc.nn import rms_norm`",
    "Embedding": 'write `gather(param("weight", [100, 8], init=normal(0.02)), i)`',
}

#: What parameters are called there -> here.
PARAMETERS: dict[str, str] = {"dim": "axis", "dims": "axis", "keepdim": "keepdims", "axes": "axis"}

#: Modules that people write before a dot.
MODULES = ("torch", "np", "numpy", "nn", "F", "jnp", "jax", "math", "tf")
IN_MODULE = "names stand alone, without a module: `softmax(x)`; what is not of the language is imported: `from mlc.nn import linear`"

#: x.name: what to write for an attribute or a method of a tensor.
ATTRIBUTES: dict[str, str] = {
    "T": "write `transpose(x)`",
    "mT": "write `transpose(x)`",
    "size": "write `x.shape`",
    "dim": "write `len(x.shape)`",
    "ndim": "write `len(x.shape)`",
    "item": 'a tensor has no value at compile time: return it as a metric, or write `report("name", mean(x))`',
    "float": "write `cast(x, f32)`",
    "bfloat16": "write `cast(x, bf16)`",
    "long": "write `cast(x, i32)`",
    "int": "write `cast(x, i32)`",
    "to": "write `cast(x, bf16)`",
    "type": "write `cast(x, bf16)`",
    "contiguous": "leave it out: `x` has no layout",
    "reshape": "write `reshape(x, [batch * 8])`",
    "transpose": "write `transpose(x)`, or `transpose(x, [1, 0])` with all dims in their new order",
    "mean": "write `mean(x)`, or `mean(x, axis=-1)`",
    "sum": "write `sum(x)`, or `sum(x, axis=-1)`",
}


def foreign_parameter(name: str, names: Collection[str]) -> str | None:
    """Help for a parameter that is called so elsewhere, where one of `names` is what it is here."""
    here = PARAMETERS.get(name)
    return f"here it is `{here}`" if here in names else None


def foreign(name: str) -> str | None:
    """Help for a name that another framework has, None where none is known."""
    return IN_MODULE if name in MODULES else NAMES.get(name)
