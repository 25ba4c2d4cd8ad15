from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    sum = x + 1.0
    y = sum(x)
    z = width(3)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
