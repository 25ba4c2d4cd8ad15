"""Limits of the process: a program under one trains, or ends with a sentence and the code for a machine that failed; never by a signal."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlc.driver import Build, Options

SIZES = {"depth": 1, "width": 32, "vocab": 256, "context": 16, "heads": 2, "batch": 2}


@pytest.fixture(params=["one", "local", "threads"])
def words(request: pytest.FixtureRequest, compiled: Any, tmp_path: Path) -> list[str]:
    ranks = {} if request.param == "one" else {"pp": 2, "dp": 2}
    build: Build = compiled("gpt2", Options(microbatches=4, **ranks), **SIZES)
    (tmp_path / "text").write_bytes(bytes(97 + i * i // 7 % 26 for i in range(4000)))
    transport = ["--transport", request.param] if ranks else []
    return [str(build.program), "--data", "text", *transport, "--threads", "3", "--steps", "4", "--hash", "--log", "log"]


def run(words: list[str], folder: Path, limit: str = ":") -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'{limit}; exec "$@"', "sh", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("kilobytes", [64, 128, 256])
def test_small_stacks(words: list[str], tmp_path: Path, kilobytes: int) -> None:
    whole, limited = run(words, tmp_path), run([*words, "--checkpoint", "saved"], tmp_path, f"ulimit -s {kilobytes}")
    assert limited.returncode == 0, limited.stderr
    assert limited.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1] and "digest: " in whole.stdout
    assert (tmp_path / "saved" / "latest").exists()


@pytest.mark.parametrize(
    "limit", [*(f"ulimit -v {1000 * n}" for n in (6, 9, 13, 17, 25, 50)), *(f"ulimit -n {n}" for n in (6, 8, 10, 13, 16))]
)
def test_little_of_something(words: list[str], tmp_path: Path, limit: str) -> None:
    done = run([*words, "--checkpoint", "saved"], tmp_path, limit)
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert (done.returncode, len(errors)) in ((0, 0), (3, 1)), (done.returncode, done.stderr)
    if done.returncode:
        assert re.search(r"cannot|Too many open files|open files each|out of memory|Cannot allocate", errors[0]), errors
