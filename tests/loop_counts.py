"""Counts what a routine does: the scalar operations that its loops execute, exactly, and those that its instructions stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mlc.ir.function import Function, Instruction
from mlc.ir.op import Apply, Generate, Move, Pointwise, Reduction, Scalar, Scan, Scatter, resolve
from mlc.lower.expression import Counter, Expression, Index, Operation, Position, Quotient, Random, Read, Remainder, Within
from mlc.lower.loops import Columns, Contract, Fold, Kernel, Let, Loop, Nest, Select, Statement, Store
from mlc.lower.routine import Routine
from mlc.ops import OPS


def meant(function: Function) -> int:
    """The operations of the instructions, each done once for each element; contractions and library kernels apart.

    A choice of where an element comes from counts its tests: one for each piece, two for each padded axis, three for an index.
    """
    return sum(_own(i) * _over(i) for i in function.instructions)


def _over(instruction: Instruction) -> int:
    """The elements an instruction goes over."""
    over_operand = isinstance(OPS[instruction.op].lowering, Reduction | Scatter)
    return (instruction.operands[0] if over_operand else instruction.results[0]).type.size


def _own(instruction: Instruction) -> int:
    match OPS[instruction.op].lowering:
        case Pointwise(scalar):
            return _scalar(resolve(scalar, instruction))
        case Generate(kind):
            return int(kind.startswith("random"))
        case Reduction() | Scan():
            return 1
        case Scatter():
            return 3
        case Move():
            rank = len(instruction.results[0].type.dims)
            return {"concat": len(instruction.operands), "pad": 2 * rank, "gather": 3, "take_along": 3}.get(instruction.op, 0)
    return 0


def _scalar(scalar: Scalar) -> int:
    return 1 + sum(map(_scalar, scalar.args)) if isinstance(scalar, Apply) else 0


def executed(routine: Routine) -> int:
    """The operations that a run of the routine executes; inside contractions, attention and scans of memory nothing is counted."""
    return sum(_kernel(k) for k in routine.kernels)


class _Space:
    """The places of some loop counters: every index as an array over them."""

    def __init__(self, counters: Sequence[Counter]):
        self.counters = list(counters)
        self.shape = tuple(c.extent for c in counters)

    def inside(self, counter: Counter) -> _Space:
        return _Space([*self.counters, counter])

    def index(self, index: Index) -> np.ndarray:
        total = np.full(self.shape, index.constant)
        for atom, coefficient in index.terms:
            match atom:
                case Counter(number, _):
                    at = next(n for n, c in enumerate(self.counters) if c.number == number)
                    values = np.arange(self.shape[at]).reshape([-1 if n == at else 1 for n in range(len(self.shape))])
                case Quotient(inner, divisor):
                    values = self.index(inner) // divisor
                case Remainder(inner, divisor):
                    values = self.index(inner) % divisor
                case _:
                    values = np.zeros(())
            total = total + coefficient * values.astype(int)
        return total

    def ops(self, node: Expression, mask: np.ndarray | None = None) -> int:
        """Operations of an expression at the places of the mask."""
        mask = np.ones(self.shape, bool) if mask is None else mask
        match node:
            case Operation(_, args):
                return int(mask.sum()) + sum(self.ops(a, mask) for a in args)
            case Within(index, low, high, inside, outside):
                place = self.index(index)
                taken = (place >= low) & (place < high)
                return int(mask.sum()) + self.ops(inside, mask & taken) + self.ops(outside, mask & ~taken)
            case Random():
                return int(mask.sum())
            case Read() | Position():
                return 0
        return 0

    def statements(self, statements: Sequence[Statement]) -> int:
        return sum(self._statement(s) for s in statements)

    def _statement(self, statement: Statement) -> int:
        match statement:
            case Let(value=value) | Store(value=value):
                return self.ops(value)
            case Fold(value=value):
                return self.ops(value) + math.prod(self.shape)
            case Loop(counter=counter, body=body):
                return self.inside(counter).statements(body)
            case _:
                return 0


def _kernel(kernel: Kernel) -> int:
    match kernel:
        case Nest():
            return _Space([]).statements(kernel.prologue) + _Space([kernel.items]).statements(kernel.body)
        case Columns():
            whole = _Space([kernel.outer, kernel.reduced, kernel.column])
            values = [value for *_, value in kernel.results]
            rows = _Space([kernel.outer, kernel.reduced])
            lets = sum(whole.ops(v.value) if kernel.column.number in v.needs else rows.ops(v.value) for v in kernel.body)
            return lets + sum(whole.ops(v) + math.prod(whole.shape) for v in values)
        case Contract():
            batch, m, n = kernel.counters
            return _Space([batch, m]).statements(kernel.row_body) + _Space([batch, m, n]).statements(kernel.body)
        case Select():
            space = _Space([kernel.items, kernel.along])
            return space.statements(kernel.body) + space.ops(kernel.value)
    return 0
