"""Fixtures: models compiled once a run, programs run and judged by exit code, golden files that explain themselves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from layout_models import Programs
from mpi import no_mpirun

from mlc.driver import Build, Options, compile_file

# A busy machine is no reason for a test to fail.
settings.register_profile("mlc", deadline=None)
settings.load_profile("mlc")

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

#: A model of two parameters that compiles and trains in no time.
TINY = '''"""A line through points."""
from mlc.optim import sgd

batch: dim = 4
rate: f32 = 0.1


@model
def line(x: real[batch], y: real[batch]):
    a = param("a", [1], init=zeros())
    b = param("b", [1], init=zeros())
    error = a * x + b - y
    return mean(error * error)


@train()
def recipe():
    return sgd(rate=rate, momentum=0.5)
'''

Compile = Callable[..., Build]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="write the golden files instead of comparing with them")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """compiled("gpt2", depth=2, ...): the example (or file) built with these dims, once for all tests of a worker."""
    builds: dict[tuple[object, ...], Build] = {}

    def compile_once(name: str | Path, options: Options | None = None, **defines: object) -> Build:
        chosen = options or Options()
        key = (name, chosen, *sorted(defines.items()))
        if key not in builds:
            path = EXAMPLES / f"{name}.dsl" if isinstance(name, str) else name
            builds[key] = compile_file(path, tmp_path_factory.mktemp(path.stem), defines, chosen)
        return builds[key]

    return compile_once


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Programs and libraries of models on layouts, each built once for all tests of a worker."""
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of TINY."""
    path = tmp_path_factory.mktemp("tiny") / "line.dsl"
    path.write_text(TINY)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """run(program, *arguments, code=0): runs in an empty folder and checks the exit code."""

    def run_program(program: Path | Build, *arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(program.program if isinstance(program, Build) else program), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
        )
        assert done.returncode == code, f"exit code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        return done

    return run_program


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """golden(path, text): the text equals the file; a missing or differing file says how it is accepted."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--accept"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {path}: look at the text, then run pytest --accept\n{text}"
        assert text == path.read_text(), f"differs from {path}: if that is meant, run pytest --accept"

    return check


def need_mpi() -> None:
    """Skips the test where there is no Open MPI; CI has it."""
    if reason := no_mpirun():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
