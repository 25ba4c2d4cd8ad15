"""Text -> Module.

parse(text, file)             a .dsl file
parse_items(sources, file)    the module made of pieces of a file
"""

from __future__ import annotations

import importlib
from typing import Any

from mlc.diagnostics import Diagnostic, MlcError, Span
from mlc.syntax import tree
from mlc.syntax.format_strings import expand
from mlc.syntax.mistakes import Situation, explain
from mlc.syntax.recovery import REPORTS
from mlc.syntax.tokens import Place, Source, Token, read_text, scan

_DEEP = f"more than {tree.DEPTH} operators, brackets or blocks inside one another"


def parse(text: str | bytes, file: str) -> tree.Module:
    """The tree of a file. Raises MlcError with up to 20 diagnostics, in the order of the text; never anything else."""
    text = read_text(text, file)
    return parse_items([Source(text, file)], file, text.split("\n"))


def parse_items(sources: list[Source], file: str, lines: list[str]) -> tree.Module:
    """The module made of the items of several pieces of one file; `lines` are those of the whole file."""
    reports: list[Diagnostic] = []
    items = [item for source in sources for item in _parse_source(source, reports)]
    if reports:
        raise MlcError(_in_order(reports))
    return _module(items, file, lines)


def _parse_source(source: Source, reports: list[Diagnostic]) -> list[Any]:
    words: list[Token] = []
    for token in scan(source):
        if token.kind == "FORMAT":
            words.extend(expand(token, source.file))
        elif token.kind != "COMMENT":
            words.append(token)
    reports.extend(t.error for t in words if t.error is not None)
    words = [t for t in words if t.error is None or not _harmless(t.error)]
    machine = importlib.import_module("mlc.syntax.machine")  # with Lark, which a command that reads no text does without
    return machine.read(words, source.file, reports, _Reporter(source.file, reports)) or []


def _harmless(error: Diagnostic) -> bool:
    """The rest of the line can be read as if the error were not there."""
    return error.code == "E0105" or error.message.endswith("closes nothing")


def _in_order(reports: list[Diagnostic]) -> list[Diagnostic]:
    """One a place: a second message at the same place is a consequence."""
    first: dict[tuple[int, int], Diagnostic] = {}
    for report in reports:
        first.setdefault((report.span.line, report.span.column), report)
    return [first[place] for place in sorted(first)][:REPORTS]


def _module(items: list[Any], file: str, lines: list[str]) -> tree.Module:
    texts = [i for i in items if isinstance(i, tree.String)]
    return tree.Module(
        docstring=texts[0] if texts else None,
        imports=tuple(i for i in items if isinstance(i, tree.Import)),
        constants=tuple(i for i in items if isinstance(i, tree.Constant)),
        functions=tuple(i for i in items if isinstance(i, tree.FunctionDef)),
        file=file,
        lines=tuple(lines),
    )


class _Reporter:
    """Turns what Lark cannot read into diagnostics."""

    def __init__(self, file: str, reports: list[Diagnostic]):
        self.file = file
        self.reports = reports

    def unexpected(self, tokens: list[Token], at: int, start: int, level: int, expected: frozenset[str]) -> None:
        if not _follows_error(tokens, at):
            line = tokens[_line_start(tokens, at, start) : at]
            self.reports.append(explain(Situation(tokens[at], line, level == 0, expected), self.file))

    def too_deep(self, place: Place) -> None:
        self.reports.append(Diagnostic("E0107", _DEEP, Span(self.file, *place), help="name a part of it"))


def _follows_error(tokens: list[Token], at: int) -> bool:
    """The words of this line contain one that could not be read: what the grammar says of it is a consequence."""
    start = _line_start(tokens, at, 0)
    end = at
    while tokens[end].kind not in ("NEWLINE", "END"):
        end += 1
    return any(t.kind == "ERROR" for t in tokens[start:end])


def _line_start(tokens: list[Token], at: int, least: int) -> int:
    while at > least and tokens[at - 1].kind not in ("NEWLINE", "INDENT", "DEDENT"):
        at -= 1
    return at
