"""A function of the tensor IR as a routine of the loop IR, with its work memory laid out."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass

from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.ir.types import DTYPE_BYTES
from mlc.lower.body import data_of, graph_of, read_indices, reads_of
from mlc.lower.build import Builder
from mlc.lower.dead import drop_dead
from mlc.lower.form import Former, add_places, drop_unread
from mlc.lower.index import Index
from mlc.lower.loops import Attention, Buffer, Columns, Contract, Fold, Kernel, Let, Loop, Nest, Select, Statement, Store
from mlc.lower.storage import choose_storage
from mlc.lower.widen import widen

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Routine:
    """A function as kernels.

    binds:    buffers in the order of the addresses a call passes: parameters, then results
    work:     offset in bytes, inside the work memory a call passes last, of each work buffer
    barriers: for each kernel, whether a barrier stands before it
    in_place: (result, parameter): the result may lie where the parameter lies, if nothing reads the parameter later
    flops:    floating-point operations of the meaning
    """

    name: str
    function: Function
    folds: frozenset[str]
    buffers: Mapping[str, Buffer]
    binds: tuple[str, ...]
    work: Mapping[str, int]
    work_bytes: int
    kernels: tuple[Kernel, ...]
    barriers: tuple[bool, ...]
    in_place: tuple[tuple[str, str], ...]
    flops: int


def _statement_uses(statements: tuple[Statement, ...]) -> tuple[set[str], set[str]]:
    reads: set[str] = set()
    writes: set[str] = set()
    for s in statements:
        match s:
            case Let(value=value) | Fold(value=value):
                reads |= reads_of(value)
            case Store(buffer, index, value, _):
                writes.add(buffer)
                reads |= reads_of(value) | set().union(*(reads_of(d.key) for d in data_of(index)))
            case Loop(body=body):
                inner = _statement_uses(body)
                reads |= inner[0]
                writes |= inner[1]
            case _:
                pass
    return reads, writes


def kernel_uses(kernel: Kernel) -> tuple[frozenset[str], frozenset[str]]:
    """The buffers a kernel reads and those it writes."""
    match kernel:
        case Nest(prologue=prologue, body=body):
            reads, writes = _statement_uses((*prologue, *body))
        case Columns(body=body, results=results):
            reads, _ = _statement_uses(body)
            reads |= set().union(*(reads_of(value) for *_, value in results))
            writes = {buffer for buffer, *_ in results}
        case Contract(a=a, b=b, row_body=row_body, body=body):
            reads, writes = _statement_uses((*row_body, *body))
            reads |= {a.buffer, b.buffer}
        case Attention(vjp=vjp, operands=operands):
            count = 7 if vjp else 4
            reads = {o.buffer for o in operands[:count] if o}
            writes = {o.buffer for o in operands[count:] if o}
        case Select(body=body, value=value, values=values, indices=indices):
            reads, _ = _statement_uses(body)
            reads |= reads_of(value)
            writes = {indices[0]} | ({values[0]} if values else set())
    return frozenset(reads), frozenset(writes)


def lay_out(sizes: Mapping[str, int], lives: Mapping[str, tuple[int, int]]) -> tuple[dict[str, int], int]:
    """Offsets for buffers alive over closed intervals, and the bytes of the whole: largest first, each at the lowest free place.

    sizes: bytes of each buffer. Offsets are multiples of 64 bytes. Buffers of one life lie side by side.
    """
    bundles: dict[tuple[int, int], list[str]] = {}
    for name in sizes:
        bundles.setdefault(lives[name], []).append(name)
    bytes_of = {life: sum(_aligned(sizes[n]) for n in names) for life, names in bundles.items()}
    placed: list[tuple[int, int, int, int]] = []  # start, end, first, last
    offsets: dict[str, int] = {}
    total = 0
    for life in sorted(bundles, key=lambda k: (-bytes_of[k], k)):
        first, last = life
        size = bytes_of[life]
        start = 0
        for low, high, a, b in placed:  # by ascending place
            if start + size <= low:
                break
            if a <= last and first <= b and start < high:
                start = high
        insort(placed, (start, start + size, first, last))
        total = max(total, start + size)
        for name in bundles[life]:
            offsets[name] = start
            start += _aligned(sizes[name])
    return offsets, total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _barriers(
    uses: list[tuple[frozenset[str], frozenset[str]]],
    buffers: Mapping[str, Buffer],
    work: Mapping[str, int],
    in_place: tuple[tuple[str, str], ...],
) -> tuple[bool, ...]:
    """A barrier stands before a kernel that touches what a kernel since the last barrier wrote, or writes what one read."""

    def overlap(a: str, b: str) -> bool:
        if a == b or (a, b) in in_place or (b, a) in in_place:
            return True
        if a not in work or b not in work:
            return False
        end_a = work[a] + buffers[a].elements * DTYPE_BYTES[buffers[a].dtype]
        end_b = work[b] + buffers[b].elements * DTYPE_BYTES[buffers[b].dtype]
        return work[a] < end_b and work[b] < end_a

    def meet(left: set[str] | frozenset[str], right: set[str] | frozenset[str]) -> bool:
        return any(overlap(a, b) for a in left for b in right)

    out: list[bool] = []
    reads: set[str] = set()
    writes: set[str] = set()
    for kernel_reads, kernel_writes in uses:
        needed = meet(kernel_reads, writes) or meet(kernel_writes, writes) or meet(kernel_writes, reads)
        out.append(needed)
        if needed:
            reads, writes = set(), set()
        reads |= kernel_reads
        writes |= kernel_writes
    return tuple(out)


def _touched(statements: tuple[Statement, ...], buffer: str) -> set[Index]:
    """Every index at which statements read or write a buffer."""
    found: set[Index] = set()
    for s in statements:
        match s:
            case Let(value=value) | Fold(value=value):
                found |= read_indices(value, buffer)
            case Store(name, index, value, _):
                found |= read_indices(value, buffer) | ({index} if name == buffer else set())
            case Loop(body=body):
                found |= _touched(body, buffer)
            case _:
                pass
    return found


def _in_place(
    kernels: tuple[Kernel, ...], uses: list[tuple[frozenset[str], frozenset[str]]], buffers: Mapping[str, Buffer]
) -> tuple[tuple[str, str], ...]:
    """Results that one elementwise kernel writes exactly where it reads a parameter that no later kernel reads."""
    found: list[tuple[str, str]] = []
    taken: set[str] = set()
    for result in (b for b in buffers.values() if b.kind == "result"):
        writers = [n for n, (_, writes) in enumerate(uses) if result.name in writes]
        if len(writers) != 1 or any(result.name in reads for reads, _ in uses[: writers[0]]):
            continue
        kernel = kernels[writers[0]]
        if not isinstance(kernel, Nest):
            continue
        for parameter in sorted(uses[writers[0]][0]):
            like = buffers[parameter]
            same = like.kind == "parameter" and (like.dtype, like.elements) == (result.dtype, result.elements) and parameter not in taken
            later = any(parameter in reads for reads, _ in uses[writers[0] + 1 :])
            statements = (*kernel.prologue, *kernel.body)
            if same and not later and len(_touched(statements, parameter) | _touched(statements, result.name)) == 1:
                found.append((result.name, parameter))
                taken.add(parameter)
                break
    return tuple(found)


def lower_function(
    function: Function,
    ops: Mapping[str, Op],
    folds: frozenset[str] = frozenset(),
    name: str | None = None,
    binds: tuple[str, ...] | None = None,
) -> Routine:
    """Lower one function whose composites are expanded.

    folds: results added into their buffers when env->fold is set
    binds: the order in which calls pass addresses; parameters, then results, when not given
    """
    flops = sum(ops[i.op].flops(i) for i in function.instructions)
    function = widen(function, ops)
    graph = graph_of(function, ops)
    storage = choose_storage(graph, folds)
    drafts = Former(graph, storage).run()
    add_places(graph, storage, drafts)
    drop_unread(graph, storage, drafts)
    drafts = [d for d in drafts if d.roots or d.instruction is not None]
    builder = Builder(graph, storage)
    kernels = tuple(drop_dead(builder.build(d)) for d in drafts)
    uses = [kernel_uses(k) for k in kernels]
    sizes: dict[str, int] = {}
    lives: dict[str, tuple[int, int]] = {}
    for buffer in storage.buffers.values():
        if buffer.kind != "work":
            continue
        at = [n for n, (reads, writes) in enumerate(uses) if buffer.name in reads or buffer.name in writes]
        if at:
            sizes[buffer.name] = buffer.elements * DTYPE_BYTES[buffer.dtype]
            lives[buffer.name] = (at[0], at[-1])
    work, work_bytes = lay_out(sizes, lives)
    binds = binds or tuple(v.name for v in (*function.parameters, *function.results))
    buffers = {b.name: b for b in storage.buffers.values() if b.kind != "work" or b.name in work}
    in_place = _in_place(kernels, uses, buffers)
    return Routine(
        name or function.name, function, folds, buffers, binds, work, work_bytes, kernels,
        _barriers(uses, buffers, work, in_place), in_place, flops
    )  # fmt: skip
