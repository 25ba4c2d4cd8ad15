"""What is said to who types commands and options of other programs: what they are called here, and never a wrong name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from mlc.cli import commands, run_command
from mlc.diagnostics import nearest
from mlc.usage import OPTIONS, PROGRAM, VERBS

SOURCES = Path(__file__).resolve().parent.parent / "runtime" / "src" / "command"
TABLE = set(re.findall(r'^    \{"([a-z-]+)", ', (SOURCES / "options.c").read_text(), re.MULTILINE))


def said(capsys: pytest.CaptureFixture[str], line: str) -> str:
    assert run_command(shlex.split(line)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "help"),
    [
        ("run f.dsl --data x", "mlc run f.dsl -- --data x"),
        ("run --data x f.dsl --pp 2 -Dx=1 -v", "mlc run f.dsl --pp 2 -Dx=1 -v -- --data x"),
        ("run f.dsl --steps=5 -n 3 -- --log x", "mlc run f.dsl -- --steps=5 -n 3 --log x"),
        ("run f.dsl --data 'a b' c", "mlc run f.dsl -- --data 'a b' c"),
        ("run f.dsl --lr 3", "mlc run f.dsl -- --lr 3"),
        ("run f.dsl --scedule x", "did you mean --schedule?"),
        ("compile f.dsl --lr 3", "asked of the program"),
        ("check f.dsl --data x", "asked of the program"),
        ("compile f.dsl --batch_size 3", "-D batch=N"),
        ("compile f.dsl --output x", "-o FOLDER"),
        ("compile f.dsl --microbatch 3", "did you mean --microbatches?"),
        ("compile f.dsl --frobnicate", "`mlc compile --help` lists the options"),
        ("train f.dsl", "mlc run FILE -- --data PATTERN"),
        ("build f.dsl", "mlc compile FILE"),
        ("chekc f.dsl", "did you mean `mlc check`?"),
        ("frobnicate", "`mlc --help` lists the commands"),
        ("f.dsl", "mlc compile f.dsl"),
    ],
)
def test_help_for_what_people_type(line: str, help: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, line)
    assert f"Help: {help}" in found or help in found.partition("Help: ")[2]
    assert "Did you mean" not in found


def test_a_mended_line_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    """It is read: what it then lacks is the file."""
    mended = said(capsys, "run --data x /none/f.dsl --pp 2 --steps 3").partition("mlc ")[2]
    assert run_command(shlex.split(said(capsys, "run --data x /none/f.dsl").rpartition(": mlc ")[2])) == 1
    assert "E0806" in capsys.readouterr().err and mended


def test_tables_name_what_is_there() -> None:
    options = {name for verb in commands.commands.values() for option in verb.params for name in option.opts}
    for help in OPTIONS.values():
        assert set(re.findall(r"--?[A-Za-z][a-z-]*", help)) <= options, help
    for help in VERBS.values():
        assert all(verb in commands.commands for verb in re.findall(r"mlc ([a-z]+)", help)), help
        assert set(re.findall(r"--[a-z][a-z-]*", help)) <= options | {f"--{name}" for name in TABLE} | {"--help", "--version"}, help
    assert not {*VERBS} & {*commands.commands}
    assert not {*OPTIONS} & {name.lstrip("-") for name in verb_options("compile")}
    assert TABLE - {"version", "help"} <= {*PROGRAM}


def verb_options(verb: str) -> list[str]:
    return [name for option in commands.commands[verb].params if isinstance(option, click.Option) for name in option.opts]


def test_the_table_of_programs_names_what_is_there() -> None:
    """Each option that a program's advice speaks of is one of the program, or one of the compiler's after `mlc compile`."""
    text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', (SOURCES / "advice.c").read_text().partition("enum { ROW_COUNT")[0]))
    compiled = " ".join(re.findall(r"mlc compile [^;:]*", text))
    assert set(re.findall(r"--([a-z-]+)", compiled)) <= {name.lstrip("-") for name in verb_options("compile")}
    own = re.sub(r"mlc compile [^;:]*", "", text)
    assert {name for name in re.findall(r"--([a-z-]+)", own) if name not in TABLE} <= {"help"}
    rows = re.findall(r'\{"( [^"]* )"(?:\s*"[^"]*")*', (SOURCES / "advice.c").read_text())
    assert rows and not {name for row in rows for name in row.split()} & TABLE


@pytest.mark.parametrize("name", ["sub", "add", "sin", "div", "neg", "x", "ceil", "relu6", "hardtanh", "cumprod", "einops"])
def test_no_other_name_is_pointed_to(name: str) -> None:
    known = ("sum", "min", "max", "tanh", "exp", "log", "mean", "cos", "rate", "einsum", "cumsum", "select", "gather")
    assert nearest(name, known) is None


@pytest.mark.parametrize(("name", "meant"), [("sm", "sum"), ("smu", "sum"), ("summ", "sum"), ("eisnum", "einsum"), ("Mean", "mean")])
def test_misspelt_names_are(name: str, meant: str) -> None:
    assert nearest(name, ("sum", "einsum", "mean", "min")) == meant
