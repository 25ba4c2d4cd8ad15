"""Which rank holds which stage."""

from __future__ import annotations


def looped(ranks: int, chunks: int) -> tuple[int, ...]:
    """Stage s on rank s mod ranks: every chunk goes round all ranks once."""
    return tuple(stage % ranks for stage in range(ranks * chunks))


def v_shaped(ranks: int, chunks: int) -> tuple[int, ...]:
    """Down the ranks with even chunks, up again with odd ones: what crosses from chunk to chunk stays on its rank."""
    return tuple(stage % ranks if stage // ranks % 2 == 0 else ranks - 1 - stage % ranks for stage in range(ranks * chunks))


def by_rank(placement: tuple[int, ...], ranks: int) -> list[list[int]]:
    """The stages of every rank."""
    stages: list[list[int]] = [[] for _ in range(ranks)]
    for stage, rank in enumerate(placement):
        stages[rank].append(stage)
    return stages
