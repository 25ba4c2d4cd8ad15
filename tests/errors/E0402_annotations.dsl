from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@layer
def block(x: real[batch, width]):
    return x


def wrong(x: real[b, n]) -> real[n, b]:
    return x


def embed(table: real[_, n], rows: real[..., n]):
    return rows


@model
def model(x: real[batch, width], t: i32[batch]):
    a = linear(t, 3)
    b = block(x[:2])
    c = block(1.5)
    d: real[batch, 3] = x
    e = wrong(x)
    f = embed(full([2, 3, 4], 0.0), x)
    g = linear(x, 0)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
