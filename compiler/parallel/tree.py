"""The order in which sums of groups add up: the bottom-up pairwise tree over all groups (`runtime/src/model/tree.h`)."""

from __future__ import annotations

from collections.abc import Iterator


def subtrees(begin: int, end: int, groups: int) -> Iterator[range]:
    """The maximal subtrees of the tree over all groups that lie in groups [begin, end), in order."""
    while begin < end:
        size = 1
        while begin % (2 * size) == 0 and min(begin + 2 * size, groups) <= end and size < groups:
            size *= 2
        yield range(begin, min(begin + size, groups))
        begin += size


def roots(replica: int, groups: int, dp: int) -> int:
    """How many sums a replica has when its groups are done."""
    return len(list(subtrees(*_share(replica, groups, dp), groups)))


def most_roots(groups: int, dp: int) -> int:
    """The most sums that a replica, or an aligned run of 2^n of them, has."""
    return max(roots(replica, groups, dp) for replica in _kinds(groups, dp))


def tree_levels(groups: int, dp: int) -> int:
    """Accumulators a use: the group being folded, and the most sums that wait beside it on any replica."""
    return 1 + max(_most_waiting(*_share(replica, groups, dp), groups) for replica in _kinds(groups, dp))


def _share(replica: int, groups: int, dp: int) -> tuple[int, int]:
    """The groups [begin, end) of a replica."""
    own = groups // dp
    return own * replica, own * (replica + 1)


def _kinds(groups: int, dp: int) -> Iterator[int]:
    """Replicas of which each other one is like one, for what joins repeats where a power of two of groups does; the last is its own."""
    own = groups // dp
    span = 1 << (own - 1).bit_length()
    apart = span // (own & -own)
    yield from range(min(apart, dp))
    yield dp - 1


def _most_waiting(begin: int, end: int, groups: int) -> int:
    """The most sums that wait before one of the groups [begin, end) ends."""
    waiting: list[int] = []
    most = 0
    for group in range(begin, end):
        most = max(most, len(waiting))
        start = group
        while waiting and _joins(waiting[-1], start, group + 1, groups):
            start = waiting.pop()
        waiting.append(start)
    return most


def _joins(begin: int, middle: int, end: int, groups: int) -> bool:
    """Are [begin, middle) and [middle, end) the two halves of a node?"""
    size = middle - begin
    return size & (size - 1) == 0 and begin % (2 * size) == 0 and end == min(begin + 2 * size, groups)
