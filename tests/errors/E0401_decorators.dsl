from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@layer(3)
def f(x: real[...]):
    return x


@layer
@kernel
def g(x: real[...]):
    return x


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(x)


@train(clop=1.0)
def recipe():
    return sgd(rate=0.1)
