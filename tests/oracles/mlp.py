"""A multilayer perceptron with GELU, for regression."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from oracles.layers import Parameters, linear, linear_shapes
from oracles.optimizers import Rule, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys

DIMS = {"inputs": 5, "outputs": 3, "width": 17, "depth": 2, "batch": 7}
CLIP = 1.0


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    widths = [d["inputs"], *[d["width"]] * d["depth"]]
    made: dict[str, tuple[int, ...]] = {}
    for i, n in enumerate(widths[:-1]):
        made |= linear_shapes(f"hidden.{i}", n, d["width"])
    return made | linear_shapes("out", widths[-1], d["outputs"])


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    x = rng.standard_normal((d["batch"], d["inputs"]))
    y = np.stack([np.sin(x.sum(axis=1) + k) for k in range(d["outputs"])], axis=1)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    h, y = (inputs[name].to(p["out.weight"].dtype) for name in ("x", "y"))
    for i in range(d["depth"]):
        h = F.gelu(linear(p, f"hidden.{i}", h))
    return Outcome(F.mse_loss(linear(p, "out", h), y))


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    return adamw(cosine(d.get("rate", 3e-3), warmup=10.0), weight_decay=0.01)
