from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    sizes = [1, 2, 3]
    a = sizes[3]
    b = x.shape[2]
    c = {"a": 1}["b"]
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
