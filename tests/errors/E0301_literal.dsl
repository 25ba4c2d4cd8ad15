from mlc.optim import sgd

batch: dim = 4
deep: bool = true


@model
def model(x: real[batch]):
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
