"""Llama 3.1: rotary positions scaled as in Hugging Face's `rope_type: llama3`, grouped-query attention."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

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
    swiglu,
    swiglu_shapes,
)
from oracles.optimizers import Rule, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys
from oracles.text import following

DIMS = {
    "vocab": 61, "context": 16, "width": 32, "hidden": 48, "heads": 4, "kv_heads": 2, "depth": 2, "batch": 2,
    "tied": False, "theta": 500000.0, "stretch": 8.0, "trained": 200.0,
}  # fmt: skip
CLIP = 1.0


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    width = d["width"]
    key_width = width // d["heads"] * d["kv_heads"]
    made: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (d["vocab"], width), "model.norm.weight": (width,)}
    for i in range(d["depth"]):
        scope = f"model.layers.{i}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            made |= norm_shapes(f"{scope}.{name}", width, bias=False)
        for name, m in [("q_proj", width), ("k_proj", key_width), ("v_proj", key_width), ("o_proj", width)]:
            made |= linear_shapes(f"{scope}.self_attn.{name}", width, m, bias=False)
        made |= swiglu_shapes(f"{scope}.mlp", width, d["hidden"])
    return made if d["tied"] else made | {"lm_head.weight": (d["vocab"], width)}


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    return following(rng, d)


def scaled_frequencies(d: dict, dtype: torch.dtype) -> Tensor:
    """Hugging Face's _compute_llama3_parameters with low_freq_factor 1 and high_freq_factor 4."""
    frequencies = rotary_frequencies(d["width"] // d["heads"], d["theta"], dtype)
    wavelength = 2 * math.pi / frequencies
    smooth = (d["trained"] / wavelength - 1) / (4 - 1)
    blended = (1 - smooth) * frequencies / d["stretch"] + smooth * frequencies
    scaled = torch.where(wavelength > d["trained"], frequencies / d["stretch"], frequencies)
    middle = (wavelength <= d["trained"]) & (wavelength >= d["trained"] / 4)
    return torch.where(middle, blended, scaled)


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    frequencies = scaled_frequencies(d, keys.dtype)
    shared = d["heads"] // d["kv_heads"]
    x = F.embedding(inputs["tokens"], p["model.embed_tokens.weight"])
    for i in range(d["depth"]):
        scope = f"model.layers.{i}"
        h = rms_norm(p, f"{scope}.input_layernorm", x, 1e-5)
        q = rotate_halves(split_heads(linear(p, f"{scope}.self_attn.q_proj", h), d["heads"]), frequencies)
        k = rotate_halves(split_heads(linear(p, f"{scope}.self_attn.k_proj", h), d["kv_heads"]), frequencies)
        v = split_heads(linear(p, f"{scope}.self_attn.v_proj", h), d["kv_heads"])
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        y = merged_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        x = x + linear(p, f"{scope}.self_attn.o_proj", y)
        x = x + swiglu(p, f"{scope}.mlp", rms_norm(p, f"{scope}.post_attention_layernorm", x, 1e-5))
    table = p["model.embed_tokens.weight" if d["tied"] else "lm_head.weight"]
    logits = F.linear(rms_norm(p, "model.norm", x, 1e-5), table)
    return Outcome(F.cross_entropy(logits.flatten(0, 1), inputs["targets"].flatten()))


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    rate = d.get("rate", 3e-4)
    return adamw(cosine(rate, warmup=2000.0, floor=0.1 * rate), betas=(0.9, 0.95), weight_decay=0.1)
