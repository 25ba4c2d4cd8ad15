from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = linear(x)
    b = linear(x, 1, 2)
    c = linear(x, 1, bais=False)
    d = linear(x, 1, m=2)
    e = softmax(x, dim=1)
    f = gather(x)
    g = exp(x, x)
    h = linear(x, 1, name="a", share="a")
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
