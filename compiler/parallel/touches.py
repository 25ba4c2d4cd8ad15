"""Which regions each phase of a chunk reads and writes, by its rows."""

from __future__ import annotations

from typing import NamedTuple

from mlc.parallel.planned import Chunk, Place, Planned


class Touch(NamedTuple):
    """The regions that a phase of a chunk reads what was there before from, and those it writes; the arena apart."""

    reads: frozenset[str]
    writes: frozenset[str]


def phase_touches(planned: Planned, place: Place, chain: str) -> dict[str, Touch]:
    """The touch of each phase of each chunk of a place ("F0")."""
    found: dict[str, Touch] = {}
    for number, chunk in enumerate(place.chunks.get(chain, ())):
        for phase in chunk.rows:
            found[f"{phase}{number}"] = _touch(planned, chunk, phase)
    return found


def _touch(planned: Planned, chunk: Chunk, phase: str) -> Touch:
    reads: set[str] = set()
    writes: set[str] = set()
    made: set[int] = set()
    if phase == "F":
        made.update(buffer for _, buffer in chunk.inputs)
        writes.update(chunk.buffers[buffer].region for buffer in made)
    for row in chunk.rows[phase]:
        operands = planned.routines[row.routine].operands
        for number, operand in zip(row.buffers, operands, strict=True):
            if operand.use == "read" and number not in made:
                reads.add(chunk.buffers[number].region)
        for number, operand in zip(row.buffers, operands, strict=True):
            if operand.use != "read":
                made.add(number)
                writes.add(chunk.buffers[number].region)
    return Touch(frozenset(reads - {"arena"}), frozenset(writes - {"arena"}))
