from mlc.losses import cross_entropy
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


def scaled(x: real[batch, width], heads: int):
    return x * (1.0 / heads)


@model
def model(x: real[batch, width], labels: i32[batch]):
    w = param("w", [width, width], init=ones())
    a = x * (1e308 * 10)
    b = scaled(x, heads=10**300 * 10**300)
    c = x * (inf - inf)
    d = scaled(x, heads=10**300)
    return cross_entropy(x @ w, labels, ignore=3000000000)


@train()
def recipe():
    return sgd(rate=0.1)
