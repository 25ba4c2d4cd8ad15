"""A function of the tensor IR as a routine of the loop IR, with its work memory laid out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.lower.arrangement import Arrangement
from mlc.lower.build import build_kernels
from mlc.lower.checks import Facts, checks
from mlc.lower.form import Former, add_places, drop_unread
from mlc.lower.graph import graph_of
from mlc.lower.keep import keep_costly
from mlc.lower.layout import lay_out
from mlc.lower.loops import Buffer, Call, Kernel, Nest
from mlc.lower.rules import Rules, is_dense
from mlc.lower.storage import chosen
from mlc.lower.uses import kernel_uses, touched_indices
from mlc.lower.widen import widen

#: What a kernel reads and what it writes.
Uses = tuple[frozenset[str], frozenset[str]]


@frozen
class Routine:
    """A function as kernels.

    binds:    buffers in the order of the addresses a call passes: parameters, then results
    work:     offset in bytes, inside the work memory a call passes last, of each work buffer
    barriers: for each kernel, whether a barrier stands before it
    in_place: (result, parameter): the result may lie where the parameter lies, if nothing reads the parameter later
    flops:    floating-point operations of the meaning
    dense_flops: those of contractions and of the library kernels that do much with each number they read
    checked:  lookups whose index is checked
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
    dense_flops: int
    checked: int


def lower_function(
    function: Function,
    ops: Mapping[str, Op],
    rules: Rules,
    folds: frozenset[str] = frozenset(),
    name: str | None = None,
    binds: tuple[str, ...] | None = None,
    facts: Facts | None = None,
    first_site: int = 0,
    arranged: Mapping[str, Arrangement] | None = None,
) -> Routine:
    """Lower one function whose composites are expanded, by the rules of a target.

    folds: results added into their buffers when env->fold is set
    binds: the order in which calls pass addresses; parameters, then results, when not given
    arranged: parameters and results that are not canonical
    facts: of a forward function, whose indices are checked; its lookups are numbered from `first_site` on
    """
    flops = sum(ops[i.op].flops(i) for i in function.instructions)
    dense_flops = sum(ops[i.op].flops(i) for i in function.instructions if is_dense(ops[i.op].lowering, rules))
    function = widen(function, ops, rules)
    checked = {} if facts is None else checks(function, ops, facts)
    graph = graph_of(function, ops, rules, {name: (check, first_site + n) for n, (name, check) in enumerate(checked.items())})
    storage = keep_costly(chosen(graph, folds, arranged or {})).storage
    drafts = Former(graph, storage).run()
    add_places(graph, storage, drafts)
    drop_unread(graph, storage, drafts)
    kernels = build_kernels(graph, storage, drafts)
    counts = flops, dense_flops, len(checked)
    return of_kernels(name or function.name, function, kernels, storage.buffers.values(), folds, binds, counts, rules)


def of_kernels(
    name: str,
    function: Function,
    kernels: tuple[Kernel, ...],
    buffers: Iterable[Buffer],
    folds: frozenset[str],
    binds: tuple[str, ...] | None,
    counts: tuple[int, int, int],
    rules: Rules,
) -> Routine:
    """The routine of some kernels: its work memory laid out, its barriers placed.

    buffers: all that the kernels touch, and more
    counts:  flops, those of dense work, checked lookups
    """
    flops, dense_flops, checked = counts
    uses = [kernel_uses(k) for k in kernels]
    work, work_bytes = _work(buffers, uses, rules.alignment)
    known = {b.name: b for b in buffers if b.kind != "work" or b.name in work}
    in_place = _in_place(kernels, uses, known)
    return Routine(
        name=name,
        function=function,
        folds=folds,
        buffers=known,
        binds=binds or tuple(v.name for v in (*function.parameters, *function.results)),
        work=work,
        work_bytes=work_bytes,
        kernels=kernels,
        barriers=_barriers(uses, known, work, in_place),
        in_place=in_place,
        flops=flops,
        dense_flops=dense_flops,
        checked=checked,
    )


def _work(buffers: Iterable[Buffer], uses: Sequence[Uses], alignment: int) -> tuple[dict[str, int], int]:
    """Offsets of the work buffers that some kernel uses, and the bytes of all work memory."""
    lives: dict[str, tuple[int, int]] = {}
    for n, (reads, writes) in enumerate(uses):
        for name in reads | writes:
            lives[name] = (lives.get(name, (n, n))[0], n)
    sizes = {buffer.name: _bytes(buffer) for buffer in buffers if buffer.kind == "work" and buffer.name in lives}
    return lay_out(sizes, lives, alignment)


def _bytes(buffer: Buffer) -> int:
    return buffer.elements * dtype_of(buffer.dtype).bytes


def _barriers(
    uses: Sequence[Uses], buffers: Mapping[str, Buffer], work: Mapping[str, int], in_place: tuple[tuple[str, str], ...]
) -> tuple[bool, ...]:
    """A barrier stands before a kernel that touches what a kernel since the last barrier wrote, or writes what one read."""

    def overlap(a: str, b: str) -> bool:
        if a == b or (a, b) in in_place or (b, a) in in_place:
            return True
        if a not in work or b not in work:
            return False
        return work[a] < work[b] + _bytes(buffers[b]) and work[b] < work[a] + _bytes(buffers[a])

    def meet(left: Iterable[str], right: Iterable[str]) -> bool:
        return any(overlap(a, b) for a in left for b in right)

    barriers: list[bool] = []
    reads: set[str] = set()
    writes: set[str] = set()
    for kernel_reads, kernel_writes in uses:
        needed = meet(kernel_reads, writes) or meet(kernel_writes, writes) or meet(kernel_writes, reads)
        barriers.append(needed)
        if needed:
            reads, writes = set(), set()
        reads |= kernel_reads
        writes |= kernel_writes
    return tuple(barriers)


def _in_place(kernels: Sequence[Kernel], uses: Sequence[Uses], buffers: Mapping[str, Buffer]) -> tuple[tuple[str, str], ...]:
    """Results that one kernel writes exactly where it reads a parameter that no later kernel reads: elementwise, or one of the runtime."""
    found: dict[str, str] = {}  # parameter -> result
    first_read: dict[str, int] = {}
    last_read: dict[str, int] = {}
    writers: dict[str, list[int]] = {}
    for n, (reads, writes) in enumerate(uses):
        for name in reads:
            first_read.setdefault(name, n)
            last_read[name] = n
        for name in writes:
            writers.setdefault(name, []).append(n)
    for result in (b for b in buffers.values() if b.kind == "result"):
        match writers.get(result.name, []):
            case [n] if first_read.get(result.name, n) >= n:
                candidates = frozenset(name for name in uses[n][0] if last_read[name] == n and name not in found)
                parameter = _overwritten(kernels[n], result, candidates, buffers)
                if parameter is not None:
                    found[parameter] = result.name
            case _:
                pass
    return tuple((result, parameter) for parameter, result in found.items())


def _overwritten(kernel: Kernel, result: Buffer, candidates: frozenset[str], buffers: Mapping[str, Buffer]) -> str | None:
    """The first parameter among the candidates that a kernel reads at the one index at which it writes the result."""
    if isinstance(kernel, Call):
        operand = None if kernel.kernel.over is None else kernel.operands[kernel.kernel.over]
        name = None if operand is None else operand.buffer
        return name if name in candidates and buffers[name].kind == "parameter" else None
    if not isinstance(kernel, Nest):
        return None
    statements = (*kernel.prologue, *kernel.body)
    for name in sorted(candidates):
        like = buffers[name]
        same = like.kind == "parameter" and (like.dtype, like.elements) == (result.dtype, result.elements)
        if same and len(touched_indices(statements, name) | touched_indices(statements, result.name)) == 1:
            return name
    return None
