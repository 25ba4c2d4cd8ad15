from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


def half(x: real[..., n]):
    assert n % 16 == 0, f"wants a multiple of 16, got {n}"
    return x


@model
def model(x: real[batch, width], t: i32[batch]):
    a = half(x)
    b = linear(x, 3, layout="in-out")
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
