from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = x + t
    b = t * 0.5
    c = mean(t)
    d = cast(x, bf16) * x
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
