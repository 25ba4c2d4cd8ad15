"""Functions over a flat tensor, which stands for one of any size, and the same over a tensor of given dims."""

from __future__ import annotations

from collections.abc import Callable

from mlc.ir.function import Function, Instruction
from mlc.ir.types import Dim, Factor, TensorType, Value

#: The dim of a flat tensor.
FLAT = Dim((Factor("n", 1024),))


def flat(function: Function, shape: tuple[int, ...]) -> Function:
    """The same function over a flat tensor of any size."""
    return _with_dims(function, lambda dims: tuple(d.size for d in dims) == shape, (FLAT,))


def unflat(function: Function, dims: tuple[Dim, ...]) -> Function:
    """A function over a flat tensor, over one of these dims."""
    return _with_dims(function, is_flat, dims)


def is_flat(dims: tuple[Dim, ...]) -> bool:
    """Whether they are those of a flat tensor."""
    return [f.label for d in dims for f in d.factors] == ["n"]


def _with_dims(function: Function, changes: Callable[[tuple[Dim, ...]], bool], dims: tuple[Dim, ...]) -> Function:
    """The function with other dims in place of those that change; every attribute `dims` is of such a tensor."""

    def change(value: Value) -> Value:
        return Value(value.name, TensorType(value.type.dtype, dims)) if changes(value.type.dims) else value

    instructions = tuple(
        Instruction(
            i.op,
            tuple(change(o) for o in i.operands),
            tuple((k, dims if k == "dims" else v) for k, v in i.attributes),
            tuple(change(r) for r in i.results),
            i.span,
            i.via,
        )
        for i in function.instructions
    )
    return Function(function.name, tuple(map(change, function.parameters)), instructions, tuple(map(change, function.results)))
