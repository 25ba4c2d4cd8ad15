"""GPT-2, a pre-norm decoder-only transformer (Radford et al. 2019). Names and layouts as in Hugging Face's `gpt2`.

    mlc run examples/gpt2.dsl -D vocab=256 -D context=128 -D width=192 -D depth=4 -- --data book.txt --steps 300
"""
from mlc.attention import causal_attention
from mlc.losses import cross_entropy
from mlc.nn import dropout, gelu, layer_norm, linear
from mlc.optim import adamw
from mlc.rates import cosine

vocab: dim = 50257
context: dim = 1024
width: dim = 768
heads: dim = 12
depth: int = 12
batch: dim = 8              # sequences in one microbatch
drop: float = 0.0

rate: f32 = 6e-4            # options of the program: --rate, --warmup
warmup: f32 = 100.0


def dense(x: real[..., n], m: dim, *, std: float = 0.02):
    return linear(x, m, layout="in out", init=normal(std))


@layer
def block(x: real[batch, context, width]):
    residual = 0.02 / sqrt(2 * depth)
    q, k, v = split(dense(layer_norm(x, name="ln_1"), 3 * width, name="attn.c_attn"), 3, axis=-1)
    h = dense(causal_attention(q, k, v, heads=heads), width, std=residual, name="attn.c_proj")
    x = x + dropout(h, drop)
    h = gelu(dense(layer_norm(x, name="ln_2"), 4 * width, name="mlp.c_fc"), exact=False)
    return x + dropout(dense(h, width, std=residual, name="mlp.c_proj"), drop)


@model
def gpt2(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    wte = param("wte.weight", [vocab, width], init=normal(0.02))
    wpe = param("wpe.weight", [context, width], init=normal(0.01))
    x = dropout(gather(wte, tokens) + wpe, drop)
    for i in range(depth):
        x = block(x, name=f"h.{i}")
    logits = layer_norm(x, name="ln_f") @ transpose(wte)
    return {"loss": cross_entropy(logits, targets), "logits": logits}


@train(clip=1.0, precision=f32)
def recipe(p: parameter):
    decay = 0.1 if len(p.shape) > 1 else 0.0
    return adamw(rate=cosine(rate, warmup=warmup, floor=0.1 * rate), betas=(0.9, 0.95), weight_decay=decay)
