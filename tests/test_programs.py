"""Random programs of up to 20 ops: compiled C against the NumPy meaning, and the same bits with any number of threads."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from programs import RandomProgram, programs
from routines import Library

from mlc.elaborate.precision import read_as
from mlc.ir.interpret import interpret
from mlc.ir.op import Keys
from mlc.ir.text import print_function
from mlc.ops import OPS

KEYS = Keys(seed=9, step=2, microbatch=1, path=1234)

#: Programs compiled into one library: the compiler is what costs time here.
PROGRAMS = 24

#: How much further than single precision itself a compiled program may be from double precision.
SLACK = 20.0

#: An ulp of f64 in ulps of f32.
ULPS = 2.0**-29


def check(library: Library, number: int, program: RandomProgram) -> None:
    """At f64 no truth is nearer than the meaning itself: how far rounding goes is seen at f32."""
    function = library.routines[number].function
    arguments = program.arguments(number)
    wide = any(v.type.dtype == "f64" for i in program.function.instructions for v in (*i.operands, *i.results))
    near = interpret(program.function, arguments, OPS, KEYS)
    single = interpret(read_as(program.function, {"f64": "f32"}), arguments, OPS, KEYS) if wide else near
    double = interpret(program.function, arguments, OPS, KEYS, float64=True)
    got = library.run(number, arguments, KEYS)
    unit = ULPS if wide else 1.0
    for value, a, b, c, d in zip(function.results, single, double, got, near, strict=True):
        if not value.type.is_float:
            continue
        rounding = np.max(np.abs(a - b), initial=0.0)
        scale = 1.0 + np.max(np.abs(b), initial=0.0)
        assert np.max(np.abs(c - d), initial=0.0) <= unit * (SLACK * rounding + 1e-5 * scale), (
            f"{print_function(program.function)}\n{value}: {d} {c}"
        )
    for threads, shift in ((2, 4), (3, 0)):
        again = library.run(number, arguments, KEYS, threads=threads, shift=shift)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(got, again, strict=True))


def drawn(examples: int):
    """So many batches of programs, the same ones in every run."""
    phases = (Phase.explicit, Phase.generate)
    return settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, phases=phases, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@drawn(3)
@given(batch=st.lists(programs(random=True), min_size=PROGRAMS, max_size=PROGRAMS))
def test_compiled_programs_compute_their_meaning(batch: list[RandomProgram]) -> None:
    check_batch(batch)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@drawn(1)
@given(batch=st.lists(programs(floats=("f64",), random=True), min_size=PROGRAMS, max_size=PROGRAMS))
def test_compiled_programs_of_f64_compute_their_meaning(batch: list[RandomProgram]) -> None:
    check_batch(batch)


def check_batch(batch: list[RandomProgram]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = Library([p.function for p in batch], Path(folder))
        for number, program in enumerate(batch):
            check(library, number, program)
