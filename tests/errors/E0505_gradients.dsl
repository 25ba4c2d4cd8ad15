from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    p = param("p", [width], init=zeros())
    accumulate(p, mean(x, axis=0))
    return mean(x * p)


@train()
def recipe():
    return sgd(rate=0.1)
