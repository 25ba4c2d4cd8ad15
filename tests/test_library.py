"""Trees of the standard library in the user's cache: what is read there is what would be read from the files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc.diagnostics import MlcError
from mlc.elaborate import library
from mlc.syntax.parser import parse
from mlc.syntax.tree import Module


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Module, list[str]]]:
    """The tree of a module as a command that starts gets it, with what was parsed for it; the library is a copy in `stdlib`."""
    shutil.copytree(library.stdlib_folder(), tmp_path / "stdlib")
    parsed: list[str] = []

    def counted(text: bytes, file: str) -> Module:
        parsed.append(file)
        return parse(text, file)

    def loaded(name: str) -> tuple[Module, list[str]]:
        parsed.clear()
        return library.file_library(tmp_path)(name), list(parsed)

    monkeypatch.setattr(library, "stdlib_folder", lambda: tmp_path / "stdlib")
    monkeypatch.setattr(library, "parse", counted)
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "cache"))
    return loaded


def _others(_: str, names: list[str]) -> list[str]:
    """What is not read as the source of what reads texts."""
    return [name for name in names if not name.endswith((".py", ".lark"))]


def read(folder: Path, name: str) -> Module:
    return parse((folder / "stdlib" / f"{name}.dsl").read_bytes(), f"<mlc.{name}>")


def everything(module: Module) -> str:
    """The tree with its spans, which take no part in equality."""
    return repr(module)


def test_the_library_is_read_once(load: Callable[[str], tuple[Module, list[str]]], tmp_path: Path) -> None:
    assert len(load("mlc.nn")[1]) == len(library.library_modules())
    for name in ("nn", "optim"):
        made, parsed = load(f"mlc.{name}")
        assert (everything(made), parsed) == (everything(read(tmp_path, name)), [])


def test_an_edited_file_is_read_again(load: Callable[[str], tuple[Module, list[str]]], tmp_path: Path) -> None:
    load("mlc.nn")
    path = tmp_path / "stdlib" / "nn.dsl"
    path.write_text("# edited\n" + path.read_text())
    made, parsed = load("mlc.nn")
    assert parsed and everything(made) == everything(read(tmp_path, "nn"))


def test_a_damaged_entry_is_made_again(load: Callable[[str], tuple[Module, list[str]]], tmp_path: Path) -> None:
    load("mlc.nn")
    (entry,) = (tmp_path / "cache").glob("library-*")
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    made, parsed = load("mlc.nn")
    assert parsed and everything(made) == everything(read(tmp_path, "nn"))
    assert load("mlc.nn")[1] == []


def test_a_file_that_cannot_be_read_is_said_where_it_is_imported(load: Callable[[str], tuple[Module, list[str]]], tmp_path: Path) -> None:
    (tmp_path / "stdlib" / "moe.dsl").write_text("def (\n")
    assert load("mlc.nn")[0].functions
    with pytest.raises(MlcError) as caught:
        load("mlc.moe")
    assert caught.value.diagnostics[0].span.file == "<mlc.moe>"


def test_without_a_cache_only_what_is_imported_is_read(
    load: Callable[[str], tuple[Module, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_CACHE", "off")
    assert load("mlc.nn")[1] == ["<mlc.nn>"]


def test_trees_are_of_the_code_that_makes_them(
    load: Callable[[str], tuple[Module, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, module in enumerate((library.tree, library.diagnostics, library.frozen)):
        load("mlc.nn")
        other = tmp_path / str(number) / Path(module.__file__).name
        shutil.copytree(Path(module.__file__).parent, other.parent, ignore=_others)
        other.write_text(other.read_text() + "# edited\n")
        monkeypatch.setattr(module, "__file__", str(other))
        assert load("mlc.nn")[1] and not load("mlc.nn")[1], module.__name__
