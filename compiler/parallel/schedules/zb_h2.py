"""ZB-H2: twice the warm-up of ZB-H1, so that no rank idles between its first and its last action."""

from __future__ import annotations

from mlc.parallel.actions import Action


def zb_h2(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:
    """2(p-r)-1 forwards, then I, the oldest W once more than 2r wait, and F in turn; the W that are left run last.

    ranks, microbatches: at least 1      chunks: 1
    source: Qi et al. 2024 (zero bubble), 2401.10241, figure 3
    """
    return [_rank(rank, min(2 * (ranks - rank) - 1, microbatches), microbatches) for rank in range(ranks)]


def _rank(rank: int, warmup: int, microbatches: int) -> list[Action]:
    kept_back = 2 * rank
    actions = [Action("F", rank, j) for j in range(warmup)]
    for j in range(microbatches):
        actions.append(Action("I", rank, j))
        if j >= kept_back:
            actions.append(Action("W", rank, j - kept_back))
        if warmup + j < microbatches:
            actions.append(Action("F", rank, warmup + j))
    return actions + [Action("W", rank, j) for j in range(max(0, microbatches - kept_back), microbatches)]
