from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    y = x + full([3], 1.0)
    z = x + linear(x, 1)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
