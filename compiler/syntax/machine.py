"""Lark at work: loads grammar.lark, hands it the words of tokens.py, has the tree built, and goes on behind what it refuses.

Importing Lark and loading the grammar take some hundredths of a second, computing its table some tenths: this module is imported with
the first text that is read (parser.py), and the table lies in the user's cache from then on.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import lark
from lark.lexer import Lexer
from lark.parsers.lalr_interactive_parser import InteractiveParser

from mlc.cache import find_cache, keep_entry, read_entry
from mlc.diagnostics import Diagnostic
from mlc.frozen import frozen
from mlc.syntax.builder import Builder
from mlc.syntax.recovery import REPORTS, header_ends, skip, starts
from mlc.syntax.tokens import Place, Token
from mlc.syntax.tree import DEPTH

GRAMMAR = Path(__file__).with_name("grammar.lark")


class Reporter(Protocol):
    """What is told of a statement that cannot be read; each call is one report."""

    def unexpected(self, words: list[Token], at: int, start: int, level: int, expected: frozenset[str]) -> None: ...

    def too_deep(self, place: Place) -> None: ...


def read(words: list[Token], file: str, reports: list[Diagnostic], reporter: Reporter) -> Any:
    """The items of `words` (the last is END), or None where something was reported that leaves no tree.

    words:    overwritten where a statement is skipped
    reports:  faults that the grammar cannot see are added to them
    """
    before = _methods.set(Builder(file, reports).methods())
    try:
        return _read(_Reading(words), reporter)
    finally:
        _methods.reset(before)


# ------------------------------------------------------------------------------------------------ what Lark is given


class Words(Lexer):
    """Hands out the words of a text by the names that their kinds have in Lark, from wherever the reading stands."""

    def __init__(self, conf: Any):
        self.names = {terminal.pattern.value: terminal.name for terminal in conf.terminals} | {"END": "$END"}

    def lex(self, reading: _Reading) -> Iterator[lark.Token]:  # pyright: ignore[reportIncompatibleMethodOverride] (a text is any object)
        while True:
            kind, text, line, column, end_line, end_column, _ = reading.words[reading.position]
            yield lark.Token(self.names.get(kind, kind), text, None, line, column, end_line, end_column)
            if kind == "END":
                return
            reading.level += (kind == "INDENT") - (kind == "DEDENT")
            reading.position += 1


class Nodes(lark.Transformer[Any, Any]):
    """Called by Lark for each alternative that was read, all words included; whoever reads the text says what it becomes."""

    def __default__(self, data: str, children: list[Any], meta: Any) -> Any:
        if data.startswith("_"):
            return _Splice(tuple(children))
        placed = [child for child in children if child is not None and child.line]
        place = Place(placed[0].line, placed[0].column, placed[-1].end_line, placed[-1].end_column) if placed else Place(1, 1, 1, 1)
        depth = 1 + max((child.depth for child in children if isinstance(child, _Part)), default=0)
        values = [child.value if isinstance(child, _Part) else child for child in children]
        value = _methods.get()[data](values, place)
        if depth > DEPTH:
            raise _TooDeep(place)
        return _Part(value, *place, depth) if placed else _Part(value, 0, 0, 0, 0, depth)


#: What builds the tree of the text that this thread reads: Lark has one transformer for all of them.
_methods: ContextVar[dict[str, Callable[[list[Any], Place], Any]]] = ContextVar("methods")


class _Part(NamedTuple):
    """What was built of some words, the place of those (all 0 where there are none), and how deep its tree is."""

    value: Any
    line: int
    column: int
    end_line: int
    end_column: int
    depth: int


@frozen
class _Splice:
    """The children of a helper rule on the way into their parent. Lark extends the list it gets, and copies of a parser share this one."""

    items: tuple[Any, ...]

    @property
    def children(self) -> list[Any]:
        return list(self.items)


class _TooDeep(Exception):
    """A tree of more than DEPTH levels."""

    def __init__(self, place: Place):
        super().__init__(place)
        self.place = place


@cache
def grammar() -> lark.Lark:
    """The grammar, ready to read: from the user's cache, else computed and kept there."""
    text = GRAMMAR.read_text(encoding="utf-8")
    store = find_cache()
    if store.folder is None or store.problem:
        return compute(text)
    entry = store.entry("grammar", [text, lark.__version__, sys.version, str(Words), str(Nodes)])
    kept = read_entry(entry)
    if kept is not None:
        return lark.Lark.load(io.BytesIO(kept))
    computed = compute(text)
    saved = io.BytesIO()
    computed.save(saved)
    keep_entry(entry, saved.getvalue())
    return computed


def compute(text: str, **options: Any) -> lark.Lark:
    """The grammar from its text; options of Lark are added to ours."""
    return lark.Lark(text, parser="lalr", start="file", lexer=Words, transformer=Nodes(), keep_all_tokens=True, **options)


# --------------------------------------------------------------------------------------------------------- reading


@dataclass(slots=True)
class _Reading:
    """The words of a text, the next one, and the blocks that are open before it."""

    words: list[Token]
    position: int = 0
    level: int = 0


class _Mark(NamedTuple):
    """The start of a statement: what to go back to when it cannot be read."""

    position: int
    level: int
    state: InteractiveParser


def _read(reading: _Reading, reporter: Reporter) -> Any:
    kinds = {terminal.name: terminal.pattern.value for terminal in grammar().terminals} | {"$END": "END"}
    words = reading.words
    state = grammar().parse_interactive(reading)  # pyright: ignore[reportArgumentType] (as in Words.lex)
    mark = _Mark(0, 0, state)
    for _ in range(REPORTS):
        expected: frozenset[str] = frozenset()
        try:
            for _ in state.iter_parse():
                if starts(words, reading.position):
                    mark = _Mark(reading.position, reading.level, state.copy(deepcopy_values=False))
            whole: Any = state.result
            return whole.value
        except _TooDeep as problem:
            reporter.too_deep(problem.place)
        except lark.UnexpectedToken as problem:
            expected = frozenset(kinds.get(name, name) for name in problem.expected)
            if words[reading.position].kind != "ERROR":
                reporter.unexpected(words, reading.position, mark.position, mark.level, expected)
        if ":" in expected and header_ends(words, reading.position):
            words.insert(reading.position, words[reading.position]._replace(kind=":"))
            continue
        if words[mark.position].kind == "END":
            return None
        state, reading.level = mark.state, mark.level
        reading.position = skip(words, mark.position, mark.level)
        mark = _Mark(reading.position, reading.level, state.copy(deepcopy_values=False))
    return None
