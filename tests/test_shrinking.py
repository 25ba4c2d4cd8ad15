"""Files that become shorter while they are read: a sentence with the name, exit code 1, and what was trained before is saved."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc.driver import Build, Options

SIZES = {"depth": 1, "width": 32, "vocab": 256, "context": 16, "heads": 2, "batch": 2}
SENTENCE = r"gpt2: error: (rank \d: )?text: (became shorter while it was read: \d+ bytes, 400000 at the start|cannot be read any more.*)"


@pytest.fixture(params=["one", "local", "threads"])
def words(request: pytest.FixtureRequest, compiled: Any, tmp_path: Path) -> list[str]:
    ranks = {} if request.param == "one" else {"pp": 2, "dp": 2}
    build: Build = compiled("gpt2", Options(microbatches=4, **ranks), **SIZES)
    (tmp_path / "text").write_bytes(np.random.default_rng(0).integers(97, 123, 400000, dtype=np.uint8).tobytes())
    transport = ["--transport", request.param] if ranks else []
    return [str(build.program), "--data", "text", *transport, "--threads", "2", "--log", "log"]


def wait_for_steps(log: Path) -> None:
    end = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("left", [0, 100, 200000, 398000])
def test_data_that_become_shorter(words: list[str], tmp_path: Path, left: int) -> None:
    command = [*words, "--steps", "100000000", "--checkpoint", "saved"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path / "log")
    with (tmp_path / "text").open("r+b") as text:
        text.truncate(left)
    _, said = process.communicate(timeout=60)
    found = re.fullmatch(SENTENCE + r"; the (\d+) steps before are saved\n", said)
    assert process.returncode == 1 and found, said
    steps = int(found[3])
    assert (tmp_path / "saved" / "latest").read_text() == f"step-{steps:08d}\n"
    assert len((tmp_path / "log").read_text().splitlines()) == steps


def test_arrays_that_become_shorter(compiled: Any, tmp_path: Path) -> None:
    model = tmp_path / "line.dsl"
    model.write_text(LINE)
    build: Build = compiled(model)
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", np.ones(100000, np.float32))
    data = ["--data", "x=x.npy", "--data", "y=y.npy"]
    command = [str(build.program), *data, "--steps", "100000000", "--log", "log", "--checkpoint", "saved"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path / "log")
    with (tmp_path / "y.npy").open("r+b") as array:
        array.truncate(1000)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "y.npy: became shorter while it was read: 1000 bytes" in said and "are saved" in said


def test_a_file_that_is_replaced_is_no_fault(words: list[str], tmp_path: Path) -> None:
    """What is mapped stays what it was."""
    process = subprocess.Popen([*words, "--steps", "300"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path / "log")
    (tmp_path / "shorter").write_text("short")
    (tmp_path / "shorter").rename(tmp_path / "text")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


LINE = '''"""A line through points."""
from mlc.optim import sgd

batch: dim = 4
rate: f32 = 0.1


@model
def line(x: real[batch], y: real[batch]):
    error = param("a", [1], init=zeros()) * x - y
    return mean(error * error)


@train()
def recipe():
    return sgd(rate=rate, momentum=0.5)
'''
