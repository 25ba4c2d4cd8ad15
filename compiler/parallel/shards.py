"""Who updates what: the rule by which the replicas of an owner share out its parameters, evaluated from a coordinate.

What a place owns falls into portions, one for each replica (mlc.mesh.Cohort): runs of portions are runs of blocks of

    sliced  parameters with elementwise rules: equal, contiguous shares of all their blocks of 1024 elements
    still   parameters that nothing updates: the same, apart from those
    whole   parameters with other rules: to one portion each, that in which the middle of its blocks lies

No table of replicas is made, here or in the runtime (`runtime/src/model/shard.h`): what all need is the largest of any.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from mlc.mesh import Portions

#: Elements of which every edge of a share is a multiple, or the end.
BLOCK = 1024
#: Of buffers, and of pieces in a message.
LINE_BYTES = 64

SHARINGS: tuple[str, ...] = ("sliced", "whole", "still")


class Owned(NamedTuple):
    """A parameter that the replicas of its owner share out; `sharing` is one of SHARINGS."""

    parameter: int
    elements: int
    sharing: str

    @property
    def blocks(self) -> int:
        return -(-self.elements // BLOCK)


class Share(NamedTuple):
    """Elements [begin, end) of a parameter."""

    parameter: int
    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


def line_bytes(elements: int, unit: int) -> int:
    """Bytes of so many elements of `unit` bytes, up to the next line."""
    return -(-unit * elements // LINE_BYTES) * LINE_BYTES


class Sharing:
    """What one place owns, in order of parameter, over `replicas` portions. unit: bytes of an element of the wide dtype"""

    def __init__(self, owned: Sequence[Owned], replicas: int, unit: int):
        self.owned = tuple(owned)
        self.replicas = replicas
        self.unit = unit
        self._of = {one.parameter: one for one in self.owned}
        self._first: dict[int, int] = {}
        totals = dict.fromkeys(SHARINGS, 0)
        for one in self.owned:
            self._first[one.parameter] = totals[one.sharing]
            totals[one.sharing] += one.blocks
        self._totals = totals

    def shares(self, portions: Portions) -> tuple[Share, ...]:
        """What a run of portions updates, in order of parameter."""
        found = (Share(one.parameter, *self._elements(one, portions)) for one in self.owned)
        return tuple(share for share in found if share.size > 0)

    def elements(self, parameter: int, portions: Portions) -> tuple[int, int]:
        """The elements of a parameter that a run of portions has: [begin, end), empty where end is not behind begin."""
        return self._elements(self._of[parameter], portions)

    def portion(self, one: Owned) -> int:
        """The portion that has a whole parameter."""
        return self.replicas * (2 * self._first[one.parameter] + one.blocks) // (2 * self._totals[one.sharing])

    def most(self, sliced: Mapping[int, int], whole: Mapping[int, int], width: int = 1) -> int:
        """At least as many bytes as any run of `width` portions has.

        sliced:  buffers of the wide dtype that go with a share of a parameter
        whole:   bytes that go with a whole parameter
        """
        of_slices = sum(self._most_sliced(kind, sliced, width) for kind in ("sliced", "still")) if any(sliced.values()) else 0
        return of_slices + (self._most_whole(whole, width) if self._totals["whole"] else 0)

    def _elements(self, one: Owned, portions: Portions) -> tuple[int, int]:
        if one.sharing == "whole":
            return (0, one.elements) if portions.begin <= self.portion(one) < portions.end else (0, 0)
        low, high = (self._totals[one.sharing] * edge // self.replicas - self._first[one.parameter] for edge in portions)
        return max(low, 0) * BLOCK, min(high * BLOCK, one.elements)

    def _most_sliced(self, sharing: str, buffers: Mapping[int, int], width: int) -> int:
        """The most in any window of as many blocks as a run of portions may have."""
        total = self._totals[sharing]
        window = min(-(-total * width // self.replicas), total)
        owned = [(one.elements, buffers.get(one.parameter, 0)) for one in self.owned if one.sharing == sharing]
        sizes = [size for elements, of in owned for size in _runs(elements, of, self.unit)]
        if window == total:
            return sum(count * each for count, each in sizes)
        ends = list(accumulate((count for count, _ in sizes), initial=0))
        sums = list(accumulate((count * each for count, each in sizes), initial=0))

        def before(block: int) -> int:
            run = min(bisect_right(ends, block), len(sizes)) - 1
            return sums[run] + (block - ends[run]) * sizes[run][1]

        # A sum over a window that moves is linear between places where one of its ends meets the edge of a run.
        places = {min(max(edge - shift, 0), total - window) for edge in ends for shift in (0, window)}
        return max((before(place + window) - before(place) for place in places), default=0)

    def _most_whole(self, sizes: Mapping[int, int], width: int) -> int:
        loads: defaultdict[int, int] = defaultdict(int)
        for one in self.owned:
            if one.sharing == "whole":
                loads[self.portion(one)] += sizes.get(one.parameter, 0)
        starts = sorted(loads)
        sums = list(accumulate((loads[start] for start in starts), initial=0))
        ends = (bisect_right(starts, start + width - 1) for start in starts)
        return max((sums[end] - sums[n] for n, end in enumerate(ends)), default=0)


@lru_cache(maxsize=1024)
def _runs(elements: int, buffers: int, unit: int) -> Sequence[tuple[int, int]]:
    """(blocks, bytes of each) of a sliced parameter: whole blocks, then what is left."""
    if not buffers:
        return ((-(-elements // BLOCK), 0),)
    whole, rest = divmod(elements, BLOCK)
    return [(count, buffers * line_bytes(size, unit)) for count, size in ((whole, BLOCK), (1, rest)) if count and size]
