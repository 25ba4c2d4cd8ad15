from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@kernel
def scale(x: real[..., n]):
    return x * param("scale", [n], init=ones())


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(scale(x))


@train()
def recipe():
    return sgd(rate=0.1)
