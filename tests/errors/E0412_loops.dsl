from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    for i in width:
        y = x
    for row in x:
        y = x
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
