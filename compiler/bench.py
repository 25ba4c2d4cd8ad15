"""Times the training step of a built model on random inputs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mlc.bind import InputType
from mlc.driver import Build
from mlc.ir.dtypes import dtype_of

_WARM_UP = 2


def measure(build: Build, steps: int, threads: int | None = None) -> dict[str, Any]:
    """Step time of a model: forward, backward, clipping, update, and the loss on the host.

    returns: program, parameters, step_ms (median), tokens_per_s, gflops, loss (of the last step)
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
            "tokens_per_s": round(model.tokens * model.microbatches / median),
            "gflops": round(model.flops * model.microbatches / median / 1e9, 1),
            "loss": round(loss, 4),
        }


def random_input(generator: np.random.Generator, kind: InputType) -> np.ndarray:
    """Values in range: indices below the limit, normal floats, fair coins."""
    match dtype_of(kind.dtype).kind:
        case "int":
            return generator.integers(kind.low, kind.low + 2 if kind.limit is None else max(kind.limit, kind.low + 1), kind.shape, np.int32)
        case "bool":
            return generator.random(kind.shape) < 0.5
        case _:
            return generator.standard_normal(kind.shape, np.float32)
