"""Every mistake of a model's file ends in diagnostics, each with its own file in errors/: exactly the lines of the .txt beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc.diagnostics import CODES, Diagnostic, MlcError
from mlc.elaborate import elaborate, file_library
from mlc.elaborate.modules import beside
from mlc.elaborate.values import PROGRAM_OPTIONS
from mlc.ir.program import Program
from mlc.render import human
from mlc.syntax.parser import parse
from mlc.syntax.tree import Module

FOLDER = Path(__file__).parent / "errors"
FAMILIES = ("E02", "E03", "E04", "E05", "E06", "W05")
ERRORS = sorted(path for path in FOLDER.glob("*.dsl") if path.name.startswith(FAMILIES))

#: Raised for what a parsed model cannot hold: checked by the op samples' own tests, or unreachable but for the checks before.
WITHOUT_FILE: frozenset[str] = frozenset()


def defines(text: str) -> dict[str, str]:
    """The settings a file names in its first line: `# -D width=0 -D x=1`."""
    first = text.partition("\n")[0]
    if not first.startswith("# -D "):
        return {}
    return dict(setting.strip().split("=", 1) for setting in first[1:].split("-D ")[1:])


def said(path: Path) -> tuple[str, tuple[str, ...]]:
    """The rendered diagnostics of a file, and their codes."""
    text = path.read_text(encoding="utf-8")
    shown = {path.name: text}

    def library(name: str):
        module = file_library(FOLDER)(name)
        if name.startswith("mlc."):
            return module
        part = FOLDER.joinpath(*name.split(".")).with_suffix(".dsl")
        shown[f"{name}.dsl"] = part.read_text(encoding="utf-8")
        return parse(shown[f"{name}.dsl"], f"{name}.dsl")

    found = diagnosed(lambda: elaborate(parse(text, path.name), defines(text), library))
    return "".join(human(d, shown) + "\n" for d in found), tuple(d.code for d in found)


def diagnosed(elaborated: Callable[[], Program]) -> tuple[Diagnostic, ...]:
    """The errors of a model, or its warnings where there are none."""
    try:
        return elaborated().warnings
    except MlcError as problem:
        return problem.diagnostics


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_errors(path: Path, golden: Callable[[Path, str], None]) -> None:
    text, codes = said(path)
    assert text, "neither an error nor a warning"
    golden(path.with_suffix(".txt"), text)
    assert path.name[:5] in codes


def test_every_code_has_a_file() -> None:
    stated = {code for code in CODES if code.startswith(FAMILIES)}
    assert stated - WITHOUT_FILE == {path.name[:5] for path in ERRORS}


def test_names_of_imports_are_relative_to_the_importer() -> None:
    assert beside("", "blocks") == "blocks"
    assert beside("parts.blocks", "norms") == "parts.norms"
    assert beside("parts.blocks", "mlc.nn") == "mlc.nn"


@pytest.mark.parametrize("path", sorted((FOLDER.parent.parent / "examples").glob("*.dsl")), ids=lambda path: path.stem)
def test_examples_draw_no_warning(path: Path) -> None:
    module = parse(path.read_text(encoding="utf-8"), path.name)
    assert elaborate(module, {}, file_library(path.parent)).warnings == ()


@pytest.mark.parametrize("example", sorted(FOLDER.parent.parent.joinpath("examples").glob("*.dsl")), ids=lambda path: path.stem)
def test_examples_are_warned_of_nothing(example: Path) -> None:
    assert elaborate(parse(example.read_text(), example.name), {}, file_library(example.parent)).warnings == ()


def test_a_weight_ends_the_warning() -> None:
    path = FOLDER / "W0502_ignore.dsl"
    assert elaborate(parse(path.read_text(), path.name), {"weighted": "True"}, file_library(FOLDER)).warnings == ()


def test_an_option_of_an_imported_file_is_one_of_the_program() -> None:
    """Read through a function alone, it was no scalar of the program, and planning ended in a KeyError."""
    text = (FOLDER / "E0309_two.dsl").read_text(encoding="utf-8").replace("rate: f32 = 0.1\n", "").replace("rate=rate", "rate=0.1")
    made = elaborate(parse(text, "m.dsl"), {}, lambda name: parts(name) or file_library(FOLDER)(name))
    assert [(s.name, s.value, s.option) for s in made.scalars] == [("rate", 0.5, True)]


def parts(name: str) -> Module | None:
    part = FOLDER.joinpath(*name.split(".")).with_suffix(".dsl")
    return parse(part.read_text(encoding="utf-8"), f"{name}.dsl") if name.startswith("parts.") else None


def test_options_of_every_program_are_those_of_the_runtime() -> None:
    text = (Path(__file__).parent.parent / "runtime/src/command/options.c").read_text(encoding="utf-8")
    names = set(re.findall(r'^    \{"([^"]+)", ', text, re.MULTILINE))
    assert {"data", "seed", "help"} <= names
    assert {name for name in names if "-" not in name} | {"step"} == PROGRAM_OPTIONS
