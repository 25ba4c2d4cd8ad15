"""ZB-V: zero bubble over two chunks a rank, down the ranks and up again, within the memory of 1F1B's first rank."""

from __future__ import annotations

from mlc.parallel.actions import Action
from mlc.parallel.schedules.counted import Counted


def zb_v(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:
    """The hand-made order for equal times of F, I and W.

    Made for max(2p-1, m) microbatches, without those that do not exist.

    ranks, microbatches: at least 1      chunks: 2
    source: Qi et al. 2024 (controllable memory), 2405.15362; torch ZBVZeroBubble
    """
    ordered = max(2 * ranks - 1, microbatches)
    return [[a for a in _rank(rank, ranks, ordered) if a.microbatch < microbatches] for rank in range(ranks)]


def _rank(rank: int, ranks: int, microbatches: int) -> list[Action]:
    """Chunk 0 is stage r, chunk 1 stage 2p-1-r."""
    run = Counted((rank, 2 * ranks - 1 - rank))
    for _ in range(2 * (ranks - rank) - 1):
        run("F", 0)
    for _ in range(rank):
        run("F", 1)
        run("F", 0)
    for _ in range(ranks - rank):
        run("F", 1)
        run("I", 1)
        run("W", 1)
    while run.count("F", 1) < run.count("F", 0) or run.count("F", 0) < microbatches:
        if run.count("F", 0) < microbatches:
            run("F", 0)
        run("I", 0)
        run("W", 0)
        run("F", 1)
        run("I", 1)
        run("W", 1)
    for _ in range(rank):
        run("I", 0)
        run("I", 1)
    for _ in range(ranks - rank):
        run("I", 0)
        run("W", 0)
    for chunk in (1, 0):
        while run.count("W", chunk) < microbatches:
            run("W", chunk)
    return run.actions
