"""Kernels of the loop IR as CUDA functions, and the statement that launches each.

A kernel takes the environment of its row by value, whose addresses are of the device, then a pointer to each buffer that it touches. It is
cut into blocks from shapes alone, so its sums have one order on every GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from mlc.diagnostics import InternalError
from mlc.emit import tree as c
from mlc.emit.body import Body
from mlc.emit.dtypes import register, stored
from mlc.emit.expressions import UNARY, index_text, pointer_type
from mlc.emit.kernels_calls import call
from mlc.emit.kernels_loops import select_item
from mlc.emit.printer import c_text
from mlc.frozen import frozen
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Read, data_of, nodes_of
from mlc.lower.library import Operand
from mlc.lower.loops import Buffer, Call, Contract, Kernel, Let, Loop, Nest, Scatter, Select, Statement, Store, Whole
from mlc.lower.substitute import replaced
from mlc.lower.uses import kernel_uses, statement_uses, touched_indices
from mlc.targets.cuda import split
from mlc.targets.cuda.packs import ELEMENT, NARROW, Packs, divisors, packed
from mlc.targets.cuda.split import Group, extent_of
from mlc.targets.cuda.tensors import Matrix, eight_stores, matrix_of

#: Threads of a block.
THREADS = 256

#: Threads of a block that reduces one thing alone.
WHOLE_THREADS = 1024

#: Blocks of a launch: enough for every GPU to be full several times over; the rest is a loop.
MOST_BLOCKS = 4096

#: Elements of a row that a warp still takes alone.
WARP_ROW = 1024

#: Threads of a scatter: each looks at every index, so no more than it takes to have enough additions under way.
SCATTER_THREADS = 32768

#: Rows and columns of the tile of a contraction.
TILE = 64

#: Shared memory of a contraction by warpgroups: MLC_WIDE_BYTES of mlc_contract_wgmma.h.
WIDE_BYTES = 98304

#: Elements from which on a thread takes several neighbours: there are enough for all threads of a GPU.
PACKED = 1 << 20

#: Operands of a routine over ranges of elements: as many as a batch has words for, beside those of its other jobs.
MOST_OPERANDS = 320


@frozen
class Copies:
    """How a target contracts by tensor copies. function: of a header, with `struct`, its barriers, in shared memory.

    tiles:   by columns: rate and end of a tile (split.py)
    sizes:   by columns: threads, and bytes of shared memory
    shared:  columns of tiles that are a block each, two a multiprocessor; blocks of others stay and take the next tile
    """

    function: str
    struct: str
    tiles: Mapping[int, tuple[float, int]]
    sizes: Mapping[int, tuple[int, int]]
    shared: tuple[int, ...]


#: By target. Sizes: mlc_tensor_memory of mlc_contract_tensor.h, mlc_tmem_memory of mlc_contract_tmem.h.
COPIES = {
    "sm_90": Copies(
        "mlc_contract_tensor", "mlc_tensor_barriers", split.TILES, {128: (288, 98304), 192: (384, 180224), 256: (384, 212992)}, (128,)
    ),
    "sm_103": Copies(
        "mlc_contract_tmem", "mlc_tmem_barriers", split.TMEM_TILES, {128: (320, 229376), 192: (320, 196608), 256: (320, 229376)}, ()
    ),
}

#: Rows of a box of a tensor copy that does not go along k.
BOX = 64

_WARP = 32


@frozen
class Launched:
    """A kernel: the definition of its function, nothing where a function of the runtime does it, and what launches it."""

    function: tuple[c.Node, ...]
    launch: tuple[c.Statement, ...]


class _DeviceBody(Body):
    """Statements of one thread. lane, lanes: the threads that share a loop of an item; "" where an item is a thread's."""

    def __init__(self, named: Named, integer: str, lane: str = "", lanes: str = "", scope: str = ""):
        self.own = dict(named.buffers)
        self.at = dict[int, str](enumerate("ijklnop"))
        super().__init__(self.own, self.at)
        self.sizes = named.sizes
        self.integer = integer
        self.lane = lane
        self.lanes = lanes
        self.scope = scope
        self.stores = False

    def statement(self, statement: Statement) -> c.Statement:
        """A loop inside a thread, in order; whatever is not a loop is as in C."""
        if not isinstance(statement, Loop):
            return super().statement(statement)
        counter = self.counters[statement.counter.number]
        return c.For(counter, "0", str(statement.counter.extent), self.statements(statement.body), kind=self.integer)

    def index(self, index: Index) -> str:
        """An index as text."""
        return index_text(index, self.names).within(UNARY)

    def item(self, statements: Sequence[Statement]) -> tuple[c.Statement, ...]:
        """The statements of an item that `lanes` threads share: each takes its iterations of a loop, what they have folded is combined in
        a fixed tree, and what stands outside of loops is computed by all, stored by the first."""
        made: list[c.Statement] = []
        for s in statements:
            match s:
                case Loop():
                    made += self._shared(s)
                case Store():
                    made.append(c.If(f"{self.lane} == 0", (self.statement(s),)))
                    self.stores = True
                case _:
                    made.append(self.statement(s))
        return tuple(made)

    def packs(self, packs: Packs) -> tuple[c.Statement, ...]:
        """A pack of elements, from `first` on."""
        counter, size, extent = packs.counter.number, packs.size, packs.counter.extent
        some = f"{extent} - first" if extent % size else str(size)
        names = {name: f"{self.buffers[buffer][0]}_{name.split()[1]}" for (buffer, _), name in packs.names.items()}
        loaded, first = {name for name, *_ in packs.loads}, Body(self.buffers, {**self.counters, counter: "first"})
        kinds = {name: f"mlc_pack<{stored(self.buffers[buffer][1]).type}, {size}>" for (buffer, _), name in packs.names.items()}
        load = [c.Define(kinds[name], f"{names[name]}(&{first.element(buffer, index)}, {some})") for name, buffer, index in packs.loads]
        clear = [c.Define(kinds[name], names[name]) for name in packs.names.values() if name not in loaded]
        put = [c.Do(f"{names[name]}.put(&{first.element(buffer, index)}, {some})") for name, buffer, index in packs.stores]
        self.own |= {name: (f"{names[name]}.v", self.buffers[buffer][1]) for (buffer, _), name in packs.names.items()}
        self.at[ELEMENT] = "e"
        element: tuple[c.Statement, ...] = (
            c.Define(f"const {self.integer}", self.counters[counter], "first + e"),
            c.Do(f"(void){self.counters[counter]}"),
            *self.statements(packs.body),
        )
        if extent % size:
            element = (c.If("first + e < " + str(extent), element),)
        return (*load, *clear, c.For("e", "0", str(size), element, kind="int", pragma="MLC_UNROLL"), *put)

    def _shared(self, loop: Loop) -> list[c.Statement]:
        """A loop whose iterations the lanes share out. What earlier statements stored is there for all of them."""
        if not loop.independent:
            raise InternalError("emit: the loop of a row has an order")
        before = [c.Do(f"mlc_{self.scope}_sync()")] if self.stores else []
        counter = self.counters[loop.counter.number]
        self.stores = self.stores or any(isinstance(s, Store) for s in loop.body)
        packs = packed(loop.body, loop.counter, self.sizes, int(self.lanes) if self.scope == "warp" else int(self.lanes) // 2)
        if packs:
            step = str(packs.size * int(self.lanes))
            shared = c.For("first", f"{packs.size} * {self.lane}", str(loop.counter.extent), self.packs(packs), step, kind=self.integer)
        else:
            shared = c.For(counter, self.lane, str(loop.counter.extent), self.statements(loop.body), self.lanes, kind=self.integer)
        part = ", part" if self.scope == "block" else ""
        return [*before, shared, *(c.Assign(n, f"mlc_{self.scope}_fold_{combine}({n}{part})") for n, combine in loop.folds)]


@frozen
class Named:
    """What kernels of a routine are made with: C names and stored dtypes of its buffers, the buffers, and the target."""

    buffers: Mapping[str, tuple[str, str]]
    sizes: Mapping[str, Buffer]
    target: str


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
            return _contract(named, name, kernel)
        case Call():
            return Launched((), (call(Body(named.buffers), kernel),))
        case _:
            raise InternalError(f"emit: a {type(kernel).__name__} is not lowered to a device: {kernel.note}")


def flat(named: Named, name: str, kernel: Nest, operands: Sequence[str]) -> Launched:
    """An elementwise kernel as the own job of batches (mlc_batch.h), 4 elements a thread at a time; and the function that launches one,
    which the routine gives to mlc_calls_own. operands: the buffers of the routine in their order."""
    if len(operands) > MOST_OPERANDS:
        raise InternalError(f"emit: {name} has more operands than a launch takes")
    reads, writes = kernel_uses(kernel)
    moved = {n for n in reads | writes if touched_indices((*kernel.prologue, *kernel.body), n) == {ix.counter(kernel.items)}}
    texts = {n: named.buffers[n][0] for n in reads | writes}
    kinds = {n: pointer_type(named.buffers[n][1], True) for n in reads | writes}

    def place(buffer: str, word: str = "place.word") -> str:
        """Where a buffer lies for the item whose words begin there. What does not move with elements is the same for all items."""
        return f"mlc_batch_operand<{kinds[buffer]}>(batch, env, {word}, batch.own, {operands.index(buffer)})"

    def quads(buffers: set[str], arguments: Callable[[str], str]) -> list[c.Statement]:
        return [c.Define(f"mlc_quad<{kinds[n]}>", f"{texts[n]}({arguments(n)})") for n in sorted(buffers)]

    body = _DeviceBody(named, "int64_t")
    scalars = sorted((reads | writes) - moved)
    fixed = [c.Define(f"{pointer_type(named.buffers[n][1], n in writes)} *", texts[n], place(n, "0")) for n in scalars]
    prologue = body.statements(kernel.prologue)
    load = quads(moved & reads, lambda n: f"{place(n)}, place.i, place.some")
    clear = quads(moved - reads, lambda _: "place.i")
    element = (c.Define("const int64_t", "i", "place.i + e"), *body.statements(kernel.body))
    each = c.For("e", "0", "4", element, kind="int", pragma="MLC_UNROLL")
    put = [c.Do(f"{texts[n]}.put({place(n)}, place.some)") for n in sorted(moved & writes)]
    inner = (
        c.Define("const mlc_batch_place", "place", "mlc_batch_find(batch, block, threadIdx.x)"),
        c.If("!place.some", (c.Do("continue"),)),
        c.Assign("own.path", "batch.words[place.word + 2]"),
        c.Do("mlc_batch_jobs(batch, env, place, 0, batch.own)"),
        *load,
        *clear,
        each,
        *put,
        c.Do("mlc_batch_jobs(batch, env, place, batch.own + 1, batch.jobs)"),
    )
    made = (
        c.Define("mlc_env", "own", "env_"),
        c.Define("const mlc_env *", "env", "&own"),
        c.If("mlc_batch_is_shut(env)", (c.Do("return"),)),
        *fixed,
        *prologue,
        c.For("block", "blockIdx.x", "batch.first[batch.items]", inner, "gridDim.x", kind="int"),
    )
    head = f"MLC_KERNEL void __launch_bounds__({THREADS}, 1) {name}(const mlc_env env_, MLC_GIVEN mlc_batch batch)"
    launch = c.Do(f"MLC_LAUNCH({name}, mlc_batch_blocks(batch), {THREADS}, 0, mlc_stream(env), *env, *batch)")
    launcher = c.Function((f"static void {name}_launch(const mlc_env *env, const mlc_batch *batch)",), (launch,))
    call = c.Do(f"mlc_calls_own(env, {name}_launch, at, {len(operands)}, begin, end)")
    return Launched((c.Function((head,), made), c.Blank(), launcher, c.Blank()), (call,))


def _integer(named: Named, kernel: Kernel, items: int) -> str:
    """The type of counters: 32 bits where everything that is counted and indexed fits."""
    reads, writes = kernel_uses(kernel)
    most = max([items, *(named.sizes[n].elements for n in reads | writes)])
    return "int" if most < 1 << 30 else "int64_t"


#: A parameter of a kernel and its argument.
_Parameter = tuple[str, str]


def _parameters(named: Named, uses: tuple[Collection[str], Collection[str]]) -> list[_Parameter]:
    """The buffers that are read and those that are written."""
    reads, writes = uses
    names = sorted({*reads, *writes})
    return [(f"{pointer_type(named.buffers[n][1], n in writes)} *{named.buffers[n][0]}", named.buffers[n][0]) for n in names]


@frozen
class _Grid:
    """How a kernel is launched. shared: bytes of shared memory that are asked for; together: blocks a multiprocessor at least."""

    blocks: int | str
    threads: int
    shared: int = 0
    together: int = 1


def _kernel(name: str, buffers: list[_Parameter], grid: _Grid, body: Sequence[c.Statement], others: Sequence[_Parameter] = ()) -> Launched:
    """A kernel and its launch. Its environment comes first where it reads it, then its buffers, then others."""
    taken = [*buffers, *others]
    if re.search(r"\benv\b", c_text(body)):
        taken = [("const mlc_env env_", "*env"), *taken]
        body = (c.Define("const mlc_env *", "env", "&env_"), *body)
    # A block a multiprocessor is enough where nothing else is said: else ptxas spills a word or two so that more fit.
    bounds = f"__launch_bounds__({grid.threads}, {grid.together})"
    head = _wrapped(f"MLC_KERNEL void {bounds} {name}(", [parameter for parameter, _ in taken])
    arguments = ", ".join(argument for _, argument in taken)
    launch = c.Do(f"MLC_LAUNCH({name}, {grid.blocks}, {grid.threads}, {grid.shared}, mlc_stream(env), {arguments})")
    allow = (c.Do(f"mlc_allow_shared((const void *){name}, {grid.shared})"),) if grid.shared else ()
    return Launched((c.Function(head, tuple(body)), c.Blank()), (*allow, launch))


def _plain(name: str, named: Named, kernel: Kernel, blocks: int, threads: int, body: Sequence[c.Statement]) -> Launched:
    """A kernel of all its buffers, without shared memory that is asked for."""
    return _kernel(name, _parameters(named, kernel_uses(kernel)), _Grid(blocks, threads), body)


def _wrapped(start: str, items: Sequence[str]) -> tuple[str, ...]:
    """A list of parameters in lines of at most 140 characters."""
    lines, line = [], start
    for n, item in enumerate(items):
        text = item + (", " if n + 1 < len(items) else ")")
        if len(line) + len(text) > 140 and line.strip():
            lines.append(line.rstrip())
            line = " " * 8
        line += text
    return (*lines, line)


def _blocks(items: int) -> int:
    """Blocks for so many items of a thread each."""
    return max(1, min(MOST_BLOCKS, -(-items // THREADS)))


def _threads(named: Named, name: str, kernel: Nest) -> Launched:
    """A thread an item, with the items that lie a launch apart."""
    integer = _integer(named, kernel, kernel.items.extent)
    body = _DeviceBody(named, integer)
    prologue = body.statements(kernel.prologue)
    rows, columns, lines = _by_rows(kernel)
    packs = packed(lines, columns, named.sizes, 1) if kernel.items.extent >= PACKED else None
    if not packs:
        loop = c.For("i", "mlc_item()", str(kernel.items.extent), body.statements(kernel.body), "mlc_items()", kind=integer)
        return _plain(name, named, kernel, _blocks(kernel.items.extent), THREADS, (*prologue, loop))
    each = -(-columns.extent // packs.size)
    first = c.Define(f"const {integer}", "first", f"item{'' if rows == 1 else f' % {each}'} * {packs.size}")
    row = [] if rows == 1 else [c.Define(f"const {integer}", "i", f"item / {each}"), c.Do("(void)i")]
    loop = c.For("item", "mlc_item()", str(rows * each), (*row, first, *body.packs(packs)), "mlc_items()", kind=integer)
    return _plain(name, named, kernel, _blocks(rows * each), THREADS, (*prologue, loop))


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
    width, integer = _widest(statements), _integer(named, kernel, items.extent)
    alone = (width <= WARP_ROW and items.extent > 1) or width <= _WARP
    threads = THREADS if alone or width <= 16 * THREADS else WHOLE_THREADS
    scope, lane, lanes = ("warp", "lane", str(_WARP)) if alone else ("block", "lane", str(threads))
    body = _DeviceBody(named, integer, lane, lanes, scope)
    lets = body.statements(prologue)
    inner = body.item(statements)
    # The next item of these lanes must not overtake what others still read.
    again = [c.Do(f"mlc_{scope}_sync()")] if body.stores else []
    loop = c.For("i", f"mlc_{scope}_item()", str(items.extent), (*inner, *again), f"mlc_{scope}_items()", kind=integer)
    shared = [c.Do("MLC_SHARED(uint64_t, part, [32])")] if scope == "block" and _folds(statements) else []
    own = c.Define(f"const {integer}", "lane", "mlc_lane()" if alone else "mlc_thread()")
    grid = min(MOST_BLOCKS, -(-items.extent * _WARP // threads) if alone else items.extent)
    return _plain(name, named, kernel, grid, threads, (*shared, own, *lets, loop))


def _select(named: Named, name: str, kernel: Select) -> Launched:
    """A thread a line."""
    body = _DeviceBody(named, "int64_t")
    loop = c.For("i", "mlc_item()", str(kernel.items.extent), select_item(body, kernel), "mlc_items()")
    return _plain(name, named, kernel, _blocks(kernel.items.extent), THREADS, (loop,))


def _scatter(named: Named, name: str, kernel: Scatter) -> Launched:
    """A thread a line and range of places. All threads look at all indices, of which a warp reads each once, and add in their order; so
    the sums are those of one thread a line, and the more ranges there are the fewer additions wait for each other."""
    lines, along = kernel.lines.extent, kernel.along.extent
    ranges = min(kernel.places.extent, -(-SCATTER_THREADS // lines))
    size = -(-kernel.places.extent // ranges)
    items, integer = lines * ranges, _integer(named, kernel, max(lines * ranges, along))
    body = _DeviceBody(named, integer)
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
    return _plain(name, named, kernel, _blocks(items), THREADS, (loop,))


# ---- contractions ----


def _place(operand: Operand, which: int, groups: Sequence[tuple[Group, int]]) -> Index:
    """Where an element of an operand lies, in the flat counters of its groups. which: 1 of a, 2 of b."""
    total = ix.number(operand.offset)
    for group, number in groups:
        at = ix.unflatten(ix.counter(Counter(number, extent_of(group))), [g[0] for g in group])
        total = ix.add(total, ix.linear(at, [g[which] for g in group]))
    return total


def _along_k(kernel: Contract, which: int) -> bool:
    """Whether neighbours in k lie closer than those of the other index."""

    def last(group: Group) -> int:
        steps = [g[which] for g in group if g[0] > 1 and g[which]]
        return steps[-1] if steps else 1 << 60

    return last(kernel.k) <= last(kernel.m if which == 1 else kernel.n)


def _element(named: Named, operand: Operand, index: Index, names: Mapping[int, str], address: bool) -> str:
    """An element of an operand, or its address."""
    body = Body(named.buffers, names)
    return f"&{body.element(operand.buffer, index)}" if address else body.text(Read(operand.buffer, index))


def _by_vectors(kernel: Contract, which: int) -> bool:
    """Whether 8 neighbours along the denser side of an operand, counted from a multiple of 8, always lie in 16 aligned bytes; the last ones
    may be fewer."""
    operand, side = (kernel.a, kernel.m) if which == 1 else (kernel.b, kernel.n)
    along = kernel.k if _along_k(kernel, which) else side
    others = [g for group in (kernel.batch, side, kernel.k) if group is not along for g in group]
    if not along or along[-1][which] != 1 or (len(along) > 1 and along[-1][0] % 8):
        return False
    return operand.offset % 8 == 0 and all(g[which] % 8 == 0 for g in (*others, *along[:-1]) if g[0] > 1)


@frozen
class _Sums:
    """How the sums of a contraction are made.

    tiles:   blocks
    shared:  what declares `tile`, their shared memory
    call:    makes the sums
    bytes:   of shared memory that is asked for at launch; 0: none
    """

    tiles: int
    shared: tuple[c.Statement, ...]
    call: str
    bytes: int


def _sums(named: Named, kernel: Contract, extents: tuple[int, int, int, int], integer: str) -> _Sums:
    batch, m, n, k = extents
    along = [_text(_along_k(kernel, which)) for which in (1, 2)]
    shape = f"{batch}, {m}, {n}, {k}"
    if kernel.stored != split.BF16:
        call = f"mlc_contract<{shape}, {along[0]}, {along[1]}, {integer}>(tile, a, b, store)"
        return _Sums(batch * -(-m // TILE) * -(-n // TILE), _static("mlc_contract_tile"), call, 0)
    large = batch * -(-m // split.LARGE_TILE) * -(-n // split.LARGE_TILE)
    vectors = [_by_vectors(kernel, which) for which in (1, 2)]
    if _fills(extents) and named.target == "sm_90" and all(vectors):
        call = f"mlc_contract_wgmma<{shape}, mlc_wide_side<{along[0]}>, mlc_wide_side<{along[1]}>, {integer}>(tile, a, b, store)"
        return _Sums(large, (c.Do("MLC_SHARED_DYNAMIC(uint8_t, tile)"),), call, WIDE_BYTES)
    tile = split.LARGE_TILE if large >= split.FULL else TILE
    sides = [f"mlc_side<{tile}, {a}, {_text(v)}>" for a, v in zip(along, vectors, strict=True)]
    call = f"mlc_contract_bf16<{tile}, {tile}, {shape}, {sides[0]}, {sides[1]}, {integer}>(tile, a, b, store)"
    return _Sums(batch * -(-m // tile) * -(-n // tile), _static(f"mlc_slices<{sides[0]}, {sides[1]}>"), call, 0)


def _fills(extents: tuple[int, int, int, int]) -> bool:
    """Whether there are large tiles for half of the multiprocessors."""
    batch, m, n, _ = extents
    return 2 * batch * -(-m // split.LARGE_TILE) * -(-n // split.LARGE_TILE) >= split.FULL


def _text(truth: bool) -> str:
    return "true" if truth else "false"


def _static(kind: str) -> tuple[c.Statement, ...]:
    """Shared memory of a type. The comma of a template's arguments would end an argument of the macro."""
    return (c.Do(f"typedef {kind} shared_type"), c.Do("MLC_SHARED(shared_type, tile, )"))


def _contract(named: Named, name: str, kernel: Contract) -> Launched:
    """Tiles of the result; every product is added in ascending k. On tensor cores where both operands are bf16."""
    if kernel.dtype != "f32":
        raise InternalError(f"emit: a device contracts in f32, not {kernel.dtype}")
    batch, m, n, k = (extent_of(g) for g in (kernel.batch, kernel.m, kernel.n, kernel.k))
    extents, integer = (batch, m, n, k), _integer(named, kernel, batch * m * n)
    if kernel.stored == split.BF16 and _fills(extents):
        matrices = [matrix_of(kernel, which, _along_k(kernel, which)) for which in (1, 2)]
        if matrices[0] and matrices[1]:
            return _by_copies(named, name, kernel, extents, matrices[0], matrices[1])
    sums = _sums(named, kernel, extents, integer)
    a_at = _place(kernel.a, 1, [(kernel.batch, 0), (kernel.m, 1), (kernel.k, 3)])
    b_at = _place(kernel.b, 2, [(kernel.batch, 0), (kernel.k, 3), (kernel.n, 2)])
    names, addresses = {0: "batch", 1: "m", 2: "n", 3: "k"}, kernel.stored == split.BF16
    a, b = (_element(named, o, at, names, addresses) for o, at in ((kernel.a, a_at), (kernel.b, b_at)))
    body = (
        *sums.shared,
        c.Lambda("a", f"{integer} batch, {integer} m, {integer} k", (c.Do("(void)batch, (void)m, (void)k"), c.Do(f"return {a}"))),
        c.Lambda("b", f"{integer} batch, {integer} k, {integer} n", (c.Do("(void)batch, (void)k, (void)n"), c.Do(f"return {b}"))),
        _store(named, kernel, integer),
        c.Do(sums.call),
    )
    grid = _Grid(sums.tiles, THREADS, sums.bytes, 2 if sums.bytes else 1)
    return _kernel(name, _parameters(named, kernel_uses(kernel)), grid, body)


def _store(named: Named, kernel: Contract, integer: str) -> c.Lambda:
    """The epilogue of one element."""
    epilogue = Body(named.buffers, {0: "batch", 1: "m", 2: "n"})
    epilogue.locals["acc"] = kernel.dtype
    stores = epilogue.statements((*kernel.row_body, *kernel.body))
    element = f"{integer} batch, {integer} m, {integer} n, {register(kernel.dtype).type} acc"
    return c.Lambda("store", element, (c.Do("(void)batch, (void)m, (void)n"), *stores))


def _by_copies(named: Named, name: str, kernel: Contract, extents: tuple[int, int, int, int], a: Matrix, b: Matrix) -> Launched:
    """By tensor copies, whose maps of the operands are made by the host at the launch."""
    batch, m, n, k = extents
    by, integer = COPIES[named.target], _integer(named, kernel, batch * m * n)
    columns, along = split.columns_of(*extents, by.tiles), [_along_k(kernel, which) for which in (1, 2)]
    tiles = batch * -(-m // split.LARGE_TILE) * -(-n // columns)
    template = f"{columns}, {batch}, {m}, {n}, {k}, {_text(along[0])}, {_text(along[1])}, {integer}"
    eight = f"{integer} batch, {integer} m, {integer} first, const mlc_x8<float> &sums"
    body = (
        c.Do("MLC_SHARED_DYNAMIC(uint8_t, memory)"),
        c.Do(f"MLC_SHARED({by.struct}, barriers, )"),
        _store(named, kernel, integer),
        c.Lambda("stores", eight, (c.Do("(void)batch, (void)m"), *eight_stores(kernel, named.buffers, integer))),
        c.Do(f"{by.function}<{template}>(memory, barriers, &a_map, &b_map, store, stores)"),
    )
    boxes = [side if along_k else BOX for side, along_k in zip((split.LARGE_TILE, columns), along, strict=True)]
    places = [named.buffers[o.buffer][0] for o in (kernel.a, kernel.b)]
    maps = [matrix.text(place, box) for matrix, place, box in zip((a, b), places, boxes, strict=True)]
    others = [(f"const __grid_constant__ mlc_tensor_map {side}_map", text) for side, text in zip("ab", maps, strict=True)]
    alone = columns not in by.shared
    grid = _Grid(f"mlc_tensor_blocks({tiles})" if alone else tiles, *by.sizes[columns], 1 if alone else 2)
    return _kernel(name, _parameters(named, statement_uses((*kernel.row_body, *kernel.body))), grid, body, others)
