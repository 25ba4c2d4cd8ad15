import numpy
from mlc.nn import *
from .nn import linear


class Model:
    def forward(self, x):
        return x


def f(x: real[...]):
    while x:
        x = x + 1
    try:
        pass
    except Error:
        raise Error
    with x:
        y = 1
    for i in range(3):
        break
    def g():
        return 1
    del x
    return x
