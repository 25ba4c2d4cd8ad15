from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = sum(x, axis=2)
    b = sum(x, axis=(0, 0))
    c = x[0, 0, 0]
    d = transpose(x, [0, 0])
    e = transpose(t)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
