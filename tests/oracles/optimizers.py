"""Optimizers and rates in PyTorch, and the loop of steps.

A rate is a function of (step, steps). A rule makes, for a parameter, the function that updates it in place from
(gradient, step, steps). PyTorch's own optimizers are used where it has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from oracles.random import Keys

Rate = Callable[[int, int], float]
Update = Callable[[Tensor, int, int], None]
Rule = Callable[[Tensor], Update]
Batch = Mapping[str, np.ndarray]


def constant(peak: float, warmup: float = 0.0) -> Rate:
    return lambda step, steps: peak * min((step + 1) / (warmup + 1), 1.0)


def cosine(peak: float, warmup: float = 0.0, floor: float = 0.0) -> Rate:
    def rate(step: int, steps: int) -> float:
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        share = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2

    return rate


def linear(peak: float, warmup: float = 0.0, floor: float = 0.0) -> Rate:
    """The last step has the rate `floor`."""

    def rate(step: int, steps: int) -> float:
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        share = min((step - warmup) / max(steps - 1 - warmup, 1), 1.0)
        return peak + (floor - peak) * share

    return rate


def wsd(peak: float, warmup: float = 0.0, decay: float = 0.2, floor: float = 0.0) -> Rate:
    """Warmup, stable, and a straight line down over the last share `decay` of the steps (Hu et al. 2024)."""

    def rate(step: int, steps: int) -> float:
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        left = min((steps - step) / max(decay * steps, 1), 1.0)
        return floor + (peak - floor) * left

    return rate


def _torch_optimizer(kind: type[torch.optim.Optimizer], rate: Rate, **options: object) -> Rule:
    def make(p: Tensor) -> Update:
        optimizer = kind([p], lr=0.0, **options)

        def update(g: Tensor, step: int, steps: int) -> None:
            p.grad = g
            optimizer.param_groups[0]["lr"] = rate(step, steps)
            optimizer.step()

        return update

    return make


def adamw(rate: Rate, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01) -> Rule:
    return _torch_optimizer(torch.optim.AdamW, rate, betas=betas, eps=eps, weight_decay=weight_decay, foreach=False)


def sgd(rate: Rate, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Rule:
    return _torch_optimizer(torch.optim.SGD, rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, foreach=False)


def lion(rate: Rate, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> Rule:
    """Chen et al. 2023: the sign of an interpolation between momentum and gradient."""

    def make(p: Tensor) -> Update:
        m = torch.zeros_like(p)

        def update(g: Tensor, step: int, steps: int) -> None:
            direction = torch.lerp(g, m, betas[0]).sign()
            p.mul_(1 - rate(step, steps) * weight_decay).sub_(direction, alpha=rate(step, steps))
            m.lerp_(g, 1 - betas[1])

        return update

    return make


def orthogonal(g: Tensor, steps: int, dtype: torch.dtype | None) -> Tensor:
    """Jordan's quintic Newton-Schulz iteration, in `dtype` (None: that of g)."""
    x = (g / (torch.linalg.matrix_norm(g, keepdim=True) + 1e-7)).to(dtype or g.dtype)
    x = x.mT if g.shape[-2] > g.shape[-1] else x
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.mT if g.shape[-2] > g.shape[-1] else x
    return x.to(g.dtype)


def muon(
    rate: Rate,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    iterations: int = 5,
    dtype: torch.dtype | None = torch.bfloat16,
) -> Rule:
    """Jordan 2024, with Nesterov momentum; `dtype` is that of the iteration, None for the parameter's own."""

    def make(p: Tensor) -> Update:
        b = torch.zeros_like(p)

        def update(g: Tensor, step: int, steps: int) -> None:
            b.mul_(momentum).add_(g)
            u = orthogonal(g + momentum * b, iterations, dtype)
            p.mul_(1 - rate(step, steps) * weight_decay)
            p.sub_(u, alpha=rate(step, steps) * math.sqrt(max(1.0, p.shape[-2] / p.shape[-1])))

        return update

    return make


@dataclass(frozen=True)
class Gradients:
    """Of a whole step: weighted over its microbatches. `fed`: parameter -> mean of what accumulate gave."""

    loss: float
    loss_gradients: Mapping[str, Tensor]
    fed: Mapping[str, Tensor]


def gradients(oracle: ModuleType, p: Mapping[str, Tensor], batches: Sequence[Batch], d: dict, keys: Sequence[Keys]) -> Gradients:
    """Loss and gradients over the microbatches; a parameter no gradient reaches has none."""
    leaves = {name: value.detach().requires_grad_() for name, value in p.items()}
    outcomes = [oracle.forward(leaves, torch_inputs(batch), d, key) for batch, key in zip(batches, keys, strict=True)]
    total = sum(o.weight for o in outcomes)
    loss = sum(o.weight * o.loss for o in outcomes) / total
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    made = {name: g for name, g in zip(leaves, found, strict=True) if g is not None}
    fed = {name: sum(o.fed[name].detach() for o in outcomes) / len(outcomes) for name in outcomes[0].fed}
    return Gradients(loss.item(), made, fed)


def torch_inputs(batch: Batch) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).long() if array.dtype == np.int32 else torch.from_numpy(array) for name, array in batch.items()}


def clipped(g: Mapping[str, Tensor], clip: float | None) -> Mapping[str, Tensor]:
    if clip is None:
        return g
    norm = math.sqrt(sum(float((x.double() ** 2).sum()) for x in g.values()))
    return {name: x * min(1.0, clip / norm) for name, x in g.items()}


def train(
    oracle: ModuleType,
    p: dict[str, Tensor],
    batches: Callable[[int], Sequence[Batch]],
    steps: int,
    d: dict,
    recipe: Callable[[str, tuple[int, ...]], Rule | None],
    seed: int = 0,
) -> list[float]:
    """Run `steps` steps on the parameters, in place; the loss of each. batches(step) are the microbatches of a step."""
    rules = {name: recipe(name, tuple(value.shape)) for name, value in p.items()}
    updates = {name: rule(p[name]) for name, rule in rules.items() if rule is not None}
    losses = []
    for step in range(steps):
        data = batches(step)
        g = gradients(oracle, p, data, d, [Keys(seed, step, j) for j in range(len(data))])
        losses.append(g.loss)
        made = {**clipped(g.loss_gradients, oracle.CLIP), **g.fed}
        with torch.no_grad():
            for name, update in updates.items():
                if name in made:
                    update(made[name], step, steps)
    return losses
