"""How the elements of a value lie in its buffer: the target's choice for each value, at compile time.

The canonical arrangement is row-major without gaps. Another one may give rows a pitch, order the dims otherwise, or put the indices of
a dim into panels (0 to 31 of it with all of the others, then 32 to 63 ...). Gaps hold nothing, and nobody reads or writes them.

Of what outlives a microbatch, parameters, their gradients and states of optimizers lie as the target chooses too; the runtime takes their
elements in canonical order out of and into where they lie (`runtime/src/model/arranged.h`), so shards, messages between ranks, norms,
checkpoints, digests and views know no other order. Inputs, losses and logits are canonical.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import field
from functools import lru_cache

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

    def __str__(self) -> str:
        """Strides, those of dims in panels with size and stride of these, and elements: `8 1 in 64`, `1/32*256 32 in 512`."""
        panels = {of.dim: f"/{of.size}*{of.stride}" for of in self.panels}
        return " ".join([f"{stride}{panels.get(dim, '')}" for dim, stride in enumerate(self.strides)] + [f"in {self.elements}"])


#: (dtype, shape) -> how a value of these is arranged.
Arrange = Callable[[str, tuple[int, ...]], Arrangement]


#: Arrangement.__str__, and a dim of it.
_TEXT = re.compile(r"((?:\d{1,18}(?:/\d{1,18}\*\d{1,18})? )+)in (\d{1,18})", re.ASCII)
_DIM = re.compile(r"(\d+)(?:/(\d+)\*(\d+))?")


def arranges(text: str) -> bool:
    """Whether a text says an arrangement."""
    return _TEXT.fullmatch(text) is not None


def arrangement_of(text: str) -> Arrangement:
    """The arrangement that a text says; ValueError: it says none."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no arrangement")
    dims = [of.groups() for of in map(_DIM.fullmatch, match[1].split()) if of is not None]
    panels = tuple(Panels(dim, int(size), int(apart)) for dim, (_, size, apart) in enumerate(dims) if size is not None)
    return Arrangement(tuple(int(stride) for stride, _, _ in dims), panels, int(match[2]))


def canonical(shape: Sequence[int]) -> Arrangement:
    """Row-major, without gaps."""
    return _canonical(tuple(shape))


@lru_cache(maxsize=1024)
def _canonical(shape: tuple[int, ...]) -> Arrangement:
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


def chosen_arrangement(arrange: Arrange, dtype: str, shape: tuple[int, ...]) -> Arrangement | None:
    """What a target chooses; None where that is canonical, as every single element is."""
    if math.prod(shape) <= 1:
        return None
    arrangement = arrange(dtype, shape)
    return None if arrangement == canonical(shape) else arrangement


def is_bijective(arrangement: Arrangement, shape: Sequence[int]) -> bool:
    """Whether every element has a place of its own among those of the buffer, shown by strides alone.

    From the densest on, an axis (a dim, or the panels of one) steps over all that the axes before it reach. Then places are numbers of
    mixed radix with gaps, so no two are equal. It is asked of every arrangement of a plan; one that is bijective otherwise is refused.
    """
    if len(arrangement.strides) != len(shape) or len({of.dim for of in arrangement.panels}) != len(arrangement.panels):
        return False
    panels = {of.dim: of for of in arrangement.panels}
    if any(not 0 <= of.dim < len(shape) or of.size < 1 for of in arrangement.panels):
        return False
    axes = [(stride, min(shape[d], panels[d].size) if d in panels else shape[d]) for d, stride in enumerate(arrangement.strides)]
    axes += [(of.stride, -(-shape[of.dim] // of.size)) for of in arrangement.panels]
    reach = 0
    for stride, extent in sorted(axis for axis in axes if axis[1] > 1):
        if stride <= reach:
            return False
        reach += stride * (extent - 1)
    return reach < arrangement.elements


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
    def is_canonical(self) -> bool:
        return self.arrangement == canonical(self.type.shape)

    @property
    def key(self) -> tuple[str, int | tuple[int, ...], Arrangement | None]:
        """What values have in common that the same elementwise routine serves: their size alone, where they are canonical."""
        if self.is_canonical:
            return self.type.dtype, self.type.size, None
        return self.type.dtype, self.type.shape, self.arrangement


@frozen
class StoredParameter:
    """How a parameter lies in memory.

    master:  its gradients lie like it
    copy:    in the dtype that rows read, where that is not the master's
    states:  of its optimizer. Those of a rule that runs over elements lie in canonical order, without gaps, as far as a replica has them
    """

    master: Stored
    copy: Stored | None
    states: tuple[Stored, ...]


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
