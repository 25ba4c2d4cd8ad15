"""Times the training step of a built model on random inputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlc.bind import InputType
from mlc.driver import Build
from mlc.ir.dtypes import dtype_of

_WARM_UP = 2


def measure(build: Build, steps: int, threads: int | None = None) -> dict[str, Any]:
    """Step time of a model: forward, backward, clipping, update, and the loss on the host.

    returns: program, parameters, step_ms (median), tokens_per_s or records_per_s, gflops, loss (of the last step)
    """
    generator = np.random.default_rng(0)
    with build.open(threads) as model:
        inputs = {kind.name: random_input(generator, kind) for kind in model.inputs}
        seconds = []
        loss = 0.0
        for _ in range(_WARM_UP + steps):
            start = time.perf_counter()
            loss = model.step(**inputs)
            seconds.append(time.perf_counter() - start)
        median = float(np.median(seconds[_WARM_UP:]))
        return {
            "program": build.name,
            "parameters": sum(array.size for array in model.parameters.values()),
            "step_ms": round(median * 1e3, 3),
            f"{_unit(model.inputs)}_per_s": round(model.tokens * model.microbatches / median),
            "gflops": round(model.flops * model.microbatches / median / 1e9, 1),
            "loss": round(loss, 4),
        }


def _unit(inputs: Sequence[InputType]) -> str:
    """What the programs say that they count: tokens where the first input is i32[batch, context]."""
    return "tokens" if inputs and inputs[0].dtype == "i32" and len(inputs[0].shape) == 2 else "records"


def random_input(generator: np.random.Generator, kind: InputType) -> np.ndarray:
    """Values in range: indices below the limit, normal floats, fair coins."""
    match dtype_of(kind.dtype).kind:
        case "int":
            return generator.integers(kind.low, kind.low + 2 if kind.limit is None else max(kind.limit, kind.low + 1), kind.shape, np.int32)
        case "bool":
            return generator.random(kind.shape) < 0.5
        case _:
            return generator.standard_normal(kind.shape, np.float32)
