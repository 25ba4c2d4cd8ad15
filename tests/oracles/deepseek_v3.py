"""DeepSeek-V3 (2024) in small: latent attention, group-limited sigmoid routing, experts that drop what overflows them."""

from __future__ import annotations

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
    split_heads,
    swiglu,
    swiglu_shapes,
)
from oracles.optimizers import Rule, Update, adamw, cosine
from oracles.outcome import Outcome
from oracles.random import Keys
from oracles.text import following

DIMS = {
    "vocab": 50, "context": 16, "width": 32, "heads": 2, "depth": 3, "dense_depth": 1, "batch": 2,
    "q_rank": 12, "kv_rank": 8, "nope": 8, "rope": 4, "v_head": 6,
    "dense_hidden": 40, "hidden": 12, "experts": 8, "active": 2, "shared": 1, "groups": 4, "active_groups": 2,
    "scaling": 2.5, "slack": 1.25,
}  # fmt: skip
CLIP = 1.0
BIAS = "mlp.gate.e_score_correction_bias"


def shapes(d: dict) -> dict[str, tuple[int, ...]]:
    width, heads, experts = d["width"], d["heads"], d["experts"]
    made = linear_shapes("model.embed_tokens", width, d["vocab"], bias=False) | norm_shapes("model.norm", width, bias=False)
    for i in range(d["depth"]):
        scope = f"model.layers.{i}"
        attention = f"{scope}.self_attn"
        for name in ("input_layernorm", "post_attention_layernorm"):
            made |= norm_shapes(f"{scope}.{name}", width, bias=False)
        made |= norm_shapes(f"{attention}.q_a_layernorm", d["q_rank"], bias=False)
        made |= norm_shapes(f"{attention}.kv_a_layernorm", d["kv_rank"], bias=False)
        for name, n, m in [
            ("q_a_proj", width, d["q_rank"]),
            ("q_b_proj", d["q_rank"], heads * (d["nope"] + d["rope"])),
            ("kv_a_proj_with_mqa", width, d["kv_rank"] + d["rope"]),
            ("kv_b_proj", d["kv_rank"], heads * (d["nope"] + d["v_head"])),
            ("o_proj", heads * d["v_head"], width),
        ]:
            made |= linear_shapes(f"{attention}.{name}", n, m, bias=False)
        if i < d["dense_depth"]:
            made |= swiglu_shapes(f"{scope}.mlp", width, d["dense_hidden"])
            continue
        made |= linear_shapes(f"{scope}.mlp.gate", width, experts, bias=False) | {f"{scope}.{BIAS}": (experts,)}
        made |= {f"{scope}.mlp.experts.*.{name}.weight": (experts, d["hidden"], width) for name in ("gate_proj", "up_proj")}
        made |= {f"{scope}.mlp.experts.*.down_proj.weight": (experts, width, d["hidden"])}
        made |= swiglu_shapes(f"{scope}.mlp.shared_experts", width, d["shared"] * d["hidden"])
    return made | linear_shapes("lm_head", width, d["vocab"], bias=False)


def inputs(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    return following(rng, d)


def rotate_pairs(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotary positions on [batch, heads, time, head]: neighbours are the parts of a complex number."""
    angle = torch.outer(torch.arange(x.shape[-2], dtype=frequencies.dtype), frequencies).to(x.dtype)
    turn = torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)


def latent_attention(p: Parameters, scope: str, x: Tensor, d: dict, keys: Keys) -> Tensor:
    frequencies = rotary_frequencies(d["rope"], 10000.0, keys.dtype)
    q = split_heads(linear(p, f"{scope}.q_b_proj", rms_norm(p, f"{scope}.q_a_layernorm", linear(p, f"{scope}.q_a_proj", x))), d["heads"])
    q, q_rope = q.split([d["nope"], d["rope"]], dim=-1)
    latent, k_rope = linear(p, f"{scope}.kv_a_proj_with_mqa", x).split([d["kv_rank"], d["rope"]], dim=-1)
    kv = split_heads(linear(p, f"{scope}.kv_b_proj", rms_norm(p, f"{scope}.kv_a_layernorm", latent)), d["heads"])
    k, v = kv.split([d["nope"], d["v_head"]], dim=-1)
    k_rope = rotate_pairs(k_rope.unsqueeze(1), frequencies).expand(-1, d["heads"], -1, -1)
    q = torch.cat([q, rotate_pairs(q_rope, frequencies)], dim=-1)
    y = F.scaled_dot_product_attention(q, torch.cat([k, k_rope], dim=-1), v, is_causal=True)
    return linear(p, f"{scope}.o_proj", merged_heads(y))


def route(p: Parameters, scope: str, rows: Tensor, d: dict) -> tuple[Tensor, Tensor]:
    """Weights and experts of each row [rows, active], best first."""
    score = torch.sigmoid(linear(p, f"{scope}.gate", rows))
    steered = (score.detach() + p[f"{scope}.gate.e_score_correction_bias"].detach()).unflatten(-1, (d["groups"], -1))
    group_score = steered.topk(2, dim=-1).values.sum(-1)
    out = torch.ones_like(group_score, dtype=torch.bool).scatter(1, group_score.topk(d["active_groups"], dim=-1).indices, False)
    chosen = steered.masked_fill(out.unsqueeze(-1), float("-inf")).flatten(1).topk(d["active"], dim=-1).indices
    weight = score.gather(1, chosen)
    return d["scaling"] * weight / (weight.sum(-1, keepdim=True) + 1e-20), chosen


def experts(p: Parameters, scope: str, x: Tensor, d: dict) -> tuple[Tensor, Tensor, int]:
    """The sum over each row's experts, how many rows chose each expert, and how many choices found no place."""
    rows = x.flatten(0, 1)
    weight, chosen = route(p, scope, rows, d)
    capacity = int(d["slack"] * rows.shape[0] * d["active"] / d["experts"])
    y = torch.zeros_like(rows)
    dropped = 0
    for e in range(d["experts"]):
        row, rank = (chosen == e).nonzero(as_tuple=True)
        dropped += max(len(row) - capacity, 0)
        row, rank = row[:capacity], rank[:capacity]
        gate, up, down = (p[f"{scope}.experts.*.{name}.weight"][e] for name in ("gate_proj", "up_proj", "down_proj"))
        made = F.linear(F.silu(F.linear(rows[row], gate)) * F.linear(rows[row], up), down)
        y = y.index_add(0, row, weight[row, rank].unsqueeze(-1) * made)
    return y.view_as(x), torch.bincount(chosen.flatten(), minlength=d["experts"]).to(x.dtype), dropped


def forward(p: Parameters, inputs: dict[str, Tensor], d: dict, keys: Keys) -> Outcome:
    fed = {}
    x = F.embedding(inputs["tokens"], p["model.embed_tokens.weight"])
    for i in range(d["depth"]):
        scope = f"model.layers.{i}"
        x = x + latent_attention(p, f"{scope}.self_attn", rms_norm(p, f"{scope}.input_layernorm", x), d, keys)
        h = rms_norm(p, f"{scope}.post_attention_layernorm", x)
        if i < d["dense_depth"]:
            x = x + swiglu(p, f"{scope}.mlp", h)
            continue
        y, load, _ = experts(p, f"{scope}.mlp", h, d)
        fed[f"{scope}.{BIAS}"] = load
        x = x + y + swiglu(p, f"{scope}.mlp.shared_experts", h)
    logits = linear(p, "lm_head", rms_norm(p, "model.norm", x))
    return Outcome(F.cross_entropy(logits.flatten(0, 1), inputs["targets"].flatten()), fed=fed)


def balance(p: Tensor) -> Update:
    def update(g: Tensor, step: int, steps: int) -> None:
        p.add_(torch.sign(g.mean() - g), alpha=1e-3)

    return update


def recipe(name: str, shape: tuple[int, ...], d: dict) -> Rule:
    if name.endswith(".e_score_correction_bias"):
        return balance
    rate = d.get("rate", 2.2e-4)
    return adamw(cosine(rate, warmup=2000.0, floor=0.1 * rate), betas=(0.9, 0.95), weight_decay=0.1 if len(shape) > 1 else 0.0)
