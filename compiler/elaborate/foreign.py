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
    "sinh": "write `(exp(x) - exp(-x)) / 2.0`",
    "cosh": "write `(exp(x) + exp(-x)) / 2.0`",
    "exp2": "write `exp(x * log(2.0))`",
    "expm1": "write `exp(x) - 1.0`",
    "log2": "write `log(x) / log(2.0)`",
    "log10": "write `log(x) / log(10.0)`",
    "erfc": "write `1.0 - erf(x)`",
    "ceil": "write `-floor(-x)`",
    "round": "write `floor(x + 0.5)`",
    "reciprocal": "write `1.0 / x`",
    "elu": "write `select(x > 0.0, x, exp(minimum(x, 0.0)) - 1.0)`",
    "celu": "write `select(x > 0.0, x, exp(minimum(x, 0.0)) - 1.0)`",
    "selu": "write `1.0507009873554805 * select(x > 0.0, x, 1.6732632423543772 * (exp(minimum(x, 0.0)) - 1.0))`",
    "relu6": "write `minimum(maximum(x, 0.0), 6.0)`",
    "hardtanh": "write `minimum(maximum(x, -1.0), 1.0)`",
    "hardsigmoid": "write `minimum(maximum(x / 6.0 + 0.5, 0.0), 1.0)`",
    "hardswish": "write `x * minimum(maximum(x / 6.0 + 0.5, 0.0), 1.0)`",
    "logsigmoid": "write `-softplus(-x)`",
    "mish": "write `x * tanh(softplus(x))`",
    "softmin": "write `softmax(-x)`",
    "swish": "write `silu(x)`, after `from mlc.nn import silu`",
    "glu": "write `x[:, :4] * sigmoid(x[:, 4:])`",
    "repeat": "write `concat([x, x])` for one copy behind the other",
    "tile": "write `concat([x, x])` for one copy behind the other",
    "repeat_interleave": "write `reshape(stack([x, x], axis=1), [batch * 2, 8])` for each row twice",
    "mse_loss": "write `mean_squared_error(x, y)`, after `from mlc.losses import mean_squared_error`",
    "l1_loss": "write `mean(abs(x - y))`",
    "nll_loss": "write `cross_entropy(x, i)` of the logits, after `from mlc.losses import cross_entropy`",
    "binary_cross_entropy_with_logits": "write `mean(softplus(x) - x * y)`",
    "ReLU": "write `maximum(x, 0.0)`",
    "GELU": "write `gelu(x)`, after `from mlc.nn import gelu`",
    "SiLU": "write `silu(x)`, after `from mlc.nn import silu`",
    "Sigmoid": "write `sigmoid(x)`",
    "Softmax": "write `softmax(x)`",
    "Tanh": "write `tanh(x)`",
    "MSELoss": "write `mean_squared_error(x, y)`, after `from mlc.losses import mean_squared_error`",
    "CrossEntropyLoss": "write `cross_entropy(x, i)`, after `from mlc.losses import cross_entropy`",
    "Linear": "write `linear(x, 16)`, after `from mlc.nn import linear`",
    "Dropout": "write `dropout(x, 0.1)`, after `from mlc.nn import dropout`",
    "LayerNorm": "write `layer_norm(x)`, after `from mlc.nn import layer_norm`",
    "RMSNorm": "write `rms_norm(x)`, after `from mlc.nn import rms_norm`",
    "Embedding": 'write `gather(param("weight", [100, 8], init=normal(0.02)), i)`',
}

#: Names that are near one of the language and mean something else, which it has not.
ABSENT = frozenset(
    ["acos", "acosh", "arccos", "arcsin", "arctan", "asin", "asinh", "atan", "atan2", "atanh", "bincount", "erfinv", "fft", "fold",
     "fmax", "fmin", "gammaln", "lgamma", "logit", "prelu", "unfold", "unique"]
)  # fmt: skip
NOTHING = "the language has nothing that does this"

#: What parameters are called there -> here, where the function has it.
PARAMETERS: dict[str, str] = {
    "axes": "axis",
    "dim": "axis",
    "dims": "axis",
    "embedding_dim": "width",
    "ignore_index": "ignore",
    "keepdim": "keepdims",
    "lr": "rate",
    "num_embeddings": "vocab",
    "num_heads": "heads",
    "out_features": "m",
    "p": "rate",
}

#: Inits of parameters that are functions of a shape elsewhere.
FILLS: dict[str, str] = {
    "zeros": "write `full([batch, 8], 0.0)` for a tensor; `zeros()` is an init of param",
    "ones": "write `full([batch, 8], 1.0)` for a tensor; `ones()` is an init of param",
}

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
    if name in MODULES:
        return IN_MODULE
    return NOTHING if name in ABSENT else NAMES.get(name)
