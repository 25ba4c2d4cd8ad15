"""Values as C: strings, and the lines of a table."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.emit import tree as c


def c_string(text: str) -> str:
    """A C string literal of UTF-8 text."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    if plain.isascii() and plain.isprintable():
        return f'"{plain}"'
    return '"' + "".join(chr(b) if 32 <= b < 127 else f"\\{b:03o}" for b in plain.encode()) + '"'


def write_array(nodes: list[c.Node], kind: str, name: str, rows: Sequence[str]) -> str:
    """Define an array behind other nodes; returns its name, NULL when it is empty."""
    if not rows:
        return "NULL"
    nodes += [c.Constant(f"static const {kind}", f"{name}[]", tuple(rows)), c.Blank()]
    return name


def packed(words: Sequence[str], width: int = 12) -> list[str]:
    """Many short values in few lines."""
    return [", ".join(words[n : n + width]) for n in range(0, len(words), width)]
