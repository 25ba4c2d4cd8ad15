from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4


@layer
def gated(x: real[batch, 8]):
    unread = param("unread", [8], init=ones())
    scaled = x * unread
    return x * param("read", [8], init=ones())


@model
def m(x: real[batch, 8], y: real[batch]):
    d = linear(x, 8, name="dead")
    for n in range(6):
        x = gated(x, name=f"blocks.{n}")
    balance = param("balance", [8], init=zeros())
    accumulate(balance, sum(cast(x, f32), axis=0))
    fixed = param("fixed", [8], init=ones())
    h = x * stop_gradient(fixed)
    if not training:
        report("norm", mean(cast(x * param("shown", [8], init=ones()), f32)))
    else:
        z = param("shown", [8], init=ones())
    e = linear(h, 1, name="live")[:, 0] - y
    return {"loss": mean(e * e), "other": mean(linear(x, 3, name="metric"))}


@train()
def recipe():
    return sgd(rate=0.1)
