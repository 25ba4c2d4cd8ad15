"""Token windows with structure a model can learn: each token follows from the one before, with some noise."""

from __future__ import annotations

import numpy as np


def windows(rng: np.random.Generator, batch: int, length: int, vocab: int) -> np.ndarray:
    """int32 [batch, length], values in [1, vocab): token 0 is kept for padding."""
    tokens = np.empty((batch, length), np.int64)
    tokens[:, 0] = rng.integers(0, vocab - 1, batch)
    for t in range(1, length):
        tokens[:, t] = (tokens[:, t - 1] * 3 + 1) % (vocab - 1)
        noisy = rng.random(batch) < 0.2
        tokens[noisy, t] = rng.integers(0, vocab - 1, int(noisy.sum()))
    return (tokens + 1).astype(np.int32)


def following(rng: np.random.Generator, d: dict) -> dict[str, np.ndarray]:
    """The inputs of a language model: tokens, and targets one later."""
    text = windows(rng, d["batch"], d["context"] + 1, d["vocab"])
    return {"tokens": text[:, :-1].copy(), "targets": text[:, 1:].copy()}
