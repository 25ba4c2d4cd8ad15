from mlc.optim import sgd

batch: dim = 4
width: dim = 8


def down(x: real[...], n: int):
    return up(x, n - 1)


def up(x: real[...], n: int):
    if n == 0:
        return x
    return down(x, n)


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(down(x, 3))


@train()
def recipe():
    return sgd(rate=0.1)
