"""The ranks of a run as a mesh: coordinates, neighbours and cohorts. Nothing else computes with the numbers of ranks.

`runtime/include/mlc_mesh.h` says the same in C, and has the pictures: how ranks are numbered, and how the members of a cohort add up
by halving.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from mlc.frozen import frozen

#: Of a rank in the binary tree of all: the one above and two below.
TREE_NEIGHBOURS = 3

#: The axes of a mesh, those along which ranks are numbered first at the front.
AXES = ("tp", "cp", "ep", "pp", "dp")


class Coordinate(NamedTuple):
    """Where a rank is: an index on each axis."""

    tp: int
    cp: int
    ep: int
    pp: int
    dp: int


@frozen
class Mesh:
    """The sizes of the axes. pp: places of the pipeline; dp: replicas; of the others there is one each so far."""

    pp: int = 1
    dp: int = 1
    ep: int = 1
    tp: int = 1
    cp: int = 1

    @property
    def sizes(self) -> Coordinate:
        return Coordinate(self.tp, self.cp, self.ep, self.pp, self.dp)

    @property
    def ranks(self) -> int:
        return prod(self.sizes)

    def coordinate(self, rank: int) -> Coordinate:
        indices: list[int] = []
        for size in self.sizes:
            rank, index = divmod(rank, size)
            indices.append(index)
        return Coordinate(*indices)

    def rank(self, coordinate: Coordinate) -> int:
        rank = 0
        for size, index in zip(reversed(self.sizes), reversed(coordinate), strict=True):
            rank = rank * size + index
        return rank


    def member(self, rank: int, **indices: int) -> int:
        """The rank that has these indices on some axes, and on the others those of `rank`."""
        return self.rank(self.coordinate(rank)._replace(**indices))


def tree_neighbour(ranks: int, rank: int, number: int) -> int:
    """The neighbour number 0 (above), 1 or 2 (below) of a rank in the tree of all, -1: it has none there."""
    if number == 0:
        return (rank - 1) // 2 if rank > 0 else -1
    below = 2 * rank + number
    return below if below < ranks else -1


def tree_number(rank: int, other: int) -> int:
    """Which neighbour of a rank another one is."""
    return other - 2 * rank if other > rank else 0


class Portions(NamedTuple):
    """A run of portions [begin, end) of what a cohort adds up; there is one for each member."""

    begin: int
    end: int


class Exchange(NamedTuple):
    """What a member does in a turn, for itself or for its guest.

    point, partner:  whose portions go and come; peer: the member that does the work of the partner, maybe the same one
    sends, receives: something moves to the peer, and back
    """

    point: int
    partner: int
    peer: int
    sends: bool
    receives: bool


@frozen
class Cohort:
    """`size` ranks that differ on one axis alone, numbered by their index there."""

    size: int

    @property
    def turns(self) -> int:
        return (self.size - 1).bit_length()

    @property
    def blocks(self) -> int:
        """Blocks of slots that a member has for those it exchanges with: one a turn, for itself, then for its guest."""
        return self.turns if self.size == 1 << self.turns else 2 * self.turns - 1

    def guest(self, member: int) -> int:
        """The absent point that a member stands in for, -1: none."""
        point = member + (1 << self.turns >> 1)
        return point if self.size <= point < 1 << self.turns else -1

    def host(self, point: int) -> int:
        """The member that does the work of a point."""
        return point if point < self.size else point - (1 << self.turns >> 1)

    def is_present(self, point: int, turn: int) -> bool:
        """Has any member of the aligned run of 2^turn points around this one something to add?"""
        return point >> turn << turn < self.size

    def neighbour(self, member: int, block: int) -> int:
        """The member behind a block, -1: it exchanges nothing there."""
        own, guest = block < self.turns, self.guest(member)
        if not own and guest < 0:
            return -1
        other = member ^ 1 << block if own else guest ^ 1 << (block - self.turns)
        if not own and other >= self.size:
            return -1
        return -1 if self.host(other) == member else self.host(other)

    def block(self, member: int, other: int) -> int:
        """The block of a member behind which another one is, -1: none."""
        return next((block for block in range(self.blocks) if self.neighbour(member, block) == other), -1)

    def halving(self, member: int, turn: int) -> tuple[Exchange, ...]:
        """What a member does in a turn of halving, in this order; an exchange with itself is done in its own memory."""
        found: list[Exchange] = []
        for point in self._points(member, turn):
            partner = point ^ 1 << turn
            sends, receives = self.is_present(point, turn), self.is_present(partner, turn)
            if sends or receives:
                found.append(Exchange(point, partner, self.host(partner), sends, receives))
        return tuple(found)

    def doubling(self, member: int, turn: int) -> tuple[Exchange, ...]:
        """The same of doubling: absent points get nothing, for their hosts have it."""
        found: list[Exchange] = []
        for point in self._points(member, turn):
            partner = point ^ 1 << turn
            sends, receives = partner < self.size, point == member
            if self.host(partner) != member and (sends or receives):
                found.append(Exchange(point, partner, self.host(partner), sends, receives))
        return tuple(found)

    def _points(self, member: int, turn: int) -> tuple[int, ...]:
        """The member, and its guest where that takes part in a turn: in the last one the two are partners."""
        guest = self.guest(member)
        return (member, guest) if guest >= 0 and turn + 1 < self.turns else (member,)

    def kinds(self, turn: int) -> tuple[int, ...]:
        """Members of which every other one does in this turn what one of these does: with the same pattern of peers.

        What a member m does is told by where m, m ^ 2^turn and the points half of all above them stand to the number of members, and
        the aligned runs of 2^turn points around these to it. All of that is the same for all m between two neighbours of the edges
        below, but for the bit of the turn.
        """
        half, step = 1 << self.turns >> 1, 1 << turn
        around = {edge + shift for edge in (0, self.size, self.size - half, half) for shift in (-step, 0, step)}
        runs = [edge // (2 * step) * (2 * step) for edge in (self.size, self.size - half)]
        aligned = {run + shift for run in runs for shift in range(-2 * step, 3 * step, step)}
        near = {edge + shift for edge in around | aligned for shift in (-1, 0)}
        return tuple(sorted(member for member in near if 0 <= member < self.size))

    @property
    def most_hosted(self) -> int:
        """At least as many portions as a member ever holds for its guest."""
        if self.turns == 0 or self.size == 1 << self.turns:
            return 0
        last = self.size - 1
        return -(-self.size // (1 << (last ^ last + 1).bit_length()))

    def count(self, point: int, bits: int) -> int:
        """How many members agree with a point in the lowest `bits` bits."""
        lowest = point & ((1 << bits) - 1)
        return (self.size - 1 - lowest) // (1 << bits) + 1 if lowest < self.size else 0

    def portions(self, point: int, turn: int) -> Portions:
        """The portions that a point holds after `turn` turns."""
        begin = sum(self.count(point & ~(1 << bit), bit + 1) for bit in range(turn) if point >> bit & 1)
        return Portions(begin, begin + self.count(point, turn))

    def portion(self, member: int) -> int:
        """The portion that a member has at the end."""
        return self.portions(member, self.turns).begin
