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


class Pools:
    """Short arrays that tables point into: one long array of each kind, equal ones once. A C compiler takes longer for many small ones.

    words:   of each kind
    places:  where each array begins
    """

    def __init__(self) -> None:
        self.words: dict[str, list[str]] = {}
        self.places: dict[tuple[str, ...], int] = {}

    def array(self, kind: str, items: Sequence[str]) -> str:
        """A pointer to these items; NULL when there are none."""
        if not items:
            return "NULL"
        words, key = self.words.setdefault(kind, []), (kind, *items)
        if key not in self.places:
            self.places[key] = len(words)
            words += items
        return f"pool_{kind} + {self.places[key]}"

    def made(self) -> list[c.Node]:
        """The pools: of numbers, then of structs, which point into those."""
        nodes: list[c.Node] = []
        for kind in sorted(self.words, key=lambda kind: (kind.startswith("mlc_"), kind)):
            write_array(nodes, kind, f"pool_{kind}", packed(self.words[kind], 4 if kind.startswith("mlc_") else 12))
        return nodes
