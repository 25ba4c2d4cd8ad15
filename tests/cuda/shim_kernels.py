"""Routines of the targets for GPUs as kernels in one library on the execution shim, called with NumPy arrays.

The build is the checked one: races, missing barriers, what is read out of bounds or before it is written fail a test too.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from routines import read_value, side_by_side, write_value
from shim_library import ROOT, Device

from mlc.emit import tree as c
from mlc.emit.printer import c_text
from mlc.ir.function import Function
from mlc.ir.op import Keys
from mlc.lower.routine import Routine, lower_function
from mlc.ops import OPS
from mlc.passes.expand import expand
from mlc.targets.cuda import SM_90, split
from mlc.targets.cuda.model import routine_functions

KEYS = Keys(seed=3, step=5, microbatch=2, path=77)


class Environment(ctypes.Structure):
    """mlc_env."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("arena", "scratch", "team", "record", "microbatch")),
        ("path", ctypes.c_uint64),
        *((name, ctypes.c_int) for name in ("thread", "threads", "fold")),
        ("subject", ctypes.c_int64),
        ("gated", ctypes.c_int),
        ("stream", ctypes.c_void_p),
        ("calls", ctypes.c_void_p),
    ]


def few_processors(monkeypatch: pytest.MonkeyPatch, count: int, **changes: float) -> None:
    """Contractions are cut as for devices with so few multiprocessors."""
    for target, device in split.DEVICES.items():
        monkeypatch.setitem(split.DEVICES, target, replace(device, processors=count, **changes))


class Kernels:
    """Routines as kernels in one library."""

    def __init__(self, device: Device, routines: list[Routine]):
        self.device = device
        self.routines = routines

    def run(self, number: int, arguments: list[np.ndarray], fold: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """The results of a routine, added to those of `fold` if there are any."""
        routine = self.routines[number]
        parameters, results = routine.function.parameters, routine.function.results
        offsets, total = side_by_side([v.type.bytes for v in (*parameters, *results)] + [routine.work_bytes])
        base = self.device.empty(total + 64)
        for value, array, at in zip((*parameters, *results), [*arguments, *(fold or [])], offsets, strict=False):
            self._write(base, value.type.bytes, at, value, array)
        record = self.device.put(np.array([KEYS.seed, KEYS.step, 1000, KEYS.microbatch, 0, 0, 0, 0], np.int64))
        place = (record.value or 0) + 24
        env = Environment(base.value, None, None, record.value, place, KEYS.path, 0, 1, int(fold is not None), 0, 0, None)
        self.device.call(routine.name, ctypes.byref(env), np.array(offsets, np.uint64).ctypes.data_as(ctypes.c_void_p))
        assert not self.device.reports()
        arrays = [self._read(base, value.type.bytes, at) for value, at in zip(results, offsets[len(parameters) : -1], strict=True)]
        return [read_value(array, 0, value) for array, value in zip(arrays, results, strict=True)]

    def _write(self, base: ctypes.c_void_p, size: int, at: int, value: object, array: np.ndarray) -> None:
        room = np.zeros(size, np.uint8)
        write_value(room, 0, value, np.broadcast_to(array, value.type.shape))
        to = ctypes.c_void_p((base.value or 0) + at)
        assert self.device.library.cudaMemcpy(to, room.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(size), 1) == 0

    def _read(self, base: ctypes.c_void_p, size: int, at: int) -> np.ndarray:
        return self.device.get(ctypes.c_void_p((base.value or 0) + at), (size,), np.uint8)


def source_of(routines: list[Routine], target: str) -> str:
    includes = [c.Directive(f'include "mlc_contract{of}.h"') for of in ("", "_tmem")]
    head = [*includes, c.Directive("define MLC_MODEL_PATH 0xcbf29ce484222325u"), c.Blank()]
    # The kernels that routines call are part of the same library.
    return c_text([*head, *(n for r in routines for n in routine_functions(r, target, False)), c.Directive('include "attention.cu"')])


@contextmanager
def open_kernels(
    functions: Sequence[Function], folder: Path, folds: frozenset[str] = frozenset(), target: str = "sm_90", defines: Sequence[str] = ()
) -> Iterator[Kernels]:
    """A routine for each function. folds: results that may be added to what is there. defines: of the compiler."""
    routines = [lower_function(expand(f, OPS), OPS, SM_90.rules, folds, f"sample_{n}_f") for n, f in enumerate(functions)]
    source = folder / "samples.cu"
    source.write_text(source_of(routines, target))
    shutil.copy(ROOT / "runtime/cuda/kernels/attention.cu", folder)
    with Device(str(source), defines=defines) as device:
        yield Kernels(device, routines)
