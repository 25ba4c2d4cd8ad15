"""What rows of a chunk, an update or an initial value compute, in sixteen hex digits: which routine is called on what, wherever it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from mlc.parallel.planned import Buffer, Chunk, ParameterKind, Row, Signature


def rows_meaning(
    routines: Sequence[Signature],
    buffers: Sequence[Buffer],
    rows: Mapping[str, Sequence[Row]],
    bound: Mapping[str, Iterable[tuple[int, int]]],
) -> str:
    """bound: what else a chunk names buffers for: pairs of a number and a buffer, by what they are"""
    names = [buffer.name for buffer in buffers]
    named = names.__getitem__
    lines: list[str] = []
    called = {number: _called(routines[number]) for number in {row.routine for of in rows.values() for row in of}}
    for phase, of in sorted(rows.items()):
        lines += [f"{phase} {called[number]} {path} {' '.join(map(named, operands))}\n" for number, path, _, operands in of]
    for what, pairs in sorted(bound.items()):
        lines += [f"{what} {number} {names[buffer]}\n" for number, buffer in pairs]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _called(routine: Signature) -> str:
    """A routine by its name, and by how operands lie that are not canonical, which its code knows."""
    arranged = [f" {number}: {operand.arranged}" for number, operand in enumerate(routine.operands) if operand.arranged is not None]
    return f"{routine.name}{''.join(arranged)}"


@lru_cache(maxsize=1024)
def _digits(text: str) -> str:
    """Sixteen hex digits of a text: parameters of equal layers have equal ones."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def bound_buffers(chunk: Chunk, losses: int) -> dict[str, Sequence[tuple[int, int]]]:
    """What a chunk names buffers for beside its rows. losses: the columns of its chain that add up to the loss"""
    found: dict[str, Sequence[tuple[int, int]]] = {
        "input": chunk.inputs,
        "loss": [value for value in chunk.values if value[0] < losses],
        "metric": [value for value in chunk.values if value[0] >= losses],
        "weight": [] if chunk.weight is None else [(0, chunk.weight)],
    }
    if (logits := chunk.logits) is not None:
        found[f"logits {logits.dtype}{list(logits.shape)}"] = [(0, logits.buffer)]
    return found


def update_meaning(kind: ParameterKind, routine: Signature | None, scalars: Iterable[str]) -> str:
    """Of the update of a parameter: its rule, None: it is not trained, the scalars that it reads, what feeds it, and its states."""
    name = _called(routine) if routine else ""
    return _update_digits(kind.update, name, tuple(scalars), kind.fed, kind.shape, kind.states)


@lru_cache(maxsize=1024)
def _update_digits(
    update: int | None,
    routine: str,
    scalars: tuple[str, ...],
    fed: str,
    shape: tuple[int, ...],
    states: tuple[tuple[str, tuple[int, ...]], ...],
) -> str:
    said = " ".join(f"{name}{list(of)}" for name, of in states)
    return _digits(f"{update} {routine} {' '.join(scalars)} {fed} {list(shape)} {said}")


def init_meaning(routine: Signature) -> str:
    """Of the initial value of a parameter."""
    return _digits(_called(routine))
