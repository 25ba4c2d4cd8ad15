"""ViT (Dosovitskiy et al. 2021), with Hugging Face's parameter names; patches are embedded by a strided convolution."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oracles.layers import Parameters, layer_norm, linear, linear_shapes, merged_heads, norm_shapes, split_heads
from oracles.optimizers import Rule, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys

DIMS = {"size": 8, "patch": 4, "channels": 3, "width": 32, "heads": 4, "depth": 2, "classes": 7, "batch": 5, "drop": 0.0}
CLIP = 1.0
ZERO = ("*.key.bias",)


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    width, patch = d["width"], d["patch"]
    made: dict[str, tuple[int, ...]] = {
        "vit.embeddings.patch_embeddings.projection.weight": (width, d["channels"], patch, patch),
        "vit.embeddings.patch_embeddings.projection.bias": (width,),
        "vit.embeddings.cls_token": (1, 1, width),
        "vit.embeddings.position_embeddings": (1, (d["size"] // patch) ** 2 + 1, width),
    }
    for i in range(d["depth"]):
        scope = f"vit.encoder.layer.{i}"
        made |= norm_shapes(f"{scope}.layernorm_before", width) | norm_shapes(f"{scope}.layernorm_after", width)
        for name in ("attention.query", "attention.key", "attention.value", "output.dense"):
            made |= linear_shapes(f"{scope}.attention.{name}", width, width)
        made |= linear_shapes(f"{scope}.intermediate.dense", width, 4 * width) | linear_shapes(f"{scope}.output.dense", 4 * width, width)
    return made | norm_shapes("vit.layernorm", width) | linear_shapes("classifier", width, d["classes"])


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    """Each class has its own mean colour."""
    labels = rng.integers(0, d["classes"], d["batch"]).astype(np.int32)
    images = rng.standard_normal((d["batch"], d["channels"], d["size"], d["size"])) + np.cos(labels)[:, None, None, None]
    return {"images": images.astype(np.float32), "labels": labels}


def attention(p: Parameters, scope: str, x: Tensor, heads: int) -> Tensor:
    q, k, v = (split_heads(linear(p, f"{scope}.attention.{name}", x), heads) for name in ("query", "key", "value"))
    return linear(p, f"{scope}.output.dense", merged_heads(F.scaled_dot_product_attention(q, k, v)))


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    drop = d["drop"]
    projection = "vit.embeddings.patch_embeddings.projection"
    images = inputs["images"].to(p[f"{projection}.weight"].dtype)
    patches = F.conv2d(images, p[f"{projection}.weight"], p[f"{projection}.bias"], stride=d["patch"]).flatten(2).mT
    x = torch.cat([p["vit.embeddings.cls_token"].expand(len(images), -1, -1), patches], dim=1) + p["vit.embeddings.position_embeddings"]
    x = keys.dropout(x, drop, "vit.embeddings", 0)
    for i in range(d["depth"]):
        scope = f"vit.encoder.layer.{i}"
        y = attention(p, f"{scope}.attention", layer_norm(p, f"{scope}.layernorm_before", x, 1e-12), d["heads"])
        x = x + keys.dropout(y, drop, scope, 0)
        y = F.gelu(linear(p, f"{scope}.intermediate.dense", layer_norm(p, f"{scope}.layernorm_after", x, 1e-12)))
        x = x + keys.dropout(linear(p, f"{scope}.output.dense", y), drop, scope, 1)
    logits = linear(p, "classifier", layer_norm(p, "vit.layernorm", x, 1e-12)[:, 0])
    right = (logits.argmax(-1) == inputs["labels"]).double().mean()
    return Outcome(F.cross_entropy(logits, inputs["labels"]), metrics={"accuracy": right})


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    plain = len(shape) < 2 or name.endswith(("cls_token", "position_embeddings"))
    return adamw(cosine(d.get("rate", 3e-3), warmup=10000.0), weight_decay=0.0 if plain else 0.3)
