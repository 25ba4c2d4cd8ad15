"""Values that are not finite: an update is looked at before anybody gets it, nothing is published of one, and no file brings some in."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlc
from mlc.driver import Build, Options

LINES = '''"""Two layers that scale and shift."""
from mlc.optim import sgd

batch: dim = 4
rate: f32 = 0.1


@layer
def scaled(x: real[batch]):
    return param("a", [1], init=ones()) * x


@layer
def shifted(x: real[batch]):
    return x + param("b", [1], init=zeros())


@model
def lines(x: real[batch], y: real[batch]):
    x = scaled(x, name="first")
    x = shifted(x, name="second")
    error = x - y
    return {"loss": mean(error * error)}


@train()
def recipe():
    return sgd(rate=rate, momentum=0.5)
'''

LAYOUTS: dict[str, dict[str, Any]] = {"one": {}, "local": {"pp": 2, "dp": 2}, "threads": {"pp": 2, "dp": 2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lines") / "lines.dsl"
    path.write_text(LINES)
    return path


@pytest.fixture(params=LAYOUTS)
def words(request: pytest.FixtureRequest, compiled: Any, model: Path, tmp_path: Path) -> list[str]:
    build: Build = compiled(model, Options(microbatches=4, **LAYOUTS[request.param]))
    values = np.arange(64, dtype=np.float32)
    np.save(tmp_path / "x.npy", 1 + values / 64)
    np.save(tmp_path / "y.npy", values * 30)
    transport = [] if request.param == "one" else ["--transport", request.param]
    return [str(build.program), "--data", "x=x.npy", "--data", "y=y.npy", "--threads", "2", *transport]


def run(words: list[str], *more: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*words, *map(str, more)], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def save_tensors(path: Path, **tensors: np.ndarray) -> None:
    """A safetensors file."""
    header: dict[str, object] = {}
    data = b""
    for name, tensor in tensors.items():
        begin = len(data)
        data += tensor.tobytes()
        header[name.replace("_", ".")] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_an_update_that_is_not_finite(words: list[str], tmp_path: Path) -> None:
    done = run(words, "--steps", 3, "--rate", 3e38, "--checkpoint", "saved", "--log", "log", folder=tmp_path)
    assert done.returncode == 5
    assert done.stderr == "lines: error: step 0: its update makes parameter first.a not finite\n"
    assert not (tmp_path / "saved" / "latest").exists() and not (tmp_path / "log").read_text()


def test_a_state_that_is_not_finite(words: list[str], tmp_path: Path) -> None:
    """The gradient is finite, and half the momentum and it are not."""
    np.save(tmp_path / "y.npy", np.full(64, 1.4e38 / 2, dtype=np.float32))
    np.save(tmp_path / "x.npy", np.zeros(64, dtype=np.float32))
    done = run(words, "--steps", 9, "--rate", 1e-45, "--checkpoint", "saved", "--every", 1, folder=tmp_path)
    assert done.returncode == 5, done.stderr
    assert "is not finite" in done.stderr or "not finite\n" in done.stderr


@pytest.mark.parametrize("rate, why", [("1e39", "does not fit an f32"), ("-1e39", "does not fit"), ("1e-60", "would be 0 as an f32"),
                                       ("1e-400", "would be 0"), ("1e400", "does not fit"), ("nan", "wants a number")])  # fmt: skip
def test_options_that_do_not_fit(words: list[str], tmp_path: Path, rate: str, why: str) -> None:
    done = run(words, "--steps", 1, "--rate", rate, folder=tmp_path)
    assert done.returncode == 2 and f"--rate {rate}: {why}" in done.stderr


def test_weights_that_are_not_finite(words: list[str], tmp_path: Path) -> None:
    save_tensors(tmp_path / "w.safetensors", first_a=np.ones(1, np.float32), second_b=np.full(1, np.nan, np.float32))
    done = run(words, "--steps", 1, "--weights", "w.safetensors", folder=tmp_path)
    assert done.returncode == 1
    assert "w.safetensors: tensor second.b: element 0 is not finite (--allow second.b takes it)" in done.stderr
    done = run(words, "--steps", 1, "--weights", "w.safetensors", "--allow", "second.b", folder=tmp_path)
    assert done.returncode == 5


def test_no_checkpoint_of_what_a_caller_has_put_there(compiled: Any, model: Path, tmp_path: Path) -> None:
    build: Build = compiled(model, Options(microbatches=4))
    with build.open() as session:
        session.parameters["second.b"][:] = np.inf
        with pytest.raises(mlc.MlcError, match=r"no checkpoint of step 0: parameter second.b is not finite"):
            session.save(tmp_path)
        assert not (tmp_path / "latest").exists()
        for value in (1e39, float("nan")):
            with pytest.raises(mlc.MlcError, match="rate"):
                session.set_scalar("rate", value)
        session.parameters["second.b"][:] = 0
        session.save(tmp_path)
        state = tmp_path / "step-00000000" / "state.json"
        assert state.exists()
