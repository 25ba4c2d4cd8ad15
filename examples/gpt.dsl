"""A small GPT on the bytes of a text: the demo. Rotary positions, RMSNorm, no biases.

    mlc run examples/gpt.dsl -- --data book.txt --steps 300 --sample 400 --prompt "The "
"""
from mlc.attention import causal_attention, rotary_frequency
from mlc.losses import cross_entropy
from mlc.nn import gelu, linear, rms_norm
from mlc.optim import adamw
from mlc.rates import cosine

vocab: dim = 256            # bytes
context: dim = 128
width: dim = 192
heads: dim = 6
depth: int = 4
batch: dim = 16             # sequences in one microbatch

rate: f32 = 3e-3            # options of the program: --rate, --warmup
warmup: f32 = 20.0


def dense(x: real[..., n], m: dim):
    return linear(x, m, bias=False, init=normal(1 / sqrt(n)))


@layer
def block(x: real[batch, context, width]):
    q, k, v = split(dense(rms_norm(x, name="norm_1"), 3 * width, name="qkv"), 3, axis=-1)
    y = causal_attention(q, k, v, heads=heads, frequency=rotary_frequency(width // heads))
    x = x + linear(y, width, bias=False, init=zeros(), name="out")
    h = gelu(dense(rms_norm(x, name="norm_2"), 4 * width, name="up"), exact=False)
    return x + linear(h, width, bias=False, init=zeros(), name="down")


@model
def gpt(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    x = gather(param("embedding.weight", [vocab, width], init=normal(0.02)), tokens)
    for i in range(depth):
        x = block(x, name=f"blocks.{i}")
    logits = linear(rms_norm(x, name="norm"), vocab, bias=False, init=normal(0.02), name="head")
    return {"loss": cross_entropy(logits, targets), "logits": logits}


@train(clip=1.0)
def recipe(p: parameter):
    decay = 0.1 if len(p.shape) > 1 else 0.0
    return adamw(rate=cosine(rate, warmup=warmup, floor=0.1 * rate), betas=(0.9, 0.95), weight_decay=decay)
