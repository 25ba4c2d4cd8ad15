"""Tokens of IR text, and a cursor over them. What they mean is `text.py`'s."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TypeVar

from mlc.diagnostics import Diagnostic, MlcError, Span

Item = TypeVar("Item")

_TOKEN = re.compile(
    r"""(?P<skip>\s+)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<value>%(?:"(?:[^"\\]|\\.)*"|[\w.*\#/-]+))
      | (?P<span>@(?:"(?:[^"\\]|\\.)*"|[\w./<>+-]+):\d+:\d+-\d+:\d+)
      | (?P<function>@(?:"(?:[^"\\]|\\.)*"|[\w.*\#/-]+))
      | (?P<arrow>->)
      | (?P<number>-?(?:\d[\w.]*(?:(?<=e)[+-]\d+)?|(?:inf|nan)(?![\w.])))
      | (?P<word>[A-Za-z_][\w.]*)
      | (?P<mark>[][(){}<>=,:*])""",
    re.VERBOSE | re.ASCII,
)


class Reader:
    """A cursor over tokens. Every fault is reported at the current token's line and column."""

    def __init__(self, text: str, file: str):
        self.text = text
        self.file = file
        self.at = 0
        self.tokens: list[tuple[str, str, int]] = []
        place = 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                self.tokens.append(("end", "", place))
                self.at = len(self.tokens) - 1
                raise self.fault(f"unexpected {text[place]!r}")
            if match.lastgroup != "skip":
                self.tokens.append((match.lastgroup or "", match.group(), place))
            place = match.end()
        self.tokens.append(("end", "", len(text)))

    def fault(self, message: str) -> MlcError:
        place = self.tokens[self.at][2]
        line = self.text.count("\n", 0, place) + 1
        column = place - self.text.rfind("\n", 0, place)
        return MlcError([Diagnostic("E0101", f"IR text: {message}", Span(self.file, line, column, line, column + 1))])

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def text_here(self) -> str:
        return self.tokens[self.at][1]

    def take(self, kind: str) -> str:
        if self.kind != kind:
            raise self.fault(f"expected {kind}, got {self.text_here!r}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.fault(f"expected {text!r}, got {self.text_here!r}")

    def accept(self, text: str) -> bool:
        if self.text_here != text or self.kind not in ("mark", "arrow", "word"):
            return False
        self.at += 1
        return True

    def listed(self, item: Callable[[], Item], end: str) -> list[Item]:
        """Items parted by commas up to `end`, which is taken; a comma may follow the last."""
        items: list[Item] = []
        while not self.accept(end):
            items.append(item())
            if not self.accept(","):
                self.expect(end)
                break
        return items

    def after(self, kind: str, strip: int) -> str:
        """The name in a token of this kind, without its first `strip` characters and its quotes."""
        text = self.take(kind)[strip:]
        return json.loads(text) if text.startswith('"') else text
