"""The Python API: compile a file or a Python function, check, format; errors are data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlc
from mlc.bench import measure
from mlc.language import dim, f32, mean, param, real, zeros
from mlc.optim import sgd

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

batch: dim = 4
rate: f32 = 0.1


@mlc.model
def line(x: real[batch], y: real[batch]):
    a = param("a", [1], init=zeros())
    b = param("b", [1], init=zeros())
    error = a * x + b - y
    return mean(error * error)


@mlc.train()
def recipe():
    return sgd(rate=rate, momentum=0.5)


def test_a_python_function_is_a_model(tiny: Path, tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32)
    builds = mlc.compile(line, tmp_path / "python", {"batch": 6}), mlc.compile(tiny, tmp_path / "file", {"batch": 6})
    with builds[0].open() as one, builds[1].open() as two:
        for _ in range(3):
            assert one.step(x=x, y=x) == two.step(x=x, y=x)
        assert one.digest() == two.digest()


def test_errors_of_a_python_function_point_into_its_file() -> None:
    with pytest.raises(mlc.MlcError) as problem:
        mlc.compile(line, define={"batch": 0})
    (diagnostic,) = problem.value.diagnostics
    assert Path(diagnostic.span.file).name == "test_api.py"


def test_options_are_those_of_the_command(tiny: Path, tmp_path: Path) -> None:
    build = mlc.compile(str(tiny), tmp_path, emit="plan", microbatches=2)
    assert '"microbatches": 2' in build.plan.read_text()
    with pytest.raises(mlc.MlcError):
        mlc.compile(tiny, tmp_path, emit="plan", plan=build.plan, pp=2)
    again = mlc.compile(tiny, tmp_path / "again", emit="plan", plan=str(build.plan))
    other = mlc.compile(tiny, tmp_path / "other", emit="plan", microbatches=np.int32(2), dp=np.int64(1))
    assert again.plan.read_bytes() == other.plan.read_bytes() == build.plan.read_bytes()
    with pytest.raises(TypeError):
        mlc.compile(tiny, tmp_path, emit="plan", tp=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"emit": "exe"}, "error[E0808]: --emit exe: one of ir, plan, c, bin"),
        ({"microbatches": 0}, "error[E0809]: --microbatches 0: at least 1"),
        ({"groups": -2}, "error[E0809]: --groups -2: at least 1"),
        ({"memory": float("nan")}, "error[E0808]: --memory nan: wants a whole number"),
        ({"dp": "2"}, "error[E0808]: --dp '2': wants a whole number"),
        ({"pp": 1.0}, "error[E0808]: --pp 1.0: wants a whole number"),
        ({"chunks": True}, "error[E0808]: --chunks True: wants a whole number"),
        ({"pp": None}, "error[E0808]: --pp None: wants a whole number"),
        ({"plan": 3}, "error[E0808]: --plan 3: wants a path"),
        ({"target": ["c"]}, "error[E0808]: --target ['c']: wants text"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], said: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(mlc.MlcError) as problem:
        mlc.compile(tiny, tmp_path, **options)
    assert str(problem.value) == said


def test_more_memory_than_can_be_mapped(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.dsl"
    path.write_text(tiny.read_text().replace("real[batch]", "real[batch, 2 ** 16]"))
    with pytest.raises(mlc.MlcError) as problem:
        mlc.compile(path, tmp_path, {"batch": 2**30}, emit="c")
    assert problem.value.diagnostics[0].code == "E0812"


def test_check_and_format(tiny: Path) -> None:
    mlc.check(tiny)
    with pytest.raises(mlc.MlcError) as problem:
        mlc.check(tiny, {"batch": "many"})
    assert problem.value.diagnostics[0].severity == "error"
    assert mlc.format("x:dim=3\n") == "x: dim = 3\n"


def test_import_is_quiet_and_quick_to_start() -> None:
    script = "import sys, mlc; assert not {'lark', 'torch', 'pytest'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_bench_counts_what_the_program_counts(tiny: Path, tmp_path: Path) -> None:
    sizes = {"depth": 1, "width": 16, "heads": 1, "context": 8, "batch": 2, "vocab": 16}
    found = measure(mlc.compile(tiny, tmp_path / "records"), 2)
    assert found["records_per_s"] > 0 and "tokens_per_s" not in found
    found = measure(mlc.compile(EXAMPLES / "gpt2.dsl", tmp_path / "tokens", sizes), 2)
    assert found["tokens_per_s"] > 0 and "records_per_s" not in found
