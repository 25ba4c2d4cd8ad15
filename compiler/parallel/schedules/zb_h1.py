"""ZB-H1: 1F1B whose weight gradients wait for the bubble, within the memory of 1F1B's first rank."""

from __future__ import annotations

from mlc.parallel.actions import Action


def zb_h1(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:
    """1F1B with I for B; rank r keeps r weight gradients back, and runs them last.

    ranks, microbatches: at least 1      chunks: 1
    source: Qi et al. 2024 (zero bubble), 2401.10241; torch InterleavedZeroBubble with one stage a rank
    """
    return [_rank(rank, min(ranks - 1 - rank, microbatches), microbatches) for rank in range(ranks)]


def _rank(rank: int, warmup: int, microbatches: int) -> list[Action]:
    actions = [Action("F", rank, j) for j in range(warmup)]
    for j in range(microbatches):
        if warmup + j < microbatches:
            actions.append(Action("F", rank, warmup + j))
        actions.append(Action("I", rank, j))
        if j >= rank:
            actions.append(Action("W", rank, j - rank))
    return actions + [Action("W", rank, j) for j in range(max(0, microbatches - rank), microbatches)]
