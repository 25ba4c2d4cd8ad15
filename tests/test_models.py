"""Every example against PyTorch in double precision: the interpreter to 1e-9, compiled programs at f32 and bf16, loss curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import mlc  # noqa: E402
from mlc.elaborate import elaborate, file_library  # noqa: E402
from mlc.ir.op import Keys as IrKeys  # noqa: E402
from mlc.ir.program import Program  # noqa: E402
from mlc.ops import OPS  # noqa: E402
from mlc.passes import differentiate  # noqa: E402
from mlc.syntax.parser import parse  # noqa: E402
from oracles import chain, optimizers  # noqa: E402
from oracles.cases import CASES, Case  # noqa: E402
from oracles.random import Keys  # noqa: E402
from tolerances import TOLERANCES  # noqa: E402

pytestmark = pytest.mark.peers
torch.set_num_threads(1)

Gradients = Mapping[str, np.ndarray]
STEPS = 200
SEED = 5
EXAMPLES = tuple(case for case in CASES if not case.changes)


def program_of(case: Case) -> Program:
    return elaborate(parse(case.text(), str(case.path)), {name: str(value) for name, value in case.dims.items()}, file_library(case.path.parent))


def truth(case: Case, keys: list[Keys]) -> optimizers.Gradients:
    p = {name: torch.from_numpy(value).double() for name, value in case.values.items()}
    return optimizers.gradients(case.oracle, p, case.batches(len(keys)), case.dims, keys)


def errors(case: Case, found: Gradients, want: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """By parameter: the error in units of what is allowed at f32 (spec/numerics.md)."""
    total = math.sqrt(sum(float((g**2).sum()) for g in want.values()))
    made = {}
    for name, g in want.items():
        error = np.linalg.norm(found[name].astype(np.float64) - g.numpy())
        allowed = TOLERANCES["gradient.f32"] * max(float(g.norm()), 1e-6 * total)
        made[name] = error / (TOLERANCES["gradient.zero"] * total if case.zero(name) else allowed)
    return made


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_are_those_of_the_oracle(case: Case) -> None:
    assert {p.name: p.type.shape for p in program_of(case).parameters} == case.oracle.shapes(case.dims)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpreter_agrees_with_pytorch(case: Case) -> None:
    """Language, ops, derivatives and their split, in double precision, at a step where every curve is in its course."""
    program = program_of(case)
    step = differentiate(program, OPS)
    want = truth(case, [Keys(SEED, 500, 0, torch.float64)])
    scalars = chain.record(program, 500, 1000, {}, OPS, True)
    run = chain.Run(program, OPS, case.values, case.batches(1)[0], scalars, IrKeys(SEED, 500, 0), True)
    result = chain.step(run, step)
    assert result.loss == pytest.approx(want.loss, rel=TOLERANCES["interpreter.f64"])
    assert set(result.gradients) == set(want.loss_gradients)
    scale = TOLERANCES["gradient.f32"] / TOLERANCES["interpreter.f64"]
    assert {n: e * scale for n, e in errors(case, result.gradients, want.loss_gradients).items() if e * scale > 1} == {}
    assert set(result.fed) == set(want.fed)
    for name, value in want.fed.items():
        np.testing.assert_allclose(result.fed[name], value.numpy(), rtol=TOLERANCES["interpreter.f64"], atol=1e-12)


@pytest.mark.parametrize("case", EXAMPLES, ids=str)
def test_recipes_agree_with_pytorch(case: Case) -> None:
    """The first steps of every parameter's optimizer, in double precision."""
    program = program_of(case)
    dims = case.dims | {"exact": True}
    rng = np.random.default_rng(3)
    for parameter in program.parameters:
        values = {parameter.name: case.values[parameter.name].astype(np.float64)}
        p = torch.from_numpy(values[parameter.name].copy())
        follow = case.oracle.recipe(parameter.name, parameter.type.shape, dims)(p)
        for step in range(5):
            g = rng.standard_normal(parameter.type.shape)
            chain.update(program, OPS, parameter.name, values, g, chain.record(program, step, 4000, {}, OPS, True))
            follow(torch.from_numpy(g), step, 4000)
        np.testing.assert_allclose(values[parameter.name], p.numpy(), rtol=1e-9, atol=1e-12, err_msg=parameter.name)


def built(case: Case, text: str, folder: Path, **options: object) -> mlc.Build:
    path = folder / case.path.name
    path.write_text(text, encoding="utf-8")
    return mlc.compile(path, out=folder / "build", define=case.dims, **options)


def opened(build: mlc.Build, case: Case) -> mlc.Model:
    """With the parameters of the case."""
    model = build.open(threads=2, seed=SEED)
    for name, value in case.values.items():
        model.parameters[name][...] = value
    return model


def joined(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Microbatches one after the other, as a step takes them."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_pytorch(case: Case, tmp_path: Path) -> None:
    with opened(built(case, case.text(), tmp_path), case) as model:
        loss, found = model.gradient(**case.batches(1)[0])
        want = truth(case, [Keys(SEED)])
    assert loss == pytest.approx(want.loss, rel=TOLERANCES["loss.f32"])
    assert {name: e for name, e in errors(case, found, want.loss_gradients).items() if e > 1} == {}
    for name, value in want.fed.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=TOLERANCES["gradient.f32"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in EXAMPLES if c.example in ("albert", "t5", "deepseek_v3", "state")], ids=str)
def test_microbatches_are_weighted(case: Case, tmp_path: Path) -> None:
    """Five microbatches of different weights: one mean over all that counts."""
    with opened(built(case, case.text(), tmp_path, microbatches=5), case) as model:
        loss, found = model.gradient(**joined(case.batches(5)))
        want = truth(case, [Keys(SEED, 0, j) for j in range(5)])
    assert loss == pytest.approx(want.loss, rel=TOLERANCES["loss.f32"])
    assert {name: e for name, e in errors(case, found, want.loss_gradients).items() if e > 1} == {}
    for name, value in want.fed.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=TOLERANCES["gradient.f32"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", EXAMPLES, ids=str)
def test_curves_agree_with_pytorch(case: Case, tmp_path: Path) -> None:
    batches = case.batches(STEPS)
    dims = case.dims | case.curve
    p = {name: torch.from_numpy(value).double() for name, value in case.values.items()}
    want = optimizers.train(
        case.oracle, p, lambda step: [batches[step]], STEPS, dims, lambda name, shape: case.oracle.recipe(name, shape, dims), SEED
    )
    build = built(case, case.curve_text(), tmp_path)
    with opened(build, case) as model:
        model.set_steps(STEPS)
        found = [model.step(**batch) for batch in batches]
    np.testing.assert_allclose(found, want, rtol=TOLERANCES["curve.f32"])
    assert np.mean(found[-20:]) < np.mean(found[:20])


@pytest.mark.slow
@pytest.mark.parametrize("case", EXAMPLES, ids=str)
def test_bf16_stays_near(case: Case, tmp_path: Path) -> None:
    text = case.text("bf16")
    if "precision=" not in text:
        text = text.replace("@train(", "@train(precision=bf16, ").replace(", )", ")")
    with opened(built(case, text, tmp_path), case) as model:
        loss, found = model.gradient(**case.batches(1)[0])
        want = truth(case, [Keys(SEED)])
    assert loss == pytest.approx(want.loss, rel=TOLERANCES["loss.bf16"])
    total = math.sqrt(sum(float((g**2).sum()) for g in want.loss_gradients.values()))
    error = math.sqrt(sum(float(np.sum((found[n] - g.numpy()) ** 2)) for n, g in want.loss_gradients.items()))
    assert error < TOLERANCES["gradient.bf16"] * total
