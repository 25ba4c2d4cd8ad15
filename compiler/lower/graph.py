"""A function as lowering walks it: what makes each value, where values lie, and where a move takes an element from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlc.diagnostics import InternalError
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Lowering, Op, Reduction
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.checks import Check
from mlc.lower.expression import Index


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a value lies: element (i, j, ...) at offset + sum of stride * index of the buffer, in elements."""

    buffer: str
    offset: int
    strides: tuple[int, ...]

    def index(self, coordinates: Sequence[Index]) -> Index:
        return ix.linear(coordinates, self.strides, self.offset)


@dataclass(frozen=True, slots=True)
class Graph:
    """A function with what makes each value: the instruction, and which of its results.

    checks: by result of a lookup, how its index is checked while the program runs, with the number of the lookup in the program
    """

    function: Function
    ops: Mapping[str, Op]
    producers: Mapping[str, tuple[Instruction, int]]
    checks: Mapping[str, tuple[Check, int]]

    def producer(self, value: Value) -> tuple[Instruction, int] | None:
        """The instruction that makes a value, with the number of the result it is; None for a parameter."""
        return self.producers.get(value.name)

    def maker(self, value: Value) -> Instruction:
        """The instruction that makes a value, which is no parameter."""
        produced = self.producers.get(value.name)
        if produced is None:
            raise InternalError(f"lower: {value} is made by no instruction")
        return produced[0]

    def lowering(self, instruction: Instruction) -> Lowering:
        return self.ops[instruction.op].lowering

    def combine(self, reduction: Instruction) -> str:
        """How a reduction combines elements: sum or max."""
        lowering = self.lowering(reduction)
        if not isinstance(lowering, Reduction):
            raise InternalError(f"lower: {reduction.op} is no reduction")
        return lowering.combine


def graph_of(function: Function, ops: Mapping[str, Op], checks: Mapping[str, tuple[Check, int]] | None = None) -> Graph:
    """The graph of a function; ops is the op table. Without checks nothing is checked while the program runs."""
    producers = {r.name: (i, n) for i in function.instructions for n, r in enumerate(i.results)}
    return Graph(function, ops, producers, {} if checks is None else checks)


def scalar_dtype(dtype: str) -> str:
    """The type a stored element has in a register."""
    return dtype if dtype in ("i32", "bool") else "f32"


def reduced_axes(reduction: Instruction) -> tuple[int, ...]:
    """The axes of the operand that a reduction goes over, counted from 0."""
    rank = len(reduction.operands[0].type.dims)
    return tuple(a % rank for a in reduction.attribute("axes"))


def reduction_order(reduction: Instruction) -> tuple[int, ...]:
    """The axes of a reduction's operand in the order in which it is walked: rows are reduced last, columns keep their last axes."""
    rank = len(reduction.operands[0].type.dims)
    reduced = reduced_axes(reduction)
    kept = tuple(d for d in range(rank) if d not in reduced)
    if is_over_rows(reduction):
        return (*kept, *reduced)
    tail = max(reduced)
    return (*(d for d in kept if d < tail), *reduced, *(d for d in kept if d > tail))


def is_over_rows(reduction: Instruction) -> bool:
    """Whether the last axis is reduced, or all are, or none is."""
    rank = len(reduction.operands[0].type.dims)
    reduced = reduced_axes(reduction)
    return not reduced or rank - 1 in reduced or len(set(reduced)) == rank


def move_coordinates(instruction: Instruction, result: int, at: Sequence[Index]) -> tuple[Index, ...]:
    """Where element `at` of a result of a one-to-one move lies in its operand."""
    (operand, *_) = instruction.operands
    match instruction.op:
        case "reshape":
            shape = instruction.results[0].type.shape
            return ix.unflatten(ix.linear(at, ix.row_major(shape)), operand.type.shape)
        case "transpose":
            permutation = instruction.attribute("permutation")
            source = dict(zip(permutation, at, strict=True))
            return tuple(source[d] for d in range(len(permutation)))
        case "slice":
            starts, steps = instruction.attribute("starts"), instruction.attribute("steps")
            return tuple(ix.add(ix.number(a), ix.scale(i, s)) for i, a, s in zip(at, starts, steps, strict=True))
        case "broadcast":
            axes = instruction.attribute("axes")
            return tuple(ix.ZERO if d.size == 1 else at[a] for d, a in zip(operand.type.dims, axes, strict=True))
        case "split":
            axis = instruction.attribute("axis")
            start = sum(d.size for d in instruction.attribute("sizes")[:result])
            return tuple(ix.add(i, ix.number(start)) if d == axis else i for d, i in enumerate(at))
        case "copy" | "stop_gradient":
            return tuple(at)
    raise InternalError(f"lower: {instruction.op} is not a one-to-one move")


#: Moves that rename places: their result is a view of their operand.
VIEWS = ("reshape", "transpose", "slice", "broadcast", "split")


def base_of(graph: Graph, value: Value) -> Value:
    """What a value is a view of."""
    while (produced := graph.producer(value)) and produced[0].op in VIEWS:
        value = produced[0].operands[0]
    return value
