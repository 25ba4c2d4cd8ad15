"""Kernel kinds as nests for a few threads: an item is a run of lines, and what is sequential is a loop inside it."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.lower import index as ix
from mlc.lower.expression import Counter
from mlc.lower.loops import Kernel, Loop, Nest, Scan, Scatter, Whole
from mlc.lower.rules import Reserve
from mlc.lower.substitute import replaced


def serial_kinds(kernels: Sequence[Kernel], _reserve: Reserve) -> tuple[Kernel, ...]:
    """Scatters, scans and reductions of a whole as nests; every other kernel as it is."""
    return tuple(map(_serial, kernels))


def _serial(kernel: Kernel) -> Kernel:
    match kernel:
        case Whole(note, prologue, body):
            return Nest(note, prologue, Counter(0, 1), body, False)
        case Scan(note, lines, along, start, body, fold, stores):
            return Nest(note, (), lines, (start, Loop(along, (*body, fold, *stores), False)), False)
        case Scatter():
            return _runs(kernel) if kernel.shared else _lines(kernel)
        case _:
            return kernel


def _lines(kernel: Scatter) -> Nest:
    """An item is a line: cleared, then added to. A line seldom lies in one piece, so vectors would not help to clear it."""
    clear = Loop(kernel.places, kernel.clears, False)
    add = Loop(kernel.along, (*kernel.lookup, *kernel.body, *kernel.adds), False)
    return Nest(kernel.note, (), kernel.lines, (clear, add), False)


def _runs(kernel: Scatter) -> Nest:
    """An item is a run of lines that have the same places: each place is looked up once for all of them."""
    run = _run(kernel.lines.extent)
    item, places, cleared = Counter(0, kernel.lines.extent // run), Counter(1, kernel.places.extent), Counter(2, run)
    along, line = Counter(3, kernel.along.extent), Counter(4, run)

    def lines(inner: Counter) -> ix.Index:
        return ix.linear([ix.counter(item), ix.counter(inner)], [run, 1])

    clears = replaced(kernel.clears, {kernel.lines.number: lines(cleared), kernel.places.number: ix.counter(places)})
    at = {kernel.lines.number: lines(line), kernel.along.number: ix.counter(along)}
    lookup, body, adds = replaced(kernel.lookup, at), replaced(kernel.body, at), replaced(kernel.adds, at)
    clear = Loop(places, (Loop(cleared, clears, True),), True)
    add = Loop(along, (*lookup, Loop(line, (*body, *adds), True)), False)
    return Nest(kernel.note, (), item, (clear, add), False)


def _run(lines: int) -> int:
    """Lines of one work item: a divisor of their number near 64 that leaves several items where it can."""
    divisors = [d for d in range(1, min(lines, 128) + 1) if lines % d == 0]
    several = [d for d in divisors if lines // d >= 8 and d >= 16]
    return max(several) if several else max((d for d in divisors if lines // d >= 2 and d >= 16), default=divisors[-1])
