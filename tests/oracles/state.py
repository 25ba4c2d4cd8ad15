"""Regression with batch norm, whose running statistics follow the batches, and a running average of the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.layers import Parameters, linear, linear_shapes, norm_shapes
from oracles.optimizers import Rule, Update, adamw, constant
from oracles.outcome import Outcome
from oracles.random import Keys

DIMS = {"inputs": 6, "width": 16, "batch": 10}
CLIP = None
ZERO = ("up.bias",)


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    made: dict[str, tuple[int, ...]] = {"norm.running_mean": (d["width"],), "norm.running_var": (d["width"],)}
    return made | linear_shapes("up", d["inputs"], d["width"]) | norm_shapes("norm", d["width"]) | linear_shapes("out", d["width"], 1)


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    x = rng.standard_normal((d["batch"], d["inputs"]))
    return {"x": x.astype(np.float32), "y": np.sin(x.sum(axis=1)).astype(np.float32)}


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    x, y = (inputs[name].to(p["up.weight"].dtype) for name in ("x", "y"))
    h = linear(p, "up", x)
    fed = {"norm.running_mean": h.mean(0), "norm.running_var": h.var(0, correction=0)}
    statistics = (None, None) if d.get("training", True) else (p["norm.running_mean"], p["norm.running_var"])
    h = F.relu(F.batch_norm(h, *statistics, p["norm.weight"], p["norm.bias"], training=d.get("training", True)))
    return Outcome(F.mse_loss(linear(p, "out", h).squeeze(1), y), fed=fed)


def follow(p: Tensor) -> Update:
    def update(g: Tensor, step: int, steps: int) -> None:
        p.lerp_(g, 0.1)

    return update


def averaged(p: Tensor) -> Update:
    """AdamW; the average beside it does not move the weights."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    update_weights = adamw(constant(1e-3))(p)
    mean = torch.zeros_like(p)

    def update(g: Tensor, step: int, steps: int) -> None:
        update_weights(g, step, steps)
        if step == 0:
            mean.copy_(p)
        else:
            average([mean], [p], step)

    return update


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    return follow if name.startswith("norm.running_") else averaged
