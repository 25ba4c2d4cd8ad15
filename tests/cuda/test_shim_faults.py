"""Faults planted in kernels: the checked shim reports each, in every schedule, and says nothing about the same kernel without it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shim_library import KERNELS, SCHEDULES, Device, build, of_shim

pytestmark = of_shim

#: kernel of faults.cu: what its report begins with, a place its report names
FAULTS = {
    "missing_barrier": ("race", "shared `tile`"),
    "missing_barrier_after_reads": ("race", "shared `value`"),
    "missing_syncwarp": ("race", "shared `tile`"),
    "written_after_two_lanes_read": ("race", "shared `value`"),
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


def test_structures_are_checked_whole(device: Device) -> None:
    for fault in (0, 1):
        given, out = device.put(np.arange(60, dtype=np.int32)), device.empty(240)
        device.call("run_structure", given, out, fault)
        texts = device.reports()
        assert [text.split(":")[0] for text in texts] == ["out of bounds"] * fault, texts


NOTHING, READ, WRITE, BLOCK, WARP, PAIR = range(6)
STEPS, THREADS = 8, 128


@dataclass(frozen=True)
class Access:
    """What a thread does to a slot, at its clock."""

    thread: int
    clock: int
    writes: bool


@st.composite
def steps_of_a_block(draw: st.DrawFn) -> npt.NDArray[np.int32]:
    """Each step is a barrier of some kind for all, or accesses of a few threads to two slots."""
    program = np.zeros((STEPS, THREADS), np.int32)
    threads = st.sampled_from([0, 1, 31, 32, 33, 64, 65, 96, 127])
    for step in range(STEPS):
        barrier = draw(st.sampled_from([NOTHING, NOTHING, BLOCK, WARP, PAIR]))
        if barrier:
            halves = draw(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=2, unique=True)) if barrier == PAIR else [0, 1]
            for half in halves:
                program[step, half * 64 : half * 64 + 64] = 16 * barrier
            continue
        for thread in draw(st.lists(threads, min_size=1, max_size=3, unique=True)):
            program[step, thread] = 16 * draw(st.sampled_from([READ, READ, WRITE])) + draw(st.integers(0, 1))
    return program


def races(program: npt.NDArray[np.int32]) -> bool:
    """By vector clocks of all threads, every access kept."""
    clocks = np.zeros((THREADS, THREADS), np.int64)  # row: what a thread knows of each
    clocks[:] = np.eye(THREADS, dtype=np.int64)
    accesses: dict[int, list[Access]] = {0: [], 1: []}
    for step in program:
        for size, barrier in ((THREADS, BLOCK), (32, WARP), (64, PAIR)):
            for first in range(0, THREADS, size):
                group = slice(first, first + size)
                if step[first] // 16 == barrier:
                    clocks[group] = clocks[group].max(0)
                    clocks[np.arange(THREADS)[group], np.arange(THREADS)[group]] += 1
        for thread in np.flatnonzero((step // 16 == READ) | (step // 16 == WRITE)):
            now = Access(int(thread), int(clocks[thread, thread]), bool(step[thread] // 16 == WRITE))
            for other in accesses[step[thread] % 16]:
                conflict = other.thread != thread and (now.writes or other.writes)
                if conflict and clocks[thread, other.thread] < other.clock:
                    return True
            accesses[step[thread] % 16].append(now)
    return False


@given(steps_of_a_block(), st.sampled_from([0, 1]), st.sampled_from(SCHEDULES))
@settings(max_examples=150, deadline=None)
def test_a_race_is_reported_if_and_only_if_there_is_one(
    device: Device, program: npt.NDArray[np.int32], where: int, schedule: tuple[str, int]
) -> None:
    device.schedule(*schedule)
    device.call("run_interpreter", device.put(program), STEPS, device.empty(64), where, device.empty(THREADS * 4))
    texts = device.reports()
    assert all(text.startswith("race: kernel interpreter") for text in texts), texts
    assert bool(texts) == races(program), texts


def test_a_read_between_two_others_is_remembered(device: Device) -> None:
    """Three warps read; a barrier of two of them; one writes: a race with the third, in whatever order they read."""
    program = np.zeros((STEPS, THREADS), np.int32)
    program[0, [0, 64, 32]] = 16 * READ
    program[1, :64] = 16 * PAIR
    program[2, 0] = 16 * WRITE
    assert races(program)
    for seed in range(24):
        device.schedule("random", seed)
        device.call("run_interpreter", device.put(program), STEPS, device.empty(64), 0, device.empty(THREADS * 4))
        assert any(text.startswith("race: kernel interpreter") for text in device.reports()), seed


#: names the place of a fault beside a library that was loaded first
BESIDE = """
import ctypes, sys
import numpy as np
from shim_library import Device
other = ctypes.CDLL(sys.argv[1])
device = Device.of_library(sys.argv[2])
device.library.run_planted(b"misaligned", device.put(np.arange(64, dtype=np.int32)), device.empty(256), 1, None)
device.library.cudaDeviceSynchronize()
print(device.reports()[0])
"""


def test_places_beside_a_library_with_code_at_the_same_low_halves(tmp_path: Path) -> None:
    """The other one's code takes 4 GiB: it has each low half that there is."""
    source, library = tmp_path / "large.s", tmp_path / "large.so"
    source.write_text('.section .large, "ax", @nobits\n.space 0x100001000\n.section .note.GNU-stack, "", @progbits\n')
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", library, source], check=True)
    arguments = [sys.executable, "-c", BESIDE, library, build(KERNELS / "faults.cu", True)]
    told = subprocess.run(arguments, cwd=Path(__file__).parent, check=True, capture_output=True, text=True).stdout
    assert "misaligned: kernel misaligned" in told and ", faults.cu:" in told, told
