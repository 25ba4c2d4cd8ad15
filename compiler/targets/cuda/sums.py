"""Sums of columns that a contraction makes on its way: it has the rows in shared memory anyway.

A gradient of a bias is the sum over rows of what the contraction beside it multiplies with weights. Where that operand goes there by tensor
copies, warps that do not multiply add up blocks of its rows (mlc_contract_tensor.h), in the order of the sum that this takes the place of:

before:  for each block of rows, column: partial = sum of x; for each column: total = sum of partial
         acc[m, n] = sum over k of x[m, k] * w[k, n]
after:   the contraction, which writes partial; for each column: total = sum of partial
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.lower import index as ix
from mlc.lower.expression import Expression, Operation, Read, Ref
from mlc.lower.loops import Columns, Contract, Kernel
from mlc.lower.uses import kernel_uses
from mlc.targets.cuda.split import Device, cuts
from mlc.targets.cuda.tensors import is_along_k, matrices_of

#: Rows whose sum is one partial sum: MLC_TENSOR_BLOCK of mlc_contract_tensor.h.
ROWS = 64


def sums_on_the_way(device: Device, kernels: Sequence[Kernel]) -> Mapping[int, int]:
    """Contraction -> the sums of columns that it makes, one each, by their places in the list."""
    found: dict[int, int] = {}
    for n, kernel in enumerate(kernels):
        if isinstance(kernel, Columns):
            others = ((at, other) for at, other in enumerate(kernels) if isinstance(other, Contract) and at not in found)
            at = next((at for at, other in others if _has_rows(device, other, kernel) and _may_move(kernels, n, at)), None)
            if at is not None:
                found[at] = n
    return found


def _has_rows(device: Device, contraction: Contract, columns: Columns) -> bool:
    """Whether what is summed are the rows of a, whole, that tensor copies bring along k."""
    if (columns.combine, columns.dtype, columns.rows, len(columns.results)) != ("sum", "f32", ROWS, 1) or cuts(device, contraction):
        return False
    matrices, read = matrices_of(device, contraction), _read(columns)
    if read is None or matrices is None or not is_along_k(contraction, 1) or matrices[0].batches > 1:
        return False
    if read.buffer != contraction.a.buffer:
        return False
    a, rows, column = matrices[0], columns.reduced, columns.column
    at = ix.linear([ix.counter(rows), ix.counter(column)], [a.pitch, 1], a.offset)
    return columns.outer.extent == 1 and (rows.extent, column.extent) == (a.rows, a.along) and rows.extent > ROWS and read.index == at


def _read(columns: Columns) -> Read | None:
    """What is summed, if it is an element of memory as it is there."""
    lets = {let.name: let.value for let in columns.body}
    value: Expression = columns.results[0][3]
    while not isinstance(value, Read):
        match value:
            case Ref(name) if name in lets:
                value = lets[name]
            case Operation("to_f32", (inner,)):
                value = inner
            case _:
                return None
    return value


def _may_move(kernels: Sequence[Kernel], which: int, to: int) -> bool:
    """Whether a kernel may as well run where another does: none between them, itself included, touches what the other one writes."""
    reads, writes = kernel_uses(kernels[which])
    for between in range(min(which, to), max(which, to) + 1):
        if between == which:
            continue
        others_read, others_write = kernel_uses(kernels[between])
        if reads & others_write or writes & (others_read | others_write):
            return False
    return True
