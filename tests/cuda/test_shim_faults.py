"""Faults planted in kernels: the checked shim reports each, in every schedule, and says nothing about the same kernel without it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from shim_library import SCHEDULES, Device

#: kernel of faults.cu: what its report begins with, a place its report names
FAULTS = {
    "missing_barrier": ("race", "shared `tile`"),
    "missing_barrier_after_reads": ("race", "shared `value`"),
    "missing_syncwarp": ("race", "shared `tile`"),
    "shuffle_as_barrier": ("race", "shared `tile`"),
    "missing_named_barrier": ("race|uninitialised read", "shared `tile`"),
    "missing_wait": ("missing wait", "shared `tile`"),
    "missing_barrier_after_wait": ("race|missing wait", "shared `tile`"),
    "copy_never_waited_for": ("missing wait", "shared `tile`"),
    "copy_over_a_copy": ("missing wait", "shared `tile`"),
    "caller_not_in_mask": ("wrong mask", "lane 0"),
    "source_not_in_mask": ("wrong mask", "reads from lane"),
    "masks_differ": ("divergent warp", "mask"),
    "divergent_warp": ("divergent warp", "another operation"),
    "lane_left": ("wrong mask", "reads from lane 31"),
    "divergent_barrier": ("divergent barrier", "another barrier"),
    "left_before_barrier": ("divergent barrier", "have left the kernel"),
    "deadlock": ("deadlock", "threads 0 to 31 wait at a named barrier"),
    "named_barrier_counts": ("wrong barrier", "count"),
    "named_barrier_of_half_a_warp": ("divergent barrier", "lanes of warp"),
    "race_between_blocks": ("race between blocks", "allocation"),
    "reads_another_block": ("race between blocks", "allocation"),
    "atomic_and_plain": ("race between blocks|race", "allocation"),
    "out_of_bounds": ("out of bounds", "(256 bytes) + 256"),
    "out_of_bounds_read": ("out of bounds", "(256 bytes) + 256"),
    "out_of_bounds_before": ("out of bounds", "(256 bytes) - 4"),
    "out_of_bounds_shared": ("out of bounds", "shared `first` (256 bytes) + 256"),
    "uninitialised_shared": ("uninitialised read", "shared `tile`"),
    "shared_of_the_block_before": ("uninitialised read", "shared `tile`"),
    "uninitialised_global": ("uninitialised read", "allocation"),
    "misaligned": ("misaligned", "allocation"),
    "misaligned_copy": ("misaligned", "shared `tile`"),
    "memory_of_the_host": ("wrong address", "host"),
    "local_of_another_thread": ("wrong address", "local variable of thread"),
    "multiply_in_half_a_warp": ("divergent warp|deadlock", ""),
    "no_fault": ("", ""),
}


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with Device("faults.cu") as device:
        yield device


def run(device: Device, kernel: str, fault: int) -> list[str]:
    given = device.put(np.arange(1, 65, dtype=np.int32))
    out = device.put(np.zeros(64, np.int32)) if kernel == "atomic_and_plain" else device.empty(256)
    assert device.library.run_planted(kernel.encode(), given, out, fault, None) == 0
    device.library.cudaDeviceSynchronize()
    return device.reports()


@pytest.mark.parametrize("kernel", FAULTS)
def test_planted_faults(device: Device, kernel: str) -> None:
    faults, place = FAULTS[kernel]
    for order, seed in SCHEDULES:
        device.schedule(order, seed)
        assert run(device, kernel, 0) == []
        texts = run(device, kernel, 1)
        if not faults:
            assert texts == []
            continue
        found = [text for text in texts if any(text.startswith(f"{fault}: kernel {kernel}") for fault in faults.split("|"))]
        assert any(place in text for text in found), texts
        assert "block 0" in found[0] or "block 1" in found[0]
        assert "faults.cu:" in found[0] or "deadlock" in found[0], found


def test_every_planted_kernel_is_listed(device: Device) -> None:
    assert device.library.run_planted(b"nothing", None, None, 0, None) == -1
