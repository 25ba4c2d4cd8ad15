"""Kernels of the loop IR as CUDA functions: which threads take which items."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.diagnostics import InternalError
from mlc.emit import tree as c
from mlc.emit.body import Body
from mlc.emit.kernels_calls import call
from mlc.emit.kernels_loops import select_item
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Read, data_of, nodes_of
from mlc.lower.loops import Call, Contract, Kernel, Let, Loop, Nest, Scatter, Select, Statement, Store, Whole
from mlc.lower.substitute import replaced
from mlc.targets.cuda.contraction import contraction
from mlc.targets.cuda.launch import MOST_BLOCKS, THREADS, Launched, Named, blocks_of, integer_of, plain
from mlc.targets.cuda.packs import NARROW, divisors, packed
from mlc.targets.cuda.thread import DeviceBody

#: Threads of a block that reduces one thing alone.
WHOLE_THREADS = 1024

#: Elements of a row that a warp still takes alone.
WARP_ROW = 1024

#: Threads of a scatter: each looks at every index, so no more than it takes to have enough additions under way.
SCATTER_THREADS = 32768

#: Elements from which on a thread takes several neighbours: there are enough for all threads of a GPU.
PACKED = 1 << 20

_WARP = 32


def launched(named: Named, name: str, kernel: Kernel) -> Launched:
    """A kernel of the loop IR under a name."""
    match kernel:
        case Nest(vector=True):
            return _threads(named, name, kernel)
        case Nest(prologue=prologue, items=items, body=body):
            return _rows(named, name, kernel, prologue, items, body)
        case Whole(prologue=prologue, body=body):
            return _rows(named, name, kernel, prologue, Counter(0, 1), body)
        case Select():
            return _select(named, name, kernel)
        case Scatter():
            return _scatter(named, name, kernel)
        case Contract():
            return contraction(named, name, kernel)
        case Call():
            return Launched((), (call(Body(named.buffers), kernel),))
        case _:
            raise InternalError(f"emit: a {type(kernel).__name__} is not lowered to a device: {kernel.note}")


def _threads(named: Named, name: str, kernel: Nest) -> Launched:
    """A thread an item, with the items that lie a launch apart."""
    integer = integer_of(named, kernel, kernel.items.extent)
    body = DeviceBody(named, integer)
    prologue = body.statements(kernel.prologue)
    rows, columns, lines = _by_rows(kernel)
    packs = packed(lines, columns, named.sizes, 1) if kernel.items.extent >= PACKED else None
    if not packs:
        loop = c.For("i", "mlc_item()", str(kernel.items.extent), body.statements(kernel.body), "mlc_items()", kind=integer)
        return plain(name, named, kernel, blocks_of(kernel.items.extent), THREADS, (*prologue, loop))
    each = -(-columns.extent // packs.size)
    first = c.Define(f"const {integer}", "first", f"item{'' if rows == 1 else f' % {each}'} * {packs.size}")
    row = [] if rows == 1 else [c.Define(f"const {integer}", "i", f"item / {each}"), c.Do("(void)i")]
    loop = c.For("item", "mlc_item()", str(rows * each), (*row, first, *body.packs(packs)), "mlc_items()", kind=integer)
    return plain(name, named, kernel, blocks_of(rows * each), THREADS, (*prologue, loop))


def _by_rows(kernel: Nest) -> tuple[int, Counter, tuple[Statement, ...]]:
    """An elementwise nest by rows that are not cut evenly into packs, if its indices have some: how many rows, which are the counter 0, the
    counter of a row, and the body. Else all elements are one row, whose counter is that of the nest."""
    lines = [s for s in kernel.body if isinstance(s, Let | Store)]
    odd = sorted({d for index in _indices(lines) for d in divisors(index, kernel.items.number) if d % NARROW})
    if len(lines) < len(kernel.body) or not odd or kernel.items.extent % odd[0]:
        return 1, kernel.items, kernel.body
    rows, columns = Counter(0, kernel.items.extent // odd[0]), Counter(1, odd[0])
    at = ix.linear([ix.counter(rows), ix.counter(columns)], [columns.extent, 1])
    lets = replaced([s for s in lines if isinstance(s, Let)], {kernel.items.number: at})
    stores = replaced([s for s in lines if isinstance(s, Store)], {kernel.items.number: at})
    return rows.extent, columns, (*lets, *stores)


def _indices(lines: Sequence[Let | Store]) -> list[Index]:
    """Every index at which lines read or store."""
    stored_at = [line.index for line in lines if isinstance(line, Store)]
    return [*stored_at, *(node.index for node in nodes_of(*(line.value for line in lines)) if isinstance(node, Read))]


def _widest(statements: Sequence[Statement]) -> int:
    """Iterations of the longest loop."""
    return max((s.counter.extent for s in statements if isinstance(s, Loop)), default=1)


def _folds(statements: Sequence[Statement]) -> bool:
    return any(isinstance(s, Loop) and s.folds for s in statements)


def _rows(named: Named, name: str, kernel: Kernel, prologue: Sequence[Let], items: Counter, statements: Sequence[Statement]) -> Launched:
    """A warp or a block an item."""
    width, integer = _widest(statements), integer_of(named, kernel, items.extent)
    alone = (width <= WARP_ROW and items.extent > 1) or width <= _WARP
    threads = THREADS if alone or width <= 16 * THREADS else WHOLE_THREADS
    scope, lane, lanes = ("warp", "lane", str(_WARP)) if alone else ("block", "lane", str(threads))
    body = DeviceBody(named, integer, lane, lanes, scope)
    lets = body.statements(prologue)
    inner = body.item(statements)
    # The next item of these lanes must not overtake what others still read.
    again = [c.Do(f"mlc_{scope}_sync()")] if body.stores else []
    loop = c.For("i", f"mlc_{scope}_item()", str(items.extent), (*inner, *again), f"mlc_{scope}_items()", kind=integer)
    shared = [c.Do("MLC_SHARED(uint64_t, part, [32])")] if scope == "block" and _folds(statements) else []
    own = c.Define(f"const {integer}", "lane", "mlc_lane()" if alone else "mlc_thread()")
    grid = min(MOST_BLOCKS, -(-items.extent * _WARP // threads) if alone else items.extent)
    return plain(name, named, kernel, grid, threads, (*shared, own, *lets, loop))


def _select(named: Named, name: str, kernel: Select) -> Launched:
    """A thread a line."""
    body = DeviceBody(named, "int64_t")
    loop = c.For("i", "mlc_item()", str(kernel.items.extent), select_item(body, kernel), "mlc_items()")
    return plain(name, named, kernel, blocks_of(kernel.items.extent), THREADS, (loop,))


def _scatter(named: Named, name: str, kernel: Scatter) -> Launched:
    """A thread a line and range of places. All threads look at all indices, of which a warp reads each once, and add in their order; so
    the sums are those of one thread a line, and the more ranges there are the fewer additions wait for each other."""
    lines, along = kernel.lines.extent, kernel.along.extent
    ranges = min(kernel.places.extent, -(-SCATTER_THREADS // lines))
    size = -(-kernel.places.extent // ranges)
    items, integer = lines * ranges, integer_of(named, kernel, max(lines * ranges, along))
    body = DeviceBody(named, integer)
    lookup = body.statements(kernel.lookup)
    (place,) = data_of(kernel.adds[0].index)
    adds = body.statements((*kernel.body, *kernel.adds))
    if ranges > 1:
        adds = (c.If(f"{body.index(Index(((place, 1),)))} / {size} == range", adds),)
    item = (
        *([c.Define(f"const {integer}", "i", f"item % {lines}")] if lines > 1 else []),
        *([c.Define(f"const {integer}", "range", f"item / {lines}")] if ranges > 1 else []),
        c.For(body.counters[kernel.along.number], "0", str(along), (*lookup, *adds), kind=integer),
    )
    loop = c.For("item", "mlc_item()", str(items), item, "mlc_items()", kind=integer)
    return plain(name, named, kernel, blocks_of(items), THREADS, (loop,))
