"""Looped breadth first (BFS): all microbatches through one chunk before the next, so that its weights are gathered once a pass."""

from __future__ import annotations

from mlc.parallel.actions import Action


def breadth_first(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:
    """All forwards chunk by chunk, then all backwards, the last chunk first; microbatches ascend on both ways.

    ranks, microbatches, chunks: at least 1
    source: Lamy-Poirier 2022, 2211.05953; torch runs the backwards in descending order, which takes as long
    """
    return [_rank(range(rank, ranks * chunks, ranks), range(microbatches)) for rank in range(ranks)]


def _rank(stages: range, microbatches: range) -> list[Action]:
    forwards = [Action("F", stage, j) for stage in stages for j in microbatches]
    return forwards + [Action("B", stage, j) for stage in reversed(stages) for j in microbatches]
