from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    y = linear(x, 3)
    return {"loss": mean(y), "weight": mean(y)}


@train()
def recipe():
    return sgd(rate=0.1)
