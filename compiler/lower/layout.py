"""Addresses for buffers that live at known times, those alive together side by side."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping

#: Bytes to which every address is aligned: a cache line.
ALIGNMENT = 64


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
    room = {name: aligned(size, to) for name, size in sizes.items()}
    bytes_of = {life: sum([room[n] for n in names]) for life, names in bundles.items()}
    placed: list[tuple[int, int, int, int]] = []  # start and end, first and last of its life, in ascending order
    offsets: dict[str, int] = {}
    total = 0
    for life in sorted(bundles, key=lambda k: (-bytes_of[k], k)):
        size = bytes_of[life]
        start = _lowest(placed, *life, size)
        insort(placed, (start, start + size, *life))
        total = max(total, start + size)
        for name in bundles[life]:
            offsets[name] = start
            start += room[name]
    return offsets, total


def _lowest(placed: list[tuple[int, int, int, int]], first: int, last: int, size: int) -> int:
    """The lowest place for `size` bytes beside what is alive from `first` to `last`."""
    start = 0
    for low, high, begins, ends in placed:
        if ends < first or begins > last:
            continue
        if start + size <= low:
            break
        if high > start:
            start = high
    return start
