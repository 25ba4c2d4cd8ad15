"""precision=f64 through everything that holds numbers: data, options, steps, logs, checkpoints, weights, views, messages, digests."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Compile, Run

from mlc.driver import Build, Options

ROWS = 16
#: What no f32 holds.
THIRD = 1.0 / 3.0


@pytest.fixture(scope="module")
def double(compiled: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line through points in f64, clipped."""
    path = tmp_path_factory.mktemp("double") / "line.dsl"
    path.write_text(TINY.replace("@train()", "@train(clip=0.5, precision=f64)"))
    return path


def points(folder: Path, rows: int = ROWS) -> dict[str, np.ndarray]:
    """x and y, saved for programs too."""
    rng = np.random.default_rng(4)
    arrays = {name: rng.normal(size=rows) for name in ("x", "y")}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return arrays


def line(
    x: np.ndarray, y: np.ndarray, steps: int, a: float, b: float, rate: float = 0.1, clip: float = 0.5
) -> tuple[list[float], float, float]:
    """The losses of the model in NumPy, and where it arrives; each step takes four rows."""
    losses, ma, mb = [], 0.0, 0.0
    for step in range(steps):
        at = slice(4 * step, 4 * step + 4)
        error = a * x[at] + b - y[at]
        losses.append(float(np.mean(error * error)))
        ga, gb = float(np.mean(2 * error * x[at])), float(np.mean(2 * error))
        factor = min(1.0, clip / float(np.hypot(ga, gb)))
        ma, mb = 0.5 * ma + factor * ga, 0.5 * mb + factor * gb
        a, b = a - rate * ma, b - rate * mb
    return losses, a, b


def test_steps_are_those_of_numpy(double: Path, compiled: Compile, tmp_path: Path) -> None:
    arrays = points(tmp_path)
    want, a, b = line(arrays["x"], arrays["y"], 4, THIRD, -THIRD)
    with compiled(double).open(threads=2, steps=10) as model:
        assert {view.dtype for view in (*model.parameters.values(), *model.optimizer_state.values())} == {np.dtype(np.float64)}
        model.parameters["a"][:], model.parameters["b"][:] = THIRD, -THIRD
        found = [model.step(**{name: array[4 * s : 4 * s + 4] for name, array in arrays.items()}) for s in range(4)]
        assert found == pytest.approx(want, rel=1e-15)
        assert (float(model.parameters["a"][0]), float(model.parameters["b"][0])) == pytest.approx((a, b), rel=1e-15)
        loss, gradients = model.gradient(**{name: array[:4] for name, array in arrays.items()})
        assert loss == pytest.approx(float(np.mean((a * arrays["x"][:4] + b - arrays["y"][:4]) ** 2)), rel=1e-15)
        assert gradients["a"].dtype == np.float64
        model.set_scalar("rate", 1e-60)
        model.set_scalar("rate", 1e300)


WIDE = """
from mlc.optim import sgd

batch: dim = 4
rate: f32 = 1e300
small: f32 = 0.5


@layer
def scaled(z: f64[batch], s: f64):
    return z * s


@model
def line(x: real[batch], y: f64[batch]):
    assert x.dtype == f64 and y.dtype == real
    a = param("a", [1], init=zeros(), dtype=f64)
    b: f32[batch] = cast(a * x, f64)
    e = b - y + scaled(x, small)
    report("wide", mean(0.0 * x + 1e300))
    return mean(e * e)


@train(precision=f64, clip=1e-60)
def recipe():
    return sgd(rate=rate)
"""


def test_f64_and_f32_are_one_dtype_and_reach_as_far(compiled: Compile, tmp_path: Path) -> None:
    path = tmp_path / "wide.dsl"
    path.write_text(WIDE)
    arrays = points(tmp_path)
    batch = {name: array[:4] for name, array in arrays.items()}
    with compiled(path, small="1e-300").open(threads=1, steps=10) as model:
        assert model.scalars == {"rate": 1e300, "small": 1e-300}
        assert model.step(**batch) == pytest.approx(float(np.mean(batch["y"] ** 2)), rel=1e-15)
        assert model.metrics["wide"] == pytest.approx(1e300)
        slope = float(np.mean(-2 * batch["y"] * batch["x"]))
        assert float(model.parameters["a"][0]) == pytest.approx(-1e240 * np.sign(slope))


def tensors(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """What a safetensors file holds: dtype and values by name."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length :]
    return {n: (t["dtype"], np.frombuffer(body[slice(*t["data_offsets"])], np.float64).reshape(t["shape"])) for n, t in header.items()}


def digest(out: str) -> str:
    return out.strip().splitlines()[-1].removeprefix("digest: ")


def test_a_run_saves_and_goes_on_in_f64(double: Path, compiled: Compile, run: Run, tmp_path: Path) -> None:
    arrays = points(tmp_path)
    build = compiled(double)
    data = ["--data", "x=x.npy", "--data", "y=y.npy", "--order", "sequential", "--hash", "--rate", "0.3"]
    whole = run(build, *data, "--steps", 4, "--log", "log.jsonl")
    run(build, *data, "--steps", 2, "--checkpoint", "ck")
    again = run(build, *data, "--steps", 4, "--checkpoint", "ck", "--resume", "auto")
    assert digest(again.stdout) == digest(whole.stdout)
    saved = tensors(tmp_path / "ck" / "step-00000004" / "model-00001-of-00001.safetensors")
    states = tensors(tmp_path / "ck" / "step-00000004" / "optimizer-00001-of-00001.safetensors")
    want, a, b = line(arrays["x"], arrays["y"], 4, 0.0, 0.0, rate=0.3)
    assert {dtype for dtype, _ in (*saved.values(), *states.values())} == {"F64"}
    assert [float(saved[name][1][0]) for name in ("a", "b")] == pytest.approx([a, b], rel=1e-15)
    rows = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows if "loss" in row] == pytest.approx(want, rel=1e-15)


def test_weights_of_f64_are_taken_as_they_are(double: Path, compiled: Compile, run: Run, tmp_path: Path) -> None:
    points(tmp_path)
    build = compiled(double)
    values = {"a": THIRD, "b": 1e200}
    header = {n: {"dtype": "F64", "shape": [1], "data_offsets": [8 * i, 8 * i + 8]} for i, n in enumerate(values)}
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + np.array([*values.values()]).tobytes())
    with build.open() as model:
        model.load_weights(tmp_path / "w.safetensors")
        assert {name: float(model.parameters[name][0]) for name in values} == values


def test_another_precision_is_another_run(double: Path, compiled: Compile, run: Run, tmp_path: Path, tiny: Path) -> None:
    points(tmp_path)
    data = ["--data", "x=x.npy", "--data", "y=y.npy"]
    run(compiled(double), *data, "--steps", 1, "--checkpoint", "ck")
    refused = run(compiled(tiny), *data, "--steps", 2, "--checkpoint", "ck", "--resume", "auto", code=1)
    assert "precision" in refused.stderr and "--weights" in refused.stderr
    refused = run(compiled(tiny), *data, "--steps", 2, "--checkpoint", "ck", "--resume", "auto", "--allow", "*", code=1)
    assert "precision: the checkpoint has f64, this program f32" in refused.stderr and "lets it pass" not in refused.stderr


def test_what_f64_cannot_square_is_said(double: Path, compiled: Compile, run: Run, tmp_path: Path) -> None:
    for name, value in (("x", 1e200), ("y", 1.0)):
        np.save(tmp_path / f"{name}.npy", np.full(ROWS, value))
    said = run(compiled(double), "--data", "x=x.npy", "--data", "y=y.npy", "--steps", 1, code=5)
    assert "not finite" in said.stderr
    for name, value in (("x", 1e30), ("y", 1e30)):  # squares that leave f32
        np.save(tmp_path / f"{name}.npy", np.full(ROWS, value))
    run(compiled(double), "--data", "x=x.npy", "--data", "y=y.npy", "--steps", 1)


def test_layouts_end_in_one_digest(compiled: Compile, run: Run, tmp_path: Path, double: Path) -> None:
    points(tmp_path, 64)
    data = ["--data", "x=x.npy", "--data", "y=y.npy", "--steps", 3, "--hash"]
    found = set()
    for options in (Options(microbatches=8), Options(microbatches=8, dp=2), Options(microbatches=8, dp=4)):
        build: Build = compiled(double, options)
        found.add(digest(run(build, *data, "--threads", 1).stdout))
    assert len(found) == 1
