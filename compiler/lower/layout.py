"""Addresses for buffers that live at known times, those alive together side by side."""

from __future__ import annotations

from collections.abc import Mapping

#: Bytes to which every address is aligned: a cache line.
ALIGNMENT = 64


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """The least multiple of `to` that is not below `size` bytes."""
    return -(-size // to) * to


def lay_out(sizes: Mapping[str, int], lives: Mapping[str, tuple[int, int]]) -> tuple[dict[str, int], int]:
    """Offsets for buffers alive over closed intervals, and the bytes of the whole: largest first, each at the lowest free place.

    sizes: bytes of each buffer. Offsets are multiples of 64 bytes. Buffers of one life lie side by side.
    """
    bundles: dict[tuple[int, int], list[str]] = {}
    for name in sizes:
        bundles.setdefault(lives[name], []).append(name)
    bytes_of = {life: sum(aligned(sizes[n]) for n in names) for life, names in bundles.items()}
    placed: dict[int, list[tuple[int, int, tuple[int, int]]]] = {}  # time -> start, end, life of what is alive then
    offsets: dict[str, int] = {}
    total = 0
    for life in sorted(bundles, key=lambda k: (-bytes_of[k], k)):
        size = bytes_of[life]
        times = range(life[0], life[1] + 1)
        start = _lowest({bundle for time in times for bundle in placed.get(time, ())}, size)
        for time in times:
            placed.setdefault(time, []).append((start, start + size, life))
        total = max(total, start + size)
        for name in bundles[life]:
            offsets[name] = start
            start += aligned(sizes[name])
    return offsets, total


def _lowest(taken: set[tuple[int, int, tuple[int, int]]], size: int) -> int:
    """The lowest place for `size` bytes beside what is taken."""
    start = 0
    for low, high, _ in sorted(taken):
        if start + size <= low:
            break
        start = max(start, high)
    return start
