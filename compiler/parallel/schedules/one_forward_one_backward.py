"""1F1B (PipeDream-flush): as soon as a backward can run, it runs, and no rank holds more than it must."""

from __future__ import annotations

from mlc.parallel.actions import Action


def one_forward_one_backward(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:
    """min(p-1-r, m) forwards, then a forward and a backward in turn, then the backwards that are left.

    ranks, microbatches: at least 1      chunks: 1
    source: Narayanan et al. 2021, 2006.09503; warm-up of Megatron-LM, for fewer microbatches than ranks too
    """
    return [_rank(rank, min(ranks - 1 - rank, microbatches), microbatches) for rank in range(ranks)]


def _rank(rank: int, warmup: int, microbatches: int) -> list[Action]:
    actions = [Action("F", rank, j) for j in range(warmup)]
    for j in range(microbatches):
        if warmup + j < microbatches:
            actions.append(Action("F", rank, warmup + j))
        actions.append(Action("B", rank, j))
    return actions
