"""Kernels that the targets for GPUs emit for every sample of the op table, on the execution shim, against the NumPy meaning.

The build is the checked one: races, missing barriers, what is read out of bounds or before it is written fail a test too.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from op_samples import case_id, draw_arguments, sample_cases, sample_function
from routines import from_stored, read_value, side_by_side, to_stored, write_value
from shim_library import Device
from tolerances import TOLERANCES

from mlc.emit import tree as c
from mlc.emit.printer import c_text
from mlc.ir.dtypes import DTYPES
from mlc.ir.function import Function
from mlc.ir.interpret import interpret
from mlc.ir.op import Keys, Op, Sample
from mlc.lower.routine import Routine, lower_function
from mlc.ops import OPS
from mlc.passes.expand import expand
from mlc.targets.cuda import SM_90
from mlc.targets.cuda.model import routine_functions

pytestmark = pytest.mark.slow

KEYS = Keys(seed=3, step=5, microbatch=2, path=77)


def is_whole(function: Function) -> bool:
    """Whether a GPU has all of its dtypes."""
    values = (*function.parameters, *(r for i in function.instructions for r in i.results))
    return all(v.type.dtype in SM_90.rules.dtypes for v in values)


CASES = [(op, sample) for op, sample in sample_cases() if is_whole(sample_function(op, sample))]


class Environment(ctypes.Structure):
    """mlc_env."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("arena", "scratch", "team", "record", "microbatch")),
        ("path", ctypes.c_uint64),
        *((name, ctypes.c_int) for name in ("thread", "threads", "fold")),
        ("subject", ctypes.c_int64),
        ("gated", ctypes.c_int),
        ("stream", ctypes.c_void_p),
    ]


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


def source_of(routines: list[Routine]) -> str:
    head = [c.Directive('include "mlc_contract.h"'), c.Directive("define MLC_MODEL_PATH 0xcbf29ce484222325u"), c.Blank()]
    # The kernels that routines call are part of the same library.
    return c_text([*head, *(n for r in routines for n in routine_functions(r, False)), c.Directive('include "attention.cu"')])


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    functions = [expand(sample_function(op, sample), OPS) for op, sample in CASES]
    routines = [lower_function(f, OPS, SM_90.rules, name=f"sample_{n}_f") for n, f in enumerate(functions)]
    source = tmp_path_factory.mktemp("kernels") / "samples.cu"
    source.write_text(source_of(routines))
    shutil.copy(Path(__file__).resolve().parents[2] / "runtime/cuda/kernels/attention.cu", source.parent)
    with Device(str(source)) as device:
        yield Kernels(device, routines)


def stored_arguments(function: Function, sample: Sample) -> list[np.ndarray]:
    """Arguments as they are after being stored in their dtype."""
    drawn = draw_arguments(sample, np.random.default_rng(7))
    return [from_stored(to_stored(a, v.type.dtype), v.type.dtype) for a, v in zip(drawn, function.parameters, strict=True)]


@pytest.mark.parametrize(("op", "sample"), CASES, ids=case_id)
def test_kernels_equal_the_meaning(kernels: Kernels, op: Op, sample: Sample) -> None:
    function = sample_function(op, sample)
    arguments = stored_arguments(function, sample)
    want = interpret(function, arguments, OPS, KEYS)
    got = kernels.run(CASES.index((op, sample)), arguments)
    for value, a, b in zip(function.results, want, got, strict=True):
        tolerance = TOLERANCES.get(f"device.meaning.{value.type.dtype}", 0.0)
        np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=tolerance, atol=tolerance)


def test_every_dtype_of_the_target_is_tried() -> None:
    tried = {v.type.dtype for op, sample in CASES for v in sample_function(op, sample).parameters}
    assert tried == SM_90.rules.dtypes & DTYPES.keys()
