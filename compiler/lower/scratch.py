"""Scratch of a thread inside kernels, in bytes: the header of each states the same, and emitted code checks that it fits."""

from __future__ import annotations

from mlc.lower.library import NO_SCRATCH, Scratch
from mlc.lower.loops import Call, Contract, Kernel
from mlc.lower.routine import Routine


def kernel_scratch(kernel: Kernel) -> Scratch:
    """Scratch a thread needs for a kernel."""
    return kernel.scratch if isinstance(kernel, Contract | Call) else NO_SCRATCH


def scratch_bytes(routine: Routine) -> int:
    """Bytes of scratch a thread needs for a routine."""
    return max((kernel_scratch(kernel).bytes for kernel in routine.kernels), default=0)
