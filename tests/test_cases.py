"""Models as strangers write them, which read a value in many places: they compile in short order, train as PyTorch does where it is
there to compare with, and give one digest on one rank and cut in two.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc.driver import Build, Options

CASES = Path(__file__).resolve().parent / "cases"
RUN = ("--steps", "3", "--threads", "1", "--hash")

#: name, sizes that keep the C small
MODELS: tuple[tuple[str, dict[str, object]], ...] = (
    ("chain", {"k": 12}),
    ("pool", {"taps": 9, "side": 3}),
    ("resnet", {"depth": 1, "width": 4, "size": 16, "batch": 4}),
    ("lstm", {"way": "inline", "context": 8, "width": 16, "batch": 4}),
    ("lstm", {"way": "cells", "context": 8, "width": 16, "batch": 4}),
    ("mamba", {"context": 8, "width": 16, "inner": 16, "states": 4, "batch": 2}),
    ("gemma", {"depth": 3, "width": 16, "hidden": 32, "head": 4, "context": 16, "batch": 2}),
)
IDS = [f"{name}-{sizes['way']}" if "way" in sizes else name for name, sizes in MODELS]

#: name of an input -> elements of a row, and numbers below which an index is (0: a float)
INPUTS = {
    "chain": {"x": ((64, 32), 0), "y": ((64, 32), 0)},
    "pool": {"x": ((16, 16, 8), 0), "y": ((), 0)},
    "resnet": {"images": ((3, 16, 16), 0), "labels": ((), 10)},
}


def arrays_of(name: str, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    made: dict[str, np.ndarray] = {}
    for key, (shape, below) in INPUTS[name].items():
        numbers = rng.integers(0, below, (rows, *shape), np.int32) if below else rng.standard_normal((rows, *shape), np.float32)
        made[key] = numbers * np.float32(1e-3) if name == "chain" else numbers
    return made


def data_of(name: str, folder: Path) -> list[str]:
    """Files of data, as arguments of a program."""
    if name not in INPUTS:
        (folder / "text").write_bytes(np.random.default_rng(5).integers(97, 123, 3000, np.uint8).tobytes())
        return ["--data", str(folder / "text"), "--evaluate", str(folder / "text")]
    found: list[str] = []
    for key, array in arrays_of(name, 16).items():
        np.save(folder / f"{key}.npy", array)
        found += [option for flag in ("--data", "--evaluate") for option in (flag, f"{key}={folder / key}.npy")]
    return found


@pytest.mark.parametrize(("name", "sizes"), MODELS, ids=IDS)
def test_one_digest_on_one_rank_and_on_two(name: str, sizes: dict[str, object], compiled: Any, run: Any, tmp_path: Path) -> None:
    data = data_of(name, tmp_path)
    outputs = [
        run(compiled(CASES / f"{name}.dsl", Options(pp=pp, microbatches=2), **sizes), *data, *RUN).stdout  # a line a step, then digest
        for pp in (1, 2)
    ]
    digests = [re.findall(r"^digest: ([0-9a-f]{64})$", output, re.MULTILINE) for output in outputs]
    assert len(digests[0]) == 1 and digests[0] == digests[1]


def c_bytes(compiled: Any, name: str, **sizes: object) -> int:
    build: Build = compiled(CASES / f"{name}.dsl", Options(emit="c"), **sizes)
    return sum(len(p.read_bytes()) for p in (build.folder / "src").glob("*.c"))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("chain", [{"k": k} for k in (8, 16, 32)]),
        ("pool", [{"taps": k, "side": 6} for k in (9, 18, 36)]),
        ("mamba", [{"context": k} for k in (16, 32, 64)]),
        ("lstm", [{"context": k} for k in (8, 16, 32)]),
    ],
)
def test_code_is_linear(name: str, sizes: list[dict[str, object]], compiled: Any) -> None:
    """Twice as long a chain, twice the C at most (and a little, for what is counted in more digits)."""
    least, middle, most = (c_bytes(compiled, name, **s) for s in sizes)
    assert most - middle < 2.6 * (middle - least)


def test_a_resnet_is_no_more_than_its_layers(compiled: Any) -> None:
    assert c_bytes(compiled, "resnet") < 700_000


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def torch_chain(torch: Any, p: dict[str, Any], x: Any, y: Any) -> Any:
    h = x * p["b"]
    for _ in range(12):
        h = h + p["a"] * torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
    return ((h - y) ** 2).mean()


def torch_pool(torch: Any, p: dict[str, Any], x: Any, y: Any) -> Any:
    h = torch.nn.functional.max_pool2d((x @ p["w"]).permute(0, 3, 1, 2), 3, 1)
    return ((h.mean((1, 2, 3)) - y) ** 2).mean()


def torch_resnet(torch: Any, p: dict[str, Any], images: Any, labels: Any) -> Any:
    f = torch.nn.functional

    def conv_norm(x: Any, conv: str, norm: str, stride: int) -> Any:
        w = p[f"{conv}.weight"]
        return f.batch_norm(f.conv2d(x, w, None, stride, w.shape[2] // 2), None, None, p[f"{norm}.weight"], p[f"{norm}.bias"], True)

    x = f.max_pool2d(conv_norm(images, "conv1", "bn1", 1).relu(), 3, 2, 1)
    for s in range(3):
        name, stride = f"layer{s + 1}.0", 1 if s == 0 else 2
        y = conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride).relu()
        y = conv_norm(y, f"{name}.conv2", f"{name}.bn2", 1)
        x = (y + (conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if s else x)).relu()
    return f.cross_entropy(x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"], labels.long())


def torch_mamba(torch: Any, p: dict[str, Any], tokens: Any, targets: Any) -> Any:
    f = torch.nn.functional

    def norm(x: Any, name: str) -> Any:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * p[f"{name}.weight"]

    x = p["embedding"][tokens.long()]
    for layer in range(2):
        q = {key.removeprefix(f"layers.{layer}."): value for key, value in p.items() if key.startswith(f"layers.{layer}.")}
        u, z = (norm(x, f"layers.{layer}.norm") @ q["in_proj.weight"].T).chunk(2, -1)
        taps = q["conv1d.weight"].T[:, None]
        u = f.conv1d(f.pad(u.transpose(1, 2), (taps.shape[2] - 1, 0)), taps, q["conv1d.bias"], groups=taps.shape[0]).transpose(1, 2)
        u = f.silu(u)
        rank, states = q["dt_proj.weight"].shape[1], q["A_log"].shape[1]
        parts, bs, cs = (u @ q["x_proj.weight"].T).split([rank, states, states], -1)
        delta = f.softplus(parts @ q["dt_proj.weight"].T + q["dt_proj.bias"])
        decay, push = torch.exp(delta[..., None] * -q["A_log"].exp()), (delta * u)[..., None] * bs[:, :, None]
        h, ys = torch.zeros_like(decay[:, 0]), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + push[:, t]
            ys.append((h * cs[:, t, None]).sum(-1))
        x = x + ((torch.stack(ys, 1) + q["D"] * u) * f.silu(z)) @ q["out_proj.weight"].T
    return f.cross_entropy((norm(x, "norm_f") @ p["head.weight"].T).flatten(0, 1), targets.flatten().long())


#: name, rows of a step, its meaning in PyTorch
REFERENCES: tuple[tuple[str, int, Callable[..., Any]], ...] = (
    ("chain", 4, torch_chain),
    ("pool", 4, torch_pool),
    ("resnet", 4, torch_resnet),
    ("mamba", 2, torch_mamba),
)


@needs_torch
@pytest.mark.parametrize(("name", "rows", "reference"), REFERENCES, ids=[r[0] for r in REFERENCES])
def test_gradients_are_those_of_pytorch(name: str, rows: int, reference: Callable[..., Any], compiled: Any) -> None:
    torch = importlib.import_module("torch")
    rng = np.random.default_rng(7)
    inputs = arrays_of(name, rows) if name in INPUTS else {k: rng.integers(0, 256, (rows, 8), np.int32) for k in ("tokens", "targets")}
    with compiled(CASES / f"{name}.dsl", Options(microbatches=1), **dict(MODELS)[name]).open(threads=2) as model:
        for _, value in model.parameters.items():
            value += rng.standard_normal(value.shape).astype(value.dtype) * 0.01
        parameters = {key: torch.tensor(value.copy(), requires_grad=True) for key, value in model.parameters.items()}
        loss, gradients = model.gradient(**inputs)
        expected = reference(torch, parameters, **{key: torch.tensor(value) for key, value in inputs.items()})
        expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    for key, parameter in parameters.items():
        if parameter.grad is None:
            continue
        scale = float(parameter.grad.abs().max()) + 1e-6
        assert np.abs(gradients[key] - parameter.grad.numpy()).max() < 2e-3 * scale, key
