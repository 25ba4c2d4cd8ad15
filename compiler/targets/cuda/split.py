"""Contractions whose tiles are few and whose sums are long, as gradients of weights are: parts of k apart, then the sums of these.

before:  acc[m, n] = sum over k of a * b, then the epilogue
after:   partial[piece, m, n] = sum over the piece's k
         for each (m, n): acc = the partial sums in their order, then the epilogue
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from mlc.diagnostics import InternalError
from mlc.frozen import frozen
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Read, Ref
from mlc.lower.loops import Accumulator, Contract, Fold, Kernel, Let, Loop, Nest, Statement, Store
from mlc.lower.rules import Reserve
from mlc.lower.substitute import replaced

#: What tensor cores multiply.
BF16 = ("bf16", "bf16")

#: Rows and columns of a tile of a contraction in bf16, where so many tiles are there that each multiprocessor has one.
LARGE_TILE = 128

#: Tiles by their columns: FLOP/s while each multiprocessor has its share of them, and how much longer k would be in the time that the end
#: of a tile takes, where no other tile is multiplied meanwhile (mlc_contract_tensor.h). After published kernels of the same scheme on an
#: H100 (github.com/pranjalssh/fast.cu): 766 to 777 TF at 6144 to 8192 for blocks that go from tile to tile, 635 to 651 for a block a tile;
#: less for shapes that are not square and what epilogues read.
_TILES: Mapping[int, tuple[float, int]] = {128: (620e12, 0), 192: (680e12, 192), 256: (700e12, 192)}

#: The same by tensor memory (mlc_contract_tmem.h), where ends of tiles run beside products: kernels written by hand reach 1240 TF on a B200
#: with 256 columns; fewer leave the tensor cores waiting for shared memory.
_TMEM_TILES: Mapping[int, tuple[float, int]] = {128: (900e12, 0), 192: (1050e12, 0), 256: (1200e12, 0)}


@frozen
class Device:
    """What tiles are chosen by. processors: its multiprocessors; memory: bytes/s to and from it that are reached; tiles: see above."""

    processors: int
    memory: float
    tiles: Mapping[int, tuple[float, int]]


#: By target. An H100 SXM has 132 multiprocessors, as an H200; a B300 148, a GB300 152: the fewest, so that no GPU has a share to wait for.
DEVICES = {"sm_90": Device(132, 2.9e12, _TILES), "sm_103": Device(148, 6.6e12, _TMEM_TILES)}

#: Products of a sum that is not cut further; parts that a sum is cut into at most.
LEAST_K = 1024
MOST_PIECES = 16

#: An index group of a contraction: (extent, stride of a, stride of b), the densest last.
Group = tuple[tuple[int, int, int], ...]


def extent_of(group: Group) -> int:
    return math.prod(extent for extent, _, _ in group)


def fills(device: Device, kernel: Contract) -> bool:
    """Whether there are large tiles for half of the multiprocessors."""
    batch, m, n = (extent_of(group) for group in (kernel.batch, kernel.m, kernel.n))
    return 2 * batch * -(-m // LARGE_TILE) * -(-n // LARGE_TILE) >= device.processors


def cuts(device: Device, kernel: Contract) -> bool:
    """Whether its sums are cut into pieces."""
    return _pieces(device, kernel) > 1


def split_contraction(device: Device, kernel: Contract, reserve: Reserve) -> tuple[Kernel, ...]:
    """The contraction by the pieces that should take least time, or as it is."""
    pieces = _pieces(device, kernel)
    if pieces == 1:
        return (kernel,)
    batch, m, n = (counter.extent for counter in kernel.counters)
    partial = reserve("partial", kernel.dtype, pieces * batch * m * n)
    (extent, a, b), *inner = kernel.k
    each = extent // pieces
    counters = (Counter(0, pieces * batch), *kernel.counters[1:])
    place = ix.linear([ix.counter(c) for c in counters], [m * n, n, 1])
    parts = replace(
        kernel,
        batch=((pieces, a * each, b * each), *kernel.batch),
        k=((each, a, b), *inner),
        counters=counters,
        row_body=(),
        body=(Store(partial, place, Ref("acc"), "write"),),
    )
    return (parts, _joined(kernel, partial, pieces))


def _pieces(device: Device, kernel: Contract) -> int:
    if kernel.stored != BF16 or not kernel.k:
        return 1
    outer, length = kernel.k[0][0], extent_of(kernel.k)
    found = [p for p in range(2, MOST_PIECES + 1) if outer % p == 0 and length // p >= LEAST_K]
    return min((1, *found), key=lambda p: _cost(device, kernel, p, length))


def _cost(device: Device, kernel: Contract, pieces: int, length: int) -> float:
    """Seconds. Partial sums are written and read once."""
    batch, m, n = (counter.extent for counter in kernel.counters)
    extents = (pieces * batch, m, n, length // pieces)
    products = tile_seconds(device, *extents, columns_of(device, *extents))
    return products + (4 * batch * m * n * (2 * pieces + 1) / device.memory if pieces > 1 else 0)


def columns_of(device: Device, batch: int, m: int, n: int, k: int) -> int:
    """Columns of the tiles that should take least time."""
    return min(device.tiles, key=lambda columns: tile_seconds(device, batch, m, n, k, columns))


def tile_seconds(device: Device, batch: int, m: int, n: int, k: int, columns: int) -> float:
    """Of the products by tiles of so many columns. Multiprocessors with a tile more than others keep them waiting."""
    rate, end = device.tiles[columns]
    turns = -(-batch * -(-m // LARGE_TILE) * -(-n // columns) // device.processors)
    return turns * device.processors * 2 * LARGE_TILE * columns * (k + end) / rate


def _line(statement: Statement) -> Let | Store:
    if isinstance(statement, Let | Store):
        return statement
    raise InternalError(f"lower: an epilogue has a {type(statement).__name__}")


def _joined(kernel: Contract, partial: str, pieces: int) -> Nest:
    """A thread an element: its partial sums in their order, then the epilogue."""
    extents = [counter.extent for counter in kernel.counters]
    item, piece = Counter(0, math.prod(extents)), Counter(1, pieces)
    at = ix.linear([ix.counter(piece), ix.counter(item)], [item.extent, 1])
    places = dict(enumerate(ix.unflatten(ix.counter(item), extents)))
    start, fold = Accumulator("acc", kernel.dtype, "sum"), Fold("acc", "sum", Read(partial, at))
    lines = [_line(statement) for statement in kernel.body]
    lets, stores = [line for line in lines if isinstance(line, Let)], [line for line in lines if isinstance(line, Store)]
    epilogue: list[Statement] = [*replaced([*kernel.row_body, *lets], places), *replaced(stores, places)]
    return Nest(kernel.note, (), item, (start, Loop(piece, (fold,), False), *epilogue), True)
