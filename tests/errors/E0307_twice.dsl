from mlc.optim import sgd

batch: dim = 4
width: dim = 8


def width(x: real[...]):
    return x


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
