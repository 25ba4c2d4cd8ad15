from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = width // 0
    b = sqrt(-1.0)
    c = log(0.0)
    d = 10.0 ** 1000
    e = (-8) ** 0.5
    f = t + 3000000000
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
