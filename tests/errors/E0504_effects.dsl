from mlc.optim import sgd

batch: dim = 4
width: dim = 8


@model
def model(x: real[batch, width], t: i32[batch]):
    report("loss.x", x)
    add_loss("a", mean(x))
    add_loss("a", mean(x))
    p = param("p", [width], init=zeros())
    accumulate(2.0 * p, mean(x, axis=0))
    accumulate(p, mean(x))
    return mean(x + p)


@train()
def recipe():
    return sgd(rate=0.1)
