from mlc.optim import sgd

batch: dim = 4
width: dim = 8


def scaled(x: real[batch, widht]):
    return 2.0 * x


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(scaled(x))


@train()
def recipe():
    return sgd(rate=0.1)
