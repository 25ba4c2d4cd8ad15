"""What the correspondences of ops share: letters written as one text a slot, and the sets of operands that ops are linear in."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence

from mlc.ir.factors import Correspondence, Join, Letter, Offset, Site, chain, closed, ends_of, values_of
from mlc.ir.function import Instruction
from mlc.ir.types import Value

Letters = tuple[Letter, ...]
Linear = Callable[[Instruction], tuple[frozenset[int], ...]]

#: A name for each dim of a tensor.
NAMES = string.ascii_lowercase + string.ascii_uppercase

#: What a dim, or a part of one, is written as that corresponds to nothing else.
WHOLE = ""

NO_JOINS: Mapping[str, Join] = {}
NO_OFFSETS: Mapping[str, Offset] = {}
NO_SIZES: Mapping[str, int] = {}


def lettered(
    instruction: Instruction,
    slots: Sequence[Sequence[str]],
    joins: Mapping[str, Join] = NO_JOINS,
    offsets: Mapping[str, Offset] = NO_OFFSETS,
    sizes: Mapping[str, int] = NO_SIZES,
) -> Letters:
    """The letters of an instruction.

    slots:  by slot and dim, the letters whose product the dim is, outer to inner; outside of them there may be more of the dim
    joins:  of the letters that a result lacks
    sizes:  of the letters that are not all of each dim they stand in
    """
    found: dict[str, tuple[int, list[Site]]] = {}
    for slot, (value, dims) in enumerate(zip(values_of(instruction), slots, strict=True)):
        for d, (names, n) in enumerate(zip(dims, value.type.shape, strict=True)):
            inner = 1
            for name in reversed(names):
                size = sizes.get(name, n)
                found.setdefault(name, (size, []))[1].append(Site(slot, d, inner))
                inner *= size
    return tuple(
        Letter(name, size, tuple(sites), joins.get(name, Join.KEPT), offsets.get(name, Offset.NONE))
        for name, (size, sites) in found.items()
        if size > 1
    )


def same(instruction: Instruction) -> Letters:
    """Every dim is the same in all operands and results."""
    slots = range(len(instruction.operands) + len(instruction.results))
    return tuple(
        Letter(NAMES[d], n, tuple([Site(s, d, 1) for s in slots]), Join.KEPT, Offset.NONE)
        for d, n in enumerate(instruction.results[0].type.shape)
        if n > 1
    )


def same_but(instruction: Instruction, axis: int) -> Letters:
    """Every dim is the same in all operands and results; one must be whole, and results may be without it, or have another there."""
    values = values_of(instruction)
    rank, size = len(values[0].type.dims), values[0].type.shape[axis]

    def names(value: Value) -> list[str]:
        if len(value.type.dims) < rank:
            return [NAMES[d] for d in range(rank) if d != axis]
        return [NAMES[d] if d != axis or value.type.shape[d] == size else WHOLE for d in range(rank)]

    return lettered(instruction, [names(v) for v in values], {NAMES[axis]: Join.WHOLE})


def same_but_axis(instruction: Instruction) -> Letters:
    """Every dim is the same in operand and result, but for attribute `axis`, which must be whole."""
    return same_but(instruction, instruction.attribute("axis"))


def reshaped(instruction: Instruction) -> Letters:
    """The coarsest factors that the dims of operand and result are both products of; what is no factor of either is whole."""
    x, y = (v.type.shape for v in values_of(instruction))
    ends = chain(closed({*ends_of(x), *ends_of(y)}))
    places = [_places(shape, ends) for shape in (x, y)]
    found: list[Letter] = []
    for name, low, high in zip(NAMES, [*ends[-2::-1], 1], ends[::-1], strict=False):
        sites = tuple(Site(slot, *of[high]) for slot, of in enumerate(places) if high in of)
        if len(sites) == 2:
            found.append(Letter(name, high // low, sites, Join.KEPT, Offset.NONE))
    return tuple(found)


def _places(shape: tuple[int, ...], ends: list[int]) -> dict[int, tuple[int, int]]:
    """By end of a factor of all elements: the dim that it lies in, and the elements of the dim within one step of it."""
    found: dict[int, tuple[int, int]] = {}
    inner = 1
    for d in reversed(range(len(shape))):
        outer = inner * shape[d]
        within = [e for e in ends if inner < e <= outer]
        lows = [max((e for e in ends if e < high), default=1) for high in within]
        found.update((high, (d, low // inner)) for low, high in zip(lows, within, strict=True) if low >= inner)
        inner = outer
    return found


def linear_in(*sets: tuple[int, ...]) -> Linear:
    """These sets of operands, where they are floats."""

    def linear(instruction: Instruction) -> tuple[frozenset[int], ...]:
        floats = [v.type.is_float for v in instruction.operands]
        return tuple(frozenset(s) for s in sets if all(floats[n] for n in s))

    return linear


def linear_in_all(instruction: Instruction) -> tuple[frozenset[int], ...]:
    """All operands together."""
    floats = all(v.type.is_float for v in instruction.operands)
    return (frozenset(range(len(instruction.operands))),) if floats else ()


def corresponding(letters: Callable[[Instruction], Letters], *linear: tuple[int, ...], part: str | None = None) -> Correspondence:
    """The correspondence of an op without a positioned form; linear in these sets of operands, where they are floats."""
    return Correspondence(letters, linear_in(*linear), None, part)


#: Of an elementwise op that is linear in nothing.
SAME = corresponding(same)

