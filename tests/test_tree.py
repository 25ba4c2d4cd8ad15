"""What is kept in the repository: sources. Nothing that was built can be committed, and what building leaves is ignored."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: A checkout may belong to somebody else than who tests it.
GIT = ("git", "-c", "safe.directory=*", "-C", str(ROOT))

#: What files begin with that a tool made: programs and objects, archives, compressed files, bytecode of this Python.
MAGIC = (b"\x7fELF", b"!<arch>\n", b"PK\x03\x04", b"\x1f\x8b", b"\xfd7zXZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"MZ")
ENDINGS = (".o", ".a", ".so", ".pyc", ".whl", ".zip", ".gz", ".safetensors", ".npy", ".d")
MOST_BYTES = 1 << 20

#: A place that each way of building writes to.
LEFT = (
    "build/gpt/gpt",
    "build/gpt/src/objects/model.o",
    "runtime/build/test_kernels",
    "runtime/build/asan/libmlcrt.a",
    "runtime/bench/build/bench_kernels",
    "compiler/__pycache__/driver.cpython-311.pyc",
    ".venv/bin/mlc",
    "mlc.egg-info/PKG-INFO",
    ".pytest_cache/README.md",
    "examples/build/gpt/gpt",
)


def built(path: Path) -> str | None:
    """Why a file is none that a person wrote."""
    if path.suffix in ENDINGS:
        return f"ends in {path.suffix}"
    size_bytes = path.lstat().st_size
    if size_bytes > MOST_BYTES:
        return f"has {size_bytes} bytes"
    with path.open("rb") as file:
        return "begins as what a tool makes" if file.read(8).startswith(MAGIC) else None


@pytest.mark.parametrize(
    ("name", "data"),
    [("a", b"\x7fELF\2\1\1"), ("b", b"!<arch>\nx"), ("c.o", b""), ("d.txt", b" " * (MOST_BYTES + 1))],
    ids=["program", "archive", "object", "large"],
)
def test_built_files_are_seen(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert built(tmp_path / name)


def need_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no checkout")


def test_nothing_built_is_committed() -> None:
    need_git()
    listed = subprocess.run([*GIT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    assert len(paths) > 100
    found = {str(path.relative_to(ROOT)): built(path) for path in paths if path.is_file()}
    assert not {name: reason for name, reason in found.items() if reason}


def test_what_building_leaves_is_ignored() -> None:
    need_git()
    for name in LEFT:
        command = [*GIT, "check-ignore", "-q", "--no-index", name]
        assert subprocess.run(command, check=False).returncode == 0, f"{name} could be committed"
    listed = subprocess.run([*GIT, "ls-files", "-ci", "--exclude-standard"], capture_output=True, text=True, check=True).stdout
    assert listed == "", "ignored and kept all the same"
