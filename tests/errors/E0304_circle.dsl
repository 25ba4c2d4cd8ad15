from parts.first import one

from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(one(x))


@train()
def recipe():
    return sgd(rate=0.1)
