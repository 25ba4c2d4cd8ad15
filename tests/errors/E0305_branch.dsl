from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    if not training:
        y = 2.0 * x
    if training:
        z = x
    return mean(y + z)


@train()
def recipe():
    return sgd(rate=0.1)
