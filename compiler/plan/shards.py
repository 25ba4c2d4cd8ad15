"""Who updates what, and how many sums of groups a replica holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlc.parallel.planned import BLOCK


@dataclass(frozen=True, slots=True)
class Share:
    """Elements [begin, end) of a parameter."""

    parameter: int
    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


def shares(sliced: Sequence[Share], whole: Sequence[Share], dp: int) -> tuple[tuple[Share, ...], ...]:
    """The parts of parameters that each replica updates, in order of parameter.

    sliced:  whole parameters of which a replica may have any blocks: each gets an equal, contiguous share of all blocks
    whole:   parameters that one replica updates: in order, each to the one that has least so far
    """
    parts = [_blocks(sliced, replica, dp) for replica in range(dp)]
    loads = [sum(part.size for part in found) for found in parts]
    for parameter in whole:
        least = loads.index(min(loads))
        loads[least] += parameter.size
        parts[least].append(parameter)
    return tuple(tuple(sorted(found, key=lambda part: part.parameter)) for found in parts)


def _blocks(parameters: Sequence[Share], replica: int, dp: int) -> list[Share]:
    """The share of a replica of all blocks of some parameters."""
    total = sum(map(_block_count, parameters))
    begin, end = total * replica // dp, total * (replica + 1) // dp
    found: list[Share] = []
    first = 0
    for parameter in parameters:
        low, high = max(begin - first, 0) * BLOCK, min((end - first) * BLOCK, parameter.end)
        if low < high:
            found.append(Share(parameter.parameter, low, high))
        first += _block_count(parameter)
    return found


def _block_count(parameter: Share) -> int:
    return -(-parameter.size // BLOCK)


def subtrees(begin: int, end: int, groups: int) -> Iterator[range]:
    """The maximal subtrees of the bottom-up pairwise tree over all groups that lie in groups [begin, end), in order."""
    while begin < end:
        size = 1
        while begin % (2 * size) == 0 and min(begin + 2 * size, groups) <= end and size < groups:
            size *= 2
        yield range(begin, min(begin + size, groups))
        begin += size


def roots(replica: int, groups: int, dp: int) -> int:
    """How many sums a replica has when its groups are done."""
    return len(list(subtrees(replica * groups // dp, (replica + 1) * groups // dp, groups)))


def tree_levels(groups: int, dp: int) -> int:
    """Accumulators a use: the group being folded, and the most sums that wait beside it on any replica."""
    waiting = 0
    for replica in range(dp):
        begin, end = replica * groups // dp, (replica + 1) * groups // dp
        waiting = max(waiting, *(len(list(subtrees(begin, group, groups))) for group in range(begin, end)))
    return 1 + waiting
