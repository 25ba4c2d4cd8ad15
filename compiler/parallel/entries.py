"""The rows of a list, packed: a list of a thousand microbatches takes some bytes a row, and is looked at a column at a time.

Entry      one row: what it does, on which chunk or channel, for which microbatch
Entries    a list: three columns of numbers, read as the sequence of its rows
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

COMPUTE = ("F", "I", "W", "B")
#: The rest of a compute row that is done in two parts: the rows that write what is sent.
RESTS = {"F": "F+", "I": "I+", "B": "B+"}
TRANSFERS = ("RECEIVE", "FREE", "SEND", "SENT")
#: The sums of a group are complete: of the uses of a chunk that F, I or W adds to.
FOLDS = ("FOLDF", "FOLDI", "FOLDW")
#: What ends a step, after all compute and transfers.
ENDINGS = ("STATISTICS", "REDUCE", "SHARE", "NORM", "UPDATE", "SPREAD", "GATHER", "VERDICT")

#: Every kind of row, by the code that the column of kinds has for it: compute, rests, transfers, folds, endings.
KINDS = (*COMPUTE, *RESTS.values(), *TRANSFERS, *FOLDS, *ENDINGS)
CODES = {kind: code for code, kind in enumerate(KINDS)}
_ENDS_COMPUTE = len(COMPUTE)
_ENDS_RESTS = _ENDS_COMPUTE + len(RESTS)
_ENDS_TRANSFERS = _ENDS_RESTS + len(TRANSFERS)
_ENDS_FOLDS = _ENDS_TRANSFERS + len(FOLDS)

#: Chunks and microbatches of rows are less: what is not a small number is no plan.
MOST = 1 << 31

Column = NDArray[np.integer[Any]]


class Entry(NamedTuple):
    """One row of a list: `of` is a chunk of the place, or the name of a channel; the last number a microbatch or message.

    Of what ends a list: REDUCE (chunk, turn), SHARE (use, parameter), SPREAD (place, parameter), GATHER (0, turn); the others 0.
    """

    kind: str
    of: int | str
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind} {self.of} {self.microbatch}"


class Entries(Sequence[Entry]):
    """A list.

    kinds:         code of each row's kind
    of:            its chunk, or the number of its channel in `channels`
    microbatches:  of each row
    channels:      the names of those that rows speak of
    """

    __slots__ = ("channels", "kinds", "microbatches", "of")

    def __init__(self, kinds: Column, of: Column, microbatches: Column, channels: tuple[str, ...]):
        self.kinds = kinds.astype(np.uint8)
        self.of = of.astype(np.int32)
        self.microbatches = microbatches.astype(np.int32)
        self.channels = channels

    def __len__(self) -> int:
        return len(self.kinds)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Entries: ...
    def __getitem__(self, index: int | slice) -> Entry | Entries:
        if isinstance(index, slice):
            return Entries(self.kinds[index], self.of[index], self.microbatches[index], self.channels)
        return self._entry(int(self.kinds[index]), int(self.of[index]), int(self.microbatches[index]))

    def __iter__(self) -> Iterator[Entry]:
        return map(self._entry, self.kinds.tolist(), self.of.tolist(), self.microbatches.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def _entry(self, code: int, of: int, microbatch: int) -> Entry:
        return Entry(KINDS[code], self.channels[of] if _ENDS_RESTS <= code < _ENDS_TRANSFERS else of, microbatch)

    @property
    def computes(self) -> NDArray[np.bool_]:
        """Which rows compute; rests apart."""
        return self.kinds < _ENDS_COMPUTE

    @property
    def rests(self) -> NDArray[np.bool_]:
        """Which rows are the rest of one that computes."""
        return (self.kinds >= _ENDS_COMPUTE) & (self.kinds < _ENDS_RESTS)

    @property
    def transfers(self) -> NDArray[np.bool_]:
        """Which rows move messages."""
        return (self.kinds >= _ENDS_RESTS) & (self.kinds < _ENDS_TRANSFERS)

    @property
    def folds(self) -> NDArray[np.bool_]:
        """Which rows fold the sums of a group."""
        return (self.kinds >= _ENDS_TRANSFERS) & (self.kinds < _ENDS_FOLDS)

    @property
    def endings(self) -> NDArray[np.bool_]:
        """Which rows end a list."""
        return self.kinds >= _ENDS_FOLDS

    def texts(self, head: Callable[[str, int | str], str], tail: Callable[[int], str]) -> Iterator[str]:
        """head(kind, of) + tail(microbatch) of each row. Both are asked once for each of their arguments."""
        rows = self.kinds.astype(np.int64) * (2 * MOST) + self.of + MOST
        pairs, which = np.unique(rows, return_inverse=True)
        numbers, nth = np.unique(self.microbatches, return_inverse=True)
        entries = [self._entry(pair // (2 * MOST), pair % (2 * MOST) - MOST, 0) for pair in pairs.tolist()]
        heads = [head(entry.kind, entry.of) for entry in entries]
        tails = [tail(number) for number in numbers.tolist()]
        return map(add, map(heads.__getitem__, which.tolist()), map(tails.__getitem__, nth.tolist()))

    def json_rows(self) -> Iterator[str]:
        """Each row as JSON."""
        return self.texts(lambda kind, of: f"[{json.dumps(kind)}, {json.dumps(of)}, ", lambda number: f"{number}]")


def packed(rows: Iterable[Sequence[Any]]) -> Entries:
    """The list with these rows.

    raises: ValueError, TypeError for what is no row: of no kind, a chunk that is no number, a number out of any measure
    """
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    if len(columns) != 3:
        raise ValueError(f"rows of {len(columns)} values")
    kinds, of, microbatches = columns
    unknown = [kind for kind in kinds if kind not in CODES]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no kind of action")
    codes = np.fromiter(map(CODES.__getitem__, kinds), np.uint8, len(kinds))
    for kind, named in set(zip(kinds, map(type, of), strict=True)):
        if named is not (str if kind in TRANSFERS else int):
            raise TypeError(f"{kind} of what is no {'channel' if kind in TRANSFERS else 'chunk'}")
    targets = dict.fromkeys(of)
    channels = tuple(value for value in targets if isinstance(value, str))
    numbers = {**{value: value for value in targets}, **{name: number for number, name in enumerate(channels)}}
    _check_numbers([value for value in targets if not isinstance(value, str)])
    _check_numbers(microbatches)
    return Entries(codes, np.fromiter(map(numbers.__getitem__, of), np.int64, len(of)), np.array(microbatches, np.int64), channels)


def _check_numbers(values: Sequence[Any]) -> None:
    if not set(map(type, values)) <= {int}:
        raise TypeError(f"{next(v for v in values if type(v) is not int)!r} is not a whole number")
    if values and not -MOST <= min(values) <= max(values) < MOST:
        raise ValueError(f"{max(values, key=abs)} is out of any measure")
