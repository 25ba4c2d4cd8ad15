"""Random models through everything: the compiled program computes what the interpreter computes, to the rounding of f32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from random_models import models
from tolerances import TOLERANCES

import mlc
from mlc.elaborate import elaborate, file_library
from mlc.ir.op import Keys
from mlc.ir.program import Step
from mlc.ops import OPS
from mlc.passes import differentiate
from mlc.syntax.parser import parse
from oracles import chain

SEED = 11
Arrays = dict[str, np.ndarray]
Drawn = tuple[str, dict[str, int]]


def inputs(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((sizes["batch"], sizes["p"], sizes["q"]))
    return {"x": x.astype(np.float32), "y": rng.standard_normal((sizes["batch"], sizes["r"])).astype(np.float32)}


def made(step: Step, values: Arrays, data: Arrays, float64: bool) -> chain.Result:
    scalars = chain.record(step.program, 0, 1000, {}, OPS, float64)
    return chain.step(chain.Run(step.program, OPS, values, data, scalars, Keys(SEED), float64), step)


def flat(gradients: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(1), *(gradients[name].astype(np.float64).ravel() for name in sorted(gradients))])


def differences(step: Step, values: Arrays, data: Arrays, gradients: Arrays) -> tuple[float, float]:
    """The derivative along a random direction, by central differences and by the gradients."""
    rng = np.random.default_rng(1)
    along = {name: rng.standard_normal(values[name].shape) for name in sorted(gradients)}

    def loss(t: float) -> float:
        moved = {name: value + t * along[name] if name in along else value for name, value in values.items()}
        return made(step, moved, data, True).loss

    h = 1e-5
    return (loss(h) - loss(-h)) / (2 * h), sum(float(np.sum(along[name] * gradients[name])) for name in along)


def differentiated(drawn: Drawn) -> tuple[Step, Arrays, Arrays]:
    """The derivative of a program, values of its parameters and inputs."""
    text, sizes = drawn
    step = differentiate(elaborate(parse(text, "program.dsl"), {}, file_library(Path())), OPS)
    rng = np.random.default_rng(2)
    shapes = {p.name: p.type.shape for p in step.program.parameters}
    values = {name: (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32) for name, shape in shapes.items()}
    return step, values, inputs(sizes)


SAMPLED = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))


@given(models())
@settings(SAMPLED, max_examples=60)
def test_derivatives_agree_with_differences(drawn: Drawn) -> None:
    step, values, data = differentiated(drawn)
    result = made(step, values, data, True)
    found, stated = differences(step, values, data, result.gradients)
    norm = np.linalg.norm(flat(result.gradients))
    assert abs(found - stated) <= 1e-4 * max(norm, abs(stated)) + 1e-9, drawn[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model is built here under one name, so that the runtime is compiled once."""
    return tmp_path_factory.mktemp("random")


@pytest.mark.slow
@given(drawn=models())
@settings(SAMPLED, max_examples=25)
def test_compiled_programs_agree_with_the_interpreter(folder: Path, drawn: Drawn) -> None:
    step, values, data = differentiated(drawn)
    want, rounded = made(step, values, data, True), made(step, values, data, False)
    g, g32 = flat(want.gradients), flat(rounded.gradients)
    noise = np.linalg.norm(g32 - g)
    assume(noise <= 1e-3 * max(np.linalg.norm(g), 1e-3))
    (folder / "program.dsl").write_text(drawn[0], encoding="ascii")
    with mlc.compile(folder / "program.dsl", out=folder / "build").open(threads=2, seed=SEED) as model:
        for name, value in values.items():
            model.parameters[name][...] = value
        loss, found = model.gradient(**{kind.name: data[kind.name] for kind in model.inputs})
    assert loss == pytest.approx(want.loss, rel=TOLERANCES["loss.f32"], abs=1e-6 + 10 * abs(rounded.loss - want.loss)), drawn[0]
    error = np.linalg.norm(flat({name: found[name] for name in want.gradients}) - g)
    assert error <= TOLERANCES["gradient.f32"] * np.linalg.norm(g) + 10 * noise + 1e-9, drawn[0]
