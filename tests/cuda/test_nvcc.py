"""Kernels compile for both targets with warnings as errors, and nothing of them leaves the registers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from layout_models import MODELS

from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file
from mlc.nvcc import Nvcc, find_nvcc

KERNELS = Path(__file__).resolve().parents[2] / "runtime" / "cuda" / "kernels"


def toolkit() -> Nvcc | None:
    try:
        return find_nvcc()
    except MlcError:
        return None


pytestmark = pytest.mark.skipif(toolkit() is None, reason="no CUDA toolkit")

#: Kernels of one thread that make exact sums, of 69 limbs.
WITH_STACK = ("mlc_account", "mlc_norm", "mlc_weigh")

QUICK = ("gpt", "gpt2-bf16")
SLOW = tuple(name for name in MODELS if name not in QUICK and not name.endswith("f64"))


def check(name: str, target: str, folder: Path) -> None:
    """Builds objects of a model's kernels and of the runtime's; ptxas says what they take."""
    (folder / "model.dsl").write_text(MODELS[name].text(), encoding="utf-8")
    compile_file(folder / "model.dsl", folder / "build", MODELS[name].defines, Options(target=target, emit="c"))
    sources = ["kernels", *(f"runtime/kernels/{path.stem}" for path in KERNELS.glob("*.cu"))]
    objects = [f"objects/{source}.o" for source in sources]
    command = ["make", "-s", "-C", str(folder / "build" / "src"), "NVCC_EXTRA=-Xptxas -v", *objects]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"'(\w+)' for 'sm_\w+'\s.*?(\d+) bytes stack frame, (\d+) bytes spill stores", done.stderr, re.DOTALL)
    assert said and not [each for each in said if each[2] != "0" or (each[1] != "0" and each[0] not in WITH_STACK)]


@pytest.mark.parametrize("target", ["sm_90", "sm_103"])
@pytest.mark.parametrize("name", QUICK)
def test_kernels_compile(name: str, target: str, tmp_path: Path) -> None:
    check(name, target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_103"])
@pytest.mark.parametrize("name", SLOW)
def test_every_example_compiles(name: str, target: str, tmp_path: Path) -> None:
    check(name, target, tmp_path)
