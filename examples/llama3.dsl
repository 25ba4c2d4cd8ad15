"""Llama 3.1: RMSNorm, rotary positions with long-context scaling, grouped-query attention, SwiGLU. Names as in Hugging Face's llama.

    mlc run examples/llama3.dsl -D vocab=256 -D context=64 -D width=128 -D hidden=384 -D heads=4 -D kv_heads=2 -D depth=2 -D batch=8 -- --data book.txt --steps 100
"""
from mlc.attention import causal_attention, rotary_frequency
from mlc.losses import cross_entropy
from mlc.nn import embedding, linear, rms_norm, swiglu
from mlc.optim import adamw
from mlc.rates import cosine

vocab: dim = 128256
context: dim = 8192
width: dim = 4096
hidden: dim = 14336
heads: dim = 32
kv_heads: dim = 8
depth: int = 32
batch: dim = 1
tied: bool = False
theta: float = 500000.0
stretch: float = 8.0        # how far positions reach beyond `trained`
trained: float = 8192.0

rate: f32 = 3e-4


def llama_frequency(d: dim):
    """Low frequencies are divided by `stretch`, high ones kept, those between blended (Llama 3.1)."""
    f = rotary_frequency(d, theta=theta)
    turns = f * (trained / (2.0 * pi))
    blend = minimum(maximum((turns - 1.0) / 3.0, 0.0), 1.0)
    return f * (blend + (1.0 - blend) / stretch)


def dense(x: real[..., n], m: dim):
    return linear(x, m, bias=False, init=normal(0.02))


@layer
def block(x: real[batch, context, width]):
    h = rms_norm(x, eps=1e-5, name="input_layernorm")
    q = dense(h, width, name="self_attn.q_proj")
    k = dense(h, kv_heads * (width // heads), name="self_attn.k_proj")
    v = dense(h, kv_heads * (width // heads), name="self_attn.v_proj")
    h = causal_attention(q, k, v, heads=heads, frequency=llama_frequency(width // heads))
    x = x + dense(h, width, name="self_attn.o_proj")
    return x + swiglu(rms_norm(x, eps=1e-5, name="post_attention_layernorm"), hidden, init=normal(0.02), name="mlp")


@layer
def embed(tokens: i32[batch, context], table: real[vocab, width]):
    return gather(table, tokens)


@layer
def head(x: real[batch, context, width], table: real[vocab, width], targets: i32[batch, context]):
    logits = rms_norm(x, eps=1e-5, name="norm") @ transpose(table)
    return cross_entropy(logits, targets), logits


@model
def llama(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    table = param("model.embed_tokens.weight", [vocab, width], init=normal(0.02))
    x = embed(tokens, table)
    for i in range(depth):
        x = block(x, name=f"model.layers.{i}")
    if not tied:
        table = param("lm_head.weight", [vocab, width], init=normal(0.02))
    loss, logits = head(x, table, targets, name="model")
    return {"loss": loss, "logits": logits}


@train(clip=1.0, precision=bf16)
def recipe():
    return adamw(rate=cosine(rate, warmup=2000.0, floor=0.1 * rate), betas=(0.9, 0.95), weight_decay=0.1)
