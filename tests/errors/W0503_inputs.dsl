from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4


@model
def m(x: real[batch, 8], y: real[batch]):
    x = full([batch, 8], 1.0)
    return mean(linear(x, 1) ** 2.0)


@train()
def recipe():
    return sgd(rate=0.1)
