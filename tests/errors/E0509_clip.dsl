from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(linear(x, 3))


@train(clip=1e-60)
def recipe():
    return sgd(rate=0.1)
