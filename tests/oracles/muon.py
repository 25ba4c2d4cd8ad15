"""A byte-level GPT with rotary positions and squared ReLU, trained by Muon on its matrices (Jordan 2024)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oracles import optimizers
from oracles.layers import (
    Parameters,
    linear,
    linear_shapes,
    merged_heads,
    norm_shapes,
    rms_norm,
    rotary_frequencies,
    rotate_halves,
    split_heads,
)
from oracles.optimizers import Rule, adamw, constant
from oracles.outcome import Outcome
from oracles.random import Keys
from oracles.text import following

DIMS = {"vocab": 61, "context": 16, "width": 32, "heads": 4, "depth": 2, "batch": 3}
CLIP = None

#: Curves are compared without the rounding to bf16 inside the optimizer.
CURVE = {"rate": 0.005, "exact": True}
CURVE_EDITS = (("+ 1e-7), bf16)", "+ 1e-7), f32)"),)


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    width = d["width"]
    made: dict[str, tuple[int, ...]] = {"embedding.weight": (d["vocab"], width)}
    for i in range(d["depth"]):
        made |= norm_shapes(f"blocks.{i}.norm_1", width, bias=False) | norm_shapes(f"blocks.{i}.norm_2", width, bias=False)
        for name, n, m in [("qkv", 1, 3), ("out", 1, 1), ("up", 1, 4), ("down", 4, 1)]:
            made |= linear_shapes(f"blocks.{i}.{name}", n * width, m * width, bias=False)
    return made | norm_shapes("norm", width, bias=False) | linear_shapes("head", width, d["vocab"], bias=False)


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    return following(rng, d)


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    frequencies = rotary_frequencies(d["width"] // d["heads"], 10000.0, keys.dtype)
    x = F.embedding(inputs["tokens"], p["embedding.weight"])
    for i in range(d["depth"]):
        q, k, v = (split_heads(a, d["heads"]) for a in linear(p, f"blocks.{i}.qkv", rms_norm(p, f"blocks.{i}.norm_1", x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(rotate_halves(q, frequencies), rotate_halves(k, frequencies), v, is_causal=True)
        x = x + linear(p, f"blocks.{i}.out", merged_heads(y))
        x = x + linear(p, f"blocks.{i}.down", F.relu(linear(p, f"blocks.{i}.up", rms_norm(p, f"blocks.{i}.norm_2", x))).square())
    logits = 15.0 * F.tanh(linear(p, "head", rms_norm(p, "norm", x)) / 15.0)
    return Outcome(F.cross_entropy(logits.flatten(0, 1), inputs["targets"].flatten()))


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    rate = d.get("rate", 0.02)
    if name.startswith("blocks.") and len(shape) == 2:
        return optimizers.muon(constant(rate), weight_decay=0.01, dtype=None if d.get("exact") else torch.bfloat16)
    return adamw(constant(0.15 * rate), betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
