"""A multilayer perceptron: regression on rows of numbers.

    mlc run examples/mlp.dsl -- --data x=x.npy --data y=y.npy --steps 200

Data: x f32 [rows, 8], y f32 [rows, 1].
"""
from mlc.losses import mean_squared_error
from mlc.nn import gelu, linear
from mlc.optim import adamw
from mlc.rates import cosine

inputs: dim = 8
outputs: dim = 1
width: dim = 64
depth: int = 2
batch: dim = 32

rate: f32 = 3e-3


@model
def mlp(x: real[batch, inputs], y: real[batch, outputs]):
    h = x
    for i in range(depth):
        h = gelu(linear(h, width, name=f"hidden.{i}"))
    return mean_squared_error(linear(h, outputs, name="out"), y)


@train(clip=1.0)
def recipe():
    return adamw(rate=cosine(rate, warmup=10.0), weight_decay=0.01)
