"""The automaton: runs the table of grammar.json over words and calls the builder of the tree.

A wrong statement is reported, skipped and stood in for by `...`, so that one run finds the mistakes of several statements
and a mistake is reported once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mlc.syntax.tokens import Token

#: What may be nested in what: statements, brackets, operands. Keeps every walk over a tree within Python's own stack.
DEPTH = 100

#: Reports in one run.
REPORTS = 20


class Rule(NamedTuple):
    """A production: see generate.py."""

    origin: str
    length: int
    method: str
    template: tuple[int | None, ...]


class Table(NamedTuple):
    rules: tuple[Rule, ...]
    actions: tuple[dict[str, int], ...]
    gotos: tuple[dict[str, int], ...]
    start: int


class Place(NamedTuple):
    """From the first character of a construct to behind its last."""

    line: int
    column: int
    end_line: int
    end_column: int


class Reporter(Protocol):
    """What the automaton tells of a statement it cannot go on with; each call is one report."""

    def unexpected(self, tokens: list[Token], at: int, start: int, level: int, expected: frozenset[str]) -> None: ...

    def too_deep(self, place: Place) -> None: ...


@cache
def table() -> Table:
    raw = json.loads(Path(__file__).with_name("grammar.json").read_text(encoding="utf-8"))
    rules = tuple(Rule(origin, length, method, tuple(template)) for origin, length, method, template in raw["rules"])
    return Table(rules, tuple(s[0] for s in raw["states"]), tuple(s[1] for s in raw["states"]), raw["start"])


@dataclass(slots=True)
class _Stack:
    """One entry a symbol on the left: the state behind it, its value, its place (None if empty) and the depth of its tree."""

    states: list[int]
    values: list[Any]
    places: list[Place | None]
    depths: list[int]

    def copy(self) -> _Stack:
        return _Stack(self.states[:], self.values[:], self.places[:], self.depths[:])

    def push(self, state: int, value: Any, place: Place | None, depth: int) -> None:
        self.states.append(state)
        self.values.append(value)
        self.places.append(place)
        self.depths.append(depth)


class _Mark(NamedTuple):
    """The start of a statement: what to go back to when it cannot be read."""

    position: int
    stack: _Stack
    level: int


def run(tokens: list[Token], builders: dict[str, Callable[[list[Any], Place], Any]], reporter: Reporter) -> Any:
    """The tree of `tokens` (the last is END), or None where something was reported that leaves no tree.

    builders:  by method name: (children, place) -> node
    tokens:    overwritten where a statement is skipped
    """
    machine = _Machine(table(), builders)
    stack = _Stack([machine.table.start], [], [], [])
    mark = _Mark(0, stack.copy(), 0)
    position = level = reports = 0
    while True:
        token = tokens[position]
        if _starts(tokens, position):
            mark = _Mark(position, stack.copy(), level)
        expected, place = machine.reduce(stack, token.kind)
        if place is not None:
            reporter.too_deep(place)
        elif expected is None:
            if token.kind == "END":
                return stack.values[-1] if stack.values else None
            stack.push(machine.table.actions[stack.states[-1]][token.kind], token, Place(*token[2:6]), 0)
            level += (token.kind == "INDENT") - (token.kind == "DEDENT")
            position += 1
            continue
        elif token.kind != "ERROR":
            reporter.unexpected(tokens, position, mark.position, mark.level, expected)
        reports += 1
        if expected is not None and ":" in expected and _header_ends(tokens, position):
            tokens.insert(position, token._replace(kind=":"))
            continue
        if reports == REPORTS or tokens[mark.position].kind == "END":
            return None
        stack, level = mark.stack.copy(), mark.level
        position = _skip(tokens, mark.position)
        if level and _stands_alone(tokens, mark.position):
            position -= 2
            tokens[position : position + 2] = [tokens[position]._replace(kind="..."), tokens[position + 1]._replace(kind="NEWLINE")]
        mark = _Mark(position, stack.copy(), level)


class _Machine:
    """The table with the builder of each rule at hand."""

    def __init__(self, table: Table, builders: dict[str, Callable[[list[Any], Place], Any]]):
        self.table = table
        self.passes = tuple(r.length == 1 and r.method.startswith("?") for r in table.rules)
        self.builders = tuple(builders.get(r.method) for r in table.rules)
        self.helpers = tuple(r.method == "" for r in table.rules)

    def reduce(self, stack: _Stack, kind: str) -> tuple[frozenset[str] | None, Place | None]:
        """Reduce until `kind` can be shifted. Returns (None, None); (what could follow, None) if it never can; (None, the
        place) of a tree that is too deep."""
        actions, rules = self.table.actions, self.table.rules
        while True:
            row = actions[stack.states[-1]]
            action = row.get(kind)
            if action is None:
                return frozenset(row), None
            if action >= -1:
                return None, None
            number = -2 - action
            if self.passes[number]:
                stack.states[-1] = self.table.gotos[stack.states[-2]][rules[number].origin]
                continue
            place = self._apply(stack, number)
            if place is not None:
                return None, place

    def _apply(self, stack: _Stack, number: int) -> Place | None:
        """Replace the right side of a rule by its left. Returns the place where the new tree is too deep."""
        rule = self.table.rules[number]
        cut = len(stack.values) - rule.length
        values, places, depths = stack.values[cut:], stack.places[cut:], stack.depths[cut:]
        del stack.values[cut:], stack.places[cut:], stack.depths[cut:], stack.states[cut + 1 :]
        children: list[Any] = []
        for index in rule.template:
            value = None if index is None else values[index]
            if isinstance(value, _Splice):
                children.extend(value.items)
            else:
                children.append(value)
        place = _cover(places)
        depth = max(depths, default=0)
        if self.helpers[number]:
            value = _Splice(children)
        elif rule.method.startswith("?"):
            value = children[0]
        else:
            build = self.builders[number]
            assert build is not None, rule
            value = build(children, place or Place(1, 1, 1, 1))
            depth += 1
        stack.push(self.table.gotos[stack.states[-1]][rule.origin], value, place, depth)
        return place if depth > DEPTH else None


@dataclass(slots=True)
class _Splice:
    """The children of a helper rule, on their way into the parent."""

    items: list[Any]


def _cover(places: list[Place | None]) -> Place | None:
    known = [p for p in places if p is not None]
    if not known:
        return None
    return Place(known[0].line, known[0].column, known[-1].end_line, known[-1].end_column)


def _starts(tokens: list[Token], position: int) -> bool:
    """A statement, a branch of one, or a top-level item starts here; decorators and the function under them are one item."""
    if position == 0:
        return True
    before = tokens[position - 1].kind
    if before == "NEWLINE":
        return tokens[position].kind != "DEDENT" and tokens[position - 2].kind != ":" and not _after_decorator(tokens, position)
    return before in ("INDENT", "DEDENT") and tokens[position].kind != "DEDENT"


def _header_ends(tokens: list[Token], position: int) -> bool:
    """A line ends here and a block follows: only the colon is missing."""
    return tokens[position].kind == "NEWLINE" and tokens[position + 1].kind == "INDENT"


def _stands_alone(tokens: list[Token], position: int) -> bool:
    """Something must stand for the statement at `position` when it is skipped; not for one of several branches."""
    return tokens[position].kind not in ("elif", "else") or tokens[position - 1].kind == "INDENT"


def _after_decorator(tokens: list[Token], position: int) -> bool:
    start = position - 1
    while start > 0 and tokens[start - 1].kind not in ("NEWLINE", "INDENT", "DEDENT"):
        start -= 1
    return tokens[start].kind == "@"


def _skip(tokens: list[Token], start: int) -> int:
    """The position behind the statement at `start`, with its block and the branches that follow it."""
    position = start
    while True:
        kind = tokens[position].kind
        while tokens[position].kind not in ("NEWLINE", "INDENT", "END"):
            position += 1
        if tokens[position].kind == "NEWLINE":
            position += 1
        if tokens[position].kind == "INDENT":
            position = _skip_block(tokens, position)
        follows = tokens[position].kind in ("elif", "else") or (kind == "@" and tokens[position].kind in ("@", "def"))
        if not follows or position == start:
            return max(position, min(start + 2, len(tokens) - 1))


def _skip_block(tokens: list[Token], position: int) -> int:
    level = 0
    while True:
        level += (tokens[position].kind == "INDENT") - (tokens[position].kind == "DEDENT")
        position += 1
        if level == 0 or tokens[position].kind == "END":
            return position
