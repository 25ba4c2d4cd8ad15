"""Where statements start and end in the words of a text: what reading goes on behind when one of them cannot be read.

A wrong statement is reported, skipped and stood in for by `...`, so that one run finds the mistakes of several statements
and a mistake is reported once.
"""

from __future__ import annotations

from mlc.syntax.tokens import Token

#: Reports in one run.
REPORTS = 20


def starts(words: list[Token], position: int) -> bool:
    """A statement, a branch of one, or a top-level item starts here; decorators and the function under them are one item."""
    if position == 0:
        return True
    before = words[position - 1].kind
    if before == "NEWLINE":
        return words[position].kind != "DEDENT" and words[position - 2].kind != ":" and not _after_decorator(words, position)
    return before in ("INDENT", "DEDENT") and words[position].kind != "DEDENT"


def header_ends(words: list[Token], position: int) -> bool:
    """A line ends here and a block follows: only the colon is missing."""
    return words[position].kind == "NEWLINE" and words[position + 1].kind == "INDENT"


def skip(words: list[Token], start: int, level: int) -> int:
    """The position to go on at instead of the statement at `start`: behind it, or at the `...` that is written over its end.

    level:  blocks that are open there; at the top level of a file nothing need stand for an item
    """
    position = _behind(words, start)
    if not level or not _stands_alone(words, start):
        return position
    words[position - 2 : position] = [words[position - 2]._replace(kind="..."), words[position - 1]._replace(kind="NEWLINE")]
    return position - 2


def _stands_alone(words: list[Token], position: int) -> bool:
    """Something must stand for the statement at `position` when it is skipped; not for one of several branches."""
    return words[position].kind not in ("elif", "else") or words[position - 1].kind == "INDENT"


def _after_decorator(words: list[Token], position: int) -> bool:
    start = position - 1
    while start > 0 and words[start - 1].kind not in ("NEWLINE", "INDENT", "DEDENT"):
        start -= 1
    return words[start].kind == "@"


def _behind(words: list[Token], start: int) -> int:
    """The position behind the statement at `start`, with its block and the branches that follow it."""
    position = start
    while True:
        kind = words[position].kind
        while words[position].kind not in ("NEWLINE", "INDENT", "END"):
            position += 1
        if words[position].kind == "NEWLINE":
            position += 1
        if words[position].kind == "INDENT":
            position = _behind_block(words, position)
        follows = words[position].kind in ("elif", "else") or (kind == "@" and words[position].kind in ("@", "def"))
        if not follows or position == start:
            return max(position, min(start + 2, len(words) - 1))


def _behind_block(words: list[Token], position: int) -> int:
    level = 0
    while True:
        level += (words[position].kind == "INDENT") - (words[position].kind == "DEDENT")
        position += 1
        if level == 0 or words[position].kind == "END":
            return position
