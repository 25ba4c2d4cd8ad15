from mlc.optim import sgd

batch: dim = 4
width: dim = 8
depth: i32 = 3
half: dim = 0.5
none: dim = 8 // 9
name: str = 3
rate: f32 = "fast"


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
