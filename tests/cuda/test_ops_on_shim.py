"""Kernels that the targets for GPUs emit for every sample of the op table, on the execution shim, against the NumPy meaning.

The build is the checked one: races, missing barriers, what is read out of bounds or before it is written fail a test too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from op_samples import case_id, draw_arguments, sample_cases, sample_function
from routines import from_stored, to_stored
from shim_kernels import KEYS, Kernels, open_kernels
from tolerances import TOLERANCES

from mlc.ir.dtypes import DTYPES
from mlc.ir.function import Function
from mlc.ir.interpret import interpret
from mlc.ir.op import LibraryKernel, Op, Sample
from mlc.ops import OPS
from mlc.targets.cuda import SM_90

pytestmark = pytest.mark.slow


def is_whole(function: Function) -> bool:
    """Whether a GPU has all of its dtypes."""
    values = (*function.parameters, *(r for i in function.instructions for r in i.results))
    return all(v.type.dtype in SM_90.rules.dtypes for v in values)


def has_kernel(op: Op) -> bool:
    """Whether a GPU has the library kernel that an op is: those of the decode chain it has not."""
    return not isinstance(op.lowering, LibraryKernel) or op.lowering.name in SM_90.rules.kernels


CASES = [(op, sample) for op, sample in sample_cases() if has_kernel(op) and is_whole(sample_function(op, sample))]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    with open_kernels([sample_function(op, sample) for op, sample in CASES], tmp_path_factory.mktemp("kernels")) as kernels:
        yield kernels


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
        largest = np.max(np.abs(a), initial=1.0, where=np.isfinite(a)) if value.type.dtype == "bf16" else 1.0
        np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=tolerance, atol=tolerance * largest)


def test_every_dtype_of_the_target_is_tried() -> None:
    tried = {v.type.dtype for op, sample in CASES for v in sample_function(op, sample).parameters}
    assert tried == SM_90.rules.dtypes & DTYPES.keys()
