"""A GPT of transformer blocks in which each block of the first half sends its output to its mirror in the second half: the first
skip lives through the whole depth, and every cut carries several states.
"""
from mlc.attention import causal_attention
from mlc.losses import cross_entropy
from mlc.nn import gelu, layer_norm, linear
from mlc.optim import adamw
from mlc.rates import constant

vocab: dim = 256
context: dim = 16
width: dim = 32
heads: dim = 2
depth: int = 12             # even
batch: dim = 2
tied: bool = False          # the first and the last place share the embedding

rate: f32 = 1e-3


@layer
def block(x: real[batch, context, width]):
    q, k, v = split(linear(layer_norm(x, name="norm_1"), 3 * width, name="qkv"), 3, axis=-1)
    x = x + linear(causal_attention(q, k, v, heads=heads), width, name="out")
    return x + linear(gelu(linear(layer_norm(x, name="norm_2"), 4 * width, name="up")), width, name="down")


@layer
def join(x: real[batch, context, width], skip: real[batch, context, width]):
    return linear(concat([x, skip], axis=-1), width)


@model
def skips(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    table = param("embedding.weight", [vocab, width], init=normal(0.02))
    x = gather(table, tokens)
    held = []
    for i in range(depth // 2):
        x = block(x, name=f"down.{i}")
        held = held + [x]
    for i in range(depth // 2):
        x = block(join(x, held[depth // 2 - 1 - i], name=f"join.{i}"), name=f"up.{i}")
    x = layer_norm(x, name="norm")
    if tied:
        logits = x @ transpose(table)
    else:
        logits = linear(x, vocab, bias=False, init=normal(0.02), name="head")
    return {"loss": cross_entropy(logits, targets), "logits": logits}


@train(clip=1.0)
def recipe():
    return adamw(rate=constant(rate), weight_decay=0.1)
