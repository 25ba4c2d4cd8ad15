"""Optimizers. The compiler supplies p (the f32 master), g (its gradient, clipped) and step (from 0); the rest is given in the recipe.

state(name, shape) reads the value the last step stored, zero at first; store(name, value) sets it for the next step.
"""


@optimizer
def sgd(p: f32[...], g: f32[p.shape], step: f32, *, rate: f32, momentum: float = 0.0, nesterov: bool = False, weight_decay: f32 = 0.0):
    g = g + weight_decay * p
    if momentum == 0.0:
        return p - rate * g
    m = momentum * state("momentum", p.shape) + g
    store("momentum", m)
    if nesterov:
        return p - rate * (g + momentum * m)
    return p - rate * m


@optimizer
def adamw(
    p: f32[...], g: f32[p.shape], step: f32, *,
    rate: f32, betas: (f32, f32) = (0.9, 0.999), eps: f32 = 1e-8, weight_decay: f32 = 0.01,
):
    b1, b2 = betas
    m = b1 * state("exp_avg", p.shape) + (1.0 - b1) * g
    v = b2 * state("exp_avg_sq", p.shape) + (1.0 - b2) * g * g
    store("exp_avg", m)
    store("exp_avg_sq", v)
    m = m / (1.0 - b1 ** (step + 1.0))
    v = v / (1.0 - b2 ** (step + 1.0))
    return p * (1.0 - rate * weight_decay) - rate * m / (sqrt(v) + eps)


@optimizer
def lion(p: f32[...], g: f32[p.shape], step: f32, *, rate: f32, betas: (f32, f32) = (0.9, 0.99), weight_decay: f32 = 0.0):
    b1, b2 = betas
    m = state("exp_avg", p.shape)
    store("exp_avg", b2 * m + (1.0 - b2) * g)
    return p * (1.0 - rate * weight_decay) - rate * sign(b1 * m + (1.0 - b1) * g)


def orthogonal(g: f32[..., n, m], steps: int):
    """The nearest orthogonal matrix, nearly: a quintic Newton-Schulz iteration on the short side (Jordan 2024)."""
    x = transpose(g) if n > m else g
    x = cast(x / (sqrt(sum(x * x, axis=(-2, -1), keepdims=True)) + 1e-7), bf16)
    for _ in range(steps):
        a = x @ transpose(x)
        x = 3.4445 * x + (2.0315 * (a @ a) - 4.7750 * a) @ x
    x = cast(x, f32)
    return transpose(x) if n > m else x


@optimizer
def muon(
    p: f32[..., n, m], g: f32[p.shape], step: f32, *,
    rate: f32, momentum: float = 0.95, weight_decay: f32 = 0.0, iterations: int = 5,
):
    """For matrices stored [out, in]: steps of equal size in every direction."""
    b = momentum * state("momentum", p.shape) + g
    store("momentum", b)
    u = orthogonal(g + momentum * b, iterations)
    return p * (1.0 - rate * weight_decay) - rate * sqrt(max(1.0, n / m)) * u
