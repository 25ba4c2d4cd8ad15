"""The byte-level demo trained by a user's own optimizer: Muon (Jordan 2024) on matrices inside the blocks, AdamW on the rest.

    mlc run examples/muon.dsl -- --data book.txt --steps 200
"""
from mlc.attention import causal_attention, rotary_frequency
from mlc.losses import cross_entropy
from mlc.nn import linear, rms_norm
from mlc.optim import adamw
from mlc.rates import constant

vocab: dim = 256
context: dim = 64
width: dim = 128
heads: dim = 4
depth: int = 4
batch: dim = 12

rate: f32 = 0.02


def orthogonal(g: f32[..., n, m], steps: int):
    """The nearest orthogonal matrix, nearly: a quintic Newton-Schulz iteration on the short side."""
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
    b = momentum * state("momentum", p.shape) + g
    store("momentum", b)
    u = orthogonal(g + momentum * b, iterations)
    return p * (1.0 - rate * weight_decay) - rate * sqrt(max(1.0, n / m)) * u


@layer
def block(x: real[batch, context, width]):
    q, k, v = split(linear(rms_norm(x, name="norm_1"), 3 * width, bias=False, name="qkv"), 3, axis=-1)
    y = causal_attention(q, k, v, heads=heads, frequency=rotary_frequency(width // heads))
    x = x + linear(y, width, bias=False, init=zeros(), name="out")
    h = linear(rms_norm(x, name="norm_2"), 4 * width, bias=False, name="up")
    return x + linear(maximum(h, 0.0) ** 2, width, bias=False, init=zeros(), name="down")


@model
def gpt(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    x = gather(param("embedding.weight", [vocab, width], init=normal(0.02)), tokens)
    for i in range(depth):
        x = block(x, name=f"blocks.{i}")
    logits = linear(rms_norm(x, name="norm"), vocab, bias=False, init=zeros(), name="head")
    logits = 15.0 * tanh(cast(logits, f32) / 15.0)
    return {"loss": cross_entropy(logits, targets), "logits": logits}


@train()
def recipe(p: parameter):
    if glob(p.name, "blocks.*") and len(p.shape) == 2:
        return muon(rate=constant(rate), weight_decay=0.01)
    return adamw(rate=constant(0.15 * rate), betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
