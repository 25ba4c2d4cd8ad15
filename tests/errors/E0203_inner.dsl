from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    w = full([3, width], 0.5)
    y = x @ w
    z = einsum("bn,nm->bm", x, w)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
