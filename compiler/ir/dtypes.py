"""Element types: one table, in which nothing stands for anything else.

What the whole compiler asks of a dtype is a column here. What one part alone asks (how the interpreter rounds, what C calls it) is a
table of that part with a row for each dtype; `row` looks up either, and a dtype that has no row is an error that names it.
tests/test_dtypes.py adds a dtype and shows what is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from mlc.diagnostics import InternalError
from mlc.frozen import frozen_by_name

T = TypeVar("T")


@frozen_by_name
class DType:
    """One element type. No column has a default.

    bytes:     of a stored element
    kind:      "float", "int" or "bool"
    register:  the dtype that an element has while it is computed with; it is rounded when it is stored
    wide:      the dtype of sums over elements, and of the master, gradients and optimizer states of a parameter
    fits:      the dtypes that hold each of its values
    word:      what NumPy calls a stored element
    stored:    its name in safetensors and digests
    infinite:  the least magnitude that is rounded to infinity; what no float is: none
    vanishing: the largest magnitude that is rounded to 0
    """

    bytes: int
    kind: str
    register: str
    wide: str
    fits: tuple[str, ...]
    word: type[np.generic]
    stored: str
    infinite: float
    vanishing: float

    @property
    def is_float(self) -> bool:
        return self.kind == "float"


NEVER = float("inf")

#: Every dtype by its name in programs; floats first.
DTYPES: dict[str, DType] = {
    "f32": DType(
        bytes=4, kind="float", register="f32", wide="f32", fits=("f32", "f64"), word=np.float32, stored="F32",
        infinite=2.0**128 - 2.0**103, vanishing=2.0**-150,
    ),
    "bf16": DType(
        bytes=2, kind="float", register="f32", wide="f32", fits=("bf16", "f32", "f64"), word=np.uint16, stored="BF16",
        infinite=2.0**128 - 2.0**119, vanishing=2.0**-134,
    ),
    "f16": DType(
        bytes=2, kind="float", register="f32", wide="f32", fits=("f16", "f32", "f64"), word=np.float16, stored="F16",
        infinite=65520.0, vanishing=2.0**-25,
    ),
    "f64": DType(
        bytes=8, kind="float", register="f64", wide="f64", fits=("f64",), word=np.float64, stored="F64",
        infinite=NEVER, vanishing=0.0,
    ),
    "i32": DType(
        bytes=4, kind="int", register="i32", wide="i32", fits=("i32", "f64"), word=np.int32, stored="I32", infinite=NEVER, vanishing=0.0,
    ),
    "bool": DType(
        bytes=1, kind="bool", register="bool", wide="i32", fits=("bool", "i32", "f32", "bf16", "f16", "f64"), word=np.bool_, stored="BOOL",
        infinite=NEVER, vanishing=0.0,
    ),
}  # fmt: skip

FLOAT_DTYPES = tuple(name for name, dtype in DTYPES.items() if dtype.is_float)

#: Floats that sums are taken in.
WIDE_FLOATS = tuple(name for name in FLOAT_DTYPES if DTYPES[name].wide == name)


def row(table: Mapping[str, T], dtype: str, what: str) -> T:
    """The row of a dtype. raises: InternalError that names the dtype and `what` lacks it"""
    if dtype not in table:
        raise InternalError(f"{what} has no dtype {dtype}; it has {', '.join(table)}")
    return table[dtype]


def dtype_of(name: str) -> DType:
    """The columns of a dtype."""
    return DTYPES.get(name) or row(DTYPES, name, "the table of dtypes")


def is_narrow(name: str) -> bool:
    """Is an element rounded when it is stored?"""
    return dtype_of(name).register != name
