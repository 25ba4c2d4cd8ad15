"""Dims, tensor types and values: the nouns of the tensor IR.

A dim is an ordered product of labelled factors (3 * heads * head). Labels are for people and for sharding; two dims
agree when their sizes agree. The empty product is the literal 1, the only dim that stretches under broadcasting.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import NamedTuple

from mlc.diagnostics import OpError
from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of

#: Elements of one tensor: thousands of the largest still have addresses of 63 bits.
MOST_ELEMENTS = 2**48


class Factor(NamedTuple):
    """One factor of a dim; `label` is "" for a plain integer."""

    label: str
    size: int


@frozen
class Dim:
    """An ordered product of factors. `Dim()` is the literal 1."""

    factors: tuple[Factor, ...] = ()

    @property
    def size(self) -> int:
        size = 1
        for factor in self.factors:
            size *= factor.size
        return size

    @property
    def stretches(self) -> bool:
        return not self.factors

    def __str__(self) -> str:
        if not self.factors:
            return "1"
        return "*".join(f"{f.label}={f.size}" if f.label else str(f.size) for f in self.factors)


#: The literal 1.
ONE = Dim()


def dim(size: int, label: str = "") -> Dim:
    """A dim of one factor; an unlabelled 1 is the literal 1, which stretches."""
    if size == 1 and not label:
        return ONE
    return Dim((Factor(label, size),))


def product(dims: tuple[Dim, ...] | list[Dim]) -> Dim:
    """The dim of several merged into one: factors are kept in order."""
    return Dim(tuple(f for d in dims for f in d.factors if f.label or f.size != 1))


def agree(a: Dim, b: Dim) -> bool:
    return a.size == b.size


@frozen
class TensorType:
    """An element type and dims, row-major; no dims is a scalar. `size` is the number of elements."""

    dtype: str
    dims: tuple[Dim, ...] = ()
    shape: tuple[int, ...] = field(init=False, repr=False, compare=False)
    size: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shape = tuple([d.size for d in self.dims])
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "size", math.prod(shape))

    @property
    def bytes(self) -> int:
        return self.size * dtype_of(self.dtype).bytes

    @property
    def is_float(self) -> bool:
        return dtype_of(self.dtype).is_float

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]"

    def same(self, other: TensorType) -> bool:
        """Equal dtype and sizes; labels do not matter."""
        return self.dtype == other.dtype and (self.dims == other.dims or self.shape == other.shape)


def too_large(what: str, size: int) -> OpError:
    """The refusal of a tensor of so many elements."""
    return OpError("E0211", f"{what}: a tensor of {abbreviated(size)} elements; one has 2**48 at most")


def abbreviated(count: int) -> str:
    """A count in digits while it has few."""
    return f"{count:,}" if count < 10**15 else f"about 2**{count.bit_length() - 1}"


@frozen
class Value:
    """A named tensor, defined once: by an instruction or as a parameter of its function."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}"
