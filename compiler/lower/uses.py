"""What kernels read and write."""

from __future__ import annotations

from mlc.lower.expression import Expression, Index, keys_of, read_indices, reads_of
from mlc.lower.loops import Call, Columns, Contract, Fold, Kernel, Let, Loop, Nest, Scan, Scatter, Select, Statement, Store, Whole


def statement_uses(statements: tuple[Statement, ...]) -> tuple[set[str], set[str]]:
    """The buffers statements read and those they write."""
    read: list[Expression] = []
    writes: set[str] = set()
    inside = list(statements)
    for s in inside:  # it grows
        match s:
            case Let(value=value) | Fold(value=value):
                read.append(value)
            case Store(buffer, index, value, _):
                writes.add(buffer)
                read += (value, *keys_of(index))
            case Loop(body=body):
                inside += body
            case _:
                pass
    return reads_of(*read), writes


def kernel_uses(kernel: Kernel) -> tuple[frozenset[str], frozenset[str]]:
    """The buffers a kernel reads and those it writes."""
    match kernel:
        case Nest(prologue=prologue, body=body) | Whole(prologue=prologue, body=body):
            reads, writes = statement_uses((*prologue, *body))
        case Scatter():
            reads, writes = statement_uses((*kernel.lookup, *kernel.body, *kernel.clears, *kernel.adds))
        case Scan():
            reads, writes = statement_uses((*kernel.body, kernel.fold, *kernel.stores))
        case Columns(body=body, results=results):
            reads, _ = statement_uses(body)
            reads |= set().union(*(reads_of(value) for *_, value in results))
            writes = {buffer for buffer, *_ in results}
        case Contract(a=a, b=b, row_body=row_body, body=body, sums=sums):
            reads, writes = statement_uses((*row_body, *body))
            reads |= {a.buffer, b.buffer}
            writes |= {sums} if sums else set()
        case Call(operands=operands, reads=count, workspace=workspace):
            reads = {o.buffer for o in operands[:count] if o}
            writes = {o.buffer for o in operands[count:] if o} | ({workspace} if workspace else set())
        case Select(body=body, value=value, values=values, indices=indices):
            reads, _ = statement_uses(body)
            reads |= reads_of(value)
            writes = {indices[0]} | ({values[0]} if values else set())
    return frozenset(reads), frozenset(writes)


def touched_indices(statements: tuple[Statement, ...], buffer: str) -> set[Index]:
    """Every index at which statements read or write a buffer."""
    found: set[Index] = set()
    for s in statements:
        match s:
            case Let(value=value) | Fold(value=value):
                found |= read_indices(value, buffer)
            case Store(name, index, value, _):
                found |= read_indices(value, buffer) | ({index} if name == buffer else set())
            case Loop(body=body):
                found |= touched_indices(body, buffer)
            case _:
                pass
    return found
