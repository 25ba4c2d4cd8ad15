"""Values as C: strings, arrays, and the lines of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlc.emit.writer import Writer


def c_string(text: str) -> str:
    """A C string literal of UTF-8 text."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    if plain.isascii() and plain.isprintable():
        return f'"{plain}"'
    return '"' + "".join(chr(b) if 32 <= b < 127 else f"\\{b:03o}" for b in plain.encode()) + '"'


def compound(kind: str, items: Sequence[str]) -> str:
    """A compound literal of an array; NULL when it is empty."""
    return f"(const {kind}[]){{{', '.join(items)}}}" if items else "NULL"


def initializer(fields: Iterable[object]) -> str:
    """The value of a struct from its fields in order."""
    return "{" + ", ".join(map(str, fields)) + "}"


def write_array(writer: Writer, kind: str, name: str, rows: Sequence[str]) -> str:
    """Define an array; returns its name, NULL when it is empty."""
    if not rows:
        return "NULL"
    with writer.block(f"static const {kind} {name}[] =", "};"):
        for row in rows:
            writer.line(f"{row},")
    writer.line()
    return name


def packed(words: Sequence[str], width: int = 12) -> list[str]:
    """Many short values in few lines."""
    return [", ".join(words[n : n + width]) for n in range(0, len(words), width)]
