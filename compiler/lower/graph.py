"""A function as lowering walks it: what makes each value, where values lie, and where a move takes an element from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.diagnostics import InternalError
from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Lowering, Move, Op, Reduction, View
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.checks import Check
from mlc.lower.expression import Index
from mlc.lower.rules import Rules


@frozen
class Graph:
    """A function with what makes each value: the instruction, and which of its results.

    rules:  of the target
    checks: by result of a lookup, how its index is checked while the program runs, with the number of the lookup in the program
    """

    function: Function
    ops: Mapping[str, Op]
    rules: Rules
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


def graph_of(function: Function, ops: Mapping[str, Op], rules: Rules, checks: Mapping[str, tuple[Check, int]] | None = None) -> Graph:
    """The graph of a function; ops is the op table. Without checks nothing is checked while the program runs."""
    producers = {r.name: (i, n) for i in function.instructions for n, r in enumerate(i.results)}
    return Graph(function, ops, rules, producers, {} if checks is None else checks)


def scalar_dtype(dtype: str) -> str:
    """The type a stored element has in a register."""
    return dtype_of(dtype).register


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


def view_coordinates(view: View, instruction: Instruction, result: int, at: Sequence[Index]) -> tuple[Index, ...]:
    """Where element `at` of a result lies in the operand."""
    return tuple(map(ix.index_of, view.operand(instruction, result, tuple(map(ix.At, at)))))


def is_view(lowering: Lowering) -> bool:
    """Whether its results may lie where its operand lies."""
    return isinstance(lowering, View) and lowering.alias


def is_concat(lowering: Lowering) -> bool:
    """Whether its operands lie in its result one behind the other."""
    return lowering == Move("concat")


def base_of(graph: Graph, value: Value) -> Value:
    """What a value is a view of."""
    while (produced := graph.producer(value)) and is_view(graph.lowering(produced[0])):
        value = produced[0].operands[0]
    return value
