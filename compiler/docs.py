"""The generated pages of spec/, made from the tables they speak of: `python -m mlc.docs spec` writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from mlc.cli import commands
from mlc.ops.page import ops_page
from mlc.render import errors_page

_COMMANDS_HEAD = "# The command `mlc`\n\nMade from `compiler/cli.py`; `mlc VERB --help` prints the same.\n"


def commands_page() -> str:
    """spec/commands.md: the help of every verb."""
    parts = [_COMMANDS_HEAD]
    for name, command in sorted(commands.commands.items()):
        context = click.Context(command, info_name=f"mlc {name}", max_content_width=120, terminal_width=120)
        parts.append(f"## {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


#: File in spec/ -> what makes its text.
PAGES: dict[str, Callable[[], str]] = {"commands.md": commands_page, "errors.md": errors_page, "ops.md": ops_page}


def write_pages(folder: Path) -> None:
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
