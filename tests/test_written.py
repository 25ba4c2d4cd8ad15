"""What mlc writes is whole or not there, and is refused with a way out where it cannot be written; names of files of any kind."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlc.build import write_file
from mlc.cli import make_name, run_command
from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file, compiled_file

TWO = "from part import half\n\n"


@pytest.fixture
def two(tiny: Path, tmp_path: Path) -> Path:
    """A model that imports a file beside it, in a folder that a test may rename."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "part.dsl").write_text("half: f32 = 0.5\n")
    (folder / "tiny.dsl").write_text(TWO + tiny.read_text())
    return folder / "tiny.dsl"


NAMES = (
    "a b",
    "a#b",
    "a$b",
    "a%b",
    "a:b",
    "a*b",
    "a?b",
    "a[b",
    "a]b",
    "~a",
    "a&b",
    "a'b",
    "a,b",
    "a(b)",
    "a@b",
    "a!b",
    "a\u00e9b",
    "a\udcffb",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tool", ["make", "ninja"])
def test_dependencies_are_read(name: str, tool: str, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed import makes the rule run again, one that is gone does not stop it, and nothing happens when nothing changed."""
    if shutil.which(tool) is None or (tool == "ninja" and set(name) & set("%*?[&'")):
        pytest.skip("not here, or names that ninja takes otherwise")
    two.parent.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert run_command(["compile", f"{name}/tiny.dsl", "-o", "out", "--emit", "plan", "-MD", "-MF", "first.d"]) == 0
    rule = (tmp_path / "first.d").read_bytes().replace(b"out/tiny out/libtiny.so out/tiny.h out/plan.json:", b"made:")
    (tmp_path / "made.d").write_bytes(rule)
    (tmp_path / "Makefile").write_text("made:\n\techo REMADE; touch made\n-include made.d\n")
    (tmp_path / "build.ninja").write_text(
        "rule r\n  command = echo REMADE; touch made; cp made.d now.d\n  depfile = now.d\n  deps = gcc\nbuild made: r\n"
    )

    def remade() -> bool:
        done = subprocess.run([tool], capture_output=True, text=True, check=True)
        return "REMADE" in done.stdout.replace("echo REMADE;", "") or "[1/1]" in done.stdout

    assert remade() and not remade()
    part = tmp_path / name / "part.dsl"
    time.sleep(0.02)
    part.touch()
    assert remade() and not remade()
    part.unlink()
    assert remade()


@pytest.mark.parametrize("name", ["a;b", "a=b", "a|b", "a\tb", "a\nb", "a\\b"])
def test_names_that_no_makefile_holds(name: str) -> None:
    with pytest.raises(MlcError, match="E0804"):
        make_name(Path(name), False)


@pytest.mark.parametrize("folder", ["utf\udcff", "line\nfeed", "escape\x1b[31m", "bell\a"])
def test_names_of_any_bytes(
    folder: str, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    two.parent.rename(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    assert run_command(["compile", f"{folder}/tiny.dsl", "-o", f"{folder}/out", "--emit", "plan"]) == 0
    Path(folder, "bad.dsl").write_text("x = = 3\n")
    for name in ("bad.dsl", "none.dsl", "end.d\udcff", "end.d\nsl", "st\udcffem.dsl"):
        capfd.readouterr()
        for form in ("human", "json"):
            assert run_command(["compile", f"{folder}/{name}", "--emit", "plan", "--error-format", form]) == 1
        said = capfd.readouterr().err
        assert "\x1b" not in said and "Traceback" not in said
        found = json.loads(said[said.index('{"message"') :])
        json.dumps(found, ensure_ascii=False).encode()


def test_a_name_that_cannot_stand_in_sources(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "end.d\udcff"
    path.write_text(tiny.read_text())
    with pytest.raises(MlcError, match="E0807"):
        compile_file(path, tmp_path / "out", {}, Options(emit="c"))


def test_a_file_is_written_whole_or_not(tmp_path: Path) -> None:
    """A full disk, here a limit of the size of files, leaves what was there, and nothing beside it."""
    path = tmp_path / "file"
    write_file(path, b"before")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(MlcError, match="E0804") as caught:
            write_file(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "ulimit -f" in str(caught.value.diagnostics[0].help)
    assert path.read_bytes() == b"before" and sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]
    write_file(link, b"after")
    assert link.is_symlink() and path.read_bytes() == b"after" and path.stat().st_mode & 0o777 == 0o640


def test_a_full_disk(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["compile", str(tiny), "-o", "/dev/full/x", "--emit", "plan"]) == 1
    assert "E0804" in capfd.readouterr().err
    with pytest.raises(MlcError, match="E0804") as caught:
        write_file(Path("/dev/full"), b"x")
    assert "free some" in str(caught.value.diagnostics[0].help)


def test_outputs_that_are_something_else(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for out, code in (("file", 2), ("file/below", 1)):
        assert run_command(["compile", str(tiny), "-o", str(tmp_path / out), "--emit", "plan"]) == code
    assert "remove it" in capfd.readouterr().err and (tmp_path / "file").read_text() == "mine"
    (tmp_path / "out" / "plan.json").mkdir(parents=True)
    assert run_command(["compile", str(tiny), "-o", str(tmp_path / "out"), "--emit", "plan"]) == 1
    assert "E0804" in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    assert run_command(["compile", str(tiny), "-o", str(tmp_path / "out"), "--emit", "c"]) == 1
    assert "not yours to write" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "large"])
def test_special_files_are_neither_imported_nor_tokenized(kind: str, two: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    part = two.parent / "part.dsl"
    part.unlink()
    match kind:
        case "fifo":
            os.mkfifo(part)
        case "device":
            part.symlink_to("/dev/zero")
        case "folder":
            part.mkdir()
        case _:
            with part.open("wb") as file:
                file.truncate(1 << 40)
    assert run_command(["check", str(two)]) == 1
    assert "E0302" in capfd.readouterr().err
    if kind == "fifo":  # what another command writes is a text
        return
    assert run_command(["tokenize", str(part), "-o", str(tmp_path / "tokens")]) == 1
    said = capfd.readouterr().err
    assert "E0806" in said and "Traceback" not in said


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("moment", [0.2, 0.8, 1.4])
def test_a_second_compile_repairs_a_killed_one(how: signal.Signals, moment: float, tiny: Path, tmp_path: Path) -> None:
    """The whole group is killed, as by a terminal or a job that ends: what has the name of a program is one."""
    command = [sys.executable, "-m", "mlc", "compile", str(tiny), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "MLC_CACHE": ""}
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    time.sleep(moment)
    if first.poll() is None:
        os.killpg(first.pid, how)
    first.wait()
    program = tmp_path / "out" / tiny.stem
    if program.exists():
        subprocess.run([program, "--version"], check=True, capture_output=True)
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([program, "--version"], check=True, capture_output=True)


def test_halves_of_a_build_are_made_again(tiny: Path, tmp_path: Path) -> None:
    """What a killed compiler or linker left under its own name is not taken for made."""
    build = compile_file(tiny, tmp_path / "out", {}, Options())
    source = build.folder / "src"
    for made in (*source.glob("objects/*.o"), *source.glob("objects/*.d"), build.program, source / "libmlcrt.a"):
        half = made.read_bytes()[: made.stat().st_size // 2]
        made.unlink()
        made.with_name(f"{made.name}.part").write_bytes(half)
    compile_file(tiny, tmp_path / "out", {}, Options())
    subprocess.run([build.program, "--version"], check=True, capture_output=True)


def test_two_compilations_into_one_folder_take_turns(tiny: Path, tmp_path: Path) -> None:
    """The second one gets as far as its text, and writes when the first is done with what it made."""
    seen: list[str] = []
    reached = threading.Event()

    def observe(stage: str, made: object, seconds: float) -> None:
        seen.append(stage)
        if stage == "emit":
            reached.set()

    second = threading.Thread(target=compile_file, args=(tiny, tmp_path / "out", {"batch": 6}, Options(), observe))
    with compiled_file(tiny, tmp_path / "out", {}, Options()) as build:
        second.start()
        assert reached.wait(60)
        second.join(1)
        assert "write" not in seen
        assert "microbatches of 4)" in _version(build.program)
    second.join()
    assert "microbatches of 6)" in _version(build.program)


def _version(program: Path) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout


def test_what_runs_is_what_was_compiled(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else compiles into the folder before the program of `mlc run` has begun; it does not have the lock."""
    free: list[bool] = []

    def start(program: Path, arguments: list[str]) -> None:
        folder = os.open(program.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free.append(True)
        except BlockingIOError:
            free.append(False)
        os.close(folder)
        descriptors = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if _inherited(int(n))]
        assert str(program.parent) not in descriptors

    monkeypatch.setattr(os, "execv", start)
    for _ in range(2):
        assert run_command(["run", str(tiny), "-o", str(tmp_path / "out"), "--", "--hash"]) == 0
    assert free == [False, False]


def _inherited(descriptor: int) -> bool:
    """Whether a program that takes the place of this one would have it."""
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False
