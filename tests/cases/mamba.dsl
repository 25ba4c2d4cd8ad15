"""A Mamba language model: blocks of a causal depthwise convolution and a selective scan, gated, with residuals.

The scan is written out over time; the convolution is a sum of shifted slices.
"""
from mlc.losses import cross_entropy
from mlc.nn import linear, silu
from mlc.optim import adamw
from mlc.rates import cosine

vocab: dim = 256
context: dim = 64
width: dim = 64
inner: dim = 128
states: dim = 16
taps: dim = 4
rank: dim = 8
depth: int = 2
batch: dim = 4

rate: f32 = 1e-3


def norm(x: real[..., n]):
    return x * rsqrt(mean(x * x, axis=-1, keepdims=True) + 1e-5) * param("weight", [n], init=ones())


def conv(x: real[b, t, n]):
    """Causal and depthwise: y[t] = sum over k of w[k] * x[t - taps + 1 + k]."""
    w = param("weight", [taps, n], init=normal(0.3))
    padded = concat([full([b, taps - 1, n], 0.0), x], axis=1)
    y = param("bias", [n], init=zeros())
    for k in range(taps):
        y = y + w[k] * padded[:, k:k + t]
    return y


def scan(u: real[b, t, n], delta: real[b, t, n], a: real[n, s], bs: real[b, t, s], cs: real[b, t, s]):
    """h[t] = exp(delta a) h[t - 1] + delta B u; y = C h."""
    decay = exp(delta[:, :, :, None] * a)
    push = (delta * u)[:, :, :, None] * bs[:, :, None, :]
    h = full([b, n, s], 0.0)
    ys = []
    for i in range(t):
        h = decay[:, i] * h + push[:, i]
        ys = ys + [sum(h * cs[:, i][:, None, :], axis=-1)]
    return stack(ys, axis=1)


@layer
def block(x: real[batch, context, width]):
    u, z = split(linear(norm(x, name="norm"), 2 * inner, bias=False, name="in_proj"), 2, axis=-1)
    u = silu(conv(u, name="conv1d"))
    parts = linear(u, rank + 2 * states, bias=False, name="x_proj")
    delta = softplus(linear(parts[:, :, :rank], inner, name="dt_proj"))
    bs = parts[:, :, rank:rank + states]
    cs = parts[:, :, rank + states:]
    a = -exp(param("A_log", [inner, states], init=zeros()))
    y = scan(u, delta, a, bs, cs) + param("D", [inner], init=ones()) * u
    return x + linear(y * silu(z), width, bias=False, name="out_proj")


@model
def mamba(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    x = gather(param("embedding", [vocab, width], init=normal(0.02)), tokens)
    for i in range(depth):
        x = block(x, name=f"layers.{i}")
    logits = linear(norm(x, name="norm_f"), vocab, bias=False, name="head")
    return {"loss": cross_entropy(logits, targets), "logits": logits}


@train(clip=1.0)
def recipe():
    return adamw(rate=cosine(rate, warmup=10.0), weight_decay=0.0)
