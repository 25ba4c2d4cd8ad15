from mlc.nn import layer_norm, linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


def stack_of(x: real[..., n]):
    h = layer_norm(x, eps="small")
    return linear(h, n, init=3)


@model
def model(x: real[batch, width], t: i32[batch]):
    y = stack_of(x)
    return mean(y)


@train()
def recipe():
    return sgd(rate=0.1)
