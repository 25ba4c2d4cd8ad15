"""Contractions by warpgroups, with edges of tiles, however their operands lie."""

from __future__ import annotations

import numpy as np
import pytest
from shim_library import GPU, SCHEDULES, SUM_ERROR, Array, Device, bf16_of, f32_of

pytestmark = pytest.mark.skipif(GPU not in ("", "90a"), reason="no wgmma")


def pitched(x: Array) -> Array:
    """With rows of a multiple of 8, and no numbers between them."""
    return np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % 8)), constant_values=0x7FC0)


@pytest.mark.parametrize("runner", ["run_contract", "run_even"])
@pytest.mark.parametrize("along", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_sums_of_products(along: tuple[int, int], runner: str) -> None:
    """Right, the same bits in every schedule, nothing reported."""
    m, n, k = (130, 67, 201) if runner == "run_contract" else (256, 128, 64)
    rng = np.random.default_rng(m)
    a, b = bf16_of(rng.standard_normal((2, m, k))), bf16_of(rng.standard_normal((2, k, n)))
    expected = f32_of(a).astype(np.float64) @ f32_of(b).astype(np.float64)
    a_laid, b_laid = (pitched(a if along[0] else a.transpose(0, 2, 1)), pitched(b.transpose(0, 2, 1) if along[1] else b))
    seen: set[bytes] = set()
    with Device("contract.cu") as device:
        for order, seed in SCHEDULES[::2]:
            device.schedule(order, seed)
            c = device.empty(2 * m * n * 4)
            device.call(runner, *along, device.put(a_laid), device.put(b_laid), c)
            got = device.get(c, (2, m, n))
            assert np.linalg.norm(got - expected) <= SUM_ERROR * np.linalg.norm(expected)
            assert device.reports() == []
            seen.add(got.tobytes())
    assert len(seen) == 1
