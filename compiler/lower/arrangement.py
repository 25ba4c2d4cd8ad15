"""How the elements of a value lie in its buffer: the target's choice for each value, at compile time.

The canonical arrangement is row-major without gaps. Another one may give rows a pitch, order the dims otherwise, or put the indices of
a dim into panels (0 to 31 of it with all of the others, then 32 to 63 ...). Gaps hold nothing that anybody reads. What the runtime itself
reads or writes is canonical: parameters, gradients, states of optimizers, inputs, losses, logits; so checkpoints, digests and views know
no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import field

from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.ir.types import TensorType
from mlc.lower import index as ix
from mlc.lower.expression import Index


@frozen
class Panels:
    """The indices of a dim in panels of `size`; panels lie `stride` elements apart."""

    dim: int
    size: int
    stride: int


@frozen
class Arrangement:
    """An element lies at the sum of stride * index; of a dim in panels, stride * (index mod size) + panel's stride * (index div size).

    strides:   of each dim, in elements
    panels:    of the dims that have any
    elements:  of the buffer, gaps included
    """

    strides: tuple[int, ...]
    panels: tuple[Panels, ...]
    elements: int


#: (dtype, shape) -> how a value of these is arranged.
Arrange = Callable[[str, tuple[int, ...]], Arrangement]


def canonical(shape: Sequence[int]) -> Arrangement:
    """Row-major, without gaps."""
    return Arrangement(ix.row_major(shape), (), math.prod(shape))


def pitched(shape: Sequence[int], to: int) -> Arrangement:
    """Row-major, with rows that begin at multiples of `to` elements."""
    if not shape:
        return canonical(shape)
    wide = (*shape[:-1], -(-shape[-1] // to) * to)
    return Arrangement(ix.row_major(wide), (), math.prod(wide))


def in_panels(shape: Sequence[int], dim: int, size: int) -> Arrangement:
    """Row-major over panels of a dim; inside a panel the dims behind it, then the panel's own indices. The last panel may have gaps.

    in_panels((64, 8), 0, 32):  [64 / 32][8][32]
    """
    outer = (*shape[:dim], -(-shape[dim] // size), *shape[dim + 1 :])
    strides = [size * stride for stride in ix.row_major(outer)]
    panels = Panels(dim, size, strides[dim])
    strides[dim] = 1
    return Arrangement(tuple(strides), (panels,), size * math.prod(outer))


def ordered(shape: Sequence[int], order: Sequence[int]) -> Arrangement:
    """Without gaps, with the dims in this order, the last one densest."""
    strides = dict(zip(order, ix.row_major([shape[d] for d in order]), strict=True))
    return Arrangement(tuple(strides[d] for d in range(len(shape))), (), math.prod(shape))


def is_strided(arrangement: Arrangement) -> bool:
    """Whether a kernel can walk it by strides, the last dim in steps of one element."""
    return not arrangement.panels and arrangement.strides[-1:] in ((), (1,))


@frozen
class Stored:
    """A value between routines: its type, and how it lies in memory."""

    type: TensorType
    arrangement: Arrangement
    bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", self.arrangement.elements * dtype_of(self.type.dtype).bytes)

    @property
    def key(self) -> tuple[str, int | tuple[int, ...], Arrangement | None]:
        """What values have in common that the same elementwise routine serves: their size alone, where they are canonical."""
        if self.arrangement == canonical(self.type.shape):
            return self.type.dtype, self.type.size, None
        return self.type.dtype, self.type.shape, self.arrangement


@frozen
class Placement:
    """Where a value lies: in a buffer, from `offset` elements on, arranged by strides and panels."""

    buffer: str
    offset: int
    strides: tuple[int, ...]
    panels: tuple[Panels, ...] = ()

    def index(self, coordinates: Sequence[Index]) -> Index:
        """Where the element at these coordinates lies."""
        inner, total = list(coordinates), ix.number(self.offset)
        for panels in self.panels:
            at = inner[panels.dim]
            inner[panels.dim] = ix.modulo(at, panels.size)
            total = ix.add(total, ix.scale(ix.divide(at, panels.size), panels.stride))
        return ix.linear(inner, self.strides, self.offset) if not self.panels else ix.add(total, ix.linear(inner, self.strides))


def placed(buffer: str, arrangement: Arrangement) -> Placement:
    """A value so arranged at the start of a buffer."""
    return Placement(buffer, 0, arrangement.strides, arrangement.panels)
