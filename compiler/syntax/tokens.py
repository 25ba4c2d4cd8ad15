"""The words of the language: text -> tokens, for the parser and the formatter.

    scan(source)    every token with its place: words, NEWLINE (end of a logical line), INDENT, DEDENT, END, and COMMENT

Lexical rules are Python's, with less: spaces for indentation, ASCII names, strings on one line or in triple quotes, f-strings
on one line. What cannot be read becomes a token of kind ERROR that carries its diagnostic, and scanning goes on behind it.
Kinds of words: a keyword or operator is its own kind (`def`, `->`) or that of its class (SIGN for `+`); NAME INT FLOAT STRING
FORMAT otherwise.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mlc.diagnostics import Diagnostic, MlcError, Span
from mlc.frozen import frozen

KEYWORDS = frozenset(
    [
        "and",
        "as",
        "assert",
        "def",
        "elif",
        "else",
        "False",
        "for",
        "from",
        "if",
        "import",
        "in",
        "is",
        "None",
        "not",
        "or",
        "return",
        "True",
    ]
)

#: Words that Python reserves and the language does not use.
RESERVED = frozenset(
    [
        "async",
        "await",
        "break",
        "class",
        "continue",
        "del",
        "except",
        "finally",
        "global",
        "lambda",
        "nonlocal",
        "pass",
        "raise",
        "try",
        "while",
        "with",
        "yield",
    ]
)

OPERATORS = ("...", "**", "//", "==", "!=", "<=", ">=", "->", "+=", "-=", "*=", "/=", *"()[]{},:.=@+-*/%<>&|~")

#: Operators of other languages (and of Python) that are not in this one, with what to write.
FOREIGN = {
    "&&": "write `and` between compile-time values, `&` between masks",
    "||": "write `or` between compile-time values, `|` between masks",
    "!": "write `not` before a compile-time value, `~` before a mask",
    "<>": "write `!=`",
    ":=": "assign on a line of its own",
    "<<": "multiply by a power of 2",
    ">>": "divide by a power of 2 with `//`",
    "^": "write `**` for a power, `!=` between masks for exclusive or",
    "//=": "write `x = x // y`",
    "**=": "write `x = x ** y`",
    "%=": "write `x = x % y`",
    "@=": "write `x = x @ y`",
    "&=": "write `x = x & y`",
    "|=": "write `x = x | y`",
    "++": "write `x = x + 1`",
    "--": "write `x = x - 1`, or put a space between two minus signs",
    "===": "write `==`",
    "=>": "write `>=` to compare",
    "?": "write `a if condition else b`",
    ";": "write one statement a line",
    "$": None,
    "`": None,
    "\\": "inside brackets an expression goes on over several lines without a mark",
}

#: Characters that slip in from word processors, with what was meant.
TYPOGRAPHIC = {
    "\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u00d7": "*",
    "\u00b7": "*", "\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u2192": "->", "\u2026": "...", "\u00a0": "a space",
    "\u3000": "a space", "\uff08": "(", "\uff09": ")", "\uff0c": ",", "\uff1a": ":",
}  # fmt: skip

#: Statements that no bracket contains: where a line starts with one, an open bracket was forgotten.
STARTERS = frozenset(["def", "return", "assert", "class", "while", "import"])

#: Operators that the grammar takes as one kind of word.
CLASSES = {
    "+": "SIGN", "/": "FACTOR", "//": "FACTOR", "%": "FACTOR", "+=": "AUGMENTED", "-=": "AUGMENTED", "*=": "AUGMENTED",
    "/=": "AUGMENTED", "==": "COMPARISON", "!=": "COMPARISON", "<": "COMPARISON", "<=": "COMPARISON", ">": "COMPARISON",
    ">=": "COMPARISON",
}  # fmt: skip

PAIRS = {"(": ")", "[": "]", "{": "}"}

#: Characters no file may hold: controls, halves of surrogate pairs, and marks that reorder text on the screen.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufeff]")

_WORD = re.compile(
    r"""
      (?P<space>[ \t\f]+)
    | (?P<comment>\#[^\n]*)
    | (?P<text>(?P<prefix>[A-Za-z]{0,3})(?P<quote>\"\"\"|'''|"|'))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?[A-Za-z0-9_]*)
    | (?P<foreign>&&|\|\||<>|:=|<<|>>|//=|\*\*=|%=|@=|&=|\|=|\+\+|--|===|=>|[?;$`\\^]|!(?!=))
    | (?P<operator>"""
    + "|".join(re.escape(o) for o in OPERATORS)
    + r""")
    """,
    re.VERBOSE,
)
_INT = re.compile(r"0|[1-9](_?[0-9])*")
_FLOAT = re.compile(r"([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+")
_SHORT_BODY = {'"': re.compile(r'(?:[^"\\\n]|\\[^\n])*'), "'": re.compile(r"(?:[^'\\\n]|\\[^\n])*")}
_LONG_BODY = {'"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*', re.DOTALL), "'''": re.compile(r"(?:[^'\\]|\\.|'(?!''))*", re.DOTALL)}
_INDENTATION = re.compile(r"[ \t\f]*")


class Token(NamedTuple):
    """A word and its place; `error` only where kind is ERROR. Columns count characters from 1, ends are exclusive."""

    kind: str
    text: str
    line: int
    column: int
    end_line: int
    end_column: int
    error: Diagnostic | None = None


class Place(NamedTuple):
    """From the first character of a construct to behind its last."""

    line: int
    column: int
    end_line: int
    end_column: int


@frozen
class Source:
    """A text to scan: `line` and `column` are the place of its first character in `file`, `indentation` the spaces its top level
    starts with."""

    text: str
    file: str
    line: int = 1
    column: int = 1
    indentation: int = 0


def read_text(text: str | bytes, file: str) -> str:
    """Text without byte order mark, with "\\n" as the only line end. Raises E0103 and E0106 for what is not text."""
    if isinstance(text, bytes):
        text = _decode(text, file)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found = [_forbidden(text, m.start(), file) for m, _ in zip(FORBIDDEN.finditer(text), range(20))]
    if found:
        raise MlcError(found)
    return text


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        message = f"the file is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise MlcError([Diagnostic("E0106", message, Span(file, line, column, line, column + 1))]) from None


def _forbidden(text: str, at: int, file: str) -> Diagnostic:
    line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    return Diagnostic("E0103", f"character U+{ord(text[at]):04X} is not allowed in a file", Span(file, line, column, line, column + 1))


def scan(source: Source) -> list[Token]:
    """The tokens of a text that `read_text` returned; the last is END."""
    return _Scanner(source).run()


class _Scanner:
    """Walks the text once. `brackets`: open ones; inside them lines and indentation do not count."""

    def __init__(self, source: Source):
        self.source = source
        self.text = source.text
        self.position = 0
        self.line = source.line
        self.line_start = 1 - source.column  # position of column 1
        self.brackets: list[Token] = []
        self.indents = [source.indentation]
        self.tokens: list[Token] = []
        self.content = False  # the logical line has a word
        self.tabs = False  # a tab was reported

    def run(self) -> list[Token]:
        self._begin_line()
        while self.position < len(self.text):
            if self.text[self.position] == "\n":
                self._end_line()
            else:
                self._word()
        self._close_brackets()
        if self.content:
            self._point("NEWLINE")
        while len(self.indents) > 1:
            self.indents.pop()
            self._point("DEDENT")
        self._point("END")
        return self.tokens

    # -------------------------------------------------------------------------------------------------- lines

    def _end_line(self) -> None:
        if self.content and not self.brackets:
            self._point("NEWLINE")
            self.content = False
        self.position += 1
        self.line += 1
        self.line_start = self.position
        self._begin_line()

    def _begin_line(self) -> None:
        """Read the indentation of a line; blank lines and comments have none."""
        match = _INDENTATION.match(self.text, self.position)
        assert match is not None
        self.position = match.end()
        if self.position >= len(self.text) or self.text[self.position] in "\n#":
            return
        if self.brackets:
            self._forgotten_bracket()
        if not self.brackets and not self.content and self.source.column == 1:
            self._indent(match.group())

    def _indent(self, blank: str) -> None:
        tab = self.line_start + blank.find("\t")
        if "\t" in blank and not self.tabs:
            self._error("E0105", "a tab in the indentation", tab, tab + 1, "indent with four spaces")
            self.content = False
        self.tabs = self.tabs or "\t" in blank
        blank = blank.expandtabs(4)
        width = len(blank)
        if width > self.indents[-1]:
            self.indents.append(width)
            self._point("INDENT")
            return
        while len(self.indents) > 1 and width <= self.indents[-2]:
            self.indents.pop()
            self._point("DEDENT")
        if width != self.indents[-1]:
            self._error("E0105", "this indentation is not that of any line above", self.line_start, self.position)
            self.content = False

    def _forgotten_bracket(self) -> None:
        match = re.compile(r"[a-z]+").match(self.text, self.position)
        if match is None or match.group() not in STARTERS or self.text[match.end() : match.end() + 1] == "=":
            return
        self._close_brackets()
        self._point("NEWLINE")
        self.content = False

    def _close_brackets(self) -> None:
        if self.brackets:
            opened = self.brackets[0]
            self.brackets.clear()
            self._emit_error("E0115", f"`{opened.text}` is never closed", self._span_of(opened), None)

    # -------------------------------------------------------------------------------------------------- words

    def _word(self) -> None:
        match = _WORD.match(self.text, self.position)
        if match is None:
            self._unknown()
            return
        kind, word = match.lastgroup, match.group()
        if match["text"] is not None:
            self._string(match["prefix"], match["quote"])
        elif kind == "space":
            self.position = match.end()
        elif kind == "comment":
            self._take("COMMENT", match.end())
        elif kind == "name":
            self._take(word if word in KEYWORDS else "RESERVED" if word in RESERVED else "NAME", match.end())
        elif kind == "number":
            self._number(word)
        elif kind == "foreign":
            self._foreign(word)
        else:
            self._operator(word)

    def _operator(self, word: str) -> None:
        if word in ")]}" and not self._closes(word):
            return
        self._take(CLASSES.get(word, word), self.position + len(word))
        if word in PAIRS:
            self.brackets.append(self.tokens[-1])

    def _closes(self, word: str) -> bool:
        """Close the innermost bracket; False, with an error, where `word` does not match it."""
        if self.brackets and PAIRS[self.brackets[-1].text] == word:
            self.brackets.pop()
            return True
        message = f"`{word}` closes nothing"
        if self.brackets:
            opened = self.brackets.pop()
            message = f"`{word}` does not close `{opened.text}` of line {opened.line}, column {opened.column}"
        self._error("E0115", message, self.position, self.position + 1)
        return False

    def _number(self, word: str) -> None:
        end = self.position + len(word)
        if _INT.fullmatch(word):
            if len(word) > 40 or int(word) >= 2**63:
                self._error("E0104", f"the number {word[:40]} does not fit in 64 bits", self.position, end)
            else:
                self._take("INT", end)
        elif not _FLOAT.fullmatch(word):
            help = "decimal digits, without leading zeros or suffix" if word[0].isdigit() else None
            self._error("E0104", f"`{word[:40]}` is not a number of the language", self.position, end, help)
        elif float(word) == float("inf"):
            self._error("E0104", f"the number {word[:40]} is beyond the largest float", self.position, end, "write `inf` for infinity")
        else:
            self._take("FLOAT", end)

    def _string(self, prefix: str, quote: str) -> None:
        start = self.position
        long = len(quote) == 3
        body = (_LONG_BODY if long else _SHORT_BODY)[quote].match(self.text, start + len(prefix) + len(quote))
        assert body is not None
        end = body.end() + len(quote)
        if not self.text.startswith(quote, body.end()):
            self._unterminated(start, body.end(), quote)
        elif prefix not in ("", "f"):
            self._error("E0104", f"strings have no prefix `{prefix}`", start, end, 'write "..." or f"..."')
        elif prefix and long:
            self._error("E0117", "an f-string stands on one line, in one pair of quotes", start, end)
        else:
            self._take("FORMAT" if prefix else "STRING", end)

    def _unterminated(self, start: int, end: int, quote: str) -> None:
        where = "this file" if len(quote) == 3 else "this line"
        self._error("E0102", f"a string that starts with {quote} does not end in {where}", start, end, f"close it with {quote}")

    def _foreign(self, word: str) -> None:
        if word in ("++", "--") and not self._after_operand():
            self._take(word[0], self.position + 1)  # two signs before a number, each a word
            return
        self._error("E0109", f"the language has no `{word}`", self.position, self.position + len(word), FOREIGN[word])

    def _after_operand(self) -> bool:
        return bool(self.tokens) and self.tokens[-1].kind in ("NAME", "INT", "FLOAT", ")", "]")

    def _unknown(self) -> None:
        character = self.text[self.position]
        meant = TYPOGRAPHIC.get(character)
        help = f"write {meant}" if meant == "a space" else f"write `{meant}`" if meant else "names are ASCII letters, digits and _"
        shown = character if character.isprintable() else "\\" + f"u{ord(character):04x}"
        end = self.position + 1
        while meant is None and end < len(self.text) and self.text[end].isalnum():
            end += 1
        self._error("E0103", f"unexpected character `{shown}`", self.position, end, help)

    # ------------------------------------------------------------------------------------------------- tokens

    def _take(self, kind: str, end: int) -> None:
        text = self.text[self.position : end]
        line, column = self.line, self.position - self.line_start + 1
        newlines = text.count("\n") if kind == "STRING" else 0
        if newlines:
            self.line += newlines
            self.line_start = self.position + text.rfind("\n") + 1
        self.tokens.append(Token(kind, text, line, column, self.line, end - self.line_start + 1))
        self.position = end
        self.content = self.content or kind != "COMMENT"

    def _point(self, kind: str) -> None:
        """A token without text at the present place."""
        column = self.position - self.line_start + 1
        self.tokens.append(Token(kind, "", self.line, column, self.line, column))

    def _error(self, code: str, message: str, start: int, end: int, help: str | None = None) -> None:
        """An ERROR token over text[start:end]; scanning goes on at its end, or where it is if that is further."""
        line, column = self.line, start - self.line_start + 1
        text = self.text[start:end]
        last = text.find("\n")
        width = (end - start) if last < 0 else last
        self._emit_error(code, message, Span(self.source.file, line, column, line, column + max(width, 1)), help)
        if last >= 0:
            self.line += text.count("\n")
            self.line_start = start + text.rfind("\n") + 1
        self.position = max(self.position, end)
        self.content = True

    def _emit_error(self, code: str, message: str, span: Span, help: str | None) -> None:
        error = Diagnostic(code, message, span, help=help)
        self.tokens.append(Token("ERROR", "", span.line, span.column, span.end_line, span.end_column, error))

    def _span_of(self, token: Token) -> Span:
        return Span(self.source.file, token.line, token.column, token.end_line, token.end_column)
