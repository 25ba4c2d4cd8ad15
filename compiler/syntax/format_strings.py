"""Strings from the inside: escapes, and f-strings taken apart into words the grammar can read.

f"h.{i:02d}"   ->   FORMAT_START FORMAT_TEXT(h.) FORMAT_OPEN NAME(i) FORMAT_SPEC(02d) FORMAT_CLOSE FORMAT_END
"""

from __future__ import annotations

import re

from mlc.diagnostics import Diagnostic, Span
from mlc.syntax.tokens import Source, Token, scan

_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "t": "\t"}
_PIECE = re.compile(r"\{\{|\}\}|[{}]|[^{}]+")
_SPEC = re.compile(r"([^{}]?[<>=^])?[-+ ]?#?0?[0-9]{0,3}[,_]?(\.[0-9]{1,3})?[bcdeEfFgGnosxX%]?")


def unescape(text: str) -> str:
    """The meaning of what stands between quotes. Raises ValueError, with the escape, for one that does not exist."""
    if "\\" not in text:
        return text
    return re.sub(r"\\(.)", _escape, text, flags=re.DOTALL)


def _escape(match: re.Match[str]) -> str:
    if match[1] not in _ESCAPES:
        raise ValueError(match[0])
    return _ESCAPES[match[1]]


def string_body(text: str) -> str:
    """What stands between the quotes of a STRING token."""
    width = 3 if text[:3] in ('"""', "'''") else 1
    return text[width:-width]


def expand(token: Token, file: str) -> list[Token]:
    """The words of a FORMAT token. Faults become ERROR tokens."""
    body = token.text[2:-1]
    first = token.column + 2
    words = [_word("FORMAT_START", token, token.column, first)]
    position = 0
    while position < len(body):
        piece = _PIECE.match(body, position)
        assert piece is not None
        match piece.group():
            case "{":
                position = _interpolation(body, position, token, file, words)
                continue
            case "}":
                words.append(_fault("a `}` alone in an f-string", token, first + position, first + position + 1, file, "write `}}`"))
            case text:
                words.append(_word("FORMAT_TEXT", token, first + position, first + piece.end(), text[0] if text in ("{{", "}}") else text))
        position = piece.end()
    words.append(_word("FORMAT_END", token, token.end_column - 1, token.end_column))
    return words


def _interpolation(body: str, start: int, token: Token, file: str, words: list[Token]) -> int:
    """Append the words of the `{...}` at `start`; returns the position behind it."""
    first = token.column + 2
    end = _expression_end(body, start + 1)
    text = body[start + 1 : end]
    if not text.strip():
        words.append(_fault("an empty `{}` in an f-string", token, first + start, first + end, file, "write `{{` for a brace"))
        return max(end + 1, start + 2)
    lead = len(text) - len(text.lstrip())
    source = Source(text.strip(), file, token.line, first + start + 1 + lead)
    words.append(_word("FORMAT_OPEN", token, first + start, first + start + 1))
    words.extend(t for t in scan(source) if t.kind not in ("NEWLINE", "END", "COMMENT"))
    if body.startswith(":", end):
        close = body.find("}", end)
        close = len(body) if close < 0 else close
        spec = body[end + 1 : close]
        words.append(_word("FORMAT_SPEC", token, first + end + 1, first + close, spec))
        if not _SPEC.fullmatch(spec):
            words.append(_fault(f"`{spec}` is not a format", token, first + end, first + close, file, "for instance `{x:.3f}`"))
        end = close
    if body.startswith("!", end):
        end = max(body.find("}", end), end)
        words.append(_fault("an f-string has no conversions", token, first + end, first + end + 1, file, "write `{x}`"))
    elif not body.startswith("}", end):
        words.append(_fault("an open `{` in an f-string", token, first + start, first + start + 1, file, "write `{{` for a brace"))
    words.append(_word("FORMAT_CLOSE", token, first + end, first + end + 1))
    return end + 1


def _expression_end(body: str, position: int) -> int:
    """The place of the `}`, `:` or `!` that ends an expression, or the end of the text."""
    depth = 0
    while position < len(body):
        character = body[position]
        if depth == 0 and (character in "}:" or (character == "!" and not body.startswith("!=", position))):
            return position
        depth += (character in "([{") - (character in ")]}")
        if character in "\"'":
            close = body.find(character, position + 1)
            position = close if close >= 0 else position
        position += 1
    return len(body)


def _word(kind: str, token: Token, column: int, end_column: int, text: str = "") -> Token:
    return Token(kind, text, token.line, column, token.line, end_column)


def _fault(message: str, token: Token, column: int, end_column: int, file: str, help: str) -> Token:
    end_column = min(max(end_column, column + 1), token.end_column)
    span = Span(file, token.line, column, token.line, end_column)
    return Token("ERROR", "", token.line, column, token.line, end_column, Diagnostic("E0117", message, span, help=help))
