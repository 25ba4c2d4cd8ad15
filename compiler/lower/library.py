"""Kernels of the runtime as records: what lowering must know of one to call it, and emission to write the call.

A library kernel of an op (ir/op.py) names its record; a target lists the records that it has. The call is

    function(env, &shape, operands ..., results ..., workspace)

where `shape` is a constant struct and every operand a pointer to the first element of a strided place.
"""

from __future__ import annotations

from collections.abc import Callable

from mlc.frozen import frozen, frozen_by_name
from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower.expression import Number


@frozen
class Operand:
    """A strided view of a buffer: element (i, j, ...) lies at offset + sum of stride * index, in elements."""

    buffer: str
    offset: int
    strides: tuple[int, ...]


@frozen
class Scratch:
    """Memory of one thread while a kernel runs. stated: how the header of the kernel says the same; "" where it says nothing."""

    bytes: int
    stated: str


NO_SCRATCH = Scratch(0, "")

#: What a field of a kernel's struct holds: an integer, a number of a dtype, or the name of a dtype.
Constant = int | Number | str

#: Fields of a kernel's struct that stand in one line.
Constants = tuple[tuple[str, Constant], ...]


@frozen_by_name
class RuntimeKernel:
    """A kernel of the runtime. What it means is the NumPy meaning of the ops that name it.

    name:       what the lowering of an op calls it
    doc:        what it does, for people
    function:   its name in C, which may depend on dtypes
    shape:      the struct of its constants in C
    dtypes:     of the floats that it reads and writes; narrow others are cast to their register's dtype and back, wide others refused
    dense:      whether it does much with each number it reads: costs are reckoned at the rate of contractions
    operands:   what is read, in the order of the call, None for a null pointer; the results follow
    plain:      the operands and results whose strides its struct does not state: they lie row-major without gaps
    constants:  the fields of its struct, from the instruction and the places of operands and results
    scratch:    of each thread
    workspace:  bytes that all threads share while it runs: planned with the values of the routine, passed last; 0: none
    over:       the number of the operand in whose place its result may lie; None: its results lie apart from all it reads
    """

    name: str
    doc: str
    function: Callable[[Instruction], str]
    shape: str
    dtypes: tuple[str, ...]
    dense: bool
    operands: Callable[[Instruction], tuple[Value | None, ...]]
    plain: Callable[[Instruction], tuple[Value, ...]]
    constants: Callable[[Instruction, tuple[Operand | None, ...]], tuple[Constants, ...]]
    scratch: Callable[[Instruction], Scratch]
    workspace: Callable[[Instruction], int]
    over: int | None
