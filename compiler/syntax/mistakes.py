"""What to say of text the grammar refuses: common mistakes, first match wins, then a general sentence.

Each row: the code, when it applies, the message and the help. `{word}` is the offending word, `{first}` the first of its line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mlc.diagnostics import Diagnostic, Span
from mlc.syntax.tokens import Token

#: Statements and expressions of Python that the language leaves out, with what to write.
MISSING = {
    "while": "repeat with `for i in range(n):`; how often is known at compile time",
    "lambda": "define a function at the top level of the file",
    "class": "a model is made of functions; `name=` at a call names the parameters it creates",
    "try": "state what must hold with `assert condition, message`",
    "raise": "state what must hold with `assert condition, message`",
    "except": None,
    "finally": None,
    "with": None,
    "pass": "leave the branch out, or turn its condition around with `not`",
    "break": "choose the range of the loop, or use `if` in its body",
    "continue": "use `if` in the body of the loop",
    "del": "assign the name again",
    "global": "return the value",
    "yield": "return a list",
    "async": None,
    "await": None,
}

#: Kinds of words that end an operand, and that start one.
_ENDS = frozenset(["NAME", "INT", "FLOAT", "STRING", "FORMAT_END", ")", "]", "}", "...", "None", "True", "False"])
_BEGINS = frozenset(["NAME", "INT", "FLOAT", "STRING", "FORMAT_START", "(", "[", "{", "...", "None", "True", "False", "not", "~"])
_CHAINS = frozenset(["COMPARISON", "in", "is"])
_COMPOUND = frozenset(["if", "elif", "else", "for", "def"])


class Situation(NamedTuple):
    """A word that cannot follow. `line`: the words before it in its statement; `top`: the statement is not in a function."""

    word: Token
    line: list[Token]
    top: bool
    expected: frozenset[str]

    @property
    def kind(self) -> str:
        return self.word.kind

    @property
    def before(self) -> str:
        """The kind of the word before it, "" at the start of the statement."""
        return self.line[-1].kind if self.line else ""

    @property
    def first(self) -> str:
        return self.line[0].kind if self.line else self.kind

    @property
    def bracket(self) -> str:
        """The innermost open bracket, "" outside of any."""
        opened = [""]
        for token in self.line:
            if token.kind in ("(", "[", "{"):
                opened.append(token.kind)
            elif token.kind in (")", "]", "}") and len(opened) > 1:
                opened.pop()
        return opened[-1]

    @property
    def in_parameters(self) -> bool:
        depth = sum(t.kind == "(" for t in self.line) - sum(t.kind == ")" for t in self.line)
        return self.first == "def" and self.bracket == "(" and depth == 1

    def has(self, kind: str) -> bool:
        return any(t.kind == kind for t in self.line)


class Mistake(NamedTuple):
    """A row: `at` is the word the message points at: the offending one, the one before it, or the first of the line."""

    code: str
    applies: Callable[[Situation], bool]
    message: str
    help: str | None = None
    at: str = "word"


def _is_star(s: Situation) -> bool:
    argument = s.kind in ("*", "**") and s.before in ("(", ",", "[")
    return argument or (s.in_parameters and s.before == "*" and s.kind == "NAME")


def _is_bare_parameter(s: Situation) -> bool:
    return s.in_parameters and s.before == "NAME" and ":" in s.expected and s.kind in (",", ")", "=")


def _is_half_choice(s: Situation) -> bool:
    return "else" in s.expected and s.has("if") and s.kind in ("NEWLINE", ")", "]", "}", ",", ":", "=")


def _is_code(s: Situation) -> bool:
    starts = not s.line and s.kind not in ("INDENT", "from", "def", "@")
    uses = len(s.line) == 1 and s.before == "NAME" and s.kind in ("(", "[", ".", ",", "AUGMENTED", "*", "SIGN", "-")
    return s.top and (starts or uses)


def _is_unclosed_header(s: Situation) -> bool:
    return ":" in s.expected and s.first in _COMPOUND and s.bracket == "" and s.kind == "NEWLINE"


def _is_second_value(s: Situation) -> bool:
    return s.kind in _BEGINS and s.before in _ENDS


MISTAKES = (
    Mistake("E0108", lambda s: s.kind == "RESERVED", "the language has no `{word}`", "{missing}"),
    Mistake("E0108", lambda s: s.kind == "import" and not s.line, "only names are imported", "write `from mlc.nn import linear`"),
    Mistake("E0108", lambda s: s.first == "from" and s.kind == "*", "`*` imports nothing", "write each name: `from mlc.nn import linear`"),
    Mistake("E0108", lambda s: s.first == "from" and s.kind in (".", "...") and len(s.line) == 1, "the language has no relative imports",
            "write `from blocks import block` for blocks.dsl beside this file"),
    Mistake("E0108", lambda s: s.kind in ("def", "@") and not s.line and not s.top, "a function inside a function",
            "move it to the top level of the file"),
    Mistake("E0108", lambda s: s.kind == "for" and s.bracket != "", "the language has no comprehensions",
            "grow a list in a loop: `xs = xs + [x]`"),
    Mistake("E0108", _is_star, "the language has no star arguments", "write each argument"),
    Mistake("E0108", lambda s: s.in_parameters and s.word.text == "/", "the language has no positional-only parameters"),
    Mistake("E0113", _is_bare_parameter, "parameter `{before}` has no annotation",
            "write `{before}: real[...]`, `{before}: dim`, ...", "before"),
    Mistake("E0110", lambda s: s.kind in _CHAINS and s.before in _ENDS and s.first != "for", "chained comparison",
            "compare two values at a time and join with `and`, or `&` between masks"),
    Mistake("E0109", lambda s: s.word.text == "+" and s.before not in _ENDS, "the language has no unary `+`", "leave it out"),
    Mistake("E0118", _is_half_choice, "`a if condition` without `else`", "write `a if condition else b`"),
    Mistake("E0101", lambda s: s.kind == "if" and s.before == "else" and len(s.line) == 1, "`else if`", "write `elif`"),
    Mistake("E0101", lambda s: s.kind in ("else", "elif") and not s.line, "`{word}` without an `if` of the same indentation above it"),
    Mistake("E0105", lambda s: "INDENT" in s.expected, "expected an indented block under the line above"),
    Mistake("E0101", lambda s: "def" in s.expected and "from" not in s.expected and s.top, "a decorator stands above a function"),
    Mistake("E0114", _is_code, "code at the top level of a file",
            "only imports, constants (`width: dim = 768`) and functions stand there", "first"),
    Mistake("E0114", lambda s: s.top and len(s.line) == 1 and s.before == "NAME" and s.kind == "=", "a constant without a type",
            "give its type: `{first}: int = ...` (dim, int, float, bool, str; f32 makes it an option of the program)", "first"),
    Mistake("E0101", lambda s: s.kind == "=" and s.first in ("if", "elif", "assert", "return") and s.bracket == "",
            "`=` assigns, `==` compares", "write `==`"),
    Mistake("E0101", lambda s: s.kind == "=" and s.bracket == "(", "`=` in brackets names an argument", "write `==` to compare"),
    Mistake("E0101", lambda s: s.kind == "=" and s.has("=") and s.bracket == "", "two assignments in one statement", "write one a line"),
    Mistake("E0101", lambda s: s.kind == "NEWLINE" and len(s.line) == 1 and s.before == "return", "`return` without a value",
            "write `return None`", "before"),
    Mistake("E0101", lambda s: s.first == "def" and "(" in s.expected and len(s.line) == 2, "a function has parameters in parentheses",
            "write `def {before}():`"),
    Mistake("E0105", lambda s: s.kind == "INDENT", "unexpected indentation"),
    Mistake("E0105", lambda s: s.before == ":" and s.expected == {"NEWLINE"}, "a block starts on a line of its own"),
    Mistake("E0116", _is_unclosed_header, "expected `:` at the end of this line"),
    Mistake("E0112", lambda s: s.before == "{" and s.kind == "}", "a record needs at least one pair", 'write `{{"loss": loss}}`'),
    Mistake("E0112", lambda s: s.bracket == "{" and s.before in ("{", ",") and s.kind != "STRING", "the keys of a record are strings",
            'write `{{"loss": loss, ...}}`'),
    Mistake("E0101", lambda s: _is_second_value(s) and s.bracket != "", "two values in a row",
            "is a comma or an operator missing before {shown}?"),
    Mistake("E0101", _is_second_value, "unexpected {shown}", "is an operator missing before it? one statement stands on a line"),
)  # fmt: skip


def explain(situation: Situation, file: str) -> Diagnostic:
    """The diagnostic for a word that cannot follow."""
    line = situation.line
    words = {
        "word": situation.word.text,
        "first": line[0].text if line else "",
        "before": line[-1].text if line else "",
        "missing": MISSING.get(situation.word.text) or "",
        "shown": shown(situation.word),
    }
    for mistake in MISTAKES:
        if mistake.applies(situation):
            help = mistake.help.format_map(words) if mistake.help else None
            return Diagnostic(mistake.code, mistake.message.format_map(words), _span(situation, mistake.at, file), help=help or None)
    return Diagnostic("E0101", _general(situation), _span(situation, "word", file))


def _span(situation: Situation, at: str, file: str) -> Span:
    """Of a word; of the place behind the word before for what has no text."""
    word, line = situation.word, situation.line
    if line and at != "word":
        word = line[0] if at == "first" else line[-1]
    if word.text:
        return Span(file, word.line, word.column, word.end_line, word.end_column)
    if line and word.kind == "NEWLINE":
        return Span(file, line[-1].end_line, line[-1].end_column, line[-1].end_line, line[-1].end_column + 1)
    return Span(file, word.line, word.column, word.line, word.column + 1)


def shown(token: Token) -> str:
    """A word as a sentence names it."""
    match token.kind:
        case "NEWLINE":
            return "the end of the line"
        case "END":
            return "the end of the file"
        case "INDENT":
            return "an indentation"
        case "DEDENT":
            return "the end of the block"
        case "STRING" | "FORMAT_START":
            return "a string"
        case "FORMAT_TEXT" | "FORMAT_OPEN" | "FORMAT_SPEC" | "FORMAT_CLOSE" | "FORMAT_END":
            return "the end of the expression in an f-string"
        case _:
            return f"`{token.text}`"


def _general(situation: Situation) -> str:
    wanted = sorted(_WANTED.get(k, f"`{k}`") for k in situation.expected)
    if 0 < len(wanted) <= 3:
        return f"expected {' or '.join(wanted)}, found {shown(situation.word)}"
    if situation.before and situation.before not in _ENDS:
        return f"expected a value, found {shown(situation.word)}"
    return f"unexpected {shown(situation.word)}"


_WANTED = {
    "NAME": "a name",
    "STRING": "a string",
    "NEWLINE": "the end of the line",
    "INDENT": "an indented block",
    "DEDENT": "the end of the block",
    "END": "the end of the file",
    "FORMAT_CLOSE": "`}`",
    "FORMAT_SPEC": "a format",
    "SIGN": "`+`",
    "COMPARISON": "a comparison",
    "AUGMENTED": "`+=`",
    "FACTOR": "`/`",
}
