"""What the targets for GPUs refuse, and what they plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layout_models import MODELS

from mlc import nvcc
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


@pytest.mark.parametrize(
    ("release", "said"), [("release 12.4,", "12.9 is the oldest"), ("release 13.0,", "no libcudart_static.a"), ("", "does not say")]
)
def test_a_toolkit_that_will_not_do_is_named(release: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").write_text(f"#!/bin/sh\necho {release}\n")
    (tmp_path / "bin/nvcc").chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(MlcError, match=said):
        nvcc.find_nvcc()


def test_the_usual_place_of_a_toolkit_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64/libcudart_static.a").touch()
    (tmp_path / "bin/nvcc").write_text("#!/bin/sh\necho release 13.0,\n")
    (tmp_path / "bin/nvcc").chmod(0o755)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(nvcc, "_compilers", lambda found=nvcc._compilers: [p for p in found() if p.is_relative_to(tmp_path)])
    monkeypatch.setattr(nvcc, "USUAL", str(tmp_path))
    assert nvcc.find_nvcc() == nvcc.Nvcc(str(tmp_path / "bin/nvcc"), str(tmp_path), str(tmp_path / "lib64"), "13.0")


def test_tools_that_a_toolkit_lacks_come_from_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, toolkit, name = tmp_path / "packages", tmp_path / "toolkit", "a-tool-of-no-machine"
    for folder in (packages / "nvidia/cu13/bin", toolkit / "bin"):
        folder.mkdir(parents=True)
    found = nvcc.Nvcc(str(toolkit / "bin/nvcc"), str(toolkit), str(toolkit / "lib64"), "13.0")
    monkeypatch.syspath_prepend(str(packages))
    assert nvcc.find_tool(found, name) is None
    for folder in (packages / "nvidia/cu13/bin", toolkit / "bin"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
        assert nvcc.find_tool(found, name) == str(folder / name)


def test_results_of_a_pass_are_planned(tmp_path: Path) -> None:
    plan = json.loads((compiled(tmp_path, "gpt") / "plan.json").read_text())
    assert plan["scratch_bytes_per_thread"] == FOUND_BYTES


def test_the_tables_of_both_architectures_are_alike() -> None:
    one, other = (TARGETS[name].rules for name in ("sm_90", "sm_103"))
    assert (one.fusion, one.loops, one.dtypes, one.alignment) == (other.fusion, other.loops, other.dtypes, other.alignment)
