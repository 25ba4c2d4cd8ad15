"""A rank's list in the making, for orders that name chunk and kind and leave the microbatch to be counted."""

from __future__ import annotations

from collections import Counter

from mlc.parallel.actions import Action


class Counted:
    """Each call appends the next microbatch of a kind on a chunk. B counts as I and as W."""

    def __init__(self, stages: tuple[int, ...]):
        self.actions: list[Action] = []
        self._stages = stages
        self._counts: Counter[tuple[str, int]] = Counter()

    def __call__(self, kind: str, chunk: int) -> None:
        parts = "IW" if kind == "B" else kind
        self.actions.append(Action(kind, self._stages[chunk], self.count(parts[0], chunk)))
        self._counts.update((part, chunk) for part in parts)

    def count(self, kind: str, chunk: int) -> int:
        """How many of a kind (F, I or W) there are on a chunk."""
        return self._counts[kind, chunk]
