"""Dtypes are one table: a row that is added is asked for by name wherever it is missing, and nothing takes it for another dtype."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from op_samples import case_id, draw_arguments, sample_cases, sample_function
from routines import Library
from tolerances import TOLERANCES

from mlc.diagnostics import InternalError, MlcError
from mlc.driver import check_dtypes
from mlc.elaborate import elaborate, file_library
from mlc.elaborate.precision import PRECISIONS
from mlc.emit import dtypes as of_c
from mlc.ir.dtypes import DTYPES, FLOAT_DTYPES, WIDE_FLOATS, DType, dtype_of
from mlc.ir.function import Function
from mlc.ir.interpret import HELD, interpret, stored
from mlc.ir.op import Keys
from mlc.ir.program import Program
from mlc.ir.text import parse_function
from mlc.ir.types import TensorType, dim
from mlc.lower.widen import widen
from mlc.ops import OPS
from mlc.syntax.parser import parse
from mlc.targets.c import C
from oracles.cases import in_double

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.dsl"))


# ------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_everywhere(name: str) -> None:
    row = DTYPES[name]
    assert name in HELD
    assert DTYPES[row.register].register == row.register
    assert DTYPES[row.wide].wide == row.wide and DTYPES[row.wide].kind != "bool"
    assert name in row.fits and set(row.fits) <= set(DTYPES)
    assert np.dtype(row.word).itemsize == row.bytes
    assert of_c.stored(name).name == f"MLC_{name.upper()}"
    assert of_c.register(row.register).type
    assert name in C.rules.dtypes
    if row.is_float:
        assert f"meaning.{name}" in TOLERANCES


@pytest.mark.parametrize("name", DTYPES)
def test_fits_says_what_no_rounding_loses(name: str) -> None:
    rng = np.random.default_rng(1)
    numbers = {"float": rng.normal(size=300), "int": rng.integers(-(2**31), 2**31, 300), "bool": rng.uniform(size=300) < 0.5}
    values = stored(numbers[DTYPES[name].kind], TensorType(name, (dim(300),)))
    for other in DTYPES:
        with np.errstate(all="ignore"):
            there = stored(values.astype(np.float64), TensorType(other, (dim(300),)))
        same = np.array_equal(there.astype(np.float64), values.astype(np.float64))
        assert same or other not in DTYPES[name].fits, (name, other)


@pytest.mark.parametrize("name", FLOAT_DTYPES)
def test_limits_are_those_of_rounding(name: str) -> None:
    row, kind = DTYPES[name], TensorType(name, (dim(1),))
    with np.errstate(over="ignore"):
        if np.isfinite(row.infinite):
            below = np.array([row.infinite * (1 - 2.0**-20 if row.bytes == 2 else 1 - 2.0**-53)])
            assert np.isinf(stored(np.array([row.infinite]), kind)) and np.isfinite(stored(below, kind))
        if row.vanishing:
            assert stored(np.array([row.vanishing]), kind) == 0 and stored(np.array([row.vanishing * 1.5]), kind) != 0


def test_c_has_the_same_table() -> None:
    header = (ROOT / "runtime/include/mlc_abi.h").read_text()
    found = re.search(r"enum mlc_dtype \{ ([^}]*) \}", header)
    assert found is not None
    names = [name.removeprefix("MLC_").lower() for name in found[1].split(", ")]
    assert names[-1] == "dtypes" and set(names[:-1]) == set(DTYPES)
    source = (ROOT / "runtime/src/system/dtype.c").read_text()
    rows = re.findall(r'\[MLC_(\w+)\] = \{"(\w+)", "(\w+)", (\d), MLC_KIND_(\w+),[^}]*?(&WIDE_\w+|NULL)\}', source)
    assert {row[0].lower() for row in rows} == set(DTYPES)
    for enum, name, held, size, kind, wide in rows:
        dtype = DTYPES[name]
        assert (enum.lower(), held, int(size)) == (name, dtype.stored, dtype.bytes)
        assert kind == {"float": "FLOAT", "int": "INTEGER", "bool": "BOOL"}[dtype.kind]
        assert (wide != "NULL") == (name in WIDE_FLOATS)


# ------------------------------------------------------------------------------------------------- one more row

F8 = DType(
    bytes=1, kind="float", register="f8", wide="f32", fits=("f8", "f32", "f64"), word=np.uint8, stored="F8_E4M3", infinite=464.0,
    vanishing=2.0**-10,
)  # fmt: skip


@pytest.fixture
def f8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DTYPES, "f8", F8)


def exp_of(dtype: str) -> Function:
    text = f"func @f(%x: {dtype}[7]) -> (%y) {{\n  %y = exp %x {{}} : {dtype}[7]  @<t>:1:1-1:2 via test\n}}"
    return parse_function(text)


def test_an_unknown_dtype_is_no_dtype() -> None:
    with pytest.raises(InternalError, match=r"the table of dtypes has no dtype f8; it has f32, bf16, f16, f64, i32, bool"):
        dtype_of("f8")
    with pytest.raises(Exception, match="f8"):
        exp_of("f8")


def test_the_interpreter_asks_for_a_row(f8: None) -> None:
    with pytest.raises(InternalError, match="the interpreter has no dtype f8; it has f32"):
        stored(np.zeros(3), TensorType("f8", (dim(3),)))


def test_c_asks_for_rows_of_memory_and_of_registers(f8: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InternalError, match="memory of target c has no dtype f8"):
        of_c.stored("f8")
    with pytest.raises(InternalError, match="arithmetic of target c has no dtype f8"):
        of_c.register("f8")
    monkeypatch.setitem(of_c.STORED, "f8", of_c.Stored(type="uint8_t", name="MLC_F8", read="mlc_f8", write="mlc_to_f8"))
    monkeypatch.setitem(of_c.REGISTERS, "f8", replace(of_c.REGISTERS["bool"], type="int8_t"))
    with pytest.raises(InternalError, match="mlc_contract of target c has no dtype f8; it has f32, f64"):
        of_c.kernel_name("mlc_contract", "f8")


def program(text: str) -> Program:
    return elaborate(parse(text, "m.dsl"), {}, file_library(ROOT))


LINE = """from mlc.optim import sgd
batch: dim = 4

@model
def line(x: real[batch]):
    a = param("a", [1], init=ones())
    return mean(cast(a * x, f32))

@train(precision={})
def recipe():
    return sgd(rate=0.1)
"""


def test_a_dtype_that_a_target_lacks_is_an_error_that_names_both() -> None:
    rules = replace(C.rules, target="toy", dtypes=frozenset({"f32", "i32"}))
    check_dtypes(program(LINE.format("f32")), rules)
    with pytest.raises(MlcError) as problem:
        check_dtypes(program(LINE.format("bf16")), rules)
    (said,) = problem.value.diagnostics
    assert said.code == "E0815" and "target toy has no dtype bf16" in said.message and said.help == "it has f32, i32"


def test_a_wide_dtype_that_a_kernel_lacks_is_an_error_that_names_both() -> None:
    """A narrow one is widened; what is read as f64 must not be handed to a kernel of f32."""
    rules = replace(C.rules, target="toy", contractions=replace(C.rules.contractions, dtypes=("f32",)))
    op = OPS["contract"]
    function = sample_function(op, next(sample for sample in op.samples if sample.operands[0].startswith("f64")))
    with pytest.raises(MlcError, match="the kernel of target toy for contract has no dtype f64") as problem:
        widen(function, OPS, rules)
    assert [d.code for d in problem.value.diagnostics] == ["E0815"]


# ------------------------------------------------------------------------------------------------- f64 as a precision


def dtypes_in(made: Program) -> set[str]:
    functions = [u.function for u in made.units] + [p.init for p in made.parameters] + [u.function for u in made.updates]
    functions += [s.curve for s in made.scalars if s.curve is not None]
    values = [v for f in functions for v in (*f.parameters, *(r for i in f.instructions for r in i.results))]
    named = {str(value) for f in functions for i in f.instructions for key, value in i.attributes if key == "dtype"}
    kinds = {p.type.dtype for p in made.parameters} | {i.type.dtype for i in made.inputs}
    return {v.type.dtype for v in values} | named | kinds | {kind.dtype for u in made.updates for _, kind in u.states}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_with_precision_f64_no_f32_is_left(path: Path) -> None:
    made = elaborate(parse(in_double(path.read_text()), str(path)), {}, file_library(path.parent))
    assert made.recipe.precision == made.wide == "f64"
    found = dtypes_in(made)
    assert "f32" not in found and "f64" in found
    assert not found & {"bf16", "f16"} or path.stem in ("muon",)


def test_precisions_are_dtypes() -> None:
    assert set(PRECISIONS) <= set(FLOAT_DTYPES)
    for precision in PRECISIONS.values():
        assert {precision.real, precision.f64, precision.f32} <= set(FLOAT_DTYPES)


def test_a_parameter_is_f64_in_a_recipe_of_that_precision_only() -> None:
    text = LINE.replace("init=ones())", "init=ones(), dtype=f64)").replace("a * x", "cast(a, x.dtype) * x")
    with pytest.raises(MlcError, match="E0202"):
        program(text.format("f32"))


# ------------------------------------------------------------------------------------------------- f64 in C


DOUBLE = [
    (op, sample)
    for op, sample in sample_cases()
    if any(v.type.dtype == "f64" for f in [sample_function(op, sample)] for v in (*f.parameters, *f.results))
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library([sample_function(op, sample) for op, sample in DOUBLE], tmp_path_factory.mktemp("double"))


@pytest.mark.parametrize("number", range(len(DOUBLE)), ids=lambda n: "-".join(map(case_id, DOUBLE[n])))
def test_compiled_ops_compute_their_meaning(number: int, library: Library) -> None:
    op, sample = DOUBLE[number]
    function = library.routines[number].function
    for seed in range(4):
        drawn = draw_arguments(sample, np.random.default_rng(seed))
        arguments = [stored(a, p.type) for a, p in zip(drawn, function.parameters, strict=True)]
        want = interpret(sample_function(op, sample), arguments, OPS, Keys(seed=9))
        for value, a, b in zip(function.results, want, library.run(number, arguments, Keys(seed=9), threads=1 + seed), strict=True):
            scale = max(1.0, float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a.astype(float)))))
            tolerance = TOLERANCES[f"meaning.{value.type.dtype}"] if value.type.is_float else 0.0
            np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=0, atol=tolerance * scale)
