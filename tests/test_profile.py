"""--profile: the kernels of steps and of texts, with the lines of the model; nothing else differs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mlc.driver import Build, Options

SIZES = {"depth": 2, "width": 32, "vocab": 256, "context": 16, "heads": 2, "batch": 2}
STEPS = 3


def end(build: Build, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(build.program), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="latin-1", timeout=60, check=False)


def run(build: Build, folder: Path, *words: object) -> str:
    done = end(build, folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kernels_of(path: Path) -> list[dict]:
    """Those of a profile, which is sorted."""
    profile = json.loads(path.read_text())
    kernels = profile["kernels"]
    assert profile["threads"] == 2 and profile["peak_gflops"] > 1
    assert kernels == sorted(kernels, key=lambda kernel: -kernel["ms"])
    return kernels


def test_kernels_of_steps_have_their_lines_and_flops_and_change_nothing(compiled, tmp_path: Path) -> None:
    build = compiled("gpt2", Options(microbatches=2), **SIZES)
    (tmp_path / "text").write_bytes(bytes(97 + i * i // 7 % 26 for i in range(4000)))
    words = ("--data", "text", "--steps", STEPS, "--threads", 2, "--hash")
    plain = run(build, tmp_path, *words)
    table = run(build, tmp_path, *words, "--profile", "--profile-json", "profile")
    assert table.splitlines()[-1] == plain.splitlines()[-1]
    kernels = kernels_of(tmp_path / "profile")
    forward = [kernel for kernel in kernels if kernel["function"] == "block_forward"]
    assert all(kernel["name"].startswith("gpt2.dsl:") and kernel["name"] in table for kernel in forward)
    rows = SIZES["batch"] * SIZES["context"]
    products = sum(kernel["flops"] / kernel["calls"] for kernel in forward if "attention" not in kernel["name"])
    assert products == 2 * rows * 12 * SIZES["width"] ** 2
    assert {kernel["calls"] for kernel in forward} == {SIZES["depth"] * 2 * STEPS}
    assert {"update", "statistics"} <= {kernel["name"] for kernel in kernels if not kernel["function"]}


def test_kernels_of_a_text(compiled, tmp_path: Path) -> None:
    build = compiled("gpt2", Options(microbatches=2), **SIZES)
    words = ("--sample", 5, "--prompt", "abc", "--threads", 2)
    text = run(build, tmp_path, *words)
    assert run(build, tmp_path, *words, "--profile-json", "profile").startswith(text)
    kernels = kernels_of(tmp_path / "profile")
    assert all(kernel["calls"] % 7 == 0 for kernel in kernels if kernel["function"].endswith("next_forward"))
    assert any(kernel["function"] == "block_next_forward" for kernel in kernels)


def test_a_file_that_is_there_is_not_lost(compiled, tmp_path: Path) -> None:
    build = compiled("gpt2", Options(microbatches=2), **SIZES)
    words = ("--sample", 1, "--prompt", "a", "--profile-json", "profile")
    run(build, tmp_path, *words)
    run(build, tmp_path, *words)
    assert json.loads((tmp_path / "profile.1").read_text())["kernels"]
    (tmp_path / "profile").write_text("mine")
    done = end(build, tmp_path, *words)
    assert done.returncode == 2 and (tmp_path / "profile").read_text() == "mine"
