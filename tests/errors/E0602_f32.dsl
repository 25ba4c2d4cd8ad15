# -D rate=1e39 -D decay=1e-60
from mlc.optim import sgd

batch: dim = 4
width: dim = 8
rate: f32 = 0.1
decay: f32 = 0.1


@model
def model(x: real[batch, width]):
    return mean(x)


@train()
def recipe():
    return sgd(rate=rate)
