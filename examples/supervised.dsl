"""Many losses: a variational encoder whose every layer also predicts the label (deep supervision), with a reconstruction
loss, a KL term whose weight grows over time, and a contrastive loss between two noisy views of the same row.

    mlc run examples/supervised.dsl -- --data x=x.npy --data labels=labels.npy --steps 100

Data: x f32 [rows, 64], labels i32 [rows].
"""
from mlc.losses import cross_entropy, mean_squared_error
from mlc.nn import gelu, layer_norm, linear
from mlc.optim import adamw
from mlc.rates import cosine, ramp

inputs: dim = 64
width: dim = 128
latent: dim = 16
classes: dim = 10
depth: int = 4
batch: dim = 128
noise: float = 0.1
temperature: float = 0.1
side_weight: float = 0.3

rate: f32 = 1e-3


@layer
def block(x: real[_, width], labels: i32[batch]):
    x = x + linear(gelu(linear(layer_norm(x, name="norm"), 4 * width, name="up")), width, name="down")
    side = linear(layer_norm(x[:batch], name="side.norm"), classes, name="side.out")
    add_loss("side", side_weight / depth * cross_entropy(side, labels))
    return x


def contrast(a: real[b, n], c: real[b, n]):
    """InfoNCE within the microbatch: row i of a belongs to row i of c."""
    a = a * rsqrt(sum(a * a, axis=-1, keepdims=True) + 1e-6)
    c = c * rsqrt(sum(c * c, axis=-1, keepdims=True) + 1e-6)
    return cross_entropy(a @ transpose(c) / temperature, arange(b))


@model
def supervised(x: real[batch, inputs], labels: i32[batch], beta: f32 = ramp(1.0, over=1000.0)):
    views = concat([x + noise * cast(random_normal(x.shape), real), x + noise * cast(random_normal(x.shape), real)], axis=0)
    h = linear(views, width, name="embed")
    for i in range(depth):
        h = block(h, labels, name=f"blocks.{i}")

    h1, h2 = split(h, 2, axis=0)
    mu, log_var = split(cast(linear(h1, 2 * latent, name="posterior"), f32), 2, axis=-1)
    z = mu
    if training:
        z = mu + exp(0.5 * log_var) * random_normal(mu.shape)
    kl = mean(sum(0.5 * (exp(log_var) + mu * mu - 1.0 - log_var), axis=-1))

    decoded = linear(gelu(linear(cast(z, real), width, name="decode.up")), inputs, name="decode.out")
    logits = linear(cast(z, real), classes, name="classify")
    add_loss("reconstruction", mean_squared_error(decoded, x))
    add_loss("kl", beta * kl)
    add_loss("contrast", 0.1 * contrast(h1, h2))
    report("accuracy", mean(cast(argmax(logits, axis=-1) == labels, f32)))
    return cross_entropy(logits, labels)


@train(clip=1.0)
def recipe():
    return adamw(rate=cosine(rate, warmup=200.0), weight_decay=0.01)
