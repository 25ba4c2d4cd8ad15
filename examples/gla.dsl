"""A language model on a gated linear recurrence, S[t] = a[t] S[t-1] + k[t] v[t]^T, y[t] = q[t] S[t], with one gate a head
(Mamba-2, GLA). No loop over time: inside a chunk the decays are differences of a cumulative sum, and chunks are joined by
the same formula over chunk totals.

    mlc run examples/gla.dsl -D context=128 -D width=128 -D depth=2 -- --data book.txt --steps 100
"""
from mlc.losses import cross_entropy
from mlc.nn import linear, rms_norm, silu, swiglu
from mlc.optim import adamw
from mlc.rates import cosine

vocab: dim = 256
context: dim = 512
width: dim = 256
heads: dim = 4
key: dim = 32               # features of a key head
chunk: dim = 64
depth: int = 6
batch: dim = 8

rate: f32 = 1e-3


def decays(g: f32[..., n]):
    """exp(g[i] - g[j]) for j <= i, else 0. The exponent is masked, not the result: the masked half would overflow."""
    i = arange(n)[:, None]
    j = arange(n)
    return exp(select(j <= i, g[..., :, None] - g[..., None, :], -inf))


def gated_recurrence(q: real[b, t, h, d], k: real[b, t, h, d], v: real[b, t, h, e], log_gate: f32[b, t, h], *, chunk: dim):
    assert t % chunk == 0, f"context {t} is not a multiple of chunk {chunk}"
    c = t // chunk
    q = cast(reshape(q, [b, c, chunk, h, d]), f32)
    k = cast(reshape(k, [b, c, chunk, h, d]), f32)
    v5 = cast(reshape(v, [b, c, chunk, h, e]), f32)
    g = cumsum(transpose(reshape(log_gate, [b, c, chunk, h]), [0, 1, 3, 2]), axis=-1)     # [b, c, h, chunk]
    total = g[..., -1]                                                                    # [b, c, h]

    within = einsum("bcihd,bcjhd->bchij", q, k) * decays(g)
    y = einsum("bchij,bcjhe->bcihe", within, v5)

    made = einsum("bcjhd,bchj,bcjhe->bchde", k, exp(total[..., None] - g), v5)            # what a chunk adds to the state
    reach = cumsum(transpose(total, [0, 2, 1]), axis=-1)                                  # [b, h, c]
    i = arange(c)[:, None]
    j = arange(c)
    before = reach - transpose(total, [0, 2, 1])                                          # up to the start of a chunk
    carry = exp(select(j < i, before[..., :, None] - reach[..., None, :], -inf))          # chunk j -> start of chunk i
    state_in = einsum("bhij,bjhde->bihde", carry, made)
    y = y + einsum("bcihd,bchi,bchde->bcihe", q, exp(g), state_in)
    return cast(reshape(y, [b, t, h, e]), v.dtype)


@layer
def block(x: real[batch, context, width]):
    h = rms_norm(x, name="norm")
    q = reshape(linear(h, heads * key, bias=False, name="q"), [batch, context, heads, key])
    k = reshape(linear(h, heads * key, bias=False, name="k"), [batch, context, heads, key])
    v = reshape(linear(h, width, bias=False, name="v"), [batch, context, heads, width // heads])
    gate = -softplus(-cast(linear(h, heads, name="gate"), f32)) / 16.0                    # log sigmoid, slowed down
    y = gated_recurrence(q, k, v, gate, chunk=chunk)
    y = reshape(rms_norm(y, name="state_norm"), x.shape) * silu(linear(h, width, name="out_gate"))
    x = x + linear(y, width, bias=False, name="out")
    return x + swiglu(rms_norm(x, name="mlp_norm"), 3 * width, name="mlp")


@model
def gla(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    x = gather(param("embedding.weight", [vocab, width], init=normal(0.02)), tokens)
    for i in range(depth):
        x = block(x, name=f"blocks.{i}")
    logits = linear(rms_norm(x, name="norm"), vocab, bias=False, name="head")
    return {"loss": cross_entropy(logits, targets), "logits": logits}


@train(clip=1.0)
def recipe():
    return adamw(rate=cosine(rate, warmup=100.0), betas=(0.9, 0.95), weight_decay=0.1)
