"""Make the parser's table from grammar.lark: `python -m mlc.syntax.generate` writes grammar.json.

Lark checks the grammar (LALR(1), no conflicts) and computes the automaton; the table is kept as a file so that the compiler
starts in milliseconds and without Lark. `tests/test_syntax.py` checks that the file is current.

    {"rules": [[origin, length, method, template], ...],
     "states": [[{kind: action}, {nonterminal: state}], ...],
     "start": state}

    action:    s >= 0 shifts to state s, -1 accepts, -2 - r reduces by rule r
    method:    "" for a helper rule, whose children are spliced into the parent; "?name" passes a single child on
    template:  the children to keep: an index, null for an absent [optional] part
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lark import Lark
from lark.grammar import Rule
from lark.lexer import Lexer, PatternStr
from lark.parsers.lalr_analysis import Shift
from lark.parsers.lalr_parser import LALR_Parser

GRAMMAR = Path(__file__).with_name("grammar.lark")
TABLE = Path(__file__).with_name("grammar.json")
DECLARED = re.compile(r"\b_?[A-Z][A-Z_]+\b")


class NoLexer(Lexer):
    """Words come from tokens.py; Lark sees their kinds only."""

    def __init__(self, conf: Any):
        pass

    def lex(self, lexer_state: Any, parser_state: Any) -> Any:
        raise NotImplementedError


def table() -> str:
    """The text of grammar.json. The same grammar gives the same bytes."""
    grammar = GRAMMAR.read_text(encoding="utf-8")
    lark = Lark(grammar, parser="lalr", start="file", strict=True, lexer=NoLexer)
    kinds = {name: name.removeprefix("_") for name in DECLARED.findall(grammar)}
    kinds |= {t.name: t.pattern.value for t in lark.terminals if isinstance(t.pattern, PatternStr)}
    parser: Any = lark.parser.parser
    assert isinstance(parser, LALR_Parser)
    raw: Any = parser._parse_table  # pyright: ignore[reportPrivateUsage]
    rules = sorted({r for row in raw.states.values() for action, r in row.values() if action is not Shift}, key=_rule_key)
    numbers = {rule: n for n, rule in enumerate(rules)}
    order = _states_in_order(raw)
    states = [_row(raw, state, order, numbers, kinds) for state in order]
    lines = [
        '{"rules": [\n' + ",\n".join(json.dumps(_rule(r)) for r in rules) + "],",
        '"states": [\n' + ",\n".join(json.dumps(s, separators=(",", ":")) for s in states) + "],",
        f'"start": {order[raw.start_states["file"]]}' + "}",
    ]
    return "\n".join(lines) + "\n"


def _rule_key(rule: Rule) -> tuple[str, ...]:
    return (rule.origin.name, *(s.name for s in rule.expansion), rule.alias or "")


def _rule(rule: Rule) -> list[Any]:
    name = rule.alias or rule.origin.name
    helper = name.startswith("_")
    method = "" if helper else ("?" if rule.options.expand1 and not rule.alias else "") + name
    template: list[int | None] = []
    absent = list(rule.options.empty_indices) or [False] * (len(rule.expansion) + 1)
    position = 0
    for missing in absent:
        if missing:
            template.append(None)
            continue
        if position < len(rule.expansion):
            symbol = rule.expansion[position]
            if not (symbol.is_term and getattr(symbol, "filter_out", False)):
                template.append(position)
            position += 1
    return [rule.origin.name, len(rule.expansion), method, template]


def _states_in_order(raw: Any) -> dict[int, int]:
    """State -> number, breadth first from the start by sorted symbols: independent of hash seeds."""
    order = {raw.start_states["file"]: 0}
    queue = list(order)
    for state in queue:
        for _, (action, target) in sorted(raw.states[state].items(), key=lambda item: item[0]):
            if action is Shift and target not in order:
                order[target] = len(order)
                queue.append(target)
    return order


def _row(raw: Any, state: int, order: dict[int, int], numbers: dict[Rule, int], kinds: dict[str, str]) -> list[dict[str, int]]:
    actions: dict[str, int] = {"END": -1} if state == raw.end_states["file"] else {}
    gotos: dict[str, int] = {}
    for symbol, (action, target) in sorted(raw.states[state].items()):
        kind = "END" if symbol == "$END" else kinds.get(symbol)
        if kind is None:
            gotos[symbol] = order[target]
        elif action is not Shift:
            actions[kind] = -2 - numbers[target]
        else:
            actions[kind] = order[target]
    return [actions, gotos]


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
