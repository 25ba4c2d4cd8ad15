"""A U-Net of transformer blocks without convolution, trained to predict the noise in an image. Every level of the way
down is joined to its level of the way up, so the first skip lives through the whole depth.

    mlc run examples/unet.dsl -D size=16 -D width=32 -D levels=2 -D depth=1 -D head=16 -- --data images=images.npy --steps 100

Data: images f32 [rows, 3, 16, 16].
"""
from mlc.attention import attention
from mlc.losses import mean_squared_error
from mlc.nn import layer_norm, linear, swiglu
from mlc.optim import adamw
from mlc.rates import constant

size: dim = 64
channels: dim = 3
patch: dim = 2
width: dim = 128            # of the first level; each level doubles it
levels: int = 3
depth: int = 2              # blocks a level, each way
head: dim = 32
batch: dim = 16

rate: f32 = 2e-4


def self_attention(x: real[b, t, n]):
    q, k, v = split(linear(x, 3 * n, bias=False, name="qkv"), 3, axis=-1)
    shape = [b, t, n // head, head]
    y = attention(reshape(q, shape), reshape(k, shape), reshape(v, shape))
    return linear(reshape(y, [b, t, n]), n, name="out")


def modulated(x: real[b, t, n], time: real[b, m]):
    scale, shift = split(linear(time, 2 * n, init=zeros(), name="modulation"), 2, axis=-1)
    return layer_norm(x, bias=False, name="norm") * (1.0 + scale[:, None, :]) + shift[:, None, :]


@layer
def block(x: real[batch, t, n], time: real[batch, width]):
    x = x + self_attention(modulated(x, time, name="attention"), name="attention")
    return x + swiglu(modulated(x, time, name="mlp"), 2 * n, name="mlp")


@layer
def merge(x: real[batch, t, n], side: dim):
    """Four neighbouring cells become one of twice the width."""
    assert side * side == t and side % 2 == 0, f"{t} cells are not an even square of side {side}"
    x = transpose(reshape(x, [batch, side // 2, 2, side // 2, 2, n]), [0, 1, 3, 2, 4, 5])
    return linear(reshape(x, [batch, t // 4, 4 * n]), 2 * n)


@layer
def expand(x: real[batch, t, n], skip: real[batch, 4 * t, n // 2], side: dim):
    """One cell becomes four of half the width, joined with what the way down left here."""
    x = reshape(linear(x, 2 * n, name="up"), [batch, side, side, 2, 2, n // 2])
    x = reshape(transpose(x, [0, 1, 3, 2, 4, 5]), skip.shape)
    return linear(concat([x, skip], axis=-1), n // 2, name="join")


def features(time: f32[b], m: dim):
    angle = time[:, None] * 1000.0 * 10000.0 ** (cast(arange(m // 2), f32) * (-2.0 / m))
    return concat([cos(angle), sin(angle)], axis=-1)


@model
def unet(images: real[batch, channels, size, size]):
    time = random_uniform([batch])
    noise = random_normal(images.shape)
    mix = (0.5 * pi * time)[:, None, None, None]
    noisy = cast(cos(mix) * cast(images, f32) + sin(mix) * noise, real)

    side = size // patch
    x = transpose(reshape(noisy, [batch, channels, side, patch, side, patch]), [0, 2, 4, 1, 3, 5])
    x = linear(reshape(x, [batch, side * side, channels * patch * patch]), width, name="patches")
    x = x + param("position", [side * side, width], init=normal(0.02))
    time = linear(cast(features(time, width), real), width, name="time")

    skips = []
    for level in range(levels):
        for i in range(depth):
            x = block(x, time, name=f"down.{level}.{i}")
        skips = skips + [x]
        x = merge(x, side // 2 ** level, name=f"down.{level}.merge")
    for i in range(depth):
        x = block(x, time, name=f"middle.{i}")
    for level in range(levels - 1, -1, -1):
        x = expand(x, skips[level], side // 2 ** (level + 1), name=f"up.{level}.expand")
        for i in range(depth):
            x = block(x, time, name=f"up.{level}.{i}")

    x = linear(layer_norm(x, name="norm"), channels * patch * patch, init=zeros(), name="pixels")
    x = transpose(reshape(x, [batch, side, side, channels, patch, patch]), [0, 3, 1, 4, 2, 5])
    return mean_squared_error(reshape(x, images.shape), noise)


@train(clip=1.0)
def recipe():
    return adamw(rate=constant(rate, warmup=1000.0), weight_decay=0.0)
