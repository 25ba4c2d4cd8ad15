from mlc.optim import sgd
from mlc.rates import ramp

batch: dim = 4
width: dim = 8
beta: f32 = 0.1


@model
def model(x: real[batch, width], beta: f32 = ramp(1.0, over=10.0)):
    return mean(beta * x * param("w", [width], init=ones()))


@train()
def recipe():
    return sgd(rate=0.1)
