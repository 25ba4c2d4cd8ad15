from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    y = sgd(rate=0.1)
    return mean(linear(x, 3))


@train()
def recipe(p: parameter):
    return 0.1
