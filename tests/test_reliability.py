"""spec/reliability.md names tests and attack cases that exist, and every attack case."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attack import all_cases

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "spec" / "reliability.md"


def rows() -> list[tuple[str, list[str]]]:
    """(fault, names of what holds it) of every row of the page."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and not line.startswith("|--") and cells[-1] != "held by":
            found.append((cells[0], [name.strip("` ") for name in cells[-1].split(",")]))
    return found


def is_there(name: str, cases: set[str]) -> bool:
    """Whether a name is that of a case, a file, or a test in a file (`tests/test_x.py::test_y`, `runtime/tests/test_x.c::name`)."""
    if name in cases:
        return True
    path, _, test = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    return not test or re.search(rf"\b{re.escape(test)}\b", (ROOT / path).read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize(("fault", "names"), rows())
def test_what_holds_a_row_exists(fault: str, names: list[str]) -> None:
    cases = {f"{area}/{case.name}" for area, case in all_cases()}
    missing = [name for name in names if not is_there(name, cases)]
    assert names and not missing, f"{fault}: no {', '.join(missing) or 'test'}"


def test_every_case_has_a_row() -> None:
    named = {name for _, names in rows() for name in names}
    assert not [f"{area}/{case.name}" for area, case in all_cases() if f"{area}/{case.name}" not in named]
