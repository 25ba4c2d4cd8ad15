"""State across steps without mutable state in the forward pass: running statistics, and an average of the weights.

    mlc run examples/state.dsl -- --data x=x.npy --data y=y.npy --steps 100

Data: x f32 [rows, 8], y f32 [rows].
"""
from mlc.losses import mean_squared_error
from mlc.nn import linear
from mlc.optim import adamw

inputs: dim = 8
width: dim = 32
batch: dim = 16
rate: f32 = 1e-3


def batch_norm(x: real[b, n], *, eps: float = 1e-5):
    running_mean = param("running_mean", [n], init=zeros(), dtype=f32)
    running_var = param("running_var", [n], init=ones(), dtype=f32)
    h = cast(x, f32)
    if training:
        m = mean(h, axis=0)
        v = mean((h - m) ** 2, axis=0)
        accumulate(running_mean, m)
        accumulate(running_var, v)
    else:
        m = running_mean
        v = running_var
    h = (h - m) * rsqrt(v + eps) * param("weight", [n], init=ones(), dtype=f32)
    return cast(h + param("bias", [n], init=zeros(), dtype=f32), x.dtype)


@model
def regression(x: real[batch, inputs], y: real[batch]):
    h = maximum(batch_norm(linear(x, width, name="up"), name="norm"), 0.0)
    return mean_squared_error(linear(h, 1, name="out")[:, 0], y)


@optimizer
def follow(p: f32[...], g: f32[p.shape], step: f32, *, keep: f32):
    """For parameters fed by accumulate: g is the mean of what the step's microbatches gave."""
    return keep * p + (1.0 - keep) * g


@optimizer
def averaged(p: f32[...], g: f32[p.shape], step: f32, *, rate: f32, keep: f32 = 0.999):
    new = adamw(rate=rate)
    average = state("average", p.shape)
    store("average", select(step == 0.0, new, keep * average + (1.0 - keep) * new))
    return new


@train()
def recipe(p: parameter):
    if glob(p.name, "*.running_*"):
        return follow(keep=0.9)
    return averaged(rate=rate)
