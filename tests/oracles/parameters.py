"""Values to start from: of the size training would meet, and nowhere zero, so that no gradient is hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def values(rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """float32 arrays by name. Norm weights and running variances lie around 1; matrices keep the size of what they map."""
    return {name: _values(rng, name, shape).astype(np.float32) for name, shape in sorted(shapes.items())}


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = rng.standard_normal(shape)
    if len(shape) > 1:
        return drawn / math.sqrt(shape[-1])
    if name.endswith("weight"):
        return 1.0 + 0.1 * drawn
    if name.endswith("running_var"):
        return 1.0 + 0.1 * np.abs(drawn)
    return 0.1 * drawn
