from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = einsum("bn->", x, x)
    b = einsum("bb->b", x)
    c = einsum("bn->bm", x)
    d = einsum("bnm->b", x)
    e = einsum("bn", x)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
