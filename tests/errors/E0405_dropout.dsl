from mlc.nn import dropout
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width]):
    y = dropout(x, 1.0)
    return mean(y)


@train()
def recipe():
    return sgd(rate=0.1)
