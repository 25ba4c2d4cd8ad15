from mlc.optim import sgd
from parts.option import scaled

batch: dim = 4
width: dim = 8
rate: f32 = 0.1


@model
def model(x: real[batch, width]):
    return mean(scaled(x * param("w", [width], init=ones())))


@train()
def recipe():
    return sgd(rate=rate)
