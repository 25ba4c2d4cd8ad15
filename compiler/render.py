"""Diagnostics as text: for people, as one JSON object a line, and the pages made from the table of codes.

    gpt.dsl:12:9: error[E0203]: matmul: inner dimensions differ: f32[8, 64, width=384] @ f32[width=512, 1536]
        y = x @ w
            ^~~~~
    note: `w` declared here: gpt.dsl:9:9
    help: ...

Nothing here prints.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlc.diagnostics import CODES, Diagnostic, Note, Span
from mlc.resources import stdlib_folder

#: Characters of a line that are shown.
MOST_SHOWN = 200

#: What a terminal would obey: names of files may hold it.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

#: Source texts by the file name that spans carry.
Sources = Mapping[str, str]


def human(diagnostic: Diagnostic, sources: Sources | None = None) -> str:
    """A diagnostic for people, without a final newline. `sources`: texts that are not files; others are read from disk."""
    span = diagnostic.span
    lines = [str(diagnostic), *_excerpt(span, sources or {})]
    lines.extend(_note(note) for note in diagnostic.notes)
    if diagnostic.help:
        lines.append(f"help: {diagnostic.help}")
    return _CONTROLS.sub("?", "\n".join(lines))


def as_json(diagnostic: Diagnostic, sources: Sources | None = None) -> str:
    """One line, an object with the keys of rustc's: message, code, level, spans, children, rendered."""
    text = json.dumps(_as_object(diagnostic, sources or {}), ensure_ascii=False)
    return json.dumps(json.loads(text.encode("utf-8", "replace")))  # names of files that are not UTF-8 would be no Unicode here


def explain(code: str) -> str:
    """The text of `mlc explain CODE`. Raises KeyError for a code that does not exist."""
    entry = CODES[code]
    return f"{code}: {entry.title}\n\n{inspect.cleandoc(entry.text)}\n"


def errors_page() -> str:
    """spec/errors.md: every code with its title and text."""
    parts = ["# Error codes\n\nMade from the table in `compiler/diagnostics.py`; `mlc explain E0203` prints one entry.\n"]
    for code, entry in sorted(CODES.items()):
        parts.append(f"## {code}: {entry.title}\n\n{inspect.cleandoc(entry.text)}\n")
    return "\n".join(parts)


def _note(note: Note) -> str:
    return f"note: {note.message}" if note.span is None else f"note: {note.message}: {note.span}"


def _lines(span: Span, sources: Sources) -> list[str]:
    """The source lines of a span's file, none where the text cannot be had."""
    text = sources.get(span.file)
    if text is None:
        try:
            text = _path(span.file).read_bytes().decode("utf-8", errors="replace")
        except (OSError, ValueError):
            return []
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _path(file: str) -> Path:
    """A file as messages show it; `<mlc.nn>` is of the standard library."""
    if file.startswith("<mlc.") and file.endswith(">"):
        return stdlib_folder().joinpath(*file[1:-1].split(".")[1:]).with_suffix(".dsl")
    return Path(file)


def _line(span: Span, sources: Sources) -> str | None:
    """The first line of a span, None where the text cannot be had."""
    lines = _lines(span, sources)
    return lines[span.line - 1] if 1 <= span.line <= len(lines) else None


def _excerpt(span: Span, sources: Sources) -> list[str]:
    """The source line and the caret line under it: both without the indentation of the source, four spaces in."""
    line = _line(span, sources)
    if line is None or not line.strip():
        return []
    lead = min(len(line) - len(line.lstrip()), span.column - 1)
    end = span.end_column if span.end_line == span.line else len(line) + 1
    width = max(end - span.column, 1)
    before = "".join("\t" if c == "\t" else " " for c in line[lead : span.column - 1].ljust(span.column - 1 - lead))
    shown = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line[lead:].rstrip())
    if len(shown) > MOST_SHOWN:  # what matters begins at the mark
        skipped = max(len(before) - MOST_SHOWN // 2, 0)
        shown, before = shown[skipped : skipped + MOST_SHOWN], before[skipped:]
        width = min(width, max(len(shown) - len(before), 1))
    return ["    " + shown, "    " + before + "^" + "~" * (width - 1)]


def _as_object(diagnostic: Diagnostic, sources: Sources) -> dict[str, Any]:
    children = [_child("note", note.message, note.span, sources) for note in diagnostic.notes]
    if diagnostic.help:
        children.append(_child("help", diagnostic.help, None, sources))
    return {
        "message": diagnostic.message,
        "code": {"code": diagnostic.code, "explanation": explain(diagnostic.code) if diagnostic.code in CODES else None},
        "level": diagnostic.severity,
        "spans": [_span_object(diagnostic.span, True, sources)] if diagnostic.span.line else [],
        "children": children,
        "rendered": human(diagnostic, sources) + "\n",
    }


def _child(level: str, message: str, span: Span | None, sources: Sources) -> dict[str, Any]:
    spans = [] if span is None else [_span_object(span, True, sources)]
    return {"message": message, "code": None, "level": level, "spans": spans, "children": [], "rendered": None}


def _span_object(span: Span, primary: bool, sources: Sources) -> dict[str, Any]:
    lines = _lines(span, sources)
    text = []
    if 1 <= span.line <= len(lines):
        text = [{"text": lines[span.line - 1], "highlight_start": span.column, "highlight_end": span.end_column}]
    return {
        "file_name": span.file,
        "byte_start": _offset(lines, span.line, span.column),
        "byte_end": _offset(lines, span.end_line, span.end_column),
        "line_start": span.line,
        "line_end": span.end_line,
        "column_start": span.column,
        "column_end": span.end_column,
        "is_primary": primary,
        "text": text,
    }


def _offset(lines: list[str], line: int, column: int) -> int:
    """Bytes before a place, in a text of plain line ends."""
    before = lines[: max(line - 1, 0)]
    here = lines[line - 1][: max(column - 1, 0)] if 1 <= line <= len(lines) else ""
    return sum(len(b.encode(errors="replace")) + 1 for b in before) + len(here.encode(errors="replace"))
