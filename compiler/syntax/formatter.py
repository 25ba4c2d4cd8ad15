"""The canonical form of a source text: `mlc fmt`.

Four spaces a level, double quotes, one space around operators, lines of at most 140 characters (layout.py), two blank lines around
functions, at most one elsewhere. Comments stay; one at the end of a line keeps its column as long as the line before it is unchanged,
so that columns of comments survive. The tree of the text does not change, and formatting twice is formatting once.
"""

from __future__ import annotations

from mlc.frozen import frozen
from mlc.syntax.layout import STEP, Line, build, lines_of
from mlc.syntax.parser import parse
from mlc.syntax.tokens import Source, Token, read_text, scan


def format_text(text: str | bytes, file: str) -> str:
    """The canonical form. Raises MlcError, as `parse` does, for a text that does not parse."""
    text = read_text(text, file)
    parse(text, file)
    source = text.split("\n")
    entries = _entries(scan(Source(text, file)))
    blanks = _blank_lines(entries)
    lines: list[str] = []
    for entry, blank in zip(entries, blanks):
        lines.extend([""] * blank)
        lines.extend(_finished(line, source) for line in _lines(entry))
    return "\n".join(lines) + "\n" if lines else ""


@frozen
class _Entry:
    """A logical line or a comment on a line of its own. `gap`: blank lines before it in the source."""

    level: int
    words: tuple[Token, ...]
    comment: Token | None
    gap: int

    @property
    def kind(self) -> str:
        return self.words[0].kind if self.words else "COMMENT"


def _entries(tokens: list[Token]) -> list[_Entry]:
    entries: list[_Entry] = []
    indents = [1]
    words: list[Token] = []
    waiting: list[Token] = []  # comments whose level the next line decides
    end = 0  # last line of the source seen
    for token in tokens:
        match token.kind:
            case "INDENT":
                indents.append(token.column)
            case "DEDENT":
                end = _place_comments(waiting, entries, indents, end, token.column)
                indents.pop()
            case "NEWLINE":
                comment = words.pop() if words[-1].kind == "COMMENT" else None
                entries.append(_Entry(len(indents) - 1, tuple(words), comment, _gap(words[0], end)))
                end, words = token.line, []
            case "COMMENT" if not words:
                waiting.append(token)
            case _:
                end = _place_comments(waiting, entries, indents, end, 0) if not words else end
                words.append(token)
    return entries


def _place_comments(waiting: list[Token], entries: list[_Entry], indents: list[int], end: int, column: int) -> int:
    """Make entries of waiting comments at the present level; those that stand left of it when a block ends wait further."""
    while waiting and (column == 0 or waiting[0].column >= indents[-1]):
        comment = waiting.pop(0)
        entries.append(_Entry(len(indents) - 1, (), comment, _gap(comment, end)))
        end = comment.line
    return end


def _gap(token: Token, end: int) -> int:
    return max(token.line - end - 1, 0)


def _blank_lines(entries: list[_Entry]) -> list[int]:
    """Blank lines before each entry."""
    blanks = [_blanks_inside(entries, n) for n in range(len(entries))]
    for n, entry in enumerate(entries):
        if entry.level or entry.kind not in ("@", "def"):
            continue
        start = _function_start(entries, n)
        if start == n or entries[start].gap or start == 0:
            blanks[start] = 2
        if start < n:
            blanks[n] = 0
            blanks[start] = 2
    for n in range(1, len(entries)):
        if entries[n].level == 0 and entries[n - 1].level > 0:
            blanks[n] = 2
    return [0, *blanks[1:]]


def _blanks_inside(entries: list[_Entry], n: int) -> int:
    """At most one; none at the start of a block."""
    if n == 0 or entries[n - 1].level < entries[n].level:
        return 0
    return min(entries[n].gap, 1)


def _function_start(entries: list[_Entry], n: int) -> int:
    """The first of the decorators and comments that stand directly on the function's line `n`."""
    start = n
    while start > 0 and entries[start - 1].level == 0 and _belongs(entries, start):
        start -= 1
    return start


def _belongs(entries: list[_Entry], n: int) -> bool:
    """The entry before `n` is a decorator, or a comment without a blank line between."""
    before = entries[n - 1].kind
    return before == "@" or (before == "COMMENT" and entries[n].gap == 0)


def _lines(entry: _Entry) -> list[Line]:
    indent = STEP * entry.level
    if not entry.words:
        return [Line(indent, "", entry.comment)]
    lines = lines_of(build(list(entry.words)), indent)
    return [*lines[:-1], Line(lines[-1].indent, lines[-1].text, entry.comment)]


def _finished(line: Line, source: list[str]) -> str:
    """A line with its comment."""
    code = " " * line.indent + line.text if line.text else ""
    if line.comment is None:
        return code
    comment = _comment(line.comment.text)
    if not code:
        return " " * line.indent + comment
    column = line.comment.column - 1
    written = source[line.comment.line - 1][:column].rstrip()
    if written == code.split("\n")[-1] and column >= len(written) + 2:
        return code + " " * (column - len(written)) + comment
    return f"{code}  {comment}"


def _comment(text: str) -> str:
    text = text.rstrip()
    return text if len(text) < 2 or text[1] in " !:#" else f"# {text[1:]}"
