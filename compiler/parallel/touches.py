"""Which regions each phase of a chunk reads and writes, by its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress, islice
from operator import not_
from typing import NamedTuple

from mlc.parallel.entries import RESTS
from mlc.parallel.planned import Chunk, Place, Planned, Row


class Touch(NamedTuple):
    """The regions that a phase of a chunk reads what was there before from, and those it writes; the arena apart."""

    reads: frozenset[str]
    writes: frozenset[str]


def phase_touches(planned: Planned, place: Place, chain: str) -> dict[str, Touch]:
    """The touch of each phase of each chunk of a place ("F0"); of one in two parts, of each ("F0", "F+0")."""
    found: dict[str, Touch] = {}
    for number, chunk in enumerate(place.chunks.get(chain, ())):
        for kind in (*chunk.rows, *(RESTS[phase] for phase in chunk.heads)):
            found[f"{kind}{number}"] = _touch(planned, chunk, len(place.named), chunk.part(kind), kind == "F")
    return found


def whole_touches(touches: Mapping[str, Touch]) -> dict[str, Touch]:
    """The same of each phase, all of it ("F0")."""
    found: dict[str, Touch] = {}
    for name, touch in touches.items():
        phase = name.replace("+", "")
        before = found.get(phase, Touch(frozenset(), frozenset()))
        found[phase] = Touch(before.reads | touch.reads, before.writes | touch.writes)
    return found


def _touch(planned: Planned, chunk: Chunk, named: int, rows: Iterable[Row], fills: bool) -> Touch:
    """named: so many buffers, the first, are in the arena; fills: the inputs of the chunk are filled before the rows"""
    regions = ["arena"] * named + [buffer.region for buffer in islice(chunk.buffers, named, None)]
    reads: set[int] = set()
    made: set[int] = {buffer for _, buffer in chunk.inputs} if fills else set()
    masks: dict[int, list[bool]] = {}
    for number, _, _, given in rows:
        if number not in masks:
            masks[number] = [operand.use == "read" for operand in planned.routines[number].operands]
        read = set(compress(given, masks[number]))
        reads |= read - made
        made.update(compress(given, map(not_, masks[number])))
    of_reads, of_writes = (frozenset(map(regions.__getitem__, numbers)) - {"arena"} for numbers in (reads, made))
    return Touch(of_reads, of_writes)
