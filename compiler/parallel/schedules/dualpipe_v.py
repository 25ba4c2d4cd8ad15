"""DualPipeV: two chunks a rank, down the ranks and up again, a forward of one beside a backward of the other."""

from __future__ import annotations

from collections import deque

from mlc.parallel.actions import Action
from mlc.parallel.schedules.counted import Counted


def dualpipe_v(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:
    """The eight steps of DeepSeek; a forward that a machine may overlap with a backward stands before it.

    Made for max(2p, m) microbatches, without those that do not exist.

    ranks, microbatches: at least 1      chunks: 2
    source: deepseek-ai/DualPipe dualpipev.py; DeepSeek-V3, 2412.19437; torch DualPipeV
    """
    ordered = max(2 * ranks, microbatches)
    return [[a for a in _rank(rank, ranks, ordered) if a.microbatch < microbatches] for rank in range(ranks)]


def _rank(rank: int, ranks: int, microbatches: int) -> list[Action]:
    """Chunk 0 is stage r, chunk 1 stage 2p-1-r."""
    run = Counted((rank, 2 * ranks - 1 - rank))
    behind = ranks - rank - 1
    for _ in range(2 * behind):
        run("F", 0)
    for _ in range(rank + 1):
        run("F", 0)
        run("F", 1)
    for _ in range(behind):
        run("I", 1)
        run("W", 1)
        run("F", 1)
    for _ in range(microbatches - 2 * ranks + rank + 1):
        run("F", 0)
        run("B", 1)
        run("F", 1)
        run("B", 0)
    for _ in range(behind):
        run("B", 1)
        run("F", 1)
        run("B", 0)
    _drain(run, rank, behind)
    return run.actions


def _drain(run: Counted, rank: int, behind: int) -> None:
    """The backwards that are left, the second half of them split; weight gradients run in the order they arose."""
    waiting: deque[int] = deque()
    whole = rank + 1  # how many of the first backwards, of both chunks in turn, stay whole

    def backward(position: int, chunk: int) -> None:
        run("B" if position < whole else "I", chunk)
        if position >= whole:
            waiting.append(chunk)

    for i in range(rank + 1):
        backward(2 * i, 1)
        backward(2 * i + 1, 0)
    for i in range(behind):
        if waiting:
            run("W", waiting.popleft())
        backward(2 * (rank + 1) + i, 0)
    while waiting:
        run("W", waiting.popleft())
