"""What ends the lists of a chain: statistics, sums of gradients over replicas and uses, the update, new values on their way.

Turns go chunk by chunk, parameters in ascending order and their uses or places within, on all places alike; so no two places wait for
each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlc.mesh import Cohort
from mlc.parallel.entries import Entries, Entry, packed
from mlc.parallel.planned import PlannedParameter
from mlc.plan.layout import Layout


def chain_endings(
    chain: str, layout: Layout, parameters: Sequence[PlannedParameter], held: Sequence[Sequence[int]]
) -> tuple[Entries, ...]:
    """Per place, what comes behind all microbatches. held: per place, numbers of parameters"""
    if chain != "train":
        return tuple(packed([Entry("STATISTICS", 0, 0)] if chain == "evaluate" else []) for _ in range(layout.pp))
    shares, spreads = _shares(layout, parameters), _spreads(layout, parameters, held)
    return tuple(packed(list(_train(layout, share, spread))) for share, spread in zip(shares, spreads, strict=True))


def _train(layout: Layout, shares: Sequence[Entry], spreads: Sequence[Entry]) -> Iterator[Entry]:
    turns = range(Cohort(layout.dp).turns)
    yield Entry("STATISTICS", 0, 0)
    yield from (Entry("REDUCE", chunk, turn) for chunk in range(layout.chunks) for turn in turns)
    yield from shares
    yield Entry("NORM", 0, 0)
    yield Entry("UPDATE", 0, 0)
    yield from spreads
    yield from (Entry("GATHER", 0, turn) for turn in reversed(turns))
    yield Entry("VERDICT", 0, 0)


def _shares(layout: Layout, parameters: Sequence[PlannedParameter]) -> list[list[Entry]]:
    """Per place, the uses of parameters that several places use: all of them at the owner, their own at the others."""
    found: list[list[Entry]] = [[] for _ in range(layout.pp)]
    placement = layout.schedule.placement
    for number, parameter in enumerate(parameters):
        homes = [placement[stage] for stage, _ in parameter.uses]
        if parameter.kind.fed == "none" or set(homes) <= {parameter.owner}:
            continue
        for use, home in enumerate(homes):
            for place in {home, parameter.owner}:
                found[place].append(Entry("SHARE", use, number))
    return found


def _spreads(layout: Layout, parameters: Sequence[PlannedParameter], held: Sequence[Sequence[int]]) -> list[list[Entry]]:
    """Per place, the parameters that change and that another place holds than their owner."""
    found: list[list[Entry]] = [[] for _ in range(layout.pp)]
    moved = [(number, place) for place, numbers in enumerate(held) for number in numbers if parameters[number].kind.update is not None]
    for number, place in sorted(moved):
        owner = parameters[number].owner
        for end in (owner, place) if place != owner else ():
            found[end].append(Entry("SPREAD", place, number))
    return found
