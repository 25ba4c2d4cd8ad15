from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    if mean(x) > 0.0:
        x = -x
    y = x if t > 3 else -x
    assert mean(x) > 0.0
    z = t > 3 and t < 5
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
