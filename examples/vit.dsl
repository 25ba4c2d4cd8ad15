"""ViT-B/16 for image classification. Names as in Hugging Face's vit.

    mlc run examples/vit.dsl -D size=32 -D patch=8 -D width=64 -D heads=4 -D depth=2 -D classes=10 -- --data images=images.npy --data labels=labels.npy --steps 100

Data: images f32 [rows, 3, 32, 32], labels i32 [rows].
"""
from mlc.attention import attention
from mlc.losses import cross_entropy
from mlc.nn import dropout, gelu, layer_norm, linear
from mlc.optim import adamw
from mlc.rates import cosine

size: dim = 224
patch: dim = 16
channels: dim = 3
width: dim = 768
heads: dim = 12
depth: int = 12
classes: dim = 1000
batch: dim = 32
drop: float = 0.1

rate: f32 = 3e-3

grid: dim = size // patch
length: dim = grid * grid + 1


def dense(x: real[..., n], m: dim):
    return linear(x, m, init=normal(0.02))


def self_attention(x: real[b, t, n]):
    q = reshape(dense(x, n, name="attention.query"), [b, t, heads, n // heads])
    k = reshape(dense(x, n, name="attention.key"), [b, t, heads, n // heads])
    v = reshape(dense(x, n, name="attention.value"), [b, t, heads, n // heads])
    return dense(reshape(attention(q, k, v), x.shape), n, name="output.dense")


@layer
def block(x: real[batch, length, width]):
    x = x + dropout(self_attention(layer_norm(x, eps=1e-12, name="layernorm_before"), name="attention"), drop)
    h = gelu(dense(layer_norm(x, eps=1e-12, name="layernorm_after"), 4 * width, name="intermediate.dense"))
    return x + dropout(dense(h, width, name="output.dense"), drop)


@layer
def embed(images: real[batch, channels, size, size]):
    """A convolution whose stride is its kernel is a matrix product over patches; its weight keeps the shape [out, in, y, x]."""
    assert size % patch == 0, f"size {size} is not a multiple of patch {patch}"
    x = transpose(reshape(images, [batch, channels, grid, patch, grid, patch]), [0, 2, 4, 1, 3, 5])
    x = reshape(x, [batch, grid * grid, channels * patch * patch])
    w = param("patch_embeddings.projection.weight", [width, channels, patch, patch], init=normal(0.02))
    b = param("patch_embeddings.projection.bias", [width], init=zeros())
    x = x @ transpose(reshape(w, [width, channels * patch * patch])) + b
    first = broadcast(param("cls_token", [1, 1, width], init=normal(0.02)), [batch, 1, width])
    x = concat([first, x], axis=1) + param("position_embeddings", [1, length, width], init=normal(0.02))
    return dropout(x, drop)


@model
def vit(images: real[batch, channels, size, size], labels: i32[batch]):
    x = embed(images, name="vit.embeddings")
    for i in range(depth):
        x = block(x, name=f"vit.encoder.layer.{i}")
    logits = dense(layer_norm(x, eps=1e-12, name="vit.layernorm")[:, 0], classes, name="classifier")
    right = mean(cast(argmax(logits, axis=-1) == labels, f32))
    return {"loss": cross_entropy(logits, labels), "accuracy": right, "logits": logits}


@train(clip=1.0, precision=bf16)
def recipe(p: parameter):
    decay = 0.3 if len(p.shape) > 1 and not glob(p.name, "*cls_token", "*position_embeddings") else 0.0
    return adamw(rate=cosine(rate, warmup=10000.0), weight_decay=decay)
