from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = "a" - 1
    b = x == None
    c = width & 3
    d = x + "a"
    e = -"a"
    f = width is 3
    g = x[t]
    h = True & False
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
