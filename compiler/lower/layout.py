"""Addresses for buffers that live at known times, those alive together side by side."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping
from itertools import accumulate, chain
from operator import itemgetter, le
from typing import NamedTuple

import numpy as np

#: Bytes to which every address is aligned: a cache line.
ALIGNMENT = 64

#: Start and end of what has a place, first and last of its life.
_Placed = tuple[int, int, int, int]

#: A life of fewer times is short: what lives with it is found by looking at each of them.
_SHORT = 16
#: As many neighbours in a block as let a scan of few blocks and a change of one cost little.
_MOST_OF_BLOCK = 48
#: So many new ones are put into blocks one by one.
_FEW = 8
#: Further than any address.
_NOWHERE = 1 << 80


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """The least multiple of `to` that is not below `size` bytes."""
    return -(-size // to) * to


def lay_out(sizes: Mapping[str, int], lives: Mapping[str, tuple[int, int]], to: int = ALIGNMENT) -> tuple[dict[str, int], int]:
    """Offsets for buffers alive over closed intervals, and the bytes of the whole: largest first, each at the lowest free place.

    sizes: bytes of each buffer. Offsets are multiples of `to` bytes. Buffers of one life lie side by side.
    """
    bundles: dict[tuple[int, int], list[str]] = {}
    for name in sizes:
        bundles.setdefault(lives[name], []).append(name)
    room = {name: -(-size // to) * to for name, size in sizes.items()}
    bytes_of = {life: sum([room[n] for n in names]) for life, names in bundles.items()}
    placed = _Placements(max((last for _, last in bundles), default=0) + 1)
    offsets: dict[str, int] = {}
    total = 0
    for life in sorted(bundles, key=lambda k: (-bytes_of[k], k)):
        start = placed.add(*life, bytes_of[life])
        for name in bundles[life]:
            offsets[name] = start
            start += room[name]
        total = max(total, start)
    return offsets, total


class _Block(NamedTuple):
    """Neighbours by address, of which much is known at once where they live alike.

    low, high:              what they cover
    gapless:                all of it, as far as is known
    begins, begins_last:    the first and the last time that one begins to live
    ends_first, ends:       the same of when one ends
    of:                     ascending
    """

    low: int
    high: int
    gapless: bool
    begins: int
    begins_last: int
    ends_first: int
    ends: int
    of: list[_Placed]

    def with_one(self, one: _Placed) -> _Block:
        """The block with one more, which joins those in `of`."""
        insort(self.of, one)
        low, high, begins, ends = one
        touches = low <= self.high and high >= self.low
        return _Block(
            min(low, self.low),
            max(high, self.high),
            self.gapless and touches,
            min(begins, self.begins),
            max(begins, self.begins_last),
            min(ends, self.ends_first),
            max(ends, self.ends),
            self.of,
        )


def _block(of: list[_Placed]) -> _Block:
    """A block of some that ascend."""
    lows, highs, begins, ends = zip(*of, strict=True)
    gapless = all(map(le, lows[1:], accumulate(highs, max)))
    return _Block(lows[0], max(highs), gapless, min(begins), max(begins), min(ends), max(ends), of)


class _Blocks:
    """What has a place, in blocks that ascend: a search passes those that live together, or apart, in one step.

    new: what a search has still to be told of
    """

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self.new: list[_Placed] = []

    def _told(self) -> list[_Block]:
        """The blocks with all that is new: few each where they belong, many by making all blocks anew."""
        if len(self.new) < _FEW:
            for one in self.new:
                self._add(one)
        else:
            every = sorted([*chain.from_iterable(block.of for block in self.blocks), *self.new])
            half = _MOST_OF_BLOCK // 2
            self.blocks = [_block(every[at : at + half]) for at in range(0, len(every), half)]
        self.new = []
        return self.blocks

    def _add(self, one: _Placed) -> None:
        """Put it where it belongs."""
        if not self.blocks:
            self.blocks.append(_block([one]))
            return
        at = max(bisect_right(self.blocks, one[0], key=itemgetter(0)) - 1, 0)
        block = self.blocks[at].with_one(one)
        half = _MOST_OF_BLOCK // 2
        self.blocks[at : at + 1] = [block] if len(block.of) < _MOST_OF_BLOCK else [_block(block.of[:half]), _block(block.of[half:])]

    def lowest(self, first: int, last: int, size: int, start: int) -> tuple[int, int]:
        """The lowest place from `start` on for `size` bytes, at least one, beside what is alive from `first` to `last`; and up to where it
        is free."""
        for low, high, gapless, begins, begins_last, ends_first, ends, of in self._told() if self.new else self.blocks:
            if high <= start or ends < first or begins > last:
                continue
            if start + size <= low and ends_first >= first and begins_last <= last:
                return start, low
            if gapless and ends_first >= first and begins_last <= last:
                start = high
                continue
            for low, high, begins, ends in of:
                if ends < first or begins > last:
                    continue
                if start + size <= low:
                    return start, low
                if high > start:
                    start = high
        return start, _NOWHERE


class _Window(NamedTuple):
    """Addresses that are free in some times."""

    low: int
    high: int
    first: int
    last: int


class _Placements:
    """What has a place. A chain of equal layers keeps thousands of values side by side from the way forward to the way back, and uses up as
    many in between, one after the other at the same addresses.

    every:  all of it; long: what lives long; short: the rest, by each of its times
    floor:  by time, up to where from 0 on there is no gap between those alive: nothing else that lives then lies below
    free:   what is left, behind it, of the addresses in which the last one got its place: equal layers live inside each other, so what is
            free for one is free for the next, and a place is found without a search
    """

    def __init__(self, times: int) -> None:
        self.floor = np.zeros(times, np.int64)
        self.every = _Blocks()
        self.long = _Blocks()
        self.short: dict[int, list[tuple[int, int]]] = {}
        self.free = _Window(0, 0, 0, 0)

    def add(self, first: int, last: int, size: int) -> int:
        """The lowest place for `size` bytes beside what is alive from `first` to `last`; they have it from now on. None takes no place."""
        if not size:
            return 0
        floor = self.floor[first : last + 1]
        start = int(floor.max())
        low, high, begins, ends = self.free
        if not (low <= start and start + size <= high and begins <= first and last <= ends):
            start, high = self._lowest(first, last, size, start)
        end = start + size
        self.free = _Window(end, high, first, last)
        floor[(floor >= start) & (floor < end)] = end
        one = start, end, first, last
        self.every.new.append(one)
        if last - first >= _SHORT:
            self.long.new.append(one)
            return start
        for time in range(first, last + 1):
            self.short.setdefault(time, []).append((start, end))
        return start

    def _lowest(self, first: int, last: int, size: int, start: int) -> tuple[int, int]:
        """The lowest place from `start` on, and up to where it could be larger."""
        if last - first >= _SHORT:
            return self.every.lowest(first, last, size, start)
        start, end = self.long.lowest(first, last, size, start)
        for low, high in sorted({spot for time in range(first, last + 1) for spot in self.short.get(time, ())}):
            if high <= start:
                continue
            if start + size <= low:
                return start, min(low, end)
            if high > end - size:
                start, end = self.long.lowest(first, last, size, high)
            else:
                start = high
        return start, end
