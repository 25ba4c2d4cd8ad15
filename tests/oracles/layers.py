"""Pieces several oracles share, on a mapping of parameters: a prefix names the scope."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Parameters = Mapping[str, Tensor]


def linear(p: Parameters, scope: str, x: Tensor) -> Tensor:
    """PyTorch's layout; the bias is optional."""
    return F.linear(x, p[f"{scope}.weight"], p.get(f"{scope}.bias"))


def layer_norm(p: Parameters, scope: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{scope}.weight"], p.get(f"{scope}.bias"), eps)


def rms_norm(p: Parameters, scope: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], p[f"{scope}.weight"], eps)


def swiglu(p: Parameters, scope: str, x: Tensor) -> Tensor:
    gate = F.silu(linear(p, f"{scope}.gate_proj", x))
    return linear(p, f"{scope}.down_proj", gate * linear(p, f"{scope}.up_proj", x))


def merged_heads(x: Tensor) -> Tensor:
    """[batch, heads, time, head] -> [batch, time, heads * head]"""
    return x.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, time, heads * head] -> [batch, heads, time, head]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def rotary_frequencies(d: int, theta: float, dtype: torch.dtype) -> Tensor:
    return theta ** -(torch.arange(0, d, 2, dtype=dtype) / d)


def rotate_halves(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotary positions on [batch, heads, time, head], pairs (i, i + head / 2), as in Hugging Face's llama."""
    angle = torch.outer(torch.arange(x.shape[-2], dtype=frequencies.dtype), frequencies).repeat(1, 2).to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-b, a], dim=-1) * angle.sin()


def linear_shapes(scope: str, n: int, m: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{scope}.weight": (m, n)}
    return {**shapes, f"{scope}.bias": (m,)} if bias else shapes


def norm_shapes(scope: str, n: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{scope}.weight": (n,)}
    return {**shapes, f"{scope}.bias": (n,)} if bias else shapes


def swiglu_shapes(scope: str, n: int, hidden: int) -> dict[str, tuple[int, ...]]:
    up = linear_shapes(f"{scope}.gate_proj", n, hidden, bias=False) | linear_shapes(f"{scope}.up_proj", n, hidden, bias=False)
    return up | linear_shapes(f"{scope}.down_proj", hidden, n, bias=False)
