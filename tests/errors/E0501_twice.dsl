from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@layer
def block(x: real[batch, width]):
    return linear(x, width)


@model
def model(x: real[batch, width], t: i32[batch]):
    y = linear(x, 3) + linear(x, 3)
    for i in range(3):
        x = block(x, name="h")
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
