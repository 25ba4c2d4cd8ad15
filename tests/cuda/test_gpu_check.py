"""The script for machines with a GPU, as far as it goes without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import pytest
from shim_library import ROOT, compiler

NCU = """==PROF== Connected to process 7
"ID","Kernel Name","gpu__time_duration.sum","dram__bytes.sum","launch__registers_per_thread"
"","","ns","byte","register/thread"
"0","gpt2_block_f_0","1,024.5","4096","40"
"1","gpt2_block_f_0","1000","n/a","40"
"""


def check(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), *arguments]
    return subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_rehearsal_writes_what_it_saw(tmp_path: Path) -> None:
    _ = compiler()
    results = tmp_path / "results.json"
    done = check("--rehearse", "--parts", "speed-gpt2", "bits", "ranks", "kernels", "--to", str(results), path=os.environ["PATH"])
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(results.read_text())
    assert said["speed-gpt2"]["passed"] and said["speed-gpt2"]["mlc"]["step_ms"] > 0
    assert len(said["bits"]["f32"]) == len(said["bits"]["bf16"]) == 64 and said["bits"]["f32"] != said["bits"]["bf16"]
    assert "kernels" not in said
    assert said["ranks"]["pp 2"]["digest"] == said["ranks"]["one"]["digest"] and "killed by signal 9" in said["ranks"]["killed"]


def test_no_gpu_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    done = check("--to", str(tmp_path / "results.json"), path=str(tmp_path))
    assert done.returncode == 2 and "no GPU here" in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_part_that_fails_is_a_result(tmp_path: Path) -> None:
    """Nothing lies where programs are looked for."""
    results = tmp_path / "results.json"
    done = check("--rehearse", "--parts", "bits", "--minutes", "1", "--to", str(results), path=str(tmp_path))
    assert done.returncode == 1
    assert json.loads(results.read_text())["bits"]["passed"] is False


def test_what_takes_too_long_ends_with_all_it_started(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(gpu_check.Failed, match="not done in 1 s\nhalf"):
        _ = gpu_check.Check(tmp_path, "90a", True, begin + 60).run(["sh", "-c", "echo half; sleep 30 & sleep 30"], 1)
    assert time.monotonic() - begin < 10


def test_tables_of_ncu_are_read() -> None:
    first, second = gpu_check.kernels_of(NCU)
    assert first == {
        "kernel": "gpt2_block_f_0",
        "gpu__time_duration.sum": 1024.5,
        "dram__bytes.sum": 4096.0,
        "launch__registers_per_thread": 40.0,
    }
    assert second == {"kernel": "gpt2_block_f_0", "gpu__time_duration.sum": 1000.0, "launch__registers_per_thread": 40.0}
    with pytest.raises(gpu_check.Failed, match="no table"):
        _ = list(gpu_check.kernels_of("==ERROR== no permission"))
