from mlc.optim import sgd

batch: dim = 4
width: dim = 8
rate: f32 = 1e39
decay: f32 = 1e-60
most: f32 = 10**300


@model
def model(x: real[batch, width]):
    return mean(x)


@train()
def recipe():
    return sgd(rate=rate)
