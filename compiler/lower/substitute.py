"""Statements and expressions with other indices in place of loop counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from mlc.lower import index as ix
from mlc.lower.expression import Checked, Datum, Expression, Index, Number, Operation, Position, Random, Read, Ref, Within
from mlc.lower.loops import Let, Store

#: Loop counters by number -> what stands in their place; counters that are not named stay.
Places = Mapping[int, Index]

Line = TypeVar("Line", Let, Store)


def replaced(lines: Sequence[Line], places: Places) -> tuple[Line, ...]:
    """Locals or stores with counters replaced."""
    return tuple(_line(line, places) for line in lines)


def _line(line: Line, places: Places) -> Line:
    if isinstance(line, Store):
        return replace(line, index=_index(line.index, places), value=_expression(line.value, places))
    needs = frozenset().union(*(ix.counters(places[n]) if n in places else {n} for n in line.needs))
    return replace(line, value=_expression(line.value, places), needs=needs)


def _index(index: Index, places: Places) -> Index:
    """An index, and what it is read from."""
    data = {atom: replace(atom, key=_expression(atom.key, places)) for atom, _ in index.terms if isinstance(atom, Datum)}
    renamed = Index(tuple((data[atom] if isinstance(atom, Datum) else atom, c) for atom, c in index.terms), index.constant)
    return ix.substitute(renamed, places)


def _expression(node: Expression, places: Places) -> Expression:
    match node:
        case Ref() | Number():
            return node
        case Read(index=index) | Position(index=index) | Random(index=index):
            return replace(node, index=_index(index, places))
        case Operation(fn, args):
            return Operation(fn, tuple(_expression(a, places) for a in args))
        case Within(index, low, high, inside, outside):
            return Within(_index(index, places), low, high, _expression(inside, places), _expression(outside, places))
        case Checked(inner, _, element):
            return replace(node, node=_expression(inner, places), element=_index(element, places))
