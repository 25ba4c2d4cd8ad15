"""GPT-2 (Radford et al. 2019), with Hugging Face's parameter names; its Conv1D weights are [in, out]."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from oracles.layers import Parameters, layer_norm, merged_heads, norm_shapes, split_heads
from oracles.optimizers import Rule, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys
from oracles.text import following

DIMS = {"vocab": 61, "context": 16, "width": 32, "heads": 4, "depth": 2, "batch": 3, "drop": 0.0}
CLIP = 1.0


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    width = d["width"]
    made: dict[str, tuple[int, ...]] = {"wte.weight": (d["vocab"], width), "wpe.weight": (d["context"], width)}
    for i in range(d["depth"]):
        made |= norm_shapes(f"h.{i}.ln_1", width) | norm_shapes(f"h.{i}.ln_2", width)
        for name, n, m in [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)]:
            made |= {f"h.{i}.{name}.weight": (n * width, m * width), f"h.{i}.{name}.bias": (m * width,)}
    return made | norm_shapes("ln_f", width)


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    return following(rng, d)


def conv1d(p: Parameters, scope: str, x: Tensor) -> Tensor:
    return F.linear(x, p[f"{scope}.weight"].T, p[f"{scope}.bias"])


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    drop = d["drop"]
    x = keys.dropout(F.embedding(inputs["tokens"], p["wte.weight"]) + p["wpe.weight"], drop, "", 0)
    for i in range(d["depth"]):
        h = f"h.{i}"
        q, k, v = (split_heads(a, d["heads"]) for a in conv1d(p, f"{h}.attn.c_attn", layer_norm(p, f"{h}.ln_1", x)).chunk(3, -1))
        y = merged_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        x = x + keys.dropout(conv1d(p, f"{h}.attn.c_proj", y), drop, h, 0)
        y = F.gelu(conv1d(p, f"{h}.mlp.c_fc", layer_norm(p, f"{h}.ln_2", x)), approximate="tanh")
        x = x + keys.dropout(conv1d(p, f"{h}.mlp.c_proj", y), drop, h, 1)
    logits = F.linear(layer_norm(p, "ln_f", x), p["wte.weight"])
    return Outcome(F.cross_entropy(logits.flatten(0, 1), inputs["targets"].flatten()))


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    rate = d.get("rate", 6e-4)
    return adamw(cosine(rate, warmup=100.0, floor=0.1 * rate), betas=(0.9, 0.95), weight_decay=0.1 if len(shape) > 1 else 0.0)
