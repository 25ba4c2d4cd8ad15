"""The record of an op: everything the compiler knows of it, in one place.

The table of all ops is `mlc.ops.OPS`; what needs it takes it as an argument, so that ir/ knows no op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlc.frozen import frozen, frozen_by_name
from mlc.ir.factors import Correspondence
from mlc.ir.function import Attribute, Instruction
from mlc.ir.types import TensorType, Value

if TYPE_CHECKING:
    from mlc.ir.builder import Builder

Attributes = Mapping[str, Any]


@frozen
class Keys:
    """What random ops are keyed by, besides their own `ordinal`: the run, the step, the microbatch and the call path.

    `path` is mlc_hash of the call path of the unit; an instruction with {stream="model"} uses the path "" instead.
    """

    seed: int = 0
    step: int = 0
    microbatch: int = 0
    path: int = 0


# Lowering shapes. A target lowers the shapes and knows no op; an op names its shape and knows no target.


@frozen
class Arg:
    """Operand number `index` of a pointwise op, at the current element, in the dtype of its register."""

    index: int


@frozen
class Const:
    """A number; or, with `attribute`, the number held by that attribute of the instruction."""

    value: float | int | bool | None
    attribute: str | None = None


@frozen
class Apply:
    """A scalar operation: `fn` is one of SCALAR_FUNCTIONS."""

    fn: str
    args: tuple[Scalar, ...]


@frozen
class ByAttribute:
    """The scalar listed for the value of an attribute of the instruction: what `cast` computes depends on `dtype`."""

    attribute: str
    cases: tuple[tuple[Attribute, Scalar], ...]


Scalar = Arg | Const | Apply | ByAttribute

#: Every scalar function a target must print, with the number of its arguments. Arithmetic is f32, f64 or i32 by its arguments.
#: div is IEEE on floats; floordiv and mod round to minus infinity (i32); minimum/maximum return NaN if either is NaN.
SCALAR_FUNCTIONS = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "floordiv": 2, "mod": 2, "neg": 1, "abs": 1, "sign": 1,
    "minimum": 2, "maximum": 2, "sqrt": 1, "exp": 1, "log": 1, "log1p": 1, "tanh": 1, "sigmoid": 1, "erf": 1, "sin": 1, "cos": 1,
    "floor": 1, "pow": 2, "less": 2, "less_equal": 2, "equal": 2, "not_equal": 2, "and": 2, "or": 2, "not": 1, "select": 3,
    "to_f32": 1, "to_f64": 1, "to_i32": 1, "to_bool": 1, "round_bf16": 1, "round_f16": 1,
}  # fmt: skip


def resolve(scalar: Scalar, instruction: Instruction) -> Scalar:
    """The scalar with the attributes of `instruction` filled in: made of Arg, Const(value) and Apply only."""
    match scalar:
        case ByAttribute(name, cases):
            return resolve(dict(cases)[instruction.attribute(name)], instruction)
        case Const(_, str() as name):
            value = instruction.attribute(name)
            assert value is None or isinstance(value, bool | int | float)
            return Const(value)
        case Apply(fn, args):
            return Apply(fn, tuple(resolve(a, instruction) for a in args))
        case _:
            return scalar


@frozen
class Pointwise:
    """result[i] = scalar(operands[i]) for every element i; operands have the shape of the result (broadcasts are explicit)."""

    scalar: Scalar


#: Coordinates of an element: anything that +, * , // and % with integers work on. Lowering gives indices of its loops, a test arrays.
Coordinates = tuple[Any, ...]

#: (instruction, number of a result, coordinates of an element) -> coordinates of the same element elsewhere.
Places = Callable[[Instruction, int, Coordinates], Coordinates]


@frozen
class View:
    """Every element of a result is one of the operand, elsewhere.

    name:     for people
    operand:  where an element of a result lies in the operand
    result:   where an element of the operand lies in the result, if every one does: then it can be written there at once; else None
    alias:    whether the result may lie where its operand lies; else it is a value of its own
    """

    name: str
    operand: Places
    result: Places | None
    alias: bool


@frozen
class Move:
    """Elements keep their value, and which one is taken depends on the place or on data. `kind` names the rule that lowering applies:
    concat, pad, gather, take_along."""

    kind: str


@frozen
class Generate:
    """Elements are computed from their index, or from a number given for each: iota, constant, random. `kind` names the rule."""

    kind: str


@frozen
class Reduction:
    """`combine` (sum or max) over attribute `axes`; kept dims are the literal 1 when `keepdims`."""

    combine: str


@frozen
class Contraction:
    """Binary einsum; attribute `spec`."""


@frozen
class Scatter:
    """Adds rows into a zeroed result in the order of the operand's rows. `kind`: scatter_add, put_along."""

    kind: str


@frozen
class Scan:
    """Sequential along attribute `axis`. `kind`: cumsum, top_k, argmax."""

    kind: str


@frozen
class LibraryKernel:
    """A tuned kernel of the runtime, by name."""

    name: str


@frozen
class Composite:
    """Rewritten into simpler ops before lowering: expand(builder, instruction) returns the values of the results."""

    expand: Callable[[Builder, Instruction], tuple[Value, ...]]


Lowering = Pointwise | View | Move | Generate | Reduction | Contraction | Scatter | Scan | LibraryKernel | Composite


@frozen
class NoGradient:
    """The op has no derivative; its operands get none. `why` is shown in the op table."""

    why: str


#: vjp(builder, instruction, cotangents) -> one value (or None for no gradient) per operand. A cotangent is None where no
#: gradient reaches that result. The rule may read instruction.operands and instruction.results (forward values).
Vjp = Callable[["Builder", Instruction, tuple[Value | None, ...]], tuple[Value | None, ...]]


class Rule(Protocol):
    """What the verifier asks of an op, and of what ranks do together (ops/mesh.py)."""

    @property
    def attributes(self) -> tuple[str, ...]: ...

    @property
    def type_rule(self) -> Callable[[tuple[TensorType, ...], Attributes], tuple[TensorType, ...]]: ...


@frozen
class Sample:
    """One test of an op: operand types (text form, "f32[2, 3]"), attributes, and how operands are drawn.

    `draw` per operand: "normal", "positive" (0.1 to 2), "unit" (-0.9 to 0.9), "distinct" (no ties), "index:N" (i32 below N), "mask",
    "nonzero" (i32, either sign), "rising" (i32 from 0).
    """

    operands: tuple[str, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()
    draw: tuple[str, ...] = ()


@frozen_by_name
class Op:
    """One op. No field has a default."""

    name: str
    doc: str
    attributes: tuple[str, ...]  # every instruction has exactly these
    type_rule: Callable[[tuple[TensorType, ...], Attributes], tuple[TensorType, ...]]  # raises OpError
    meaning: Callable[[tuple[np.ndarray, ...], Attributes, Keys], tuple[np.ndarray, ...]]  # dtype-generic: f64 in, f64 out
    vjp: Vjp | NoGradient
    factors: Correspondence
    lowering: Lowering
    flops: Callable[[Instruction], int]
    samples: tuple[Sample, ...]
