"""ALBERT (Lan et al. 2020): one post-norm block used at every depth, factorized embedding, masked-token loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.layers import Parameters, layer_norm, linear, linear_shapes, merged_heads, norm_shapes, split_heads
from oracles.optimizers import Rule, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys
from oracles.text import windows

DIMS = {
    "vocab": 50, "context": 12, "embedded": 16, "width": 32, "heads": 4, "depth": 3, "batch": 4,
    "masked": 0.4, "mask_token": 4, "pad_token": 0, "drop": 0.0,
}  # fmt: skip
CLIP = 1.0
ZERO = ("*.key.bias",)
BLOCK = "albert.encoder.albert_layer_groups.0.albert_layers.0"


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    embedded, width = d["embedded"], d["width"]
    made: dict[str, tuple[int, ...]] = {
        "albert.embeddings.word_embeddings.weight": (d["vocab"], embedded),
        "albert.embeddings.position_embeddings.weight": (d["context"], embedded),
    }
    made |= norm_shapes("albert.embeddings.LayerNorm", embedded)
    made |= linear_shapes("albert.encoder.embedding_hidden_mapping_in", embedded, width)
    for name in ("query", "key", "value", "dense"):
        made |= linear_shapes(f"{BLOCK}.attention.{name}", width, width)
    made |= norm_shapes(f"{BLOCK}.attention.LayerNorm", width) | norm_shapes(f"{BLOCK}.full_layer_layer_norm", width)
    made |= linear_shapes(f"{BLOCK}.ffn", width, 4 * width) | linear_shapes(f"{BLOCK}.ffn_output", 4 * width, width)
    made |= linear_shapes("predictions.dense", width, embedded) | norm_shapes("predictions.LayerNorm", embedded)
    return made | {"predictions.bias": (d["vocab"],)}


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    """Some rows end in padding."""
    tokens = windows(rng, d["batch"], d["context"], d["vocab"])
    for row, length in enumerate(rng.integers(d["context"] // 2, d["context"] + 1, d["batch"])):
        tokens[row, length:] = d["pad_token"]
    return {"tokens": tokens}


def corrupt(tokens: Tensor, d: dict, keys: Keys) -> tuple[Tensor, Tensor]:
    """BERT's corruption: of the chosen tokens 80% masked, 10% random, 10% kept. Targets elsewhere are -100."""
    chosen, how, other = (keys.uniform(tuple(tokens.shape), "", ordinal) for ordinal in range(3))
    predicted = (chosen < d["masked"]) & (tokens != d["pad_token"])
    shown = torch.where(predicted & (how < 0.8), d["mask_token"], tokens)
    shown = torch.where(predicted & (how >= 0.8) & (how < 0.9), (other * d["vocab"]).long(), shown)
    return shown, torch.where(predicted, tokens, -100)


def block(p: Parameters, x: Tensor, seen: Tensor, d: dict, keys: Keys, path: str) -> Tensor:
    q, k, v = (split_heads(linear(p, f"{BLOCK}.attention.{name}", x), d["heads"]) for name in ("query", "key", "value"))
    y = merged_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :]))
    y = linear(p, f"{BLOCK}.attention.dense", y)
    x = layer_norm(p, f"{BLOCK}.attention.LayerNorm", x + keys.dropout(y, d["drop"], path, 0), 1e-12)
    y = linear(p, f"{BLOCK}.ffn_output", F.gelu(linear(p, f"{BLOCK}.ffn", x), approximate="tanh"))
    return layer_norm(p, f"{BLOCK}.full_layer_layer_norm", x + keys.dropout(y, d["drop"], path, 1), 1e-12)


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    tokens = inputs["tokens"]
    shown, targets = corrupt(tokens, d, keys)
    words = p["albert.embeddings.word_embeddings.weight"]
    x = F.embedding(shown, words) + p["albert.embeddings.position_embeddings.weight"]
    x = keys.dropout(layer_norm(p, "albert.embeddings.LayerNorm", x, 1e-12), d["drop"], "", 3)
    x = linear(p, "albert.encoder.embedding_hidden_mapping_in", x)
    for i in range(d["depth"]):
        x = block(p, x, tokens != d["pad_token"], d, keys, f"{BLOCK}#{i}" if i else BLOCK)
    h = F.gelu(linear(p, "predictions.dense", x), approximate="tanh")
    logits = F.linear(layer_norm(p, "predictions.LayerNorm", h, 1e-12), words, p["predictions.bias"])
    return Outcome(F.cross_entropy(logits.flatten(0, 1), targets.flatten()), weight=float((targets != -100).sum()))


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    return adamw(cosine(d.get("rate", 1.76e-3), warmup=3125.0), weight_decay=0.01)
