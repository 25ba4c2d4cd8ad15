batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    a = ~x
    b = x // 2.0
    c = t / 2
    d = exp(t)
    e = (x > 0.0) + (x > 1.0)
    return mean(x)


@train()
def recipe():
    return None
