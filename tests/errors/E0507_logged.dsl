from mlc.optim import sgd

batch: dim = 4


@layer
def look(x: real[batch, 3]):
    w = param("w", [3], init=zeros())
    report("rate", mean(w))
    report("mean", mean(x))
    return x * w


@model
def classes(x: real[batch, 3]):
    y = look(x)
    return {"loss": mean(y * y), "tokens": mean(y), "mean": mean(x)}


@train()
def recipe():
    return sgd(rate=0.1)
