"""Work and code of emitted functions stay within a small multiple of their meaning, whatever is read where; and no choice of what
is kept changes a bit.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from loop_counts import executed, meant
from programs import RandomProgram, programs
from routines import NO_KEYS, Library
from towers import LEVELS, cut, padded, tower, towers, with_gradients

from mlc.diagnostics import NO_SPAN
from mlc.emit.printer import c_text
from mlc.emit.routines import routine_function
from mlc.ir.builder import Builder
from mlc.ir.function import Function
from mlc.ir.interpret import interpret
from mlc.ir.types import TensorType, Value, dim
from mlc.lower.routine import Routine, lower_function
from mlc.ops import OPS
from mlc.passes.expand import expand
from mlc.passes.simplify import simplify
from mlc.targets.c import C

#: What is promised: operations executed for one of the meaning, bytes of C for an instruction; and what a small function has beside.
MOST_WORK, WORK_BESIDE = 4, 64
MOST_BYTES, BYTES_BESIDE = 600, 2000

derandomized = settings(
    deadline=None, database=None, derandomize=True, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck)
)


def code_bytes(routine: Routine) -> int:
    return len(c_text(routine_function(routine, "f")))


def check_bounds(function: Function) -> None:
    routine = lower_function(function, OPS, C.rules)
    assert executed(routine) <= MOST_WORK * meant(routine.function) + WORK_BESIDE
    assert code_bytes(routine) <= MOST_BYTES * len(function.instructions) + BYTES_BESIDE


@settings(derandomized, max_examples=150)
@given(towers())
def test_towers_are_bounded(function: Function) -> None:
    check_bounds(function)


@settings(derandomized, max_examples=150)
@given(programs(random=True))
def test_random_programs_are_bounded(program: RandomProgram) -> None:
    check_bounds(simplify(expand(program.function, OPS), OPS))


@pytest.mark.parametrize("level", LEVELS, ids=[f.__name__ for f in LEVELS])
@pytest.mark.parametrize("backward", [False, True])
def test_code_is_linear_in_the_height(level: object, backward: bool) -> None:
    number = LEVELS.index(level)  # type: ignore[arg-type]
    sizes = [code_bytes(lower_function(tower([(number, 1)] * n, (3, 8, 5), (), "f32", backward), OPS, C.rules)) for n in (8, 16, 32)]
    assert sizes[2] - sizes[1] <= 2.5 * max(sizes[1] - sizes[0], 1)


def test_a_long_chain_is_lowered() -> None:
    """Deeper than Python recurses: elementwise, with its derivative."""
    b = Builder(OPS, "test", NO_SPAN, ("x",))
    x = Value("x", TensorType("f32", (dim(8),)))
    h = x
    for _ in range(700):
        h = b.one("sin", b.one("mul", h, x))
    function = simplify(with_gradients(Function("chain", (x,), tuple(b.instructions), (h,))), OPS)
    check_bounds(function)


def arguments(function: Function, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(p.type.shape) * 0.25, np.float32).round(2) for p in function.parameters]


#: Every level, and pairs of them; every second in bf16, where what is kept must not be rounded.
SAMPLES = [
    tower([(n, 1), (m, 0), (n, 1), (m, 1), (n, 0)], shape, (0, 2), "bf16" if (n + m) % 2 else "f32", True)
    for n in range(len(LEVELS))
    for m, shape in ((n, (3, 8, 5)), ((n + 3) % len(LEVELS), (2, 6, 10)))
]


@pytest.fixture(scope="module")
def libraries() -> list[Library]:
    """The samples three times: with what is kept by default, with everything kept, with as little as the code can bear."""
    made = []
    for limits in (C.rules.fusion.limits, (1,), (32,)):
        rules = replace(C.rules, fusion=replace(C.rules.fusion, limits=limits))
        with tempfile.TemporaryDirectory() as folder:
            made.append(Library(SAMPLES, Path(folder), rules=rules))
    return made


@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_what_is_kept_changes_no_bit(libraries: list[Library], number: int) -> None:
    given_values = arguments(SAMPLES[number], number)
    first, *others = [library.run(number, given_values, threads=threads) for threads, library in enumerate(libraries, 1)]
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("number", [n for n, f in enumerate(SAMPLES) if f.parameters[0].type.dtype == "f32"])
def test_towers_compute_their_meaning(libraries: list[Library], number: int) -> None:
    function = SAMPLES[number]
    values = arguments(function, number)
    made = libraries[0].run(number, values)
    for a, b in zip(made, interpret(function, values, OPS, NO_KEYS, True), strict=True):
        assert np.allclose(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(np.abs(b).max())))


def sliced(pieces: int, mixed: bool) -> Function:
    """A value that is read slice by slice, with its derivative; mixed: other readers stand in between."""
    x = Value("x", TensorType("f32", (dim(3), dim(pieces))))
    b = Builder(OPS, "test", NO_SPAN, ("x",))
    h = cut(b, x, 1, 0, 1)
    for t in range(1, pieces):
        h = b.one("mul", h, cut(b, x, 1, t, t + 1))
    results = (h, b.one("mul", x, padded(b, x, 1))) if mixed else (h,)
    return simplify(with_gradients(Function("sliced", (x,), tuple(b.instructions), results)), OPS)


def test_gradients_of_slices_are_put_together() -> None:
    """The gradient of a value that is read slice by slice is no sum over the whole for each slice."""
    ops = [i.op for i in sliced(16, False).instructions]
    assert "pad" not in ops and ops.count("concat") == 1
    assert [i.op for i in sliced(3, False).instructions].count("pad") == 3


@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_put_together_are_their_sum(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, zeros of either sign and infinities among them."""
    together = sliced(8, mixed)
    monkeypatch.setattr("mlc.passes.reverse.LEAST_PIECES", 1000)
    added = sliced(8, mixed)
    rng = np.random.default_rng(3)
    values = [rng.choice(np.array([-0.0, 0.0, 1.5, -2.0, np.inf], np.float32), p.type.shape) for p in together.parameters]
    with np.errstate(invalid="ignore"):
        for a, b in zip(interpret(together, values, OPS, NO_KEYS), interpret(added, values, OPS, NO_KEYS), strict=True):
            a, b = np.where(np.isnan(a), 7, a), np.where(np.isnan(b), 7, b)
            assert np.asarray(a, np.float32).tobytes() == np.asarray(b, np.float32).tobytes()
