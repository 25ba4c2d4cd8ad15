from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a, b = x
    c, d = split(x, 4, axis=-1)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
