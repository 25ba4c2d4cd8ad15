"""Short samples of benchmarks/acceptance.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SENTENCE = "the compiler knows the cluster it compiles for so what others decide at run time is decided here and proved"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are built once for all samples, and a text to train on."""
    made = tmp_path_factory.mktemp("acceptance")
    words = SENTENCE.split()
    (made / "text.txt").write_text(" ".join(words[i * i % len(words)] for i in range(4000)), encoding="ascii")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["threads", "kill", "libraries", "allocations", "memory", "emission"])
def test_sample(figure: str, folder: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "acceptance.py", figure, "--short", "--folder", folder, "--text", folder / "text.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
