"""The library's optimizers and rates, in double precision, against PyTorch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mlc.elaborate import elaborate, file_library  # noqa: E402
from mlc.ir.program import Program  # noqa: E402
from mlc.ops import OPS  # noqa: E402
from mlc.syntax.parser import parse  # noqa: E402
from oracles import chain, optimizers  # noqa: E402

pytestmark = pytest.mark.peers

MODEL = '''"""One matrix and one vector."""
from mlc.optim import adamw, lion, muon, sgd
from mlc.rates import constant, cosine, linear, wsd

batch: dim = 4
rate: f32 = 0.03


@model
def line(x: real[batch, 5]):
    a = param("a", [{rows}, 5], init=zeros())
    return mean(x @ transpose(a))


@train()
def recipe():
    return {rule}
'''

OPTIMIZERS = {
    "sgd(rate=constant(rate))": optimizers.sgd(optimizers.constant(0.03)),
    "sgd(rate=constant(rate), momentum=0.9, weight_decay=0.1)": optimizers.sgd(optimizers.constant(0.03), momentum=0.9, weight_decay=0.1),
    "sgd(rate=constant(rate), momentum=0.8, nesterov=True)": optimizers.sgd(optimizers.constant(0.03), momentum=0.8, nesterov=True),
    "adamw(rate=constant(rate))": optimizers.adamw(optimizers.constant(0.03)),
    "adamw(rate=constant(rate), betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2)": optimizers.adamw(
        optimizers.constant(0.03), (0.8, 0.95), 1e-3, 0.2
    ),
    "lion(rate=constant(rate), weight_decay=0.1)": optimizers.lion(optimizers.constant(0.03), weight_decay=0.1),
    "muon(rate=constant(rate), weight_decay=0.1)": optimizers.muon(optimizers.constant(0.03), weight_decay=0.1, dtype=None),
    "muon(rate=constant(rate), momentum=0.8, iterations=3)": optimizers.muon(optimizers.constant(0.03), 0.8, iterations=3, dtype=None),
}

RATES = {
    "constant(rate)": optimizers.constant(0.03),
    "constant(rate, warmup=10.0)": optimizers.constant(0.03, warmup=10.0),
    "cosine(rate)": optimizers.cosine(0.03),
    "cosine(rate, warmup=7.0, floor=0.1 * rate)": optimizers.cosine(0.03, warmup=7.0, floor=0.003),
    "linear(rate)": optimizers.linear(0.03),
    "linear(rate, warmup=7.0, floor=0.1 * rate)": optimizers.linear(0.03, warmup=7.0, floor=0.003),
    "wsd(rate, warmup=7.0)": optimizers.wsd(0.03, warmup=7.0),
    "wsd(rate, warmup=7.0, decay=0.5, floor=0.1 * rate)": optimizers.wsd(0.03, warmup=7.0, decay=0.5, floor=0.003),
}


def program_of(rule: str, rows: int) -> Program:
    return elaborate(parse(MODEL.format(rule=rule, rows=rows), "line.dsl"), {}, file_library(Path()))


@pytest.mark.parametrize("rows", [3, 8])
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_optimizers(rule: str, rows: int) -> None:
    program = program_of(rule, rows)
    rng = np.random.default_rng(0)
    values = {"a": rng.standard_normal((rows, 5))}
    p = torch.from_numpy(values["a"].copy())
    follow = OPTIMIZERS[rule](p)
    for step in range(6):
        g = rng.standard_normal((rows, 5))
        chain.update(program, OPS, "a", values, g, chain.record(program, step, 100, {}, OPS, True))
        follow(torch.from_numpy(g), step, 100)
        np.testing.assert_allclose(values["a"], p.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5, 8, 100])
@pytest.mark.parametrize("rate", RATES)
def test_rates(rate: str, steps: int) -> None:
    """By a step of gradient descent on a gradient of ones."""
    program = program_of(f"sgd(rate={rate})", 1)
    for step in range(0, steps, max(1, steps // 25)):
        values = {"a": np.zeros((1, 5))}
        chain.update(program, OPS, "a", values, np.ones((1, 5)), chain.record(program, step, steps, {}, OPS, True))
        np.testing.assert_allclose(-values["a"], np.full((1, 5), RATES[rate](step, steps)), rtol=1e-6, err_msg=f"step {step} of {steps}")
