from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = x.shpae
    b = x.transpose()
    c = width.size
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
