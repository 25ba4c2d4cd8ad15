from mlc.nn import linear
from mlc.optim import sgd
batch: dim = 4
@model
def m(x: real[batch, 8], labels: i32[batch]):
    lp = linear(x, 5)
    lp = lp - logsumexp(lp, axis=-1, keepdims=True)
    kept = labels != -100
    safe = select(kept, labels, 0)
    nll = -take_along(lp, safe[:, None], axis=-1)[:, 0]
    return sum(select(kept, nll, 0.0)) * (1.0 / maximum(sum(cast(kept, f32)), 1.0))
@train()
def recipe():
    return sgd(rate=0.1)
