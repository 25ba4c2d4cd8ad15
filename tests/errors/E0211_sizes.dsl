from mlc.optim import sgd

batch: dim = 4


@model
def m(x: real[batch, 8], i: i32[batch]):
    a = random_uniform([batch, 10 ** 30])
    b = random_normal([2 ** 17, 2 ** 17, 2])
    c = arange(10 ** 10)
    d = one_hot(i, 2 ** 31 + 1)
    e = full([2 ** 24, 2 ** 24, 2], 0.0)
    f = param("w", [10 ** 19], init=ones())
    g = full([2 ** 25], 1.0)[:, None] * full([2 ** 25], 1.0)
    h = argmax(full([2 ** 32], 0.0))
    k = top_k(full([batch, 2 ** 32], 0.0), 2)
    n = einsum("i,j->ij", full([2 ** 40], 0.0), full([2 ** 40], 0.0))
    p = arange(2 ** 31), random_uniform([2 ** 34]), full([2 ** 48], 0.0), argmax(full([2 ** 31], 0.0))
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
