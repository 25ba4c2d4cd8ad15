"""Programs of other compilers, C libraries and processors than this machine's own; and what a program asks of the C library.

A small GPT is built with each compiler and trained for a few steps. Its loss is that of the native program to the tolerance of a step:
other processors sum in other blocks.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tolerances import TOLERANCES

from mlc.build import find_toolchain
from mlc.cli import run_command
from mlc.driver import Build

ROOT = Path(__file__).resolve().parent.parent
DEFINES = {"depth": 2, "width": 32, "heads": 2, "context": 32, "batch": 2}


@dataclass(frozen=True)
class Way:
    """A compiler as the environment names it, the machine it compiles for, what it and its program need here.

    start:  stands before the program; None: it cannot run here
    mpi:    is the transport mpi built, where there is an MPI
    """

    compiler: str
    needs: tuple[str, ...]
    march: str = "native"
    start: tuple[str, ...] | None = ()
    mpi: bool = False


QEMU = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
WAYS = {
    "ccache": Way("ccache gcc", ("ccache",), mpi=True),
    "blanks": Way("{folder}/a compiler's place/gcc", (), mpi=True),
    "static": Way("gcc -static", ()),
    "musl": Way("musl-gcc", ("musl-gcc",)),
    "musl-static": Way("musl-gcc -static", ("musl-gcc",)),
    "aarch64": Way("aarch64-linux-gnu-gcc", ("aarch64-linux-gnu-gcc", "qemu-aarch64"), "armv8-a", QEMU),
    "aarch64-bf16": Way("aarch64-linux-gnu-gcc", ("aarch64-linux-gnu-gcc",), "armv8.2-a+bf16+fp16+dotprod+sve", None),
}


def need(*tools: str) -> None:
    """Skips the test where a tool is missing; CI has all of them."""
    if absent := [tool for tool in tools if not shutil.which(tool)]:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: {', '.join(absent)}")


def make(folder: Path, *arguments: str) -> None:
    command = ["make", "-s", "-j2", "-C", str(folder / "src"), "OPTIMIZE=-O1", "WARNINGS=-Wall -Wextra -Werror", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def loss(*command: object) -> float:
    """The loss after five steps."""
    arguments = ["--data", ROOT / "README.md", "--steps", 5, "--seed", 1, "--threads", 2]
    done = subprocess.run([str(word) for word in (*command, *arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^trained 5 steps: loss ([\d.]+)", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return float(found[1])


def emit(out: Path, march: str) -> None:
    defines = [word for name, value in DEFINES.items() for word in ("-D", f"{name}={value}")]
    arguments = ["compile", ROOT / "examples" / "gpt.dsl", "-o", out, "--emit", "c", "--march", march, *defines]
    assert run_command([str(word) for word in arguments]) == 0


@pytest.fixture(scope="module")
def native(compiled) -> float:
    """The loss of the program of this machine's compiler."""
    return loss(compiled("gpt", **DEFINES).program)


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_trains(name: str, native: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = WAYS[name]
    need(*way.needs)
    place = tmp_path / "a compiler's place"
    place.mkdir()
    (place / "gcc").symlink_to(str(shutil.which("gcc")))
    monkeypatch.setenv("CC", way.compiler.format(folder=tmp_path))
    out = tmp_path / "out"
    emit(out, way.march)
    make(out)
    assert (out / "libgpt.so").exists()
    assert (out / "libmlc_mpi.so").exists() == (way.mpi and shutil.which("mpicc") is not None)
    if way.start is not None:
        assert loss(*way.start, out / "gpt") == pytest.approx(native, rel=5 * TOLERANCES["loss.f32"])


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("none-gcc", "E0801"),
        ("'gcc", "E0801"),
        ("''", "E0801"),
        ("aarch64-linux-gnu-gcc", "name the other one: --march armv8-a"),
    ],
)
def test_compilers_that_cannot(
    compiler: str, said: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if compiler.startswith("aarch64"):
        need(compiler)
    monkeypatch.setenv("CC", compiler)
    assert run_command(["compile", str(tiny), "-o", str(tmp_path)]) == 1
    assert said in capsys.readouterr().err


def test_command_of_a_compiler_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc '-DNAME=a b' -DMONEY=$1")
    assert find_toolchain().command == ["gcc", "-DNAME=a b", "-DMONEY=$1"]


#: In the headers of an older glibc these are inline functions around others.
INLINE = {"stat", "fstat", "lstat", "fstatat", "mknod"}
OLDEST = (2, 17)


def versions(library: str) -> dict[str, set[tuple[int, ...]]]:
    """The versions under which a library of this machine has each of its functions."""
    path = subprocess.run(["gcc", f"-print-file-name={library}"], capture_output=True, text=True, check=True).stdout.strip()
    table = subprocess.run(["objdump", "-T", path], capture_output=True, text=True, check=True).stdout
    found: dict[str, set[tuple[int, ...]]] = {}
    for line in table.splitlines():
        if match := re.search(r"GLIBC_([\d.]+)\)?\s+(\w+)$", line):
            found.setdefault(match[2], set()).add(tuple(int(part) for part in match[1].split(".")))
    return found


def undefined(program: Path) -> set[str]:
    table = subprocess.run(["nm", "-D", "--undefined-only", program], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in table.splitlines() if " U " in line}


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="glibc had other first versions elsewhere")
def test_asks_for_nothing_newer_than_glibc_2_17(compiled) -> None:
    """Functions of the same name are in glibc 2.17: a program that is built there links. One that is built here wants this glibc."""
    build: Build = compiled("gpt", **DEFINES)
    libraries = [versions(name) for name in ("libc.so.6", "libm.so.6")]
    if not any(libraries):
        pytest.skip("not glibc")
    for file in (build.program, build.library):
        wanted = undefined(file) - INLINE
        assert "malloc" in wanted
        for name in sorted(wanted):
            known = [min(table[name]) for table in libraries if name in table]
            assert not known or min(known) <= OLDEST, f"{name} came with glibc {min(known)}: see runtime/src/system/system.h"


def test_hardened(compiled) -> None:
    """Addresses of functions are sealed, the program is at no fixed address, no stack is executable, frames and copies are checked."""
    build: Build = compiled("gpt", **DEFINES)
    for file in (build.program, build.library):
        shown = subprocess.run(["readelf", "-hldW", file], capture_output=True, text=True, check=True).stdout
        assert re.search(r"Type:\s+DYN", shown) and "GNU_RELRO" in shown and re.search(r"FLAGS.*BIND_NOW|FLAGS_1.*NOW", shown), file
        assert re.search(r"GNU_STACK.* RW +0x", shown), file
        assert {"__stack_chk_fail", "__vsnprintf_chk"} <= undefined(file), file
