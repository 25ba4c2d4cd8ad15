"""ALBERT: one block used by every layer, factorized embedding, masked-token loss. Names as in Hugging Face's albert.

    mlc run examples/albert.dsl -D vocab=256 -D context=64 -D embedded=32 -D width=64 -D heads=4 -D depth=3 -- --data book.txt --steps 100
"""
from mlc.attention import attention
from mlc.losses import cross_entropy
from mlc.nn import dropout, gelu, layer_norm, linear
from mlc.optim import adamw
from mlc.rates import cosine

vocab: dim = 30000
context: dim = 512
embedded: dim = 128
width: dim = 768
heads: dim = 12
depth: int = 12
batch: dim = 8
masked: float = 0.15
mask_token: int = 4
pad_token: int = 0
drop: float = 0.1

rate: f32 = 1.76e-3


def dense(x: real[..., n], m: dim):
    return linear(x, m, init=normal(0.02))


def self_attention(x: real[b, t, n], seen: bool[b, t]):
    q = reshape(dense(x, n, name="query"), [b, t, heads, n // heads])
    k = reshape(dense(x, n, name="key"), [b, t, heads, n // heads])
    v = reshape(dense(x, n, name="value"), [b, t, heads, n // heads])
    y = dense(reshape(attention(q, k, v, mask=seen), x.shape), n, name="dense")
    return layer_norm(x + dropout(y, drop), eps=1e-12, name="LayerNorm")


@layer
def block(x: real[batch, context, width], seen: bool[batch, context]):
    x = self_attention(x, seen, name="attention")
    h = dense(gelu(dense(x, 4 * width, name="ffn"), exact=False), width, name="ffn_output")
    return layer_norm(x + dropout(h, drop), eps=1e-12, name="full_layer_layer_norm")


def corrupt(tokens: i32[b, t]):
    """Of the masked tokens, 80% become the mask token, 10% a random one, 10% stay."""
    chosen = (random_uniform(tokens.shape) < masked) & (tokens != pad_token)
    how = random_uniform(tokens.shape)
    other = cast(random_uniform(tokens.shape) * vocab, i32)
    shown = select(how < 0.8, mask_token, select(how < 0.9, other, tokens))
    return select(chosen, shown, tokens), select(chosen, tokens, -100)


@model
def albert(tokens: i32[batch, context]):
    inputs, targets = corrupt(tokens)
    seen = tokens != pad_token
    words = param("albert.embeddings.word_embeddings.weight", [vocab, embedded], init=normal(0.02))
    positions = param("albert.embeddings.position_embeddings.weight", [context, embedded], init=normal(0.02))
    x = layer_norm(gather(words, inputs) + positions, eps=1e-12, name="albert.embeddings.LayerNorm")
    x = dense(dropout(x, drop), width, name="albert.encoder.embedding_hidden_mapping_in")
    for _ in range(depth):
        x = block(x, seen, share="albert.encoder.albert_layer_groups.0.albert_layers.0")
    h = layer_norm(gelu(dense(x, embedded, name="predictions.dense"), exact=False), eps=1e-12, name="predictions.LayerNorm")
    logits = h @ transpose(words) + param("predictions.bias", [vocab], init=zeros())
    counted = sum(cast(targets != -100, f32))
    return {"loss": cross_entropy(logits, targets, ignore=-100), "weight": counted, "logits": logits}


@train(clip=1.0, precision=bf16)
def recipe():
    return adamw(rate=cosine(rate, warmup=3125.0), weight_decay=0.01)
