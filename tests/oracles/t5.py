"""T5 (Raffel et al. 2020): encoder and decoder, bucketed relative positions, tied embeddings. Names as in Hugging Face's t5."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.layers import Parameters, linear, linear_shapes, merged_heads, norm_shapes, rms_norm, split_heads
from oracles.optimizers import Rule, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys
from oracles.text import windows

DIMS = {
    "vocab": 40, "source_length": 12, "target_length": 9, "width": 32, "head": 6, "heads": 4, "hidden": 48, "depth": 2,
    "buckets": 8, "reach": 20.0, "batch": 3, "pad": 0, "drop": 0.0,
}  # fmt: skip
CLIP = 1.0
PARTS = {"encoder": ("SelfAttention",), "decoder": ("SelfAttention", "EncDecAttention")}


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    width, inner = d["width"], d["heads"] * d["head"]
    made: dict[str, tuple[int, ...]] = {"shared.weight": (d["vocab"], width)}
    for stack, attentions in PARTS.items():
        made[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (d["buckets"], d["heads"])
        for i in range(d["depth"]):
            scope = f"{stack}.block.{i}.layer"
            for j, name in enumerate(attentions):
                made |= norm_shapes(f"{scope}.{j}.layer_norm", width, bias=False)
                for part in "qkv":
                    made |= linear_shapes(f"{scope}.{j}.{name}.{part}", width, inner, bias=False)
                made |= linear_shapes(f"{scope}.{j}.{name}.o", inner, width, bias=False)
            last = len(attentions)
            made |= norm_shapes(f"{scope}.{last}.layer_norm", width, bias=False)
            made |= linear_shapes(f"{scope}.{last}.DenseReluDense.wi", width, d["hidden"], bias=False)
            made |= linear_shapes(f"{scope}.{last}.DenseReluDense.wo", d["hidden"], width, bias=False)
        made |= norm_shapes(f"{stack}.final_layer_norm", width, bias=False)
    return made


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    """The target begins like the source; both may end in padding."""
    source = windows(rng, d["batch"], d["source_length"], d["vocab"])
    target = source[:, : d["target_length"]].copy()
    for row in range(d["batch"]):
        source[row, rng.integers(d["source_length"] // 2, d["source_length"] + 1) :] = d["pad"]
        target[row, rng.integers(d["target_length"] // 2, d["target_length"] + 1) :] = d["pad"]
    return {"source": source, "target": target}


def position_bias(p: Parameters, stack: str, length: int, d: dict) -> Tensor:
    """Hugging Face's _relative_position_bucket; [heads, length, length]."""
    relative = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    buckets = d["buckets"]
    bucket = torch.zeros_like(relative)
    if stack == "encoder":
        buckets //= 2
        bucket = (relative > 0).long() * buckets
        distance = relative.abs()
    else:
        distance = -relative.clamp(max=0)
    exact = buckets // 2
    far = exact + (torch.log(distance.clamp(min=1) / exact) / math.log(d["reach"] / exact) * (buckets - exact)).long()
    bucket = bucket + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))
    return F.embedding(bucket, p[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]).permute(2, 0, 1)


def attend(p: Parameters, scope: str, x: Tensor, memory: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Unscaled scores plus `bias`, broadcast to [batch, heads, time, keys]."""
    q = split_heads(linear(p, f"{scope}.q", x), heads)
    k, v = (split_heads(linear(p, f"{scope}.{part}", memory), heads) for part in "kv")
    return linear(p, f"{scope}.o", merged_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)))


def feed_forward(p: Parameters, scope: str, x: Tensor, d: dict, keys: Keys, path: str, ordinal: int) -> Tensor:
    h = F.relu(linear(p, f"{scope}.DenseReluDense.wi", rms_norm(p, f"{scope}.layer_norm", x)))
    y = linear(p, f"{scope}.DenseReluDense.wo", keys.dropout(h, d["drop"], path, ordinal))
    return keys.dropout(y, d["drop"], path, ordinal + 1)


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    drop, heads = d["drop"], d["heads"]
    source, target = inputs["source"], inputs["target"]
    table = p["shared.weight"]
    unseen = torch.zeros(source.shape, dtype=table.dtype).masked_fill(source == d["pad"], float("-inf"))[:, None, None, :]

    bias = position_bias(p, "encoder", d["source_length"], d) + unseen
    x = keys.dropout(F.embedding(source, table), drop, "", 0)
    for i in range(d["depth"]):
        path = f"encoder.block.{i}"
        h = rms_norm(p, f"{path}.layer.0.layer_norm", x)
        x = x + keys.dropout(attend(p, f"{path}.layer.0.SelfAttention", h, h, bias, heads), drop, path, 0)
        x = x + feed_forward(p, f"{path}.layer.1", x, d, keys, path, 1)
    memory = keys.dropout(rms_norm(p, "encoder.final_layer_norm", x), drop, "", 1)

    later = torch.full((d["target_length"],) * 2, float("-inf"), dtype=table.dtype).triu(1)
    bias = position_bias(p, "decoder", d["target_length"], d) + later
    shifted = F.pad(target[:, :-1], (1, 0), value=d["pad"])
    y = keys.dropout(F.embedding(shifted, table), drop, "", 2)
    for i in range(d["depth"]):
        path = f"decoder.block.{i}"
        h = rms_norm(p, f"{path}.layer.0.layer_norm", y)
        y = y + keys.dropout(attend(p, f"{path}.layer.0.SelfAttention", h, h, bias, heads), drop, path, 0)
        h = rms_norm(p, f"{path}.layer.1.layer_norm", y)
        y = y + keys.dropout(attend(p, f"{path}.layer.1.EncDecAttention", h, memory, unseen, heads), drop, path, 1)
        y = y + feed_forward(p, f"{path}.layer.2", y, d, keys, path, 2)
    y = keys.dropout(rms_norm(p, "decoder.final_layer_norm", y), drop, "", 3)

    logits = F.linear(y, table) / math.sqrt(d["width"])
    kept = target != d["pad"]
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=d["pad"])
    loss = loss + 1e-4 * torch.logsumexp(logits, -1)[kept].square().mean()
    return Outcome(loss, weight=float(kept.sum()))


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    return adamw(cosine(d.get("rate", 1e-3), warmup=1000.0), weight_decay=0.0)
