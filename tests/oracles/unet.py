"""A U-Net of transformer blocks trained to predict noise: cells on a grid [batch, y, x, features], skips joined on the way up."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.layers import Parameters, layer_norm, linear, linear_shapes, merged_heads, norm_shapes, split_heads, swiglu, swiglu_shapes
from oracles.optimizers import Rule, adamw, constant
from oracles.outcome import Outcome
from oracles.random import Keys

DIMS = {"size": 8, "channels": 3, "patch": 2, "width": 8, "levels": 2, "depth": 1, "head": 4, "batch": 3}
CLIP = 1.0


def block_shapes(scope: str, n: int, m: int) -> dict[str, tuple[int, ...]]:
    made = linear_shapes(f"{scope}.attention.qkv", n, 3 * n, bias=False) | linear_shapes(f"{scope}.attention.out", n, n)
    for part in ("attention", "mlp"):
        made |= norm_shapes(f"{scope}.{part}.norm", n, bias=False) | linear_shapes(f"{scope}.{part}.modulation", m, 2 * n)
    return made | swiglu_shapes(f"{scope}.mlp", n, 2 * n)


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    width, levels = d["width"], d["levels"]
    pixels = d["channels"] * d["patch"] ** 2
    made: dict[str, tuple[int, ...]] = {"position": ((d["size"] // d["patch"]) ** 2, width)}
    made |= linear_shapes("patches", pixels, width) | linear_shapes("time", width, width)
    for level in range(levels):
        n = width * 2**level
        made |= linear_shapes(f"down.{level}.merge", 4 * n, 2 * n)
        made |= linear_shapes(f"up.{level}.expand.up", 2 * n, 4 * n) | linear_shapes(f"up.{level}.expand.join", 2 * n, n, bias=True)
        for i in range(d["depth"]):
            made |= block_shapes(f"down.{level}.{i}", n, width) | block_shapes(f"up.{level}.{i}", n, width)
    for i in range(d["depth"]):
        made |= block_shapes(f"middle.{i}", width * 2**levels, width)
    return made | norm_shapes("norm", width) | linear_shapes("pixels", width, pixels)


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    """Smooth waves."""
    y, x = np.meshgrid(np.arange(d["size"]), np.arange(d["size"]), indexing="ij")
    phase = rng.uniform(0, 2 * math.pi, (d["batch"], d["channels"], 1, 1))
    return {"images": np.sin(0.7 * x + 0.4 * y + phase).astype(np.float32)}


def modulated(p: Parameters, scope: str, x: Tensor, time: Tensor) -> Tensor:
    scale, shift = linear(p, f"{scope}.modulation", time)[:, None, None].chunk(2, dim=-1)
    return layer_norm(p, f"{scope}.norm", x) * (1 + scale) + shift


def block(p: Parameters, scope: str, x: Tensor, time: Tensor, d: dict) -> Tensor:
    h = linear(p, f"{scope}.attention.qkv", modulated(p, f"{scope}.attention", x, time).flatten(1, 2))
    q, k, v = (split_heads(a, a.shape[-1] // d["head"]) for a in h.chunk(3, dim=-1))
    y = linear(p, f"{scope}.attention.out", merged_heads(F.scaled_dot_product_attention(q, k, v)))
    x = x + y.view_as(x)
    return x + swiglu(p, f"{scope}.mlp", modulated(p, f"{scope}.mlp", x, time))


def merge(p: Parameters, scope: str, x: Tensor) -> Tensor:
    """Four neighbours side by side, row by row."""
    return linear(p, scope, torch.cat([x[:, y::2, z::2] for y in (0, 1) for z in (0, 1)], dim=-1))


def expand(p: Parameters, scope: str, x: Tensor, skip: Tensor) -> Tensor:
    parts = linear(p, f"{scope}.up", x).chunk(4, dim=-1)
    grid = torch.zeros_like(skip)
    for i, part in enumerate(parts):
        grid[:, i // 2 :: 2, i % 2 :: 2] = part
    return linear(p, f"{scope}.join", torch.cat([grid, skip], dim=-1))


def features(time: Tensor, m: int) -> Tensor:
    """Sines and cosines of 1000 t in the dtype of t: at single precision the angle itself is rounded."""
    angle = time[:, None] * 1000.0 * 10000.0 ** (torch.arange(m // 2, dtype=time.dtype) * (-2.0 / m))
    return torch.cat([angle.double().cos(), angle.double().sin()], dim=-1)


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    images = inputs["images"].double()
    dtype = p["position"].dtype
    time = keys.uniform((len(images),), "", 0)
    noise = keys.normal(tuple(images.shape), "", 1).double()
    mix = (0.5 * math.pi * time.double())[:, None, None, None]
    noisy = (mix.cos() * images + mix.sin() * noise).to(dtype)

    side = d["size"] // d["patch"]
    x = linear(p, "patches", F.unfold(noisy, d["patch"], stride=d["patch"]).mT) + p["position"]
    x = x.unflatten(1, (side, side))
    embedded = linear(p, "time", features(time, d["width"]).to(dtype))

    skips = []
    for level in range(d["levels"]):
        for i in range(d["depth"]):
            x = block(p, f"down.{level}.{i}", x, embedded, d)
        skips.append(x)
        x = merge(p, f"down.{level}.merge", x)
    for i in range(d["depth"]):
        x = block(p, f"middle.{i}", x, embedded, d)
    for level in reversed(range(d["levels"])):
        x = expand(p, f"up.{level}.expand", x, skips.pop())
        for i in range(d["depth"]):
            x = block(p, f"up.{level}.{i}", x, embedded, d)

    x = linear(p, "pixels", layer_norm(p, "norm", x)).flatten(1, 2)
    predicted = F.fold(x.mT, (d["size"], d["size"]), d["patch"], stride=d["patch"])
    return Outcome(F.mse_loss(predicted, noise.to(dtype)))


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    return adamw(constant(d.get("rate", 2e-4), warmup=1000.0), weight_decay=0.0)
