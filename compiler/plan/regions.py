"""Which buffers of a stage lie where: in the messages of its cuts, in rings of slots, or in memory of one action.

A value that one phase makes and uses up is transient: it has a fixed address, which other actions use for theirs. One that several
phases touch has a slot for each microbatch between the first and the last of them, and shares it with all values of equal phases.

Where a stage goes backward right after it went forward, nothing else runs in between, and both phases are one line of rows: every value
lives from the first row that touches it to the last, and what layers free on the way back holds what comes after them. In a step of one
microbatch the gradients of parameters are such values too, which live to the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import NamedTuple

from mlc.frozen import frozen
from mlc.lower.layout import aligned, lay_out
from mlc.plan.rows import INPUT, Row, StageRows, input_buffer
from mlc.plan.stages import StagedChain

#: What lies in the messages of a stage: states that arrive and leave, gradients that arrive and leave.
BOXES = ("received", "sent", "gradients received", "gradients sent")
INPUTS = "inputs"
LOGITS = "logits"
#: Weight and columns of each microbatch: they are looked at when the list has ended, so each has a slot of its own.
VALUES = "values"
TRANSIENT = "transient"
JOINT = "F-B"


@frozen
class Ring:
    """Buffers that a microbatch has for itself from the first to the last of the phases that touch them.

    bytes:   of a slot
    phases:  in order
    """

    bytes: int
    phases: tuple[str, ...]


@frozen
class StageMemory:
    """Where the buffers of a stage lie.

    rows:      of each phase, in order: F; I and W, or B, or all three
    spots:     of each buffer, its ring (or box, or TRANSIENT) and its offset there
    rings:     by name; the boxes that are not empty among them
    transient: bytes of all values that live within one action
    reads:     per phase, the rings from which it reads what an earlier phase, or another stage, wrote
    writes:    per phase, the rings into which it writes
    heads:     per box and phase: how many rows come before the first that writes what is sent, or end with the last that reads what
               arrived, and their part of the phase's work
    """

    rows: Mapping[str, tuple[Row, ...]]
    spots: Mapping[str, tuple[str, int]]
    rings: Mapping[str, Ring]
    transient: int
    reads: Mapping[str, tuple[str, ...]]
    writes: Mapping[str, tuple[str, ...]]
    heads: Mapping[tuple[str, str], tuple[int, float]]


class _Touches(NamedTuple):
    """What rows do to the buffers of a microbatch, in the order in which they meet them.

    first, last:  the numbers of the first and the last row that touch each
    reads:        those that the first of these reads, shared memory among them; writes: those that some row writes
    """

    first: dict[str, int]
    last: dict[str, int]
    reads: set[str]
    writes: set[str]


def message(staged: StagedChain, states: Sequence[str]) -> tuple[dict[str, int], int]:
    """Offsets of states, or of their gradients, in a message, and its bytes."""
    offsets: dict[str, int] = {}
    size = 0
    for state in states:
        offsets[state] = size
        size += aligned(staged.types[state].bytes)
    return offsets, size


def stage_memory(
    staged: StagedChain, rows: StageRows, kinds: Iterable[str], lasting: Iterable[str], logits: str | None, joint: bool
) -> StageMemory:
    """Place the buffers of a stage.

    kinds:    of the actions the stage has in its list: F, and I and W, or B, or both
    lasting:  buffers of numbers that are read when the list has ended
    logits:   a buffer that is read when the list has ended
    joint:    every B comes right after its F
    """
    phases = _phases(rows, frozenset(kinds))
    touched = {phase: _touches(of, rows.sizes) for phase, of in phases.items()}
    lasting = frozenset(lasting)
    _fill(touched["F"], rows)
    separate = [phase for phase in phases if phase != "B" or "I" not in phases]
    spots, sizes = _messages(staged, rows.stage)
    boxes = {name: box for name, (box, _) in spots.items()}
    of_buffer: dict[str, tuple[str, ...]] = {}
    for phase in separate:
        names = touched[phase].last
        more = {name: (*of_buffer[name], phase) for name in of_buffer.keys() & names.keys()}
        of_buffer |= dict.fromkeys(names, (phase,)) | more
    if joint:
        sizes |= _place_joint(rows, [*phases["F"], *phases["B"]], lasting, spots)
    sizes |= _place_rings(rows, of_buffer, spots, lasting, logits)
    transient = max((_place_transient(rows, touched[phase], of_buffer, phase, spots) for phase in separate), default=0)
    touching = _ring_phases(of_buffer, spots)
    rings = {name: Ring(size, tuple(phase for phase in separate if phase in touching.get(name, ()))) for name, size in sizes.items()}
    reads = {phase: _rings_of(filter(of.reads.__contains__, of.last), spots) for phase, of in touched.items()}
    writes = {phase: _rings_of(filter(of.writes.__contains__, of.last), spots) for phase, of in touched.items()}
    return StageMemory(phases, spots, rings, transient, reads, writes, _heads(phases, touched, boxes))


def _heads(
    phases: Mapping[str, tuple[Row, ...]], touched: Mapping[str, _Touches], boxes: Mapping[str, str]
) -> dict[tuple[str, str], tuple[int, float]]:
    """What is said of StageMemory.heads. boxes: of the buffers that lie in messages"""
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for phase, rows in phases.items():
        flops = [row.routine.flops for row in rows]
        of = touched[phase]
        carried: dict[str, list[str]] = {}
        for name, box in boxes.items():
            if name in of.last:
                carried.setdefault(box, []).append(name)
        for box in sorted(carried):
            sent = box in ("sent", "gradients sent")
            head = min(of.first[name] for name in carried[box]) if sent else max(of.last[name] for name in carried[box]) + 1
            found[box, phase] = head, _part(flops, head)
    return found


def _part(flops: Sequence[int], head: int) -> float:
    """What the first rows are of the work of all. Rows that only move values are counted: 1 is all of them, and leaves no rest."""
    return sum(flops[:head]) / sum(flops) if any(flops) else head / len(flops)


def _place_joint(
    rows: StageRows, line: Sequence[Row], lasting: frozenset[str], spots: dict[str, tuple[str, int]]
) -> dict[str, int]:
    """Places what lives in forward and backward of one microbatch, inputs, messages and what lasts apart; returns the bytes of the ring.

    line: the rows of both
    """
    of = _touches(line, rows.sizes)
    of.last.update(dict.fromkeys(rows.gradients, len(line)))
    apart = {*spots, *lasting, *map(input_buffer, rows.inputs)}
    return {JOINT: size} if (size := _lay_out(rows, of, [name for name in of.last if name not in apart], JOINT, spots)) else {}


def _lay_out(rows: StageRows, of: _Touches, names: Sequence[str], where: str, spots: dict[str, tuple[str, int]]) -> int:
    """Places some buffers for the time in which rows touch them; returns their bytes."""
    lives = zip(map(of.first.__getitem__, names), map(of.last.__getitem__, names), strict=True)
    offsets, size = lay_out(dict(zip(names, map(rows.sizes.__getitem__, names), strict=True)), dict(zip(names, lives, strict=True)))
    spots.update(zip(offsets, zip(repeat(where), offsets.values(), strict=False), strict=True))
    return size


def _phases(rows: StageRows, kinds: frozenset[str]) -> dict[str, tuple[Row, ...]]:
    """The rows of each phase. Where both halves also run apart, together they are the one after the other."""
    phases = {"F": tuple(rows.of("F"))}
    if kinds & {"I", "W"}:
        phases["I"], phases["W"] = tuple(rows.of("I")), tuple(rows.of("W"))
    if "B" in kinds:
        phases["B"] = (*phases["I"], *phases["W"]) if "I" in phases else tuple(rows.of("I", "W"))
    return phases


def _touches(rows: Sequence[Row], sizes: Mapping[str, int]) -> _Touches:
    """What rows do to each buffer of a microbatch."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    reads: set[str] = set()
    writes: set[str] = set()
    for number, (_, routine, buffers, *_) in enumerate(rows):
        parameters = len(routine.function.parameters)
        reads.update(set(buffers[:parameters]) - writes)
        writes.update(buffers[parameters:])
        last.update(dict.fromkeys(buffers, number))
    for number in range(len(rows) - 1, -1, -1):
        first.update(dict.fromkeys(rows[number].buffers, number))
    own = list(filter(sizes.__contains__, last))
    return _Touches(first, dict(zip(own, map(last.__getitem__, own), strict=True)), reads, writes)


def _fill(forward: _Touches, rows: StageRows) -> None:
    """Inputs are written before the first forward row, whoever reads them."""
    names = list(map(input_buffer, rows.inputs))
    forward.first.update(dict.fromkeys(names, 0))
    forward.last.update(dict.fromkeys(names, 0))
    forward.reads.difference_update(names)
    forward.writes.update(names)


def _messages(staged: StagedChain, stage: int) -> tuple[dict[str, tuple[str, int]], dict[str, int]]:
    """The buffers of a stage that lie in messages, and the bytes of those that hold any."""
    names = (staged.received(stage), staged.sent(stage), staged.gradients_received(stage), staged.gradients_sent(stage))
    prefixes = ("received", "state", "gradient received", "gradient")
    spots: dict[str, tuple[str, int]] = {}
    sizes: dict[str, int] = {}
    for box, prefix, states in zip(BOXES, prefixes, names, strict=True):
        offsets, size = message(staged, states)
        spots.update((f"{prefix}.{state}", (box, offset)) for state, offset in offsets.items())
        if states:
            sizes[box] = size
    return spots, sizes


def _place_rings(
    rows: StageRows,
    of_buffer: Mapping[str, tuple[str, ...]],
    spots: dict[str, tuple[str, int]],
    lasting: frozenset[str],
    logits: str | None,
) -> dict[str, int]:
    """Places inputs, values, logits and what several phases touch; returns the bytes of each ring."""
    sizes: dict[str, int] = {}
    for name, phases in of_buffer.items():
        if name in spots:
            continue
        if name.startswith(INPUT):
            ring = INPUTS
        elif name in lasting:
            ring = VALUES
        elif name == logits:
            ring = LOGITS
        elif len(phases) > 1:
            ring = f"{phases[0]}-{phases[-1]}"
        else:
            continue
        spots[name] = (ring, sizes.get(ring, 0))
        sizes[ring] = sizes.get(ring, 0) + aligned(rows.sizes[name])
    return sizes


def _place_transient(
    rows: StageRows, of: _Touches, of_buffer: Mapping[str, tuple[str, ...]], phase: str, spots: dict[str, tuple[str, int]]
) -> int:
    """Places what one phase alone touches; returns its bytes. What one row alone touches lies behind the rest, all at one place."""
    alone = {name for names in rows.alone.values() for name in names}
    apart = alone.union(spots)
    own = [name for name in of.last if name not in apart and of_buffer[name] == (phase,)]
    end = size = _lay_out(rows, of, own, TRANSIENT, spots)
    for names in rows.alone.values():
        at = size
        for name in names:
            spots[name] = TRANSIENT, at
            at += aligned(rows.sizes[name])
        end = max(end, at)
    return end


def _ring_phases(of_buffer: Mapping[str, tuple[str, ...]], spots: Mapping[str, tuple[str, int]]) -> dict[str, set[str]]:
    """By ring, the phases that touch what lies there."""
    found: dict[str, set[str]] = {}
    rings = map(itemgetter(0), map(spots.__getitem__, of_buffer))
    for ring, phases in set(zip(rings, of_buffer.values(), strict=True)):
        found.setdefault(ring, set()).update(phases)
    return found


def _rings_of(names: Iterable[str], spots: Mapping[str, tuple[str, int]]) -> tuple[str, ...]:
    """The rings that some buffers lie in, each once."""
    return tuple(ring for ring in dict.fromkeys(map(itemgetter(0), map(spots.__getitem__, names))) if ring != TRANSIENT)
