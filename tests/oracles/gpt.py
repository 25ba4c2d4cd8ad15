"""The demo: a GPT with rotary positions, RMSNorm and no biases."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from oracles import muon
from oracles.layers import Parameters, linear, merged_heads, rms_norm, rotary_frequencies, rotate_halves, split_heads
from oracles.optimizers import Rule, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys
from oracles.text import following

DIMS = {"vocab": 61, "context": 16, "width": 32, "heads": 4, "depth": 2, "batch": 3}
CLIP = 1.0


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    """Those of muon.dsl's model."""
    return muon.shapes(d)


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    return following(rng, d)


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    frequencies = rotary_frequencies(d["width"] // d["heads"], 10000.0, keys.dtype)
    x = F.embedding(inputs["tokens"], p["embedding.weight"])
    for i in range(d["depth"]):
        q, k, v = (split_heads(a, d["heads"]) for a in linear(p, f"blocks.{i}.qkv", rms_norm(p, f"blocks.{i}.norm_1", x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(rotate_halves(q, frequencies), rotate_halves(k, frequencies), v, is_causal=True)
        x = x + linear(p, f"blocks.{i}.out", merged_heads(y))
        h = F.gelu(linear(p, f"blocks.{i}.up", rms_norm(p, f"blocks.{i}.norm_2", x)), approximate="tanh")
        x = x + linear(p, f"blocks.{i}.down", h)
    logits = linear(p, "head", rms_norm(p, "norm", x))
    return Outcome(F.cross_entropy(logits.flatten(0, 1), inputs["targets"].flatten()))


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    rate = d.get("rate", 3e-3)
    return adamw(cosine(rate, warmup=20.0, floor=0.1 * rate), betas=(0.9, 0.95), weight_decay=0.1 if len(shape) > 1 else 0.0)
