"""--print-launches: a step is a fixed list."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from mlc.driver import Options, compile_file

MODEL = ROOT / "benchmarks" / "models" / "skips.dsl"
DEFINES = {"depth": 4, "context": 8, "width": 16}
SCHEDULES = ("gpipe", "1f1b", "interleaved", "bfs", "zb-h1", "zb-h2", "zb-v", "dualpipe-v", "auto")
RANKS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launches")


def built(folder: Path, schedule: str) -> Path:
    """The program of a schedule on two places and two replicas; it begins with the objects of another: the runtime is compiled once."""
    out, other = folder / schedule, next(folder.iterdir(), None)
    if other is not None:
        shutil.copytree(other, out)
    compile_file(MODEL, out, DEFINES, Options(pp=2, dp=2, schedule=schedule, microbatches=16, emit="c"))
    subprocess.run(["make", "-s", "-j2", "-C", str(out / "src"), "OPTIMIZE=-O0", "../skips"], check=True, capture_output=True)
    return out / "skips"


def launched(program: Path, step: int) -> list[str]:
    """What each rank launches in a step."""
    fixed = ["--data", str(MODEL), "--steps", "7", "--threads", "1", "--transport", "threads", "--timeout", "20"]
    done = subprocess.run([program, *fixed, "--print-launches", str(step)], check=True, capture_output=True, text=True)
    parts = re.split(rf"^launches of step {step}, rank \d+ \(place \d+, replica \d+\)\n", done.stdout, flags=re.MULTILINE)
    return [re.sub(r"^trained .*\n", "", part, flags=re.MULTILINE) for part in parts[1:]]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_is_the_same_list(schedule: str, folder: Path) -> None:
    first, *others = (launched(built(folder, schedule) if step == 1 else folder / schedule / "skips", step) for step in (1, 2, 7))
    assert len(first) == RANKS
    assert all(re.search(r"^F\d* 0$", rank, re.MULTILINE) and re.search(r"^  0x[0-9a-f]+ ", rank, re.MULTILINE) for rank in first)
    assert others == [first, first]
