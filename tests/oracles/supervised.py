"""A variational encoder with deep supervision, reconstruction, a KL term of growing weight and a contrastive loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from oracles.layers import Parameters, layer_norm, linear, linear_shapes, norm_shapes
from oracles.optimizers import Rule, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys

DIMS = {
    "inputs": 6, "width": 16, "latent": 4, "classes": 5, "depth": 2, "batch": 8,
    "noise": 0.1, "temperature": 0.1, "side_weight": 0.3,
}  # fmt: skip
CLIP = 1.0


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    width = d["width"]
    made = linear_shapes("embed", d["inputs"], width)
    for i in range(d["depth"]):
        made |= norm_shapes(f"blocks.{i}.norm", width) | norm_shapes(f"blocks.{i}.side.norm", width)
        made |= linear_shapes(f"blocks.{i}.up", width, 4 * width) | linear_shapes(f"blocks.{i}.down", 4 * width, width)
        made |= linear_shapes(f"blocks.{i}.side.out", width, d["classes"])
    made |= linear_shapes("posterior", width, 2 * d["latent"]) | linear_shapes("classify", d["latent"], d["classes"])
    return made | linear_shapes("decode.up", d["latent"], width) | linear_shapes("decode.out", width, d["inputs"])


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    labels = rng.integers(0, d["classes"], d["batch"]).astype(np.int32)
    means = np.cos(np.outer(labels + 1, np.arange(d["inputs"])))
    return {"x": (means + 0.3 * rng.standard_normal(means.shape)).astype(np.float32), "labels": labels}


def contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018): row i of a belongs to row i of b."""
    a = a / (a.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    b = b / (b.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    return F.cross_entropy(a @ b.T / temperature, torch.arange(len(a)))


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    x, labels = inputs["x"].to(keys.dtype), inputs["labels"]
    views = torch.cat([x + d["noise"] * keys.normal(tuple(x.shape), "", ordinal) for ordinal in (0, 1)])
    x = x.to(p["embed.weight"].dtype)
    h = linear(p, "embed", views.to(x.dtype))
    side = torch.zeros((), dtype=x.dtype)
    for i in range(d["depth"]):
        scope = f"blocks.{i}"
        h = h + linear(p, f"{scope}.down", F.gelu(linear(p, f"{scope}.up", layer_norm(p, f"{scope}.norm", h))))
        guess = linear(p, f"{scope}.side.out", layer_norm(p, f"{scope}.side.norm", h[: len(x)]))
        side = side + d["side_weight"] / d["depth"] * F.cross_entropy(guess, labels)

    first, second = h.chunk(2)
    mean, log_var = linear(p, "posterior", first).chunk(2, dim=-1)
    posterior = Normal(mean, (0.5 * log_var).exp())
    z = mean + posterior.stddev * keys.normal(tuple(mean.shape), "", 2).to(x.dtype) if d.get("training", True) else mean
    kl = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1).mean()
    decoded = linear(p, "decode.out", F.gelu(linear(p, "decode.up", z)))
    logits = linear(p, "classify", z)
    loss = F.cross_entropy(logits, labels) + side + F.mse_loss(decoded, x)
    loss = loss + min(keys.step / 1000, 1.0) * kl + 0.1 * contrast(first, second, d["temperature"])
    return Outcome(loss, metrics={"accuracy": (logits.argmax(-1) == labels).double().mean()})


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    return adamw(cosine(d.get("rate", 1e-3), warmup=200.0), weight_decay=0.01)
