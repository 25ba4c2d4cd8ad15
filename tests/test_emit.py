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
from mlc.ir.text import parse_function
from mlc.ops import OPS

KEYS = Keys(seed=3, step=5, microbatch=2, path=77)

#: Largest difference by dtype, relative and absolute: f64 and f32 sums in another order, bf16 rounded once.
TOLERANCE = {"f64": 1e-12, "f32": 3e-5, "bf16": 2e-2, "f16": 4e-3, "i32": 0.0, "bool": 0.0}

CASES = list(sample_cases())

_NAMES = """
auto bool i j k env at arena work acc c m0 rows total scalars NULL INFINITY I errno stdin x_v x_m _ __x _Bool mlc_range
"""


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


def test_operands_of_products_may_repeat_what_lies_there(tmp_path: Path):
    """Columns of the right operand, or rows of the left, all at one place."""
    text = """func @f(%x: f32[5, 7], %v: f32[7], %s: f32[], %w: f32[7, 40]) -> (%y, %z, %u) {
      %b = broadcast %v {axes=(0), dims=[7, 40]} : f32[7, 40]  @<t>:1:1-1:2 via test
      %y = contract %x, %b {spec="ik,kj->ij"} : f32[5, 40]  @<t>:1:1-1:2 via test
      %c = broadcast %s {axes=(), dims=[7, 40]} : f32[7, 40]  @<t>:1:1-1:2 via test
      %z = contract %x, %c {spec="ik,kj->ij"} : f32[5, 40]  @<t>:1:1-1:2 via test
      %a = broadcast %v {axes=(1), dims=[5, 7]} : f32[5, 7]  @<t>:1:1-1:2 via test
      %u = contract %a, %w {spec="ik,kj->ij"} : f32[5, 40]  @<t>:1:1-1:2 via test
    }"""
    function = parse_function(text)
    rng = np.random.default_rng(2)
    arguments = [rng.standard_normal(p.type.shape, np.float32) for p in function.parameters]
    for a, b in zip(interpret(function, arguments, OPS, KEYS), Library([function], tmp_path).run(0, arguments), strict=True):
        np.testing.assert_allclose(b, a, rtol=3e-5, atol=3e-5)


def test_an_index_out_of_range_gives_nan(tmp_path: Path):
    """It neither reads beyond the tensor nor passes for another row."""
    text = """func @f(%x: f32[3, 2], %i: i32[4]) -> (%g, %s) {
      %g = gather %x, %i {axis=0} : f32[4, 2]  @<t>:1:1-1:2 via test
      %s = scatter_add %g, %i {dim=<3>} : f32[3, 2]  @<t>:1:1-1:2 via test
    }"""
    library = Library([parse_function(text)], tmp_path)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    gathered, scattered = library.run(0, [x, np.array([2, -1, 3, 0], np.int32)])
    np.testing.assert_array_equal(gathered, np.array([[4, 5], [np.nan, np.nan], [np.nan, np.nan], [0, 1]], np.float32))
    assert np.isnan(scattered[[0, 2]]).all() and not scattered[1].any()


def test_values_may_have_any_name(tmp_path: Path):
    """Words of C, and the names emitted code uses, are fine names for the values of a model."""
    names = _NAMES.split()
    lines = [f"%{n} = add %{p}, %{p} : f32[3, 20]  @<t>:1:1-1:2 via test" for p, n in zip(["x", *names], names, strict=False)]
    text = f"func @f(%x: f32[3, 20]) -> (%{names[-1]}) {{\n" + "\n".join(lines) + "\n}"
    library = Library([parse_function(text)], tmp_path)
    (got,) = library.run(0, [np.full((3, 20), 2.0**-40, np.float32)])
    assert (got == 2.0 ** (len(names) - 40)).all()
