"""Programs for GPUs under the execution shim: losses, evaluation and text of small models are those of the C target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layout_models import MODELS, Model, Programs, run_model
from shim_library import SHIM, compiler
from tolerances import TOLERANCES

from mlc.diagnostics import MlcError
from mlc.driver import Options

#: Model -> its precision; mixed: f32 with an optimizer that works in bf16. Slow ones compile the most kernels.
QUICK = {"gpt": "f32"}
SLOW = {
    "mlp": "f32", "gpt2": "f32", "gpt2-drop": "f32", "gpt2-bf16": "bf16", "llama3": "bf16", "deepseek_v3-f32": "f32", "vit": "f32",
    "unet": "f32", "gla": "f32", "albert": "f32", "muon": "mixed", "supervised": "f32", "t5": "bf16", "state": "f32",
}  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Programs]:
    """By target. The kernels of `sm_90` run on the shim."""
    return {
        "c": Programs(tmp_path_factory.mktemp("c")),
        "sm_90": Programs(tmp_path_factory.mktemp("sm_90"), ("OPTIMIZE=-O1", f"CXX={' '.join(compiler())}", f"SHIM={SHIM}")),
    }


def numbers(log: tuple[str, ...]) -> list[dict[str, float]]:
    return [{k: v for k, v in json.loads(line).items() if isinstance(v, float)} for line in log]


def check(programs: dict[str, Programs], model: Model, precision: str, folder: Path) -> None:
    """The sums of the two targets have other orders."""
    said = {}
    for target, of in programs.items():
        program = of.build(model, Options(microbatches=4, groups=2, emit="c", target=target))
        (folder / target).mkdir()
        said[target] = numbers(run_model(program, model, folder / target, "--threads", 1).log)
    assert len(said["c"]) == len(said["sm_90"]) > 3
    for expected, found in zip(said["c"], said["sm_90"], strict=True):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            kind = "norm" if name == "grad_norm" else "loss"
            assert found[name] == pytest.approx(value, rel=TOLERANCES[f"device.{kind}.{precision}"]), (name, expected, found)


@pytest.mark.parametrize("name", QUICK)
def test_a_model_trains_as_on_a_cpu(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    check(programs, MODELS[name], QUICK[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_example_trains_as_on_a_cpu(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    check(programs, MODELS[name], SLOW[name], tmp_path)


def test_a_library_for_gpus_says_that_it_has_no_views(programs: dict[str, Programs]) -> None:
    with pytest.raises(MlcError, match="cannot be opened as a library"):
        programs["sm_90"].library(MODELS["gpt"], Options(microbatches=4, groups=2, emit="c", target="sm_90")).open()
