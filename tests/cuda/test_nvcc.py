"""Kernels of every example compile for both targets with warnings as errors, and nothing of them leaves the registers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from layout_models import MODELS
from shim_library import ROOT, lack

from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file
from mlc.nvcc import find_nvcc

KERNELS = ROOT / "runtime" / "cuda" / "kernels"

#: Kernels of one thread that make exact sums, of 69 limbs.
WITH_STACK = ("mlc_account", "mlc_norm", "mlc_weigh")

QUICK = "gpt"
SLOW = (
    "mlp", "gpt2-drop", "gpt2-bf16", "llama3", "deepseek_v3", "deepseek_v3-f32", "vit", "unet", "gla", "albert", "muon", "supervised", "t5",
    "state", "skips",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def toolkit() -> None:
    try:
        find_nvcc()
    except MlcError as problem:
        lack(problem.diagnostics[0].message)


def check(name: str, target: str, folder: Path, sources: Iterable[str] = ("kernels",)) -> None:
    """Builds objects of a model's sources; ptxas says what they take."""
    (folder / "model.dsl").write_text(MODELS[name].text(), encoding="utf-8")
    compile_file(folder / "model.dsl", folder / "build", MODELS[name].defines, Options(target=target, emit="c"))
    objects = [f"objects/{source}.o" for source in sources]
    warnings = "-Werror all-warnings -Xcompiler -Werror"
    command = ["make", "-s", "-C", str(folder / "build" / "src"), f"NVCC_EXTRA=-Xptxas -v {warnings}", *objects]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Potential Performance Loss" not in done.stderr, done.stderr
    said = re.findall(r"'(\w+)' for 'sm_\w+'\s.*?(\d+) bytes stack frame, (\d+) bytes spill stores", done.stderr, re.DOTALL)
    assert said and not [each for each in said if each[2] != "0" or (each[1] != "0" and each[0] not in WITH_STACK)]


@pytest.mark.parametrize("target", ["sm_90", "sm_103"])
def test_kernels_compile(target: str, tmp_path: Path) -> None:
    """Those of the runtime too."""
    check(QUICK, target, tmp_path, ["kernels", *(f"runtime/kernels/{path.stem}" for path in KERNELS.glob("*.cu"))])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_103"])
@pytest.mark.parametrize("name", SLOW)
def test_every_example_compiles(name: str, target: str, tmp_path: Path) -> None:
    check(name, target, tmp_path)


def test_no_example_is_left_out() -> None:
    tried = {MODELS[name].file for name in (QUICK, *SLOW)}
    assert tried >= {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.dsl")}
