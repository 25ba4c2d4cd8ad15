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

from mlc.ir.interpret import interpret
from mlc.ir.op import Keys
from mlc.ir.text import print_function
from mlc.ops import OPS

KEYS = Keys(seed=9, step=2, microbatch=1, path=1234)

#: Programs compiled into one library: the compiler is what costs time here.
PROGRAMS = 24

#: How much further than single precision itself a compiled program may be from double precision.
SLACK = 20.0


def check(library: Library, number: int, program: RandomProgram) -> None:
    function = library.routines[number].function
    arguments = program.arguments(number)
    single = interpret(program.function, arguments, OPS, KEYS)
    double = interpret(program.function, arguments, OPS, KEYS, float64=True)
    got = library.run(number, arguments, KEYS)
    for value, a, b, c in zip(function.results, single, double, got, strict=True):
        if not value.type.is_float:
            continue
        rounding = np.max(np.abs(a - b), initial=0.0)
        scale = 1.0 + np.max(np.abs(b), initial=0.0)
        assert np.max(np.abs(c - a), initial=0.0) <= SLACK * rounding + 1e-5 * scale, (
            f"{print_function(program.function)}\n{value}: {a} {c}"
        )
    for threads, shift in ((2, 4), (3, 0)):
        again = library.run(number, arguments, KEYS, threads=threads, shift=shift)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(got, again, strict=True))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(
    max_examples=3,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(batch=st.lists(programs(random=True), min_size=PROGRAMS, max_size=PROGRAMS))
def test_compiled_programs_compute_their_meaning(batch: list[RandomProgram]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = Library([p.function for p in batch], Path(folder))
        for number, program in enumerate(batch):
            check(library, number, program)
