"""An instruction on parts of a letter, put together by what its op says: the check of every rule in compiler/ops/ of factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from mlc.ir.factors import Division, Join, Letter, Offset, Site, part_attributes, values_of
from mlc.ir.function import Instruction
from mlc.ir.interpret import stored
from mlc.ir.op import Generate, Keys, Move, Op, Pointwise, Reduction, Scan, Scatter, View
from mlc.ir.types import Dim, Factor, TensorType, Value
from mlc.ops import OPS
from mlc.ops.generators import IOTA
from mlc.passes.kinds import is_costly

KEYS = Keys(seed=3, step=1, microbatch=2, path=5)

#: Between a sum and the sum of its parts, in f64, relative to the largest number.
TOLERANCE = 1e-12


def meaning(instruction: Instruction, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """In f64, whatever the dtypes."""
    with np.errstate(all="ignore"):
        made = OPS[instruction.op].meaning(tuple(arrays), dict(instruction.attributes), KEYS)
    return tuple(stored(a, v.type, True) for a, v in zip(made, instruction.results, strict=True))


def ways(size: int) -> Iterator[tuple[int, int, int]]:
    """(inner, size of the factor, parts) of every factor of a letter, and every number of parts it can be divided into."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    for inner in divisors:
        for factor in (n for n in divisors if n > 1 and size // inner % n == 0):
            yield from ((inner, factor, parts) for parts in divisors if parts > 1 and factor % parts == 0)


def of_factor(division: Division) -> Iterator[tuple[int, int, int]]:
    yield from ((division.inner, division.size, n) for n in range(2, division.size + 1) if division.size % n == 0)


def unfolded(array: np.ndarray, site: Site, inner: int, factor: int) -> np.ndarray:
    """The dim of a site as three: outside of the factor, the factor, inside."""
    d, inside = site.dim, site.inner * inner
    return array.reshape((*array.shape[:d], -1, factor, inside, *array.shape[d + 1 :]))


def cut(array: np.ndarray, site: Site, way: tuple[int, int, int], part: int) -> np.ndarray:
    inner, factor, parts = way
    run = factor // parts
    rows = unfolded(array, site, inner, factor).take(range(part * run, (part + 1) * run), axis=site.dim + 1)
    return rows.reshape((*array.shape[: site.dim], -1, *array.shape[site.dim + 1 :]))


def joined(runs: list[np.ndarray], site: Site, way: tuple[int, int, int]) -> np.ndarray:
    inner, factor, parts = way
    shape = runs[0].shape
    whole = np.concatenate([unfolded(p, site, inner, factor // parts) for p in runs], axis=site.dim + 1)
    return whole.reshape((*shape[: site.dim], -1, *shape[site.dim + 1 :]))


def part_type(kind: TensorType, site: Site, parts: int) -> TensorType:
    dims = list(kind.dims)
    dims[site.dim] = Dim((Factor("", dims[site.dim].size // parts),))
    return TensorType(kind.dtype, tuple(dims))


class Local:
    """One part of an instruction."""

    def __init__(self, instruction: Instruction, letter: Letter, way: tuple[int, int, int], part: int):
        self.letter, self.way, self.part = letter, way, part
        self.sites = {site.slot: site for site in letter.sites}
        values = [
            Value(v.name, part_type(v.type, self.sites[slot], way[2])) if slot in self.sites else v
            for slot, v in enumerate(values_of(instruction))
        ]
        count = len(instruction.operands)
        types = tuple(v.type for v in values[count:])
        attributes = part_attributes(instruction, letter, types, way[2])
        self.instruction = replace(instruction, operands=tuple(values[:count]), attributes=attributes, results=tuple(values[count:]))
        expected = OPS[instruction.op].type_rule(tuple(v.type for v in values[:count]), dict(attributes))
        assert [t.same(u) for t, u in zip(expected, types, strict=True)] == [True] * len(types)

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        runs = [cut(a, self.sites[slot], self.way, self.part) if slot in self.sites else a for slot, a in enumerate(arrays)]
        if self.letter.offset is Offset.NONE:
            return meaning(self.instruction, runs)
        if self.letter.offset is Offset.INDEX:
            return self._indexed(runs)
        return self._counted(runs)

    def _counted(self, runs: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        """An iota of a run is given where it begins."""
        inner, factor, parts = self.way
        assert self.instruction.op == "iota"
        assert inner * factor == self.letter.size
        begins = np.asarray(self.part * self.letter.size // parts + sum(runs), np.int32)
        return meaning(replace(self.instruction, operands=(Value("begins", TensorType("i32")),)), [begins])

    def _indexed(self, runs: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Numbers that fall into the part are counted in it; others pick the zero that adds nothing, or add it."""
        held = cut(np.arange(self.letter.size), Site(0, 0, 1), self.way, self.part)
        place = np.full(self.letter.size, -1, np.int32)
        place[held] = np.arange(len(held))
        data, index = runs
        local = place[index]
        zero = np.array(-0.0 if data.dtype.kind == "f" else 0, data.dtype)
        if 0 in self.sites:  # picks
            (made,) = meaning(self.instruction, [data, np.maximum(local, 0)])
            before = self.instruction.attribute("axis") if self.instruction.op == "gather" else 0
            return (np.where((local >= 0).reshape(local.shape + (1,) * (made.ndim - before - local.ndim)), made, zero),)
        kept = np.where((local >= 0).reshape(local.shape + (1,) * (data.ndim - local.ndim)), data, zero)
        return meaning(self.instruction, [kept, np.maximum(local, 0)])


def check_way(instruction: Instruction, arrays: Sequence[np.ndarray], letter: Letter, way: tuple[int, int, int]) -> None:
    """The whole is what the letter says of the parts: to the bit where nothing is summed."""
    whole = meaning(instruction, arrays)
    runs = [Local(instruction, letter, way, part).run(arrays) for part in range(way[2])]
    sites = {site.slot - len(instruction.operands): site for site in letter.sites}
    for number, (expected, made) in enumerate(zip(whole, zip(*runs, strict=True), strict=True)):
        if number in sites:
            got = joined(list(made), sites[number], way)
        else:
            assert letter.join in (Join.SUM, Join.MAX)
            got = reduce(np.add if letter.join is Join.SUM else np.maximum, made)  # -0.0 + -0.0 is -0.0, which a sum from 0 is not
        assert_is(instruction, letter, got, expected)


def assert_is(instruction: Instruction, letter: Letter, got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    if is_exact(OPS[instruction.op], letter):
        assert got.tobytes() == expected.tobytes()
    else:
        scale = np.max(np.abs(expected), initial=1.0, where=np.isfinite(expected)) if expected.dtype.kind == "f" else 0
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * float(scale))


def is_exact(op: Op, letter: Letter) -> bool:
    """Elementwise work, moves and picks give each element once; what sums in each part as in the whole does so in the same order.
    How NumPy rounds exp and its like depends on how far an element is from the end of its array."""
    alike = letter.join is Join.KEPT and isinstance(op.lowering, Scan | Scatter)
    largest = letter.join is Join.MAX and isinstance(op.lowering, Reduction)
    return alike or largest or (isinstance(op.lowering, Pointwise | View | Move | Generate) and not is_costly(op))


def check_instruction(instruction: Instruction, arrays: Sequence[np.ndarray], letters: Sequence[Letter]) -> int:
    """All letters, all factors of each, all numbers of parts; returns how many were tried."""
    tried = 0
    for letter in letters:
        check_sites(instruction, letter)
        for way in () if letter.join is Join.WHOLE else ways(letter.size):
            if letter.offset is not Offset.POSITION or (instruction.op == IOTA.name and way[0] * way[1] == letter.size):
                check_way(instruction, arrays, letter, way)
                tried += 1
    return tried


def check_sites(instruction: Instruction, letter: Letter) -> None:
    """A letter stands once in a slot, within its dim; all results have it where it says so."""
    slots = [site.slot for site in letter.sites]
    assert len(set(slots)) == len(slots) > 0
    assert letter.size > 1
    for slot, d, inner in letter.sites:
        assert math.prod(values_of(instruction)[slot].type.shape[d : d + 1]) % (inner * letter.size) == 0
    results = {len(instruction.operands) + n for n in range(len(instruction.results))}
    if letter.join is Join.KEPT:
        assert results <= set(slots)
    if letter.join in (Join.SUM, Join.MAX):
        assert not results <= set(slots)
