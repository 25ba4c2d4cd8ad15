"""Keyed random numbers: Philox4x32-10 (Salmon et al. 2011) in NumPy, by (seed, step, microbatch, call path, ordinal).

Element n of a draw is word n % 4 of the block with counter (n // 4, ordinal, step, microbatch); the key is
splitmix64(seed ^ hash of the path), low word first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MASK_32 = 0xFFFFFFFF
MASK_64 = 0xFFFFFFFFFFFFFFFF


def path_hash(path: str) -> int:
    """FNV-1a, 64 bit."""
    h = 0xCBF29CE484222325
    for byte in path.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK_64
    return h


def splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)


def philox(counter: tuple[np.ndarray, int, int, int], key: tuple[int, int]) -> np.ndarray:
    """The four words of each block [blocks, 4], as u32."""
    c0 = counter[0].astype(np.uint64)
    c1, c2, c3 = (np.full_like(c0, c & MASK_32) for c in counter[1:])
    k0, k1 = key
    low = np.uint64(MASK_32)
    high = np.uint64(32)
    for _ in range(10):
        a = c0 * np.uint64(0xD2511F53)
        b = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (b >> high) ^ c1 ^ np.uint64(k0), b & low, (a >> high) ^ c3 ^ np.uint64(k1), a & low
        k0 = (k0 + 0x9E3779B9) & MASK_32
        k1 = (k1 + 0xBB67AE85) & MASK_32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


@dataclass(frozen=True)
class Keys:
    """What a microbatch's random numbers are keyed by.

    dtype: of what is computed from draws and constants alone, before it meets a parameter: float32 as a compiled program
    has it, float64 to compare with the interpreter at double precision.
    """

    seed: int = 0
    step: int = 0
    microbatch: int = 0
    dtype: torch.dtype = torch.float32

    def _words(self, size: int, path: str, ordinal: int) -> np.ndarray:
        key = splitmix64((self.seed ^ path_hash(path)) & MASK_64)
        blocks = np.arange((size + 3) // 4)
        return philox((blocks, ordinal, self.step, self.microbatch), (key & MASK_32, key >> 32))

    def uniform(self, shape: tuple[int, ...], path: str, ordinal: int) -> Tensor:
        """In [0, 1), multiples of 2^-24. `path` is the call path of the layer, "" for a draw of the model's own body."""
        size = math.prod(shape)
        values = (self._words(size, path, ordinal) >> 8).reshape(-1)[:size] * 2.0**-24
        return torch.from_numpy(values.reshape(shape)).to(self.dtype)

    def normal(self, shape: tuple[int, ...], path: str, ordinal: int) -> Tensor:
        """Box and Muller on word pairs (0, 1) and (2, 3) of a block."""
        size = math.prod(shape)
        words = self._words(size, path, ordinal).reshape(-1, 2, 2)
        radius = np.sqrt(-2.0 * np.log(((words[..., 0] >> 8) + 1) * 2.0**-24))
        angle = 2.0 * math.pi * ((words[..., 1] >> 8) * 2.0**-24)
        values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1)[:size]
        return torch.from_numpy(values.reshape(shape)).to(self.dtype)

    def dropout(self, x: Tensor, rate: float, path: str, ordinal: int) -> Tensor:
        """Zero the elements whose draw is below `rate`, scale the rest."""
        if rate == 0.0:
            return x
        return x * (self.uniform(tuple(x.shape), path, ordinal) >= rate) / (1.0 - rate)
