"""A process keeps to the processors near its GPU, as far as it may use them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "runtime/cuda/src/system/near.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("near") / "near.so"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{ROOT / 'runtime/cuda/src'}"]
    subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(path)], check=True)
    return path


def bound(library: Path, devices: Path, place: str) -> tuple[bool, set[int]]:
    """What a process of its own is told, and may then use."""
    text = (
        "import ctypes, os, sys; of = ctypes.CDLL(sys.argv[1]); of.mlc_near_bind.restype = ctypes.c_bool;"
        "print(int(of.mlc_near_bind(sys.argv[2].encode(), sys.argv[3].encode())), *os.sched_getaffinity(0))"
    )
    said = subprocess.run(
        [sys.executable, "-c", text, str(library), str(devices), place], capture_output=True, text=True, check=True
    ).stdout
    first, *cpus = map(int, said.split())
    return bool(first), set(cpus)


def put(folder: Path, cpus: str, node: str = "0") -> None:
    device = folder / "0000:3b:00.0"
    device.mkdir()
    (device / "local_cpulist").write_text(cpus + "\n")
    (device / "numa_node").write_text(node + "\n")


def test_what_is_near_and_allowed_is_used(library: Path, tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0)
    one = max(mine)
    put(tmp_path, f"{one}-{one},5000-6000", "-1")
    assert bound(library, tmp_path, "0000:3B:00.0") == (True, {one})


@pytest.mark.parametrize(
    ("cpus", "place"), [("900-901", "0000:3b:00.0"), ("", "0000:3b:00.0"), ("0", "0000:af:00.0"), ("0", ""), ("x", "0000:3b:00.0")]
)
def test_else_all_stays(library: Path, cpus: str, place: str, tmp_path: Path) -> None:
    put(tmp_path, cpus)
    assert bound(library, tmp_path, place) == (False, os.sched_getaffinity(0))
