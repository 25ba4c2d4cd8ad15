"""Compiled examples beside their oracles: builds, gradients, loss curves."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tolerances import TOLERANCES
from torch import Tensor

import mlc
from oracles import optimizers
from oracles.cases import Case
from oracles.random import Keys

SEED = 5


@dataclass(frozen=True)
class Builds:
    """Texts of examples, each compiled once. All are built in one folder under one name, so that the runtime is compiled once too."""

    folder: Path
    libraries: dict[tuple[object, ...], mlc.Build] = field(default_factory=dict)

    def build(self, case: Case, text: str, **options: object) -> mlc.Build:
        key = (text, *sorted(case.dims.items()), *sorted(options.items()))
        if key not in self.libraries:
            (self.folder / "model.dsl").write_text(text, encoding="utf-8")
            build = mlc.compile(self.folder / "model.dsl", out=self.folder / "build", define=case.dims, **options)
            kept = self.folder / str(len(self.libraries))
            kept.mkdir()
            shutil.copy(build.library, kept)
            self.libraries[key] = replace(build, folder=kept)
        return self.libraries[key]

    def open(self, case: Case, text: str, **options: object) -> mlc.Model:
        """The model in this process, with the parameters of the case."""
        model = self.build(case, text, **options).open(threads=2, seed=SEED)
        for name, value in case.values.items():
            model.parameters[name][...] = value
        return model


def joined(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Microbatches one after the other, as a step takes them."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def truth(case: Case, keys: list[Keys]) -> optimizers.Gradients:
    """PyTorch in double precision, on one microbatch for each of the keys."""
    p = {name: torch.from_numpy(value).double() for name, value in case.values.items()}
    return optimizers.gradients(case.oracle, p, case.batches(len(keys)), case.dims, keys)


def errors(case: Case, found: Mapping[str, np.ndarray], want: Mapping[str, Tensor], precision: str = "f32") -> dict[str, float]:
    """By parameter: the error in units of what is allowed at a precision (spec/numerics.md)."""
    zero = TOLERANCES[{"f32": "gradient.zero", "f64": "zero.f64"}[precision]]
    total = math.sqrt(sum(float((g**2).sum()) for g in want.values()))
    made = {}
    for name, g in want.items():
        error = np.linalg.norm(found[name].astype(np.float64) - g.numpy())
        allowed = TOLERANCES[f"gradient.{precision}"] * max(float(g.norm()), 1e-6 * total)
        made[name] = float(error / (zero * total if case.zero(name) else allowed))
    return made


def curves(builds: Builds, case: Case, steps: int) -> tuple[list[float], list[float]]:
    """The loss at every step, of the compiled program and of PyTorch in double precision."""
    batches = case.batches(steps)
    dims = case.dims | case.curve
    p = {name: torch.from_numpy(value).double() for name, value in case.values.items()}
    want = optimizers.train(
        case.oracle, p, lambda step: [batches[step]], steps, dims, lambda name, shape: case.oracle.recipe(name, shape, dims), SEED
    )
    with builds.open(case, case.curve_text()) as model:
        model.set_steps(steps)
        found = [model.step(**batch) for batch in batches]
    return found, want
