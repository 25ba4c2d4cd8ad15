"""What commands read and write: files of any kind, folders of any name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlc import driver
from mlc.build import write_files
from mlc.cli import run_command


def test_a_compilation_that_was_stopped(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it had written, the next one into the same folder goes on."""
    command = ["compile", str(tiny), "--emit", "c", "-o", str(tmp_path)]

    def first_two(folder: Path, files: tuple[tuple[str, str], ...]) -> None:
        write_files(folder, files[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(driver, "write_files", first_two)
        assert run_command(command) == 130
    assert run_command(command) == 0


@pytest.mark.parametrize("option", ["--csv", "--svg"])
def test_a_schedule_over_the_one_that_is_read(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lists.csv"
    assert run_command(["schedule", "--pp", "2", "--schedule", "1f1b", "--csv", str(path)]) == 0
    before = path.read_text()
    assert run_command(["schedule", "--read", str(path), option, str(path)]) == 1
    assert "E0804" in capsys.readouterr().err and path.read_text() == before


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "large", "long"])
def test_imports_and_texts_that_are_no_files(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a" * 5000 if kind == "long" else "part"
    path = tmp_path / "part.dsl"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "large":
            with path.open("wb") as file:
                file.truncate(1 << 40)
    model = tmp_path / "model.dsl"
    model.write_text(f"from {name} import x\n")
    assert run_command(["check", str(model)]) == 1
    assert "E0302" in capsys.readouterr().err
    if kind in ("folder", "device", "long"):
        assert run_command(["tokenize", str(path if kind != "long" else tmp_path / name), "-o", str(tmp_path / "out")]) == 1
        assert "E0806" in capsys.readouterr().err


def test_folders_that_cannot_be_named(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for emit in ("plan", "c"):
        assert run_command(["compile", str(tiny), "--emit", emit, "-o", str(tmp_path / ("a" * 300))]) == 1
        assert "E0804" in capsys.readouterr().err


def test_folders_whose_names_are_no_text(tiny: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xe9"
    command = [sys.executable, "-m", "mlc", "compile", tiny, "--emit", "plan", "-MD", "-o", folder]
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr
    assert (Path(os.fsdecode(folder)) / f"{tiny.stem}.d").exists()
