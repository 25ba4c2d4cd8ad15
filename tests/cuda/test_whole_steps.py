"""Programs for GPUs under the execution shim: losses, evaluation and text of small models are those of the C target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from layout_models import MODELS, Model, Programs, run_model

from mlc.driver import Options

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the shim is C++")

#: What the two targets differ by, whose sums have other orders: losses and metrics, then norms of gradients. Relative.
TOLERANCE = {"f32": (1e-5, 1e-3), "bf16": (1e-2, 5e-2)}

#: Model -> its precision. Slow ones compile the most kernels.
QUICK = {"gpt": "f32"}
SLOW = {
    "mlp": "f32", "gpt2": "f32", "gpt2-drop": "f32", "gpt2-bf16": "bf16", "llama3": "bf16", "deepseek_v3-f32": "f32", "vit": "f32",
    "unet": "f32", "gla": "f32", "albert": "f32", "muon": "bf16", "supervised": "f32", "t5": "bf16", "state": "f32",
}  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Programs]:
    """By target. The kernels of `sm_90` run on the shim."""
    shim = f"SHIM={ROOT / 'runtime' / 'cuda' / 'shim'}"
    return {
        "c": Programs(tmp_path_factory.mktemp("c")),
        "sm_90": Programs(tmp_path_factory.mktemp("sm_90"), ("OPTIMIZE=-O1", shim)),
    }


def numbers(log: tuple[str, ...]) -> list[dict[str, float]]:
    return [{k: v for k, v in json.loads(line).items() if isinstance(v, float)} for line in log]


def check(programs: dict[str, Programs], model: Model, tolerance: tuple[float, float], folder: Path) -> None:
    said = {}
    for target, of in programs.items():
        program = of.build(model, Options(microbatches=4, groups=2, emit="c", target=target))
        (folder / target).mkdir()
        said[target] = numbers(run_model(program, model, folder / target, "--threads", 1).log)
    assert len(said["c"]) == len(said["sm_90"]) > 3
    for expected, found in zip(said["c"], said["sm_90"], strict=True):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=tolerance[name == "grad_norm"]), (name, expected, found)


@pytest.mark.parametrize("name", QUICK)
def test_a_model_trains_as_on_a_cpu(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    check(programs, MODELS[name], TOLERANCE[QUICK[name]], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_example_trains_as_on_a_cpu(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    check(programs, MODELS[name], TOLERANCE[SLOW[name]], tmp_path)
