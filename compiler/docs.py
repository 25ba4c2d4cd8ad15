"""The generated pages of spec/, made from the tables they speak of: `python -m mlc.docs spec` writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from mlc.cli import commands
from mlc.ops.page import ops_page
from mlc.render import errors_page

_COMMANDS_HEAD = """\
# The command `mlc`

Made from `compiler/cli.py`. Exit codes: 0 success, 1 the input is wrong, 2 usage, 70 a fault of mlc itself; `mlc run` ends with the
program's own.

The C compiler is that of the environment variable CC, else the first of cc, gcc and clang. CC is the path of one, or a command:
`CC="ccache gcc"`; `CC=musl-gcc`; `CC="gcc -static"` for a program that needs no libraries (the shared library stays one);
`CC=aarch64-linux-gnu-gcc mlc compile --march armv8-a` for another machine. The transport `mpi` is built where mpicc compiles for the same
processor and C library. Programs build on musl and on glibc from 2.17 on, with gcc and clang; one that is built here wants the glibc
that is here. They are hardened: stack protector, FORTIFY, sealed addresses (BIND_NOW), position-independent; `make HARDEN= SEALED=` in the
emitted `src` leaves that out.

Compilations into one folder take turns: each waits, before it writes, until the one before has built, and `run` has begun its program. So
what runs is what was compiled, also where two of them have the default folder; where the file system has no locks, name two.

`compile`, `run` and `bench` compile the runtime once for a compiler, its options and a version of mlc, and keep it as a library in
`$XDG_CACHE_HOME/mlc` (`~/.cache/mlc`); what they leave in the output folder is the same with and without. `MLC_CACHE=DIR` puts the cache
elsewhere, `MLC_CACHE=off` does without. A folder that belongs to another user, or that others may write to, is not used. The 16 last used
libraries are kept, about a megabyte each; all may be deleted at any time. `mlc doctor` says where it lies, or why there is none. What reads
a model keeps the table of the grammar there too, and the trees of the standard library; without a cache they are made each time, in about
0.4 s.
"""


def commands_page() -> str:
    """spec/commands.md: the arguments and options of every verb."""
    return "\n".join([_COMMANDS_HEAD, *(_verb(name, command) for name, command in sorted(commands.commands.items()))])


def _verb(name: str, command: click.Command) -> str:
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    options = [_option(p) for p in command.params if isinstance(p, click.Option)]
    usage = " ".join(["mlc", name, "[OPTIONS]", *arguments])
    rows = ["| option | meaning |", "|---|---|", *options]
    return f"## {name}\n\n`{usage}`\n\n{' '.join((command.help or '').split())}\n\n" + "\n".join(rows) + "\n"


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return f"{name}..." if argument.nargs == -1 and not name.endswith("...") else name


def _option(option: click.Option) -> str:
    """| `-o`, `--out` | Output folder. |"""
    choices = f" One of {', '.join(option.type.choices)}." if isinstance(option.type, click.Choice) else ""
    default = f" Default: {option.default}." if option.show_default else ""
    return f"| {', '.join(f'`{name}`' for name in option.opts)} | {' '.join((option.help or '').split())}{choices}{default} |"


#: File in spec/ -> what makes its text.
PAGES: dict[str, Callable[[], str]] = {"commands.md": commands_page, "errors.md": errors_page, "ops.md": ops_page}


def write_pages(folder: Path) -> None:
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
