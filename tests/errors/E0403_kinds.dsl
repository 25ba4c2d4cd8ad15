from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = reshape(x, width)
    b = sum(x, axis=x)
    c = cast(x, 3)
    d = param("w", [width], init=zeros)
    e = concat([])
    f = full([0, 3], 1.0)
    g = max(x, t)
    h = len(x)
    i = int(x)
    j = f"{x}"
    if width:
        k = 1
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
