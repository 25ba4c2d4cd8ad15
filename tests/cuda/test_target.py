"""What the targets for GPUs refuse, and what they plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layout_models import MODELS

from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file
from mlc.targets import TARGETS
from mlc.targets.cuda.model import FOUND_BYTES


def compiled(folder: Path, name: str, **options: object) -> Path:
    """The directory that a model is emitted into for sm_90."""
    (folder / "model.dsl").write_text(MODELS[name].text(), encoding="utf-8")
    chosen = {"emit": "c", "target": "sm_90", "microbatches": 4, **options}
    compile_file(folder / "model.dsl", folder / "build", MODELS[name].defines, Options(**chosen))
    return folder / "build"


@pytest.mark.parametrize(("name", "options", "code"), [("gpt2-f64", {}, "E0815"), ("gpt2-f64", {"pp": 2}, "E0815")])
def test_what_a_gpu_lacks_is_refused(name: str, options: dict[str, object], code: str, tmp_path: Path) -> None:
    with pytest.raises(MlcError) as problem:
        compiled(tmp_path, name, **options)
    assert [d.code for d in problem.value.diagnostics] == [code]


def test_nothing_is_built_without_a_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(MlcError) as problem:
        compiled(tmp_path, "gpt", emit="bin")
    (said,) = problem.value.diagnostics
    assert said.code == "E0816" and said.help is not None and "mlc[cuda]" in said.help


def test_results_of_a_pass_are_planned(tmp_path: Path) -> None:
    plan = json.loads((compiled(tmp_path, "gpt") / "plan.json").read_text())
    assert plan["scratch_bytes_per_thread"] == FOUND_BYTES


def test_the_tables_of_both_architectures_are_alike() -> None:
    one, other = (TARGETS[name].rules for name in ("sm_90", "sm_103"))
    assert (one.fusion, one.loops, one.dtypes, one.alignment) == (other.fusion, other.loops, other.dtypes, other.alignment)
