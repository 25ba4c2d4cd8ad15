"""Mixture of experts with a fixed capacity: what each expert can take is a dim, what overflows is dropped."""
from mlc.nn import linear, silu


def route(x: real[t, n], *, experts: dim, active: dim, groups: dim, active_groups: dim, scaling: float):
    """Sigmoid scores; a bias that no gradient moves steers the choice, not the weights (DeepSeek-V3). Returns weights and indices [t, active]."""
    assert experts % groups == 0, f"{experts} experts do not divide into {groups} groups"
    score = sigmoid(linear(cast(x, f32), experts, bias=False, init=normal(0.02)))
    bias = param("e_score_correction_bias", [experts], init=zeros(), dtype=f32)
    biased = reshape(stop_gradient(score) + bias, [t, groups, experts // groups])
    best, _ = top_k(biased, 2)
    _, kept = top_k(sum(best, axis=-1), active_groups)
    allowed = sum(one_hot(kept, groups, dtype=i32), axis=1) > 0
    biased = reshape(select(allowed[:, :, None], biased, -inf), [t, experts])
    _, chosen = top_k(biased, active)
    accumulate(bias, sum(one_hot(chosen, experts, dtype=f32), axis=(0, 1)))
    weight = take_along(score, chosen, axis=-1)
    weight = scaling * weight / (sum(weight, axis=-1, keepdims=True) + 1e-20)
    return weight, chosen


def experts_swiglu(x: real[e, c, n], hidden: dim):
    """One SwiGLU an expert, on the c rows of each of the e experts; `*` in a name counts the leading dim out into checkpoint names."""
    gate = einsum("ecn,ehn->ech", x, param("*.gate_proj.weight", [e, hidden, n], init=normal(0.02)))
    up = einsum("ecn,ehn->ech", x, param("*.up_proj.weight", [e, hidden, n], init=normal(0.02)))
    return einsum("ech,enh->ecn", silu(gate) * up, param("*.down_proj.weight", [e, n, hidden], init=normal(0.02)))


def moe(
    x: real[b, s, n], *, experts: dim, active: dim, hidden: dim, capacity: dim,
    groups: dim = 1, active_groups: dim = 1, scaling: float = 1.0,
):
    rows = reshape(x, [b * s, n])
    weight, chosen = route(rows, experts=experts, active=active, groups=groups, active_groups=active_groups, scaling=scaling, name="gate")
    expert = reshape(chosen, [b * s * active])
    taken = one_hot(expert, experts, dtype=i32)
    place = sum((cumsum(taken, axis=0) - taken) * taken, axis=-1)
    fits = place < capacity
    slot = expert * capacity + minimum(place, capacity - 1)
    token = arange(b * s * active) // active
    sent = select(fits[:, None], gather(rows, token), 0.0)
    buffer = reshape(scatter_add(sent, slot, experts * capacity), [experts, capacity, n])
    out = reshape(experts_swiglu(buffer, hidden, name="experts"), [experts * capacity, n])
    share = cast(select(fits, reshape(weight, [b * s * active]), 0.0), x.dtype)
    y = sum(reshape(gather(out, slot) * share[:, None], [b * s, active, n]), axis=1)
    report("dropped", mean(1.0 - cast(fits, f32)))
    return reshape(y, x.shape)
