"""Values as C: strings, and the lines of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mlc.emit import tree as c
from mlc.emit.printer import braced

#: The members of structs of mlc_abi.h that stand in tables of many rows, in order: such a table begins with their names.
MEMBERS = {
    "mlc_action": "kind, of, microbatch",
    "mlc_binding": "input, at",
    "mlc_channel": "name, kind, chain, from, to, slot_bytes, slots, outbox_slots, inbox, headers, outbox",
    "mlc_column": "name, stage",
    "mlc_constant": "name, value",
    "mlc_domain": "input, end, low, high, passed",
    "mlc_held": "parameter, master, copy, init_flat, init, init_at",
    "mlc_own": "parameter, sharing, update_flat, update, reads, read_count, work",
    "mlc_parameter": "name, rank, shape, fed, uses, owner, states, state_count, path",
    "mlc_region": "name, base, stride, slots",
    "mlc_row": "run, at, count, path, name, flops",
    "mlc_scalar": "name, value, option",
    "mlc_sweep": "at, over, only, range, gated, calls, call_count",
    "mlc_sweep_call": "kernel, run, operands",
    "mlc_tensor": "name, dtype, rank, shape, at",
    "mlc_use": "parameter, index, phase, levels",
    "mlc_value": "column, at",
}


def c_string(text: str) -> str:
    """A C string literal of UTF-8 text."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    if plain.isascii() and plain.isprintable():
        return f'"{plain}"'
    return '"' + "".join(chr(b) if 32 <= b < 127 else f"\\{b:03o}" for b in plain.encode()) + '"'


def c_strings(texts: Sequence[str]) -> list[str]:
    """String literals; most need no look at each."""
    whole = "".join(texts)
    plain = whole.isascii() and whole.isprintable() and '"' not in whole and "\\" not in whole
    return list(map('"%s"'.__mod__, texts)) if plain else list(map(c_string, texts))


def columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[tuple[Any, ...]]:
    """The columns of a table; of an empty one, so many that are empty."""
    return list(zip(*rows, strict=True)) if rows else [()] * count


def formatted(form: str, *columns: Iterable[Any]) -> list[str]:
    """The lines of a table from its columns; no Python runs for each of them, and tables are long."""
    return list(map(form.__mod__, zip(*columns, strict=True)))


def write_array(nodes: list[c.Node], kind: str, name: str, rows: Sequence[str]) -> str:
    """Define an array behind other nodes; returns its name, NULL when it is empty."""
    if not rows:
        return "NULL"
    if kind in MEMBERS:
        nodes.append(c.Comment((braced(MEMBERS[kind]),)))
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
        return self.arrays(kind, [items])[0]

    def arrays(self, kind: str, rows: Iterable[Sequence[str]]) -> list[str]:
        """The same of many."""
        words, places, name = self.words.setdefault(kind, []), self.places, f"pool_{kind} + "
        found: list[str] = []
        for items in rows:
            if not items:
                found.append("NULL")
                continue
            key = (kind, *items)
            place = places.get(key)
            if place is None:
                place = places[key] = len(words)
                words += items
            found.append(f"{name}{place}")
        return found

    def made(self) -> list[c.Node]:
        """The pools: of numbers, then of structs, which point into those."""
        nodes: list[c.Node] = []
        for kind in sorted(self.words, key=lambda kind: (kind.startswith("mlc_"), kind)):
            write_array(nodes, kind, f"pool_{kind}", packed(self.words[kind], 4 if kind.startswith("mlc_") else 12))
        return nodes
