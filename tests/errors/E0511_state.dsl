from mlc.nn import linear

batch: dim = 4
width: dim = 8


@optimizer
def lost(p: f32[...], g: f32[p.shape], step: f32):
    m = state("m", p.shape)
    store("m", mean(m))
    store("n", m)
    store("n", m)
    return p - g


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(linear(x, 3))


@train()
def recipe(p: parameter):
    return lost()
