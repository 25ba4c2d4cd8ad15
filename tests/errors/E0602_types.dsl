# -D width=0 -D batch=many -D flag=maybe -D share=x
from mlc.optim import sgd

batch: dim = 4
width: dim = 8
flag: bool = True
share: float = 0.5


@model
def model(x: real[batch, width], t: i32[batch]):
    return mean(x)


@train()
def recipe():
    return sgd(rate=0.1)
