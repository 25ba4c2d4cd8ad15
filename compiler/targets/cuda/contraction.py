"""Contractions as CUDA functions: a template of the runtime loops, operands and epilogue are lambdas in the emitted kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.diagnostics import InternalError
from mlc.emit import tree as c
from mlc.emit.body import Body
from mlc.emit.dtypes import register
from mlc.frozen import frozen
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Read
from mlc.lower.library import Operand
from mlc.lower.loops import Contract
from mlc.lower.uses import kernel_uses, statement_uses
from mlc.targets.cuda import split
from mlc.targets.cuda.launch import THREADS, Grid, Launched, Named, function, integer_of, parameters
from mlc.targets.cuda.split import Group, extent_of
from mlc.targets.cuda.tensors import Matrix, eight_stores, is_along_k, matrices_of

#: Rows and columns of the tile of a contraction.
TILE = 64

#: Shared memory of a contraction by warpgroups: MLC_WIDE_BYTES of mlc_contract_wgmma.h.
WIDE_BYTES = 98304


@frozen
class Copies:
    """How a target contracts by tensor copies. function: of a header, with `struct`, its barriers, in shared memory.

    sizes:   by columns: threads, and bytes of shared memory
    shared:  columns of tiles that are a block each, two a multiprocessor; blocks of others stay and take the next tile
    beside:  by columns: warps that make sums on the way, and threads that there are more for them
    """

    function: str
    struct: str
    sizes: Mapping[int, tuple[int, int]]
    shared: tuple[int, ...]
    beside: Mapping[int, tuple[int, int]]


#: By target. Sizes: mlc_tensor_memory of mlc_contract_tensor.h, mlc_tmem_memory of mlc_contract_tmem.h.
COPIES = {
    "sm_90": Copies(
        "mlc_contract_tensor",
        "mlc_tensor_barriers",
        {128: (288, 98304), 192: (384, 180224), 256: (384, 212992)},
        (128,),
        {128: (1, 32), 192: (2, 0), 256: (2, 0)},
    ),
    "sm_103": Copies(
        "mlc_contract_tmem",
        "mlc_tmem_barriers",
        {128: (320, 229376), 192: (320, 196608), 256: (320, 229376)},
        (),
        dict.fromkeys((128, 192, 256), (2, 64)),
    ),
}

#: Rows of a box of a tensor copy that does not go along k.
BOX = 64


def contraction(named: Named, name: str, kernel: Contract) -> Launched:
    """Tiles of the result; every product is added in ascending k. On tensor cores where both operands are bf16."""
    if kernel.dtype != "f32":
        raise InternalError(f"emit: a device contracts in f32, not {kernel.dtype}")
    batch, m, n, k = (extent_of(g) for g in (kernel.batch, kernel.m, kernel.n, kernel.k))
    extents, integer = (batch, m, n, k), integer_of(named, kernel, batch * m * n)
    matrices = matrices_of(split.DEVICES[named.target], kernel)
    if matrices:
        return _by_copies(named, name, kernel, extents, *matrices)
    if kernel.sums:
        raise InternalError("emit: a contraction without tensor copies makes no sums on the way")
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
    grid = Grid(sums.tiles, THREADS, sums.bytes, 2 if sums.bytes else 1)
    return function(name, parameters(named, kernel_uses(kernel)), grid, body)


def _by_copies(named: Named, name: str, kernel: Contract, extents: tuple[int, int, int, int], a: Matrix, b: Matrix) -> Launched:
    """By tensor copies, whose maps of the operands are made by the host at the launch."""
    batch, m, n, k = extents
    by, integer = COPIES[named.target], integer_of(named, kernel, batch * m * n)
    columns, along = split.columns_of(split.DEVICES[named.target], *extents), [is_along_k(kernel, which) for which in (1, 2)]
    tiles = batch * -(-m // split.LARGE_TILE) * -(-n // columns)
    template = f"{columns}, {batch}, {m}, {n}, {k}, {_text(along[0])}, {_text(along[1])}, {integer}"
    warps, more = by.beside[columns]
    beside = f"mlc_tensor_sums<{warps}>({named.buffers[kernel.sums][0]})" if kernel.sums else "mlc_tensor_alone()"
    eight = f"{integer} batch, {integer} m, {integer} first, const mlc_x8<float> &sums"
    body = (
        c.Do("MLC_SHARED_DYNAMIC(uint8_t, memory)"),
        c.Do(f"MLC_SHARED({by.struct}, barriers, )"),
        _store(named, kernel, integer),
        c.Lambda("stores", eight, (c.Do("(void)batch, (void)m"), *eight_stores(kernel, named.buffers, integer))),
        c.Define("const auto", "beside", beside),
        c.Do(f"{by.function}<{template}>(memory, barriers, &a_map, &b_map, store, stores, beside)"),
    )
    boxes = [side if along_k else BOX for side, along_k in zip((split.LARGE_TILE, columns), along, strict=True)]
    places = [named.buffers[o.buffer][0] for o in (kernel.a, kernel.b)]
    maps = [matrix.text(place, box, f"{name}: {place}") for matrix, place, box in zip((a, b), places, boxes, strict=True)]
    others = [(f"const __grid_constant__ mlc_tensor_map {side}_map", text) for side, text in zip("ab", maps, strict=True)]
    alone = columns not in by.shared
    threads, shared = by.sizes[columns]
    grid = Grid(f"mlc_tensor_blocks({tiles})" if alone else tiles, threads + (more if kernel.sums else 0), shared, 1 if alone else 2)
    reads, writes = statement_uses((*kernel.row_body, *kernel.body))
    return function(name, parameters(named, (reads, writes | ({kernel.sums} if kernel.sums else set()))), grid, body, others)


def _store(named: Named, kernel: Contract, integer: str) -> c.Lambda:
    """The epilogue of one element."""
    epilogue = Body(named.buffers, {0: "batch", 1: "m", 2: "n"})
    epilogue.locals["acc"] = kernel.dtype
    stores = epilogue.statements((*kernel.row_body, *kernel.body))
    element = f"{integer} batch, {integer} m, {integer} n, {register(kernel.dtype).type} acc"
    return c.Lambda("store", element, (c.Do("(void)batch, (void)m, (void)n"), *stores))


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
    along = [_text(is_along_k(kernel, which)) for which in (1, 2)]
    shape = f"{batch}, {m}, {n}, {k}"
    if kernel.stored != split.BF16:
        call = f"mlc_contract<{shape}, {along[0]}, {along[1]}, {integer}>(tile, a, b, store)"
        return _Sums(batch * -(-m // TILE) * -(-n // TILE), _static("mlc_contract_tile"), call, 0)
    large = batch * -(-m // split.LARGE_TILE) * -(-n // split.LARGE_TILE)
    vectors = [_by_vectors(kernel, which) for which in (1, 2)]
    if split.fills(split.DEVICES[named.target], kernel) and named.target == "sm_90" and all(vectors):
        call = f"mlc_contract_wgmma<{shape}, mlc_wide_side<{along[0]}>, mlc_wide_side<{along[1]}>, {integer}>(tile, a, b, store)"
        return _Sums(large, (c.Do("MLC_SHARED_DYNAMIC(uint8_t, tile)"),), call, WIDE_BYTES)
    tile = split.LARGE_TILE if large >= split.DEVICES[named.target].processors else TILE
    sides = [f"mlc_side<{tile}, {a}, {_text(v)}>" for a, v in zip(along, vectors, strict=True)]
    call = f"mlc_contract_bf16<{tile}, {tile}, {shape}, {sides[0]}, {sides[1]}, {integer}>(tile, a, b, store)"
    return _Sums(batch * -(-m // tile) * -(-n // tile), _static(f"mlc_slices<{sides[0]}, {sides[1]}>"), call, 0)


def _place(operand: Operand, which: int, groups: Sequence[tuple[Group, int]]) -> Index:
    """Where an element of an operand lies, in the flat counters of its groups. which: 1 of a, 2 of b."""
    total = ix.number(operand.offset)
    for group, number in groups:
        at = ix.unflatten(ix.counter(Counter(number, extent_of(group))), [g[0] for g in group])
        total = ix.add(total, ix.linear(at, [g[which] for g in group]))
    return total


def _element(named: Named, operand: Operand, index: Index, names: Mapping[int, str], address: bool) -> str:
    """An element of an operand, or its address."""
    body = Body(named.buffers, names)
    return f"&{body.element(operand.buffer, index)}" if address else body.text(Read(operand.buffer, index))


def _by_vectors(kernel: Contract, which: int) -> bool:
    """Whether 8 neighbours along the denser side of an operand, counted from a multiple of 8, always lie in 16 aligned bytes; the last ones
    may be fewer."""
    operand, side = (kernel.a, kernel.m) if which == 1 else (kernel.b, kernel.n)
    along = kernel.k if is_along_k(kernel, which) else side
    others = [g for group in (kernel.batch, side, kernel.k) if group is not along for g in group]
    if not along or along[-1][which] != 1 or (len(along) > 1 and along[-1][0] % 8):
        return False
    return operand.offset % 8 == 0 and all(g[which] % 8 == 0 for g in (*others, *along[:-1]) if g[0] > 1)


def _text(truth: bool) -> str:
    return "true" if truth else "false"


def _static(kind: str) -> tuple[c.Statement, ...]:
    """Shared memory of a type. The comma of a template's arguments would end an argument of the macro."""
    return (c.Do(f"typedef {kind} shared_type"), c.Do("MLC_SHARED(shared_type, tile, )"))
