"""The schedules by name, in one table."""

from __future__ import annotations

from collections.abc import Callable

from mlc.diagnostics import nearest
from mlc.frozen import frozen
from mlc.parallel.actions import Action, Schedule, refusal
from mlc.parallel.auto import arrange
from mlc.parallel.limits import Memory
from mlc.parallel.placement import looped, v_shaped
from mlc.parallel.schedules.breadth_first import breadth_first
from mlc.parallel.schedules.dualpipe_v import dualpipe_v
from mlc.parallel.schedules.gpipe import gpipe
from mlc.parallel.schedules.interleaved import interleaved
from mlc.parallel.schedules.one_forward_one_backward import one_forward_one_backward
from mlc.parallel.schedules.zb_h1 import zb_h1
from mlc.parallel.schedules.zb_h2 import zb_h2
from mlc.parallel.schedules.zb_v import zb_v
from mlc.parallel.simulate import Costs, uniform

Lists = Callable[[int, int, int], list[list[Action]]]
Placement = Callable[[int, int], tuple[int, ...]]


@frozen
class Named:
    """A schedule by name. Every one takes any number of ranks and of microbatches from 1."""

    lists: Lists | None  # (ranks, microbatches, chunks) -> the list of each rank; None: ordered for given costs
    placement: Placement
    chunks: range  # those it takes
    default_chunks: int
    full: str  # what microbatches m and ranks p must be for the order to be the published one
    doc: str


_MOST_CHUNKS = 1 << 16

#: Every schedule there is.
SCHEDULES: dict[str, Named] = {
    "gpipe": Named(gpipe, looped, range(1, 2), 1, "any", "all forwards, then all backwards"),
    "1f1b": Named(one_forward_one_backward, looped, range(1, 2), 1, "any", "a forward and a backward in turn"),
    "interleaved": Named(interleaved, looped, range(1, _MOST_CHUNKS), 2, "m % p = 0", "1f1b over several chunks a rank"),
    "bfs": Named(breadth_first, looped, range(1, _MOST_CHUNKS), 2, "any", "all microbatches through a chunk before the next"),
    "zb-h1": Named(zb_h1, looped, range(1, 2), 1, "m >= p", "1f1b, weight gradients in the bubble"),
    "zb-h2": Named(zb_h2, looped, range(1, 2), 1, "m >= 2p - 1", "no idle time between first and last action, twice the memory"),
    "zb-v": Named(zb_v, v_shaped, range(2, 3), 2, "m >= 2p - 1", "weight gradients in the bubble, two chunks down and up the ranks"),
    "dualpipe-v": Named(dualpipe_v, v_shaped, range(2, 3), 2, "m >= 2p", "a forward beside a backward, two chunks down and up"),
    "auto": Named(None, looped, range(1, _MOST_CHUNKS), 1, "any", "ordered for given costs within a limit of memory"),
}


def schedule(
    name: str, ranks: int, microbatches: int, chunks: int | None = None, costs: Costs | None = None, memory: Memory | None = None
) -> Schedule:
    """One step of a pipeline.

    name:          a key of SCHEDULES
    ranks:         of one pipeline, at least 1
    microbatches:  of one replica, at least 1
    chunks:        stages a rank; None: the schedule's default
    costs, memory: read by `auto` alone. Costs of ranks * chunks stages, by default all equal. Memory limits what each rank
                   holds; by default to what the best of the named schedules needs
    raises:        E1101 no such schedule, E1102 not these chunks, E1103 no ranks or microbatches, E1107 too little memory
    """
    chunks = chunks_of(name, chunks)
    if ranks < 1 or microbatches < 1:
        raise refusal("E1103", f"{name}: {microbatches} microbatches on {ranks} ranks: the nearest it takes is at least 1 of each")
    row = SCHEDULES[name]
    if row.lists is None:
        stages = ranks * chunks
        return arrange(named(ranks, microbatches, chunks), costs or uniform(stages, 1.0, 1.0, 1.0), memory)
    return _made(name, row.lists, row.placement, ranks, microbatches, chunks)


def chunks_of(name: str, chunks: int | None) -> int:
    """The stages a rank of a schedule: those asked for, or its default.

    raises: E1101 no such schedule, E1102 not these chunks
    """
    if name not in SCHEDULES:
        near = nearest(name, SCHEDULES)
        raise refusal("E1101", f"no schedule is called `{name}`", f"did you mean {near}?" if near else f"there are {', '.join(SCHEDULES)}")
    row = SCHEDULES[name]
    if chunks is None:
        return row.default_chunks
    if chunks in row.chunks:
        return chunks
    near = min(max(chunks, row.chunks[0]), row.chunks[-1])
    raise refusal("E1102", f"{name} does not take {chunks} chunks a rank: the nearest it takes is {near}")


def named(ranks: int, microbatches: int, chunks: int) -> tuple[Schedule, ...]:
    """Every schedule of the table, but auto, that takes these chunks."""
    return tuple(
        _made(name, row.lists, row.placement, ranks, microbatches, chunks)
        for name, row in SCHEDULES.items()
        if row.lists is not None and chunks in row.chunks
    )


def _made(name: str, lists: Lists, placement: Placement, ranks: int, microbatches: int, chunks: int) -> Schedule:
    made = tuple(map(tuple, lists(ranks, microbatches, chunks)))
    return Schedule(name, ranks, chunks, microbatches, placement(ranks, chunks), made)
