"""GPipe: all forwards, then all backwards."""

from __future__ import annotations

from mlc.parallel.actions import Action


def gpipe(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:
    """F 0 to m-1, then B 0 to m-1, on every rank.

    ranks, microbatches: at least 1      chunks: 1
    source: Huang et al. 2019 (GPipe), 1811.06965; the backwards in ascending order
    """
    return [[Action(kind, rank, j) for kind in "FB" for j in range(microbatches)] for rank in range(ranks)]
