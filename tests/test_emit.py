"""Compiled C against the NumPy meaning, for every sample of the op table, with several threads and anywhere in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from op_samples import case_id, draw_arguments, sample_cases, sample_function
from routines import Library, from_stored, to_stored

from mlc.ir.function import Function
from mlc.ir.interpret import interpret
from mlc.ir.op import Keys, Op, Sample
from mlc.ops import OPS

KEYS = Keys(seed=3, step=5, microbatch=2, path=77)

#: Largest difference by dtype, relative and absolute: f32 sums in another order, bf16 rounded once.
TOLERANCE = {"f32": 3e-5, "bf16": 2e-2, "f16": 4e-3, "i32": 0.0, "bool": 0.0}

CASES = list(sample_cases())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library([sample_function(op, sample) for op, sample in CASES], tmp_path_factory.mktemp("ops"))


def stored_arguments(function: Function, sample: Sample) -> list[np.ndarray]:
    """Arguments as they are after being stored in their dtype."""
    drawn = draw_arguments(sample, np.random.default_rng(7))
    return [from_stored(to_stored(a, v.type.dtype), v.type.dtype) for a, v in zip(drawn, function.parameters, strict=True)]


@pytest.mark.parametrize(("op", "sample"), CASES, ids=case_id)
def test_compiled_equals_meaning(library: Library, op: Op, sample: Sample):
    function = sample_function(op, sample)
    number = CASES.index((op, sample))
    arguments = stored_arguments(function, sample)
    want = interpret(function, arguments, OPS, KEYS)
    got = library.run(number, arguments, KEYS)
    for value, a, b in zip(function.results, want, got, strict=True):
        tolerance = TOLERANCE[value.type.dtype]
        np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("op", "sample"), CASES, ids=case_id)
def test_bits_do_not_depend_on_threads_or_place(library: Library, op: Op, sample: Sample):
    function = sample_function(op, sample)
    number = CASES.index((op, sample))
    arguments = stored_arguments(function, sample)
    want = library.run(number, arguments, KEYS)
    for threads, shift in ((2, 0), (3, 64), (5, 4)):
        got = library.run(number, arguments, KEYS, threads=threads, shift=shift)
        for a, b in zip(want, got, strict=True):
            assert a.tobytes() == b.tobytes()


def test_folded_results_are_added(tmp_path: Path):
    op = OPS["contract"]
    sample = op.samples[0]
    function = sample_function(op, sample)
    library = Library([function], tmp_path, frozenset(r.name for r in function.results))
    arguments = stored_arguments(function, sample)
    (once,) = library.run(0, arguments)
    (twice,) = library.run(0, arguments, fold=[once])
    np.testing.assert_array_equal(twice, once + once)
