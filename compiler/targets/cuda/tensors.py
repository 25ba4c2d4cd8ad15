"""Contractions whose operands tensor copies can take: the matrices that operands are, and the epilogue of 8 neighbours at a time.

A tensor copy takes boxes of matrices: elements side by side, rows at multiples of 16 bytes, one matrix behind the other likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from mlc.emit import tree as c
from mlc.emit.body import Body
from mlc.emit.dtypes import register, stored
from mlc.emit.expressions import index_text
from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.lower import index as ix
from mlc.lower.expression import Atom, Checked, Counter, Datum, Index, Operation, Quotient, Read, Remainder
from mlc.lower.loops import Contract, Let, Statement, Store
from mlc.lower.uses import statement_uses
from mlc.targets.cuda.split import BF16, Device, Group, fills

#: Neighbours that a thread has at a time in an epilogue, and the number of the counter that goes over them.
EIGHT, WITHIN = 8, 3

#: What a stride is a multiple of, in elements of bf16; and less than.
ALIGNED, FARTHEST = 8, 1 << 39


@frozen
class Matrix:
    """An operand as tensor copies take it, in elements: the arguments of mlc_tensor_map_of."""

    offset: int
    batches: int
    batch_pitch: int
    rows: int
    pitch: int
    along: int

    def text(self, base: str, box_rows: int, of: str) -> str:
        """What makes its map. of: who it is, where there can be none."""
        place = f"{base} + {self.offset}" if self.offset else base
        numbers = (self.batches, self.batch_pitch, self.rows, self.pitch, self.along, box_rows)
        return f'mlc_tensor_map_of({place}, {", ".join(map(str, numbers))}, env->calls, "{of}")'


def matrix_of(kernel: Contract, which: int, along_k: bool) -> Matrix | None:
    """An operand (1: a, 2: b) whose neighbours in k, or in its other index, lie side by side; None: no matrix that copies could take: of
    rows that overlap the driver's documentation knows nothing."""
    operand, side = (kernel.a, kernel.m) if which == 1 else (kernel.b, kernel.n)
    dims = [_flat(group, which) for group in (kernel.batch, *((side, kernel.k) if along_k else (kernel.k, side)))]
    if None in dims:
        return None
    (batches, batch_pitch), (rows, pitch), (along, step) = (d for d in dims if d is not None)
    pitch = pitch if rows > 1 else _aligned(along)
    batch_pitch = batch_pitch if batches > 1 else rows * pitch
    strides = (pitch, batch_pitch)
    if step != 1 or pitch < along or operand.offset % ALIGNED or any(s % ALIGNED or not 0 < s < FARTHEST for s in strides):
        return None
    return Matrix(operand.offset, batches, batch_pitch, rows, pitch, along)


def matrices_of(device: Device, kernel: Contract) -> tuple[Matrix, Matrix] | None:
    """Both operands, if tensor copies take them and there are tiles enough."""
    if kernel.stored != BF16 or not fills(device, kernel):
        return None
    a, b = (matrix_of(kernel, which, is_along_k(kernel, which)) for which in (1, 2))
    return (a, b) if a and b else None


def is_along_k(kernel: Contract, which: int) -> bool:
    """Whether neighbours in k lie closer than those of the other index."""

    def last(group: Group) -> int:
        steps = [g[which] for g in group if g[0] > 1 and g[which]]
        return steps[-1] if steps else 1 << 60

    return last(kernel.k) <= last(kernel.m if which == 1 else kernel.n)


def _aligned(elements: int) -> int:
    return -(-elements // ALIGNED) * ALIGNED


def _flat(group: Group, which: int) -> tuple[int, int] | None:
    """A group of indices as one: extent and stride. None: neighbours are not equally far from each other everywhere."""
    extent, stride = 1, 0
    for dim in reversed([g for g in group if g[0] > 1]):
        if extent > 1 and dim[which] != extent * stride:
            return None
        stride = dim[which] if extent == 1 else stride
        extent *= dim[0]
    return extent, stride


@frozen
class _Eight:
    """8 neighbours of a buffer, in registers. mode: of the store, "" for what is read; kind: of an element in memory."""

    buffer: str
    name: str
    place: str
    kind: str
    mode: str

    def before(self) -> c.Statement:
        """Its definition; loaded where the values there count."""
        load, kind = f"mlc_load8({self.place})", f"mlc_x8<{self.kind}>"
        match self.mode:
            case "write":
                return c.Define(kind, self.name)
            case "fold":
                return c.Define(kind, self.name, f"env->fold ? {load} : {kind}()")
            case "add":
                return c.Define(kind, self.name, load)
            case _:
                return c.Define(f"const {kind}", self.name, load)


def eight_stores(kernel: Contract, buffers: Mapping[str, tuple[str, str]], integer: str) -> tuple[c.Statement, ...]:
    """The epilogue of 8 neighbours, of sums.v, from `first` on: what lies side by side is loaded before it and stored after it at once."""
    rows = Body(buffers, {0: "batch", 1: "m", 2: "first"})
    before = rows.statements(kernel.row_body)
    found, lines = _eighted(kernel, rows)
    named = {**buffers, **{key: (f"{eight.name}.v", buffers[eight.buffer][1]) for key, eight in found.items()}}
    inner = Body(named, {0: "batch", 1: "m", 2: "n", WITHIN: "e"})
    inner.locals.update({**rows.locals, "acc": kernel.dtype})
    each = (
        c.Define(f"const {integer}", "n", "first + e"),
        c.Define(f"const {register(kernel.dtype).type}", "acc", "sums.v[e]"),
        c.Do("(void)n"),
        *inner.statements(lines),
    )
    return (
        *before,
        *(eight.before() for eight in found.values()),
        c.For("e", "0", str(EIGHT), each, pragma="MLC_UNROLL", kind="int"),
        *(c.Do(f"mlc_store8({eight.place}, {eight.name})") for eight in found.values() if eight.mode),
    )


def _eighted(kernel: Contract, rows: Body) -> tuple[dict[str, _Eight], list[Statement]]:
    """The lines of an epilogue for the element e of 8, and its accesses that are made for 8 at once, by the names they have there."""
    n, e = kernel.counters[2], ix.counter(Counter(WITHIN, EIGHT))
    reads, writes = statement_uses(kernel.body)
    stores = [s.buffer for s in kernel.body if isinstance(s, Store)]
    twice = {buffer for buffer in writes if buffer in reads or stores.count(buffer) > 1}
    found: dict[str, _Eight] = {}

    def eight(buffer: str, index: Index, mode: str) -> str | None:
        name, dtype = rows.buffers[buffer]
        if buffer in twice or dtype_of(dtype).bytes not in (2, 4) or not _side_by_side(index, n):
            return None
        key = f"{buffer}, {index_text(index, rows.names).text}"
        if key not in found:
            place = f"&{rows.element(buffer, index)}"
            found[key] = _Eight(buffer, f"{name}_8_{len(found)}", place, stored(dtype).type, mode)
        return key

    def changed(node: Any) -> Any:
        match node:
            case Read(buffer, index):
                key = eight(buffer, index, "")
                return Read(key, e) if key else node
            case Store(buffer, index, value, mode):
                key = eight(buffer, index, mode)
                return Store(key, e, changed(value), mode) if key else replace(node, value=changed(value))
            case tuple():
                return tuple(map(changed, node))
            case _ if isinstance(node, _PARTS):
                return replace(node, **{field.name: changed(getattr(node, field.name)) for field in fields(node)})
            case _:
                return node

    return found, [changed(line) for line in kernel.body]


#: What a read may stand in, in the line of an epilogue. What is chosen by an index (Within) stays where it is, for it may not be there.
_PARTS = (Let, Operation, Checked)


def _side_by_side(index: Index, n: Counter) -> bool:
    """Whether 8 neighbours from a multiple of 8 on lie side by side, aligned."""
    others = [(atom, coefficient) for atom, coefficient in index.terms if atom != n]
    fixed = all(_fixed(atom, n) for atom, _ in others)
    return (n, 1) in index.terms and fixed and all(k % EIGHT == 0 for _, k in others) and index.constant % EIGHT == 0


def _fixed(atom: Atom, n: Counter) -> bool:
    """Whether an atom has nothing to do with a counter; what is read from memory might."""
    match atom:
        case Counter():
            return atom != n
        case Quotient(index, _) | Remainder(index, _):
            return all(_fixed(inner, n) for inner, _ in index.terms)
        case Datum():
            return False
