"""Modelled seconds of a routine: what it computes at the rate of a core, or what it moves at the rate of memory.

    kernels that contract or attend     max(flops / flops_per_second, bytes / bytes_per_second)
    all other kernels                   max(flops / flops_per_second, bytes / bytes_per_second)
    routine                             the sum of the two

FLOPs are those the ops state. A kernel moves each element of a buffer that it touches once, however often it does: rows that a
gather does not reach are not read, and what a row needs three times stays in the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.lower.expression import Expression, Index, Read, index_nodes, nodes_of
from mlc.lower.loops import (
    Buffer,
    Call,
    Columns,
    Contract,
    Fold,
    Kernel,
    Let,
    Loop,
    Nest,
    Scan,
    Scatter,
    Select,
    Statement,
    Store,
    Whole,
)
from mlc.lower.routine import Routine
from mlc.lower.rules import Machine
from mlc.lower.uses import kernel_uses


def routine_seconds(routine: Routine, machine: Machine) -> float:
    """Modelled seconds of one run of a routine on one core."""
    dense = [_is_dense(kernel) for kernel in routine.kernels]
    moved = [kernel_bytes(kernel, routine.buffers) for kernel in routine.kernels]
    dense_bytes = sum(count for count, is_dense in zip(moved, dense, strict=True) if is_dense)
    rest_flops, rest_bytes = routine.flops - routine.dense_flops, sum(moved) - dense_bytes
    return _seconds(routine.dense_flops, dense_bytes, machine) + _seconds(rest_flops, rest_bytes, machine)


def _is_dense(kernel: Kernel) -> bool:
    match kernel:
        case Contract():
            return True
        case Call(kernel=called):
            return called.dense
        case _:
            return False


def _seconds(flops: int, moved_bytes: int, machine: Machine) -> float:
    return max(flops / machine.flops_per_second, moved_bytes / machine.bytes_per_second)


def kernel_bytes(kernel: Kernel, buffers: Mapping[str, Buffer]) -> int:
    """Bytes a kernel reads and writes. Contractions and kernels of the runtime touch their operands whole."""
    if isinstance(kernel, Contract | Call):
        reads, writes = kernel_uses(kernel)
        return sum(_buffer_bytes(buffers[name], buffers[name].elements) for names in (reads, writes) for name in names)
    touches = _Touches(Counter(), Counter())
    _count_kernel(kernel, touches)
    return sum(_buffer_bytes(buffers[name], count) for side in (touches.reads, touches.writes) for name, count in side.items())


def _buffer_bytes(buffer: Buffer, touched: int) -> int:
    return dtype_of(buffer.dtype).bytes * min(touched, buffer.elements)


@frozen
class _Touches:
    """How often a kernel reads and writes an element of each buffer."""

    reads: Counter[str]
    writes: Counter[str]


def _count_kernel(kernel: Nest | Whole | Scatter | Scan | Columns | Select, touches: _Touches) -> None:
    match kernel:
        case Whole(prologue=prologue, body=body):
            _count_statements((*prologue, *body), 1, touches)
        case Scatter(lines=lines, places=places, along=along):
            _count_statements(kernel.clears, lines.extent * places.extent, touches)
            _count_statements((*kernel.lookup, *kernel.body, *kernel.adds), lines.extent * along.extent, touches)
        case Scan(lines=lines, along=along, body=body):
            _count_statements((*body, kernel.fold, *kernel.stores), lines.extent * along.extent, touches)
        case Nest(prologue=prologue, items=items, body=body):
            _count_statements(prologue, 1, touches)
            _count_statements(body, items.extent, touches)
        case Columns(outer=outer, reduced=reduced, column=column, body=body, results=results):
            times = outer.extent * reduced.extent * column.extent
            _count_statements(body, times, touches)
            for buffer, index, mode, value in results:
                _count_reads((value,), times, touches)
                _count_store(buffer, index, mode, outer.extent * column.extent, touches)
        case Select(items=items, along=along, body=body, value=value, values=values, indices=indices, k=k):
            _count_statements(body, items.extent * along.extent, touches)
            _count_reads((value,), items.extent * along.extent, touches)
            for buffer, index in (place for place in (values, indices) if place is not None):
                _count_store(buffer, index, "write", items.extent * k, touches)


def _count_statements(statements: Sequence[Statement], times: int, touches: _Touches) -> None:
    """Count what statements touch that run so many times."""
    for statement in statements:
        match statement:
            case Let(value=value) | Fold(value=value):
                _count_reads((value,), times, touches)
            case Store(buffer, index, value, mode):
                _count_reads((value,), times, touches)
                _count_store(buffer, index, mode, times, touches)
            case Loop(counter=counter, body=body):
                _count_statements(body, times * counter.extent, touches)
            case _:
                pass


def _count_store(buffer: str, index: Index, mode: str, times: int, touches: _Touches) -> None:
    """A store that adds reads what it adds to."""
    touches.writes[buffer] += times
    touches.reads[buffer] += times if mode != "write" else 0
    for node in index_nodes(index):
        _count_reads((node,), times, touches)


def _count_reads(expressions: Sequence[Expression], times: int, touches: _Touches) -> None:
    for expression in expressions:
        for node in nodes_of(expression):
            if isinstance(node, Read):
                touches.reads[node.buffer] += times
