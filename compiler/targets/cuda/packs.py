"""Neighbouring elements of a loop by one thread: what lies side by side is moved 16 bytes at a time.

before:  for each j: x = a[768 i + j]; b[768 i + j] = f(x)
after:   for each pack of 8: pack = a[768 i + first ...]; for e in 0 ... 7: x = pack[e]; other[e] = f(x); b[768 i + first ...] = other
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlc.ir.dtypes import dtype_of
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Operation, Quotient, Read, Remainder, nodes_of
from mlc.lower.loops import Buffer, Fold, Let, Loop, Statement, Store

#: Elements of a pack: 16 bytes of what is narrow, two times 16 of f32; or 16 bytes of f32 where nothing is narrow.
NARROW, WIDE = 8, 4

#: The number of the element in its pack, as a counter.
ELEMENT = 7


@dataclass
class Packs:
    """A body over packs of `size` elements.

    loads, stores:  name of the pack, buffer, index
    names:          of packs, by buffer and index
    apart:          something is read or stored element by element
    """

    counter: Counter
    size: int
    body: tuple[Statement, ...] = ()
    loads: list[tuple[str, str, Index]] = field(default_factory=list)
    stores: list[tuple[str, str, Index]] = field(default_factory=list)
    names: dict[tuple[str, Index], str] = field(default_factory=dict)
    apart: bool = False

    def place(self, buffer: str, index: Index) -> tuple[str, Index] | None:
        """The pack of an element and its number there; None: neighbours do not lie side by side."""
        if slope(index, self.counter.number, self.size) != 1:
            return None
        name = self.names.setdefault((buffer, index), f"pack {len(self.names)}")
        return name, ix.counter(Counter(ELEMENT, self.size))

    def moves(self, index: Index) -> bool:
        """Is it another one for neighbours?"""
        return any(_atom_slope(atom, self.counter.number, self.size) != 0 for atom, _ in index.terms)

    def read(self, buffer: str, index: Index) -> tuple[str, Index] | None:
        placed = self.place(buffer, index)
        if placed and (placed[0], buffer, index) not in self.loads:
            self.loads.append((placed[0], buffer, index))
        return placed


def slope(index: Index, counter: int, size: int) -> int | None:
    """By how much an index moves with a counter within a pack of `size`, at whose begin it is a multiple of that; None: it is none, or it
    does not move evenly."""
    if index.constant % size:
        return None
    total = 0
    for atom, coefficient in index.terms:
        moves = _atom_slope(atom, counter, size)
        if moves is None or (moves == 0 and coefficient % size):
            return None
        total += moves * coefficient
    return total


def _atom_slope(atom: Any, counter: int, size: int) -> int | None:
    match atom:
        case Counter(number):
            return int(number == counter)
        case Quotient(index, divisor) | Remainder(index, divisor):
            if all(_atom_slope(inner, counter, size) == 0 for inner, _ in index.terms):
                return 0
            if divisor % size or slope(index, counter, size) != 1:
                return None
            return int(isinstance(atom, Remainder))
        case _:
            return None  # what is looked up


def divisors(index: Index, counter: int) -> set[int]:
    """What a counter is divided by in an index."""
    found = set[int]()
    for atom, _ in index.terms:
        if isinstance(atom, Quotient | Remainder) and counter in ix.counters(atom.index):
            found |= {atom.divisor} | divisors(atom.index, counter)
    return found


def packed(statements: Sequence[Statement], counter: Counter, sizes: Mapping[str, Buffer], least: int) -> Packs | None:
    """The body over packs; None: not all that it reads and stores lies side by side, there is a loop inside, or there are too few packs.

    least: packs that there are at least. What is added to memory is stored element by element: it is not read where it is the first.
    """
    if any(isinstance(s, Loop) for s in statements):
        return None
    for size in (NARROW, WIDE):
        packs = Packs(counter, size)
        packs.body = tuple(_statement(s, packs) for s in statements)
        narrow = any(dtype_of(sizes[buffer].dtype).bytes <= 2 for buffer, _ in packs.names)
        if packs.names and not packs.apart and (narrow or size == WIDE) and counter.extent >= least * size:
            return packs
    return None


def _statement(statement: Statement, packs: Packs) -> Statement:
    match statement:
        case Store(buffer, index, value, mode):
            made = replace(statement, value=_expression(value, packs))
            placed = packs.place(buffer, index) if mode == "write" else None
            if placed is None:
                packs.apart = packs.apart or packs.moves(index)
                return made
            packs.stores.append((placed[0], buffer, index))
            return replace(made, buffer=placed[0], index=placed[1])
        case Let(value=value) | Fold(value=value):
            return replace(statement, value=_expression(value, packs))
        case _:
            return statement


def _expression(node: Any, packs: Packs) -> Any:
    """What is looked up or chosen stays where it is, for it may not be there."""
    match node:
        case Read(buffer, index):
            placed = packs.read(buffer, index)
            packs.apart = packs.apart or (placed is None and packs.moves(index))
            return node if placed is None else Read(*placed)
        case Operation(fn, args):
            return Operation(fn, tuple(_expression(a, packs) for a in args))
        case _:
            packs.apart = packs.apart or any(isinstance(n, Read) and packs.moves(n.index) for n in nodes_of(node))
            return node
