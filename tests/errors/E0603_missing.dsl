from mlc.optim import sgd

batch: dim
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
