"""Tables of an emitted program say what their members are: by a line of names before a long one, by name in the others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlc.driver import Options
from mlc.emit.literals import MEMBERS

ROOT = Path(__file__).resolve().parent.parent
ABI = (ROOT / "runtime/include/mlc_abi.h").read_text()


def members(struct: str) -> list[str]:
    """The members of a struct of mlc_abi.h, in order."""
    found = re.search(rf"typedef struct {struct} \{{\n(.*?)\}} {struct};", ABI, re.DOTALL)
    assert found, struct
    plain = re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL)
    return [name for declared in plain.split(";") for name in re.findall(r"(\w+)(?:\[\w+\])?(?=\s*(?:,|$))", declared.strip())]


@pytest.mark.parametrize("struct", MEMBERS)
def test_names_before_a_table_are_the_members_of_its_struct(struct: str) -> None:
    assert MEMBERS[struct].split(", ") == members(struct)


@pytest.mark.parametrize("options", [{}, {"pp": 2, "dp": 2, "microbatches": 8}], ids=str)
def test_tables_say_what_their_members_are(options: dict[str, int], compiled) -> None:
    build = compiled("gpt", Options(emit="c", **options), depth=2, width=32, heads=2, context=32, batch=2)
    lines = [line for name in ("tables.h", "actions.c") for line in (build.folder / "src" / name).read_text().splitlines()]
    seen = set()
    for before, line, row in zip(lines, lines[1:], lines[2:]):
        table = re.match(r"static const (mlc_\w+) (\w+)\[\] = \{$", line)
        if table and table[1] in MEMBERS:
            assert before == f"/* {{{MEMBERS[table[1]]}}} */", line
        elif table:
            assert row.startswith("    {.") and set(re.findall(r"\.(\w+) = ", row)) <= {*members(table[1]), *members("mlc_tensor")}, row
        seen.add(table[1] if table else "")
    assert {"mlc_row", "mlc_parameter", "mlc_use", "mlc_held", "mlc_own", "mlc_role", "mlc_chunk", "mlc_program"} <= seen
