"""The cache of the runtime library: made once, never stale, never shared with strangers, never half of itself; and make beside it.

Most tests build a runtime of two functions with a compiler that notes each file it compiles.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlc.build import Toolchain, find_toolchain, write_files
from mlc.cache import ABANDONED_SECONDS, KEPT_ENTRIES, find_cache, keep_entry, read_entry
from mlc.cli import run_command
from mlc.emit.project import SourceTree, add_project
from mlc.runtime_library import describe_cache, install_runtime

#: A compiler that notes what it makes objects of; `# version` can be edited.
NOTING = """#!/bin/sh
# version 1
case " $* " in *" -c "*) for word; do case $word in runtime/*.c) echo "$word" >> {notes} ;; esac; done ;; esac
exec cc "$@"
"""

FILES = {
    "include/mlc.h": "#define ANSWER 41\n",
    "src/system/error.c": '#include "mlc.h"\nint mlc_answer(void);\nint mlc_answer(void)\n{\n    return ANSWER;\n}\n',
    "src/system/other.c": "int mlc_other(void);\nint mlc_other(void)\n{\n    return 1;\n}\n",
    "transports/mpi.c": '#include "mlc.h"\nint mlc_module(void);\nint mlc_module(void)\n{\n    return ANSWER;\n}\n',
}
PROGRAM = '#include <stdio.h>\nint mlc_answer(void);\nint main(void)\n{\n    return !printf("%d", mlc_answer());\n}\n'
MODEL = SourceTree((("src/main.c", PROGRAM),))


@dataclass(frozen=True)
class Place:
    """A runtime, a compiler and a cache of their own."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def compiler(self) -> Path:
        return self.folder / "noting-cc"

    @property
    def toolchain(self) -> Toolchain:
        return Toolchain(shlex.quote(str(self.compiler)), "cc", find_toolchain().make)

    def edit(self, name: str, text: str) -> None:
        (self.folder / "runtime" / name).write_text(text)

    def install(self, name: str = "out", target: tuple[str, ...] = ("-DTARGET",)) -> Path:
        """An emitted directory as mlc leaves it before it calls make."""
        out = self.folder / name
        runtime = self.folder / "runtime"
        write_files(out, add_project(MODEL, "program", runtime, self.toolchain, target).files)
        install_runtime(self.toolchain, target, add_project(SourceTree(()), "none", runtime, self.toolchain, target), out)
        return out

    def compiled(self) -> list[str]:
        """What was compiled of the runtime since the last call."""
        notes = self.folder / "notes"
        words = notes.read_text().split() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return sorted(word.removeprefix("runtime/") for word in words)

    def entries(self) -> list[Path]:
        return sorted(self.cache.glob("runtime-*"))


WHOLE = ["src/system/error.c", "src/system/other.c"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path / "a place")
    for name, text in FILES.items():
        path = made.folder / "runtime" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made.compiler.write_text(NOTING.format(notes=shlex.quote(str(made.folder / "notes"))))
    made.compiler.chmod(0o755)
    monkeypatch.setenv("MLC_CACHE", str(made.cache))
    monkeypatch.setenv("CCACHE_DISABLE", "1")
    return made


def make(out: Path, *arguments: str) -> str:
    """What the program says after make."""
    command = ["make", "-s", "-C", str(out / "src"), "MPICC=", *arguments, "../program"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return subprocess.run([out / "program"], capture_output=True, text=True, check=True).stdout


def test_built_once_for_all_models(place: Place) -> None:
    first = place.install("first")
    assert place.compiled() == WHOLE
    second = place.install("second")
    assert make(first) == make(second) == "41"
    assert place.compiled() == [], "make compiled what the cache had given"
    assert (first / "src" / "libmlcrt.a").read_bytes() == (second / "src" / "libmlcrt.a").read_bytes()
    assert stat.S_IMODE(place.cache.stat().st_mode) == 0o700 and len(place.entries()) == 1


def test_the_same_as_make_builds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = place.install("cached")
    monkeypatch.setenv("MLC_CACHE", "off")
    own = place.install("own")
    assert not (own / "src" / "libmlcrt.a").exists()
    assert make(cached) == make(own) == "41"
    for name in ("program", "src/libmlcrt.a", "src/settings"):
        assert (cached / name).read_bytes() == (own / name).read_bytes(), name


@pytest.mark.parametrize("edited", ["src/system/error.c", "include/mlc.h"])
def test_sources_edited_by_hand_are_compiled(place: Place, edited: str) -> None:
    out = place.install()
    place.compiled()
    path = out / "src" / "runtime" / edited
    path.write_text(path.read_text().replace("return ANSWER", "return 7").replace("41", "7"))
    assert make(out) == "7"
    assert "src/system/error.c" in place.compiled()
    assert make(place.install()) == "41", "compiling the model again gives the runtime of mlc"
    assert place.compiled() == []


def test_other_settings_are_compiled(place: Place) -> None:
    out = place.install()
    place.compiled()
    assert make(out) == "41"
    assert place.compiled() == []
    assert make(out, "EXTRA=-DX='\"it'\\''s\"'") == "41"
    assert place.compiled() == WHOLE
    assert make(out, "EXTRA=-DX='\"it'\\''s\"'") == "41"
    assert place.compiled() == []
    assert make(out) == "41"
    assert place.compiled() == WHOLE


def test_never_stale(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.install()
    assert place.compiled() == WHOLE
    place.edit("include/mlc.h", "#define ANSWER 42\n")
    assert make(place.install()) == "42"
    assert place.compiled() == WHOLE
    place.compiler.write_text(place.compiler.read_text().replace("version 1", "version 2"))
    place.install()
    assert place.compiled() == WHOLE, "another compiler under the same name"
    monkeypatch.setenv("CPATH", str(place.folder))
    place.install()
    assert place.compiled() == WHOLE, "other headers"
    place.install(target=("-DOTHER",))
    assert place.compiled() == WHOLE, "another target"
    place.install(target=("-DOTHER",))
    assert place.compiled() == [] and len(place.entries()) == 5


def damage_link(entry: Path) -> None:
    target = entry.with_name("target")
    entry.rename(target)
    entry.symlink_to(target)


def damage_folder(entry: Path) -> None:
    entry.unlink()
    (entry / "full").mkdir(parents=True)


def damage_fifo(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


DAMAGES = {
    "half": lambda entry: os.truncate(entry, entry.stat().st_size // 2),
    "empty": lambda entry: os.truncate(entry, 0),
    "flipped": lambda entry: entry.write_bytes(entry.read_bytes().replace(b"ELF", b"FLE")),
    "writable by others": lambda entry: entry.chmod(0o666),
    "link": damage_link,
    "folder": damage_folder,
    "fifo": damage_fifo,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_entry_is_made_again(place: Place, how: str) -> None:
    place.install()
    place.compiled()
    DAMAGES[how](place.entries()[0])
    assert make(place.install("again")) == "41"
    assert place.compiled() == WHOLE


def test_no_byte_can_be_wrong(place: Place) -> None:
    place.install()
    entry = place.entries()[0]
    data = entry.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 97)):
        entry.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert read_entry(entry) is None
    entry.write_bytes(data)
    assert b"src/settings" in (read_entry(entry) or b"")


def test_an_entry_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    """Writers replace it again and again; a reader finds what one of them wrote, all of it."""
    entry = tmp_path / "kind-key"
    contents = [bytes([n]) * 1_000_000 for n in range(4)]
    keep_entry(entry, contents[0])
    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(keep_entry, entry, contents[n % 4]) for n in range(40)]
        while not all(write.done() for write in written):
            assert read_entry(entry) in contents
    assert sorted(tmp_path.iterdir()) == [entry]


def test_many_at_once(place: Place) -> None:
    code = (
        "import sys; from pathlib import Path; from test_cache import Place, make;"
        "assert make(Place(Path(sys.argv[1])).install(sys.argv[2])) == '41'"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    runs = [subprocess.Popen([sys.executable, "-c", code, place.folder, f"out{n}"], env=environment) for n in range(6)]
    assert [run.wait() for run in runs] == [0] * 6
    assert len(place.entries()) == 1 and not list(place.cache.glob(".making-*"))
    place.compiled()
    place.install()
    assert place.compiled() == []


def test_killed_half_way(place: Place) -> None:
    """Nothing of what a killed compilation left is used, and the next but one day it is gone."""
    text = place.compiler.read_text()
    place.compiler.write_text(text.replace("exec cc", 'case " $* " in *" -c "*) sleep 60 ;; esac; exec cc'))
    code = "import sys; from pathlib import Path; from test_cache import Place; Place(Path(sys.argv[1])).install()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.Popen([sys.executable, "-c", code, place.folder], env=environment, start_new_session=True)
    while not (place.folder / "notes").exists():
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    (left,) = place.cache.glob(".making-*")
    place.compiled()
    place.compiler.write_text(text)
    assert make(place.install()) == "41"
    assert place.compiled() == WHOLE and left.exists(), "it may be of a compilation that runs"
    long_ago = time.time() - ABANDONED_SECONDS - 60
    os.utime(left, (long_ago, long_ago))
    place.install(target=("-DOTHER",))
    assert not left.exists()


def test_bounded(place: Place) -> None:
    place.cache.mkdir(mode=0o700)
    for n in range(KEPT_ENTRIES + 5):
        path = place.cache / f"runtime-{n}"
        path.write_bytes(b"")
        os.utime(path, (1000 + n, 1000 + n))
    place.install()
    assert len(place.entries()) == KEPT_ENTRIES
    assert not (place.cache / "runtime-0").exists() and (place.cache / f"runtime-{KEPT_ENTRIES + 4}").exists()


def test_stranger_is_not_trusted(place: Place) -> None:
    place.install()
    place.compiled()
    place.cache.chmod(0o777)
    assert "can be written to by others" in describe_cache(find_cache())
    out = place.install("other")
    assert not (out / "src" / "libmlcrt.a").exists() and make(out) == "41"
    if os.geteuid() != 0:
        return
    place.cache.chmod(0o700)
    shutil.chown(place.cache, 12345)
    assert "belongs to another user" in describe_cache(find_cache())
    shutil.chown(place.cache, 0)
    shutil.chown(place.entries()[0], 12345)
    place.compiled()
    place.install("another")
    assert place.compiled() == WHOLE


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MLC_CACHE": "off"}, "MLC_CACHE is off"),
        ({"MLC_CACHE": "/dev/null/x"}, "/dev/null"),
        ({"MLC_CACHE": "/proc/x"}, "/proc/x"),
        ({"MLC_CACHE": "", "XDG_CACHE_HOME": "relative", "HOME": "/proc/none"}, "/proc/none"),
        ({"MLC_CACHE": "", "XDG_CACHE_HOME": "/dev/null"}, "/dev/null"),
    ],
    ids=str,
)
def test_no_cache(
    place: Place, variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert make(place.install()) == "41"
    assert run_command(["doctor"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("cache"))
    assert "none" in line and said in line


@pytest.mark.parametrize("variable", ["MLC_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_where_it_lies(tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    expected = {"MLC_CACHE": tmp_path, "XDG_CACHE_HOME": tmp_path / "mlc", "HOME": tmp_path / ".cache" / "mlc"}
    assert find_cache().folder == expected[variable] and expected[variable].is_dir()


def test_a_second_model_costs_its_own_code(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a user: two models, one runtime; make in the emitted directory finds nothing to do, wherever that is moved."""
    compiler, notes = tmp_path / "cc", tmp_path / "notes"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {notes}\nexec cc -O0 "$@" -O0\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "cache"))
    assert run_command(["compile", str(tiny), "-o", str(tmp_path / "one")]) == 0
    assert "runtime/src/program/session.c" in notes.read_text()
    notes.unlink()
    assert run_command(["compile", str(tiny), "-o", str(tmp_path / "two"), "-D", "batch=8"]) == 0
    compiled = [line for line in notes.read_text().splitlines() if " -c " in line]
    assert len(compiled) == 3 and all("runtime/src" not in line.split(" -o ")[1] for line in compiled)
    notes.unlink()
    moved = (tmp_path / "two").rename(tmp_path / "moved")
    monkeypatch.delenv("MLC_CACHE")
    done = subprocess.run(["make", "-C", moved / "src"], capture_output=True, text=True, check=True)
    assert "-c" not in done.stdout.split() and not (notes.exists() and " -c " in notes.read_text())
