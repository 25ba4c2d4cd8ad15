from mlc.optim import sgd

batch: dim = 4
width: dim = 8
temperature: f32 = 0.07
seed: f32 = 5.0
steps: f32 = 100.0
order: int = 2


@model
def model(x: real[batch, width]):
    return mean(x * param("w", [width], init=ones()) / temperature)


@train()
def recipe():
    return sgd(rate=seed / steps)
