from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = x[4]
    b = x[:, 2:20]
    c = x[:, 3:3]
    d = x[:, ::-1]
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
