from mlc.optim import sgd

batch: dim = 4


@model
def m(x: real[batch, 8]):
    text = "a"
    for i in range(30):
        text = text + text
    names = ["a"]
    for i in range(30):
        names = [names, names]
    for i in range(1000000):
        y = x
    wide = x
    for i in range(40):
        wide = wide[None]
    parts = split(full([1000000], 0.0), 1000000)
    for i in range(1000):
        for j in range(1000):
            for k in range(1000):
                n = i
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
