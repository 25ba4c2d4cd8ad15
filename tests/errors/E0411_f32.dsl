from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], h: f16[batch, width]):
    a = x * 1e39
    b = h + 70000.0
    c = x + inf
    d = x * 10**50
    return mean(x)


@train()
def recipe():
    return sgd(rate=-4e38)
