"""Max over the first `taps` slices of a side x side window, by maximum."""
from mlc.optim import sgd
batch: dim = 4
size: dim = 16
c: dim = 8
taps: int = 3
side: int = 3
@model
def m(x: real[batch, size, size, c], y: real[batch]):
    w = param("w", [c, c], init=ones())
    h = x @ w
    p = h[:, :size - side + 1, :size - side + 1]
    for k in range(1, taps):
        i = k // side
        j = k % side
        p = maximum(p, h[:, i:i + size - side + 1, j:j + size - side + 1])
    e = mean(p, axis=(1, 2, 3)) - y
    return mean(e * e)
@train()
def recipe():
    return sgd(rate=0.0001)
