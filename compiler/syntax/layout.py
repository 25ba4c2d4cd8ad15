"""One logical line of source as one or several lines of text: spaces between words, and where it is wrapped.

    build(tokens)              words and bracket groups
    lines_of(parts, indent)    the lines, at most WIDTH characters where brackets allow it

A bracket is opened out, its content one level further in, when the line is too long, when its last item is followed by a comma
(the writer's wish), or when a comment stands in it. Then items stay in the lines the writer gave them if those fit, else there is
one item a line and a comma after the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlc.frozen import frozen
from mlc.syntax.tokens import Token

WIDTH = 140
STEP = 4

#: Operators in an opened bracket at which an item too long is broken, loosest first.
_LEVELS = (("if", "else"), ("or",), ("and",), ("COMPARISON",), ("|",), ("&",), ("SIGN", "-"), ("FACTOR", "*", "@"))

_OPERAND_ENDS = frozenset(["NAME", "INT", "FLOAT", "STRING", "FORMAT", ")", "]", "}", "...", "None", "True", "False"])
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


@frozen
class Word:
    """A word; `spaced`: with a space before it; `binary`: an operator between two operands."""

    text: str
    kind: str
    spaced: bool
    binary: bool
    line: int
    end_line: int


@dataclass(slots=True)
class Item:
    """What stands between two commas of a bracket. `before`: comments on lines of their own; `after`: at the end of its line."""

    parts: list[Word | Group] = field(default_factory=list)
    before: list[Token] = field(default_factory=list)
    after: Token | None = None


@dataclass(slots=True)
class Group:
    """A bracket. `applied`: it calls or subscripts what stands before it; `hanging`: its content starts on a new line."""

    open: Word
    applied: bool
    items: list[Item] = field(default_factory=list)
    comma: bool = False
    hanging: bool = False
    close: Word | None = None
    last: list[Token] = field(default_factory=list)  # comments before the closing bracket


@frozen
class Line:
    """A line of output; a comment alone has no text."""

    indent: int
    text: str
    comment: Token | None = None


# ------------------------------------------------------------------------------------------------------- building


def build(tokens: list[Token]) -> list[Word | Group]:
    """The words of a logical line, without NEWLINE and without the comment at its end, which may have comments in brackets."""
    root = Group(Word("", "", False, False, 0, 0), False)
    stack = [root]
    spacing = _Spacing(tokens)
    previous: Token | None = None
    for token in tokens:
        group = stack[-1]
        if token.kind == "COMMENT":
            _attach(group, token, previous)
            continue
        word = spacing.word(token)
        if token.kind in _CLOSERS:
            opened = Group(word, spacing.applied)
            _item(group).parts.append(opened)
            stack.append(opened)
        elif token.kind in (")", "]", "}") and len(stack) > 1:
            _close(stack.pop(), word)
        elif token.kind == "," and len(stack) > 1:
            group.comma = True
        else:
            _item(group).parts.append(word)
        if previous is not None and previous.kind in _CLOSERS:
            stack[-1].hanging = token.line > previous.line and stack[-1].open.line == previous.line
        previous = token
    return root.items[0].parts if root.items else []


def _item(group: Group) -> Item:
    """The item under way; a new one behind a comma."""
    if not group.items or group.comma:
        group.items.append(Item(before=group.last))
        group.comma, group.last = False, []
    return group.items[-1]


def _close(group: Group, word: Word) -> None:
    group.close = word


def _attach(group: Group, comment: Token, previous: Token | None) -> None:
    """Give a comment in a bracket to the item whose line it ends, else to the one it precedes."""
    same_line = previous is not None and previous.end_line == comment.line
    if not group.items or (group.comma and not same_line):
        group.last.append(comment)
        return
    item = group.items[-1]
    if item.after is not None:
        item.before.append(item.after)
    item.after = comment


class _Spacing:
    """Decides the space before each word from the word before it and the bracket around it."""

    def __init__(self, tokens: list[Token]):
        self.first = next((t for t in tokens if t.kind != "COMMENT"), None)
        self.brackets: list[tuple[str, bool]] = []  # (kind, applied)
        self.previous: Token | None = None
        self.unary = False  # the word before is a sign of what follows
        self.colon = False  # `:` of the item under way gives a type or value, so `=` has spaces
        self.applied = False

    def word(self, token: Token) -> Word:
        binary = self.previous is not None and self.previous.kind in _OPERAND_ENDS
        spaced = self._spaced(token, binary)
        self.applied = token.kind in ("(", "[") and self._applies()
        if token.kind in _CLOSERS:
            self.brackets.append((token.kind, self.applied))
            self.colon = False
        elif token.kind in (")", "]", "}") and self.brackets:
            self.brackets.pop()
            self.colon = self._in_parameters()
        elif token.kind == ",":
            self.colon = False
        elif token.kind == ":":
            self.colon = True
        self.unary = token.kind in ("-", "~", "*", "@") and not binary and token.kind != "->"
        self.previous = token
        return Word(_quoted(token), token.kind, spaced, binary, token.line, token.end_line)

    def _applies(self) -> bool:
        return self.previous is not None and self.previous.kind in _OPERAND_ENDS

    def _in_parameters(self) -> bool:
        return len(self.brackets) == 1 and self.first is not None and self.first.kind == "def"

    def _spaced(self, token: Token, binary: bool) -> bool:
        before = self.previous
        if before is None or self.unary or before.kind in _CLOSERS:
            return False
        kind = token.kind
        if before.kind == ":" and self.brackets and self.brackets[-1] == ("[", True):
            return False
        if kind == ".":
            return before.kind == "INT"
        if before.kind == "." or kind in (",", ":", ")", "]", "}"):
            return False
        if kind == "=" or before.kind == "=":
            return not self.brackets or (self.colon and self._in_parameters())
        return kind not in ("(", "[") or not self._applies()


def _quoted(token: Token) -> str:
    """A string in double quotes where that needs no escape more."""
    text = token.text
    if token.kind == "COMMENT":
        return text
    prefix, rest = (text[:1], text[1:]) if token.kind == "FORMAT" else ("", text)
    if token.kind not in ("STRING", "FORMAT") or not rest.startswith("'"):
        return text
    width = 3 if rest.startswith("'''") else 1
    body = rest[width:-width]
    if '"' in body or "\\" in body:
        return text
    return prefix + '"' * width + body + '"' * width


# ------------------------------------------------------------------------------------------------------ wrapping


def lines_of(parts: list[Word | Group], indent: int, tail: str = "") -> list[Line]:
    """A line of source as lines of text; `tail` follows its last word."""
    whole = _flat(parts)
    if whole is not None and _fits(whole + tail, indent):
        return [Line(indent, whole + tail)]
    opened = {n for n, p in enumerate(parts) if isinstance(p, Group) and _must_open(p)} or _choose(parts, indent, tail)
    if not opened:
        return [Line(indent, (whole or "") + tail)]
    lines: list[Line] = []
    text = ""
    for n, part in enumerate(parts):
        if n not in opened or isinstance(part, Word):
            text += _joined(part, first=not text)
            continue
        lines.append(Line(indent, text + _lead(part.open, first=not text) + part.open.text))
        lines.extend(_content(part, indent + STEP))
        assert part.close is not None
        text = part.close.text
    lines.append(Line(indent, text + tail))
    return lines


def _fits(text: str, indent: int) -> bool:
    first, *_, last = (text + "\n").split("\n")
    longest = max(indent + len(first), *(len(t) for t in text.split("\n")[1:])) if "\n" in text else indent + len(first)
    return longest <= WIDTH and last == ""


def _lead(word: Word, first: bool) -> str:
    return " " if word.spaced and not first else ""


def _joined(part: Word | Group, first: bool) -> str:
    """A part on one line, with the space before it."""
    if isinstance(part, Word):
        return _lead(part, first) + part.text
    return _lead(part.open, first) + (_flat_group(part) or "")


def _flat(parts: list[Word | Group]) -> str | None:
    """The text on one line, None where a bracket in it has to be opened."""
    if any(isinstance(p, Group) and _must_open(p) for p in parts):
        return None
    return "".join(_joined(p, first=n == 0) for n, p in enumerate(parts))


def _flat_group(group: Group) -> str | None:
    texts = [_flat(item.parts) for item in group.items]
    if group.close is None or None in texts:
        return None
    return group.open.text + ", ".join(t or "" for t in texts) + ("," if group.comma else "") + group.close.text


def _must_open(group: Group) -> bool:
    if group.last or _wants_open(group):
        return True
    if any(item.before or item.after for item in group.items):
        return True
    return any(isinstance(p, Group) and _must_open(p) for item in group.items for p in item.parts)


def _wants_open(group: Group) -> bool:
    """A comma after the last item asks for it, except where the comma makes the tuple."""
    return group.comma and (len(group.items) > 1 or (group.applied and group.open.text == "(") or group.open.text == "{")


def _choose(parts: list[Word | Group], indent: int, tail: str) -> set[int]:
    """The bracket to open in a line that is too long: the last one that leaves short lines around it; calls before subscripts."""
    groups = [(n, p) for n, p in enumerate(parts) if isinstance(p, Group) and p.items]
    preferred = [(n, p) for n, p in groups if not (p.applied and p.open.text == "[")] or groups
    best: tuple[int, int] | None = None
    for n, group in reversed(preferred):
        head = len((_flat(parts[:n]) or "") + group.open.text)
        rest = len(_flat(parts[n + 1 :]) or "") + 1 + len(tail)
        width = max(head, rest) + indent
        if width <= WIDTH:
            return {n}
        if best is None or width < best[0]:
            best = (width, n)
    return {best[1]} if best else set()


def _content(group: Group, indent: int) -> list[Line]:
    """What stands in an opened bracket."""
    commented = any(item.before or item.after for item in group.items)
    grouped = _writers_lines(group) if group.hanging else [group.items]
    if len(grouped) == 1 and not commented and not (group.comma and not group.hanging):
        text = _row(grouped[0], last=not group.comma)
        if text is not None and _fits(text, indent):
            return [Line(indent, text), *_comments(group.last, indent)]
    lines: list[Line] = []
    rows = [_row(row, last=False) for row in grouped]
    writers = group.hanging and len(rows) > 1 and all(r is not None and _fits(r, indent) for r in rows)
    for row in grouped if writers else [[item] for item in group.items]:
        for item in row:
            lines.extend(_comments(item.before, indent))
        last = row[-1]
        text = _row(row, last=False) if writers else None
        if text is not None:
            lines.append(Line(indent, text, last.after))
        else:
            broken = _broken(last.parts, indent, "," if _takes_comma(group) else "")
            lines.extend([*broken[:-1], Line(broken[-1].indent, broken[-1].text, last.after)])
    return lines + _comments(group.last, indent)


def _comments(comments: list[Token], indent: int) -> list[Line]:
    return [Line(indent, "", c) for c in comments]


def _takes_comma(group: Group) -> bool:
    """A comma after the last item does not change the meaning."""
    if len(group.items) > 1 or group.comma or group.open.text == "{":
        return True
    return (group.applied and group.open.text == "(") or (group.open.text == "[" and not group.applied)


def _writers_lines(group: Group) -> list[list[Item]]:
    """The items in the lines of the source; a comment ends a line."""
    rows: list[list[Item]] = []
    end = 0
    for item in group.items:
        start = _first(item.parts[0]).line
        if not rows or start > end or item.before or rows[-1][-1].after is not None:
            rows.append([])
        rows[-1].append(item)
        end = _last(item.parts[-1]).end_line
    return rows


def _first(part: Word | Group) -> Word:
    return part.open if isinstance(part, Group) else part


def _last(part: Word | Group) -> Word:
    if isinstance(part, Word):
        return part
    return part.close or part.open


def _row(items: list[Item], last: bool) -> str | None:
    """Several items on one line; with a comma at its end unless it is the `last` word before the bracket closes."""
    texts = [_flat(item.parts) for item in items]
    if None in texts:
        return None
    return ", ".join(t or "" for t in texts) + ("" if last else ",")


def _broken(parts: list[Word | Group], indent: int, tail: str) -> list[Line]:
    """An item of an opened bracket: on one line if it fits, else broken before its loosest operators, else in its brackets."""
    whole = _flat(parts)
    if whole is not None and _fits(whole + tail, indent):
        return [Line(indent, whole + tail)]
    cuts = _cuts(parts)
    if not cuts:
        return lines_of(parts, indent, tail)
    lines: list[Line] = []
    for start, end in zip([0, *cuts], [*cuts, len(parts)]):
        lines.extend(lines_of(parts[start:end], indent, tail if end == len(parts) else ""))
    return lines


def _cuts(parts: list[Word | Group]) -> list[int]:
    for level in _LEVELS:
        cuts = [n for n, p in enumerate(parts) if isinstance(p, Word) and n and p.kind in level and (p.binary or p.kind in ("if", "else"))]
        if cuts:
            return cuts
    return []
