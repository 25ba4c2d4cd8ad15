"""T5, an encoder-decoder with relative position bias and tied embeddings. Names as in Hugging Face's t5.

    mlc run examples/t5.dsl -D vocab=256 -D source_length=64 -D target_length=32 -D width=64 -D head=16 -D heads=4 -D hidden=128 -D depth=2 -- --data source=source.npy --data target=target.npy --steps 100

Data: source i32 [rows, 64], target i32 [rows, 32].
"""
from mlc.attention import attention
from mlc.losses import cross_entropy
from mlc.nn import dropout, linear, rms_norm
from mlc.optim import adamw
from mlc.rates import cosine

vocab: dim = 32128
source_length: dim = 512
target_length: dim = 128
width: dim = 512
head: dim = 64
heads: dim = 8
hidden: dim = 2048
depth: int = 6
buckets: dim = 32
reach: float = 128.0        # distance at which buckets end
batch: dim = 8
pad: int = 0
drop: float = 0.1

rate: f32 = 1e-3


def dense(x: real[..., n], m: dim, *, std: float):
    return linear(x, m, bias=False, init=normal(std))


def position_bias(t: dim, *, both_ways: bool):
    """One learned number a head and bucket of distance. Depends on parameters only, so no stage sends it."""
    table = param("relative_attention_bias.weight", [buckets, heads], init=normal(1 / sqrt(width)), dtype=f32)
    distance = arange(t)[:, None] - arange(t)
    half = buckets // 2 if both_ways else buckets
    far = abs(distance) if both_ways else maximum(distance, 0)
    exact = half // 2
    log_far = exact + cast(log(cast(maximum(far, 1), f32) / exact) / log(reach / exact) * (half - exact), i32)
    bucket = select(far < exact, far, minimum(log_far, half - 1))
    if both_ways:
        bucket = bucket + select(distance < 0, half, 0)
    return transpose(gather(table, bucket), [2, 0, 1])


def attend(x: real[b, t, n], memory: real[b, s, n], *, bias: f32[heads, t, s] = None, mask: bool[b, s] = None, causal: bool = False):
    inner = heads * head
    q = reshape(dense(x, inner, std=1 / sqrt(n * head), name="q"), [b, t, heads, head])
    k = reshape(dense(memory, inner, std=1 / sqrt(n), name="k"), [b, s, heads, head])
    v = reshape(dense(memory, inner, std=1 / sqrt(n), name="v"), [b, s, heads, head])
    y = attention(q, k, v, scale=1.0, bias=bias, mask=mask, causal=causal)
    return dense(reshape(y, [b, t, inner]), n, std=1 / sqrt(inner), name="o")


def feed_forward(x: real[..., n]):
    h = maximum(dense(x, hidden, std=1 / sqrt(n), name="wi"), 0.0)
    return dense(dropout(h, drop), n, std=1 / sqrt(hidden), name="wo")


@layer
def encode(x: real[batch, source_length, width], seen: bool[batch, source_length], bias: f32[heads, source_length, source_length]):
    h = rms_norm(x, name="layer.0.layer_norm")
    x = x + dropout(attend(h, h, bias=bias, mask=seen, name="layer.0.SelfAttention"), drop)
    return x + dropout(feed_forward(rms_norm(x, name="layer.1.layer_norm"), name="layer.1.DenseReluDense"), drop)


@layer
def decode(
    x: real[batch, target_length, width],
    memory: real[batch, source_length, width],
    seen: bool[batch, source_length],
    bias: f32[heads, target_length, target_length],
):
    h = rms_norm(x, name="layer.0.layer_norm")
    x = x + dropout(attend(h, h, bias=bias, causal=True, name="layer.0.SelfAttention"), drop)
    h = rms_norm(x, name="layer.1.layer_norm")
    x = x + dropout(attend(h, memory, mask=seen, name="layer.1.EncDecAttention"), drop)
    return x + dropout(feed_forward(rms_norm(x, name="layer.2.layer_norm"), name="layer.2.DenseReluDense"), drop)


@model
def t5(source: i32[batch, source_length], target: i32[batch, target_length]):
    shared = param("shared.weight", [vocab, width], init=normal(1.0))
    seen = source != pad

    bias = position_bias(source_length, both_ways=True, name="encoder.block.0.layer.0.SelfAttention")
    x = dropout(gather(shared, source), drop)
    for i in range(depth):
        x = encode(x, seen, bias, name=f"encoder.block.{i}")
    memory = dropout(rms_norm(x, name="encoder.final_layer_norm"), drop)

    bias = position_bias(target_length, both_ways=False, name="decoder.block.0.layer.0.SelfAttention")
    shifted = concat([full([batch, 1], pad, dtype=i32), target[:, :-1]], axis=1)
    y = dropout(gather(shared, shifted), drop)
    for i in range(depth):
        y = decode(y, memory, seen, bias, name=f"decoder.block.{i}")
    y = dropout(rms_norm(y, name="decoder.final_layer_norm"), drop)

    logits = y @ transpose(shared) * (1 / sqrt(width))
    counted = sum(cast(target != pad, f32))
    return {"loss": cross_entropy(logits, target, ignore=pad, z=1e-4), "weight": counted, "logits": logits}


@train(clip=1.0, precision=bf16)
def recipe():
    return adamw(rate=cosine(rate, warmup=1000.0), weight_decay=0.0)
