"""What the rows of a chunk or an update compute, in sixteen hex digits: which routine is called on what, in order, wherever that lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from mlc.parallel.planned import Buffer, Row, Signature


def rows_meaning(
    routines: Sequence[Signature],
    buffers: Sequence[Buffer],
    rows: Mapping[str, Iterable[Row]],
    bound: Mapping[str, Iterable[tuple[int, int]]],
) -> str:
    """bound: what else a chunk names buffers for: pairs of a number and a buffer, by what they are"""
    digest = hashlib.sha256()
    for phase, of in sorted(rows.items()):
        for row in of:
            names = " ".join(buffers[number].name for number in row.buffers)
            digest.update(f"{phase} {routines[row.routine].name} {row.path} {names}\n".encode())
    for what, pairs in sorted(bound.items()):
        for number, buffer in pairs:
            digest.update(f"{what} {number} {buffers[buffer].name}\n".encode())
    return digest.hexdigest()[:16]


def update_meaning(routine: Signature | None, scalars: Iterable[str]) -> str:
    """Of the update of a parameter: its rule, None: it is not trained, and the scalars that it reads."""
    return hashlib.sha256(f"{routine.name if routine else ''} {' '.join(scalars)}".encode()).hexdigest()[:16]
