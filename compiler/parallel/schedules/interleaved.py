"""Interleaved 1F1B: 1F1B over several chunks a rank, in groups of as many microbatches as there are ranks."""

from __future__ import annotations

from mlc.parallel.actions import Action


def interleaved(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:
    """Forwards go through the table of groups, backwards through the same table with the chunks reversed.

    table:   for each group of p microbatches, for each chunk, for each microbatch of the group
    warm-up: 2(p-1-r) + (v-1)p forwards, then a forward and a backward in turn
    A last group that is not full is ordered as a full one, without the microbatches that do not exist.

    ranks, microbatches, chunks: at least 1
    source: Narayanan et al. 2021, 2104.04473; Megatron-LM get_schedule_table, group size p
    """
    table = [(first + j, chunk) for first in range(0, microbatches, ranks) for chunk in range(chunks) for j in range(ranks)]
    return [[a for a in _rank(rank, ranks, chunks, table) if a.microbatch < microbatches] for rank in range(ranks)]


def _rank(rank: int, ranks: int, chunks: int, table: list[tuple[int, int]]) -> list[Action]:
    forwards = [Action("F", chunk * ranks + rank, j) for j, chunk in table]
    backwards = [Action("B", (chunks - 1 - chunk) * ranks + rank, j) for j, chunk in table]
    warmup = min(2 * (ranks - 1 - rank) + (chunks - 1) * ranks, len(table))
    actions = forwards[:warmup]
    for k, backward in enumerate(backwards):
        actions += [*forwards[warmup + k : warmup + k + 1], backward]
    return actions
