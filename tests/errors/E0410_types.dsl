from mlc.optim import sgd

batch: dim = 4
width: dim = 8


def f(x: width):
    return x


def g(x: real[width, ...]):
    return x


def h(x: 3):
    return x


@model
def model(x: real[batch, width], t: i32[batch]):
    a = f(x)
    b = g(x)
    c = h(x)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
