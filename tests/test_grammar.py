"""The grammar and Lark: no conflicts, a builder for each alternative, the table in the cache, Lark only where a text is read, threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lark
import pytest

from mlc.cache import keep_entry
from mlc.diagnostics import MlcError
from mlc.syntax import machine
from mlc.syntax.builder import Builder
from mlc.syntax.parser import parse

ROOT = Path(__file__).resolve().parent.parent
TEXT = machine.GRAMMAR.read_text(encoding="utf-8")
MODELS = sorted([*(ROOT / "examples").glob("*.dsl"), *(ROOT / "stdlib").glob("*.dsl"), *(ROOT / "tests/errors").glob("E01*.dsl")])


def outcome(path: Path) -> object:
    """What parsing ends in, places included."""
    try:
        return repr(parse(path.read_bytes(), path.name))
    except MlcError as error:
        return error.diagnostics


def test_no_conflicts() -> None:
    machine.compute(TEXT, strict=True)


def test_each_alternative_is_built() -> None:
    names = {rule.alias or rule.origin.name for rule in machine.grammar().rules if not rule.options.expand1 or rule.alias}
    assert {name for name in names if not name.startswith("_")} == Builder("a.dsl", []).methods().keys()


def test_threads_do_not_meet() -> None:
    alone = [outcome(path) for path in MODELS]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(outcome, MODELS)) == alone
    finally:
        sys.setswitchinterval(before)


def python(script: str, **environment: str) -> None:
    path = ":".join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": path, **environment})


def test_lark_is_imported_with_the_first_text() -> None:
    """Help, and whatever else reads no model, does not wait for it."""
    python(
        "import sys; from mlc.cli import run_command; assert run_command(['--help']) == 0 and 'lark' not in sys.modules\n"
        "import mlc.syntax.parser; mlc.syntax.parser.parse('x: int = 1', 'a.dsl'); assert 'lark' in sys.modules"
    )


# ---------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Finds the grammar as a command that starts, in a cache of its own, and reads. Returns how often the table was computed."""
    expected = [outcome(MODELS[0]), outcome(MODELS[-1])]
    find, compute = machine.grammar.__wrapped__, machine.compute
    computed: list[str] = []

    def counted(text: str) -> lark.Lark:
        computed.append(text)
        return compute(text)

    def started() -> int:
        computed.clear()
        found = find()
        with monkeypatch.context() as patch:
            patch.setattr(machine, "grammar", lambda: found)
            assert [outcome(MODELS[0]), outcome(MODELS[-1])] == expected
        return len(computed)

    monkeypatch.setattr(machine, "compute", counted)
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "cache"))
    return started


def entry_in(folder: Path) -> Path:
    (entry,) = (folder / "cache").glob("grammar-*")
    return entry


def test_computed_once(start: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (start(), start()) == (1, 0)
    entry_in(tmp_path)
    edited = tmp_path / "grammar.lark"
    edited.write_text(TEXT + "// edited")
    monkeypatch.setattr(machine, "GRAMMAR", edited)
    assert (start(), start()) == (1, 0), "another grammar is another entry"


def belongs_to_another(entry: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    shutil.chown(entry, 12345)


def another_entry(entry: Path) -> None:
    other = entry.with_name("grammar-0")
    keep_entry(other, b"whole, and of another name")
    other.rename(entry)


DAMAGES = {
    "half": lambda entry: os.truncate(entry, entry.stat().st_size // 2),
    "empty": lambda entry: os.truncate(entry, 0),
    "flipped": lambda entry: entry.write_bytes(entry.read_bytes()[:-1] + b"?"),
    "another's": belongs_to_another,
    "writable by others": lambda entry: entry.chmod(0o666),
    "of another name": another_entry,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_not_ours_and_whole_is_computed_again(start: Callable[[], int], tmp_path: Path, how: str) -> None:
    start()
    DAMAGES[how](entry_in(tmp_path))
    assert (start(), start()) == (1, 0)


@pytest.mark.parametrize("folder", ["off", "/dev/null/x", "/proc/x"])
def test_without_a_cache(start: Callable[[], int], monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("MLC_CACHE", folder)
    assert (start(), start()) == (1, 1)
