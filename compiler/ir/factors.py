"""How the factors of dims correspond through an instruction: which of them may be divided into parts, and what the parts then make.

An op says it by letters, as an einsum does. A letter is an index that operands and results have in common:

    %z = contract %x, %y {spec="ik,kj->ij"}      i: rows of x and z      j: columns of y and z      k: x and y; z is summed over it

It stands for all of a dim, or for a factor of one: `inner` elements of the dim lie within one step of it, so that its index is
index // inner % size. What no letter stands for must be whole. Where a letter is divided into equal runs,

    an operand that has it    is divided along it, others are whole
    a result that has it      is the parts one after the other along it
    a result without it       is the sum or the maximum of what the parts make

A factored type names the factors of its dims; `divisions` are the letters of an instruction, factor by factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import Enum
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

from mlc.frozen import frozen
from mlc.ir.function import Attribute, Instruction
from mlc.ir.types import Dim, TensorType, Value

if TYPE_CHECKING:
    from mlc.ir.builder import Builder


class Join(Enum):
    """What the parts of a letter make. A result that has the letter is divided along it, whatever becomes of others."""

    KEPT = "every result has it"
    SUM = "results without it are the sum over the parts"
    MAX = "results without it are the maximum over the parts"
    WHOLE = "it is one index wherever it stands, but must be whole"


class Offset(Enum):
    """What a part must know of where it lies along a letter."""

    NONE = "nothing"
    POSITION = "the op counts along it: an iota of one factor is given where it begins; `positioned` counts by such iotas"
    INDEX = "operand 1 counts along it: a part takes the numbers that fall into it, and is zero (or adds nothing) for others"


class Site(NamedTuple):
    """Where a letter stands. Slots count operands, then results."""

    slot: int
    dim: int
    inner: int


class Letter(NamedTuple):
    """An index that operands and results have in common; at most one site a slot, and size > 1."""

    name: str
    size: int
    sites: tuple[Site, ...]
    join: Join
    offset: Offset


@frozen
class Correspondence:
    """What an op says of its factors. No field has a default.

    letters:     of an instruction
    linear:      sets of operands: with each of a set given as terms of a sum, and the others whole, the results are the sums of the
                 results of the terms
    positioned:  emits the results of an instruction that has letters with Offset.POSITION, such that only iotas of one factor each
                 have them; None: the op has no such letters
    part:        of letters with Offset.INDEX, the op of a part that is a run of them: it has one operand more, where the run begins;
                 None: the op has no such letters
    """

    letters: Callable[[Instruction], tuple[Letter, ...]]
    linear: Callable[[Instruction], tuple[frozenset[int], ...]]
    positioned: Callable[[Builder, Instruction], tuple[Value, ...]] | None
    part: str | None


class Division(NamedTuple):
    """A factor that may be divided: `size` steps of `inner` steps of the letter each.

    at:  (slot, dim, number of the factor in the dim) of each operand and result that has it
    """

    letter: Letter
    size: int
    inner: int
    at: tuple[tuple[int, int, int], ...]


def values_of(instruction: Instruction) -> tuple[Value, ...]:
    """By slot."""
    return (*instruction.operands, *instruction.results)


def divisions(instruction: Instruction, letters: Iterable[Letter]) -> tuple[Division, ...]:
    """The factors that may be divided: those that the dims of all sites of a letter have in common."""
    values = values_of(instruction)
    found: list[Division] = []
    for letter in letters:
        if letter.join is Join.WHOLE:
            continue
        spans = [dict(_spans(site, letter.size, values[site.slot].type.dims[site.dim])) for site in letter.sites]
        for span in spans[0]:
            if all(span in others for others in spans[1:]):
                at = tuple((s.slot, s.dim, of[span]) for s, of in zip(letter.sites, spans, strict=True))
                found.append(Division(letter, span[1] // span[0], span[0], at))
    return tuple(found)


def _spans(site: Site, size: int, d: Dim) -> Iterable[tuple[tuple[int, int], int]]:
    """Each factor of a dim that lies within a letter: from which step of the letter to which, and the number of the factor."""
    high = d.size
    for number, factor in enumerate(d.factors):
        low = high // factor.size
        if factor.size > 1 and low % site.inner == 0 and high <= site.inner * size:
            yield (low // site.inner, high // site.inner), number
        high = low


# Factors of a number are told by their ends: 3 * 4 * 64 by 64, 256 and 768, each of which divides the next.


def ends_of(sizes: Iterable[int]) -> list[int]:
    """The ends of factors, given outer to inner; factors of 1 have none."""
    ends: list[int] = []
    end = 1
    for size in reversed(tuple(sizes)):
        end *= size
        if size > 1:
            ends.append(end)
    return ends


def is_chain(ends: Iterable[int]) -> bool:
    """Does each divide the next larger one?"""
    return all(b % a == 0 for a, b in pairwise(sorted(ends)))


def closed(ends: Iterable[int]) -> set[int]:
    """The ends, with the greatest common divisor and the least common multiple of any two, but for 1."""
    found = set(ends)
    waiting = [] if is_chain(found) else list(combinations(found, 2))
    while waiting:
        a, b = waiting.pop()
        for other in (math.gcd(a, b), math.lcm(a, b)):
            if other > 1 and other not in found:
                waiting += [(other, e) for e in found]
                found.add(other)
    return found


def chain(ends: Iterable[int]) -> list[int]:
    """The ends of the factors that all of `ends`, which are closed, have in common: those that divide or are divided by all others.

    Of 56 = 28 * 2 and 56 = 8 * 7: 14 and 56, for 56 = 4 * 14 is all they agree upon.
    """
    ends = sorted(ends)
    if is_chain(ends):
        return ends
    return [e for e in ends if all(o % e == 0 or e % o == 0 for o in ends)]


# Attributes that hold dims say again what the results are.


def with_results(instruction: Instruction, types: tuple[TensorType, ...]) -> tuple[tuple[str, Attribute], ...]:
    """The attributes of the instruction where its results have these types: the dims that they hold are those of the results."""
    if not any(key in _DIMS for key, _ in instruction.attributes):
        return instruction.attributes
    attributes = dict(instruction.attributes)
    return tuple((key, _DIMS[key](types, attributes) if key in _DIMS else value) for key, value in instruction.attributes)


def _whole(value: Attribute) -> int:
    """An attribute that is an index."""
    assert isinstance(value, int)
    return value


#: What each attribute that holds dims is, by the types of the results and the other attributes.
_DIMS: dict[str, Callable[[tuple[TensorType, ...], dict[str, Attribute]], Attribute]] = {
    "dims": lambda types, _: types[0].dims,
    "dim": lambda types, attributes: types[0].dims[_whole(attributes.get("axis", 0))],
    "sizes": lambda types, attributes: tuple(t.dims[_whole(attributes["axis"])] for t in types),
    "k": lambda types, _: types[0].dims[-1],
}


def part_attributes(
    instruction: Instruction, letter: Letter, types: tuple[TensorType, ...], parts: int
) -> tuple[tuple[str, Attribute], ...]:
    """The attributes of the instruction on one of `parts` parts of a letter, whose results have these types."""
    divided = {site.dim for site in letter.sites if site.slot == 0}

    def scaled(key: str, value: Attribute) -> Attribute:
        if key not in ("starts", "stops"):
            return value
        assert isinstance(value, tuple)
        return tuple(_whole(n) // parts if d in divided else n for d, n in enumerate(value))

    return tuple((key, scaled(key, value)) for key, value in with_results(instruction, types))
