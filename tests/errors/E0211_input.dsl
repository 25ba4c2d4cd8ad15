from mlc.optim import sgd

batch: dim = 4


@model
def m(x: real[batch, 2 ** 50]):
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
