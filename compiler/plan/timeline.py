"""The rows of a chain in the order they run, and how long each buffer between them lives."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlc.ir.types import DTYPE_BYTES, TensorType
from mlc.lower.routine import Routine


@dataclass(frozen=True, slots=True)
class Slot:
    """A buffer of the timeline, by key; its address is known when the timeline is laid out."""

    key: str


#: What a row is given: an address in the arena, or a buffer of the timeline.
Place = int | Slot


@dataclass(frozen=True, slots=True)
class Row:
    """One call of a routine. `name` is for people; `path` keys its random numbers."""

    routine: Routine
    places: tuple[Place, ...]
    path: str
    name: str


@dataclass(slots=True)
class Timeline:
    """Rows with the lives of their buffers; times are row numbers."""

    rows: list[Row] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    lives: dict[str, tuple[int, int]] = field(default_factory=dict)

    def slot(self, key: str, kind: TensorType) -> Slot:
        """A buffer for a value of this type; the same key is the same buffer."""
        self.sizes.setdefault(key, kind.size * DTYPE_BYTES[kind.dtype])
        return Slot(key)

    def add(self, routine: Routine, places: list[Place], path: str, name: str) -> None:
        """Append a row; every buffer it is given lives now."""
        now = len(self.rows)
        work = f"{now}.work"
        if routine.work_bytes:
            self.sizes[work] = routine.work_bytes
            places = [*places, Slot(work)]
        for place in places:
            if isinstance(place, Slot):
                first, _ = self.lives.get(place.key, (now, now))
                self.lives[place.key] = (first, now)
        self.rows.append(Row(routine, tuple(places), path, name))
