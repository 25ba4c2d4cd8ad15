"""The GPT that the pipeline peers train: learned positions, biases, an untied head, AdamW without clipping."""
from mlc.attention import causal_attention
from mlc.losses import cross_entropy
from mlc.nn import gelu, layer_norm, linear
from mlc.optim import adamw
from mlc.rates import constant

vocab: dim = 256
context: dim = 64
width: dim = 64
heads: dim = 4
depth: int = 2
batch: dim = 1

rate: f32 = 3e-4


@layer
def block(x: real[batch, context, width]):
    q, k, v = split(linear(layer_norm(x, name="ln_1"), 3 * width, name="qkv"), 3, axis=-1)
    x = x + linear(causal_attention(q, k, v, heads=heads), width, name="proj")
    return x + linear(gelu(linear(layer_norm(x, name="ln_2"), 4 * width, name="up"), exact=False), width, name="down")


@model
def pipeline(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    wte = param("wte", [vocab, width], init=normal(0.02))
    wpe = param("wpe", [context, width], init=normal(0.02))
    x = gather(wte, tokens) + wpe
    for i in range(depth):
        x = block(x, name=f"h.{i}")
    logits = linear(layer_norm(x, name="ln_f"), vocab, bias=False, init=normal(0.02), name="head")
    return {"loss": cross_entropy(logits, targets), "logits": logits}


@train()
def recipe():
    return adamw(rate=constant(rate), weight_decay=0.01)
