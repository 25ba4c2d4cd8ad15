from mlc.nm import linear
from parts.missing import block
from nn import gelu

from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(linear(x, 1))


@train()
def recipe():
    return sgd(rate=0.1)
