from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a, b, c = split(x, 3, axis=-1)
    d, e = split(x, [2, 3], axis=-1)
    f = concat([x, full([3, 3], 0.0)], axis=0)
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
