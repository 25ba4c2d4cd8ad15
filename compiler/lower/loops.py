"""The loop IR: what a layer function does, as kernels over buffers. No addresses, no target.

A kernel is run by all threads of a rank; its items (rows, blocks) are shared out among them. Between kernels that depend
on each other stands a barrier. A body is a small tree of statements over scalar expressions:

    items row:4096                          row is shared among the threads
      mean.sum := sum
      loop column:768  fold mean.sum += h[768 row + column]
      let mean = mean.sum * 0.0013
      loop column:768  store y[768 row + column] = h[768 row + column] - mean
"""

from __future__ import annotations

from dataclasses import dataclass

from mlc.lower.expression import Counter, Expression, Index

# Statements.


@dataclass(frozen=True, slots=True)
class Let:
    """A local constant; `needs` are the loop counters it depends on."""

    name: str
    dtype: str
    value: Expression
    needs: frozenset[int]


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A local variable that Fold changes; starts at 0 for sum, at minus infinity (or the least i32) for max."""

    name: str
    dtype: str
    combine: str


@dataclass(frozen=True, slots=True)
class Fold:
    """name = combine(name, value)."""

    name: str
    combine: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Store:
    """buffer[index] = value. mode: "write"; "fold": added when env->fold, else written; "add": always added."""

    buffer: str
    index: Index
    value: Expression
    mode: str


@dataclass(frozen=True, slots=True)
class Loop:
    """The body for each value of the counter. `parallel`: iterations are independent but for the folds of `folds`."""

    counter: Counter
    body: tuple[Statement, ...]
    parallel: bool
    folds: tuple[tuple[str, str], ...] = ()  # (accumulator, combine)


Statement = Let | Accumulator | Fold | Store | Loop

# Kernels.


@dataclass(frozen=True, slots=True)
class Nest:
    """The body for each value of the item counter; items are independent. `vector`: the item loop itself is the inner loop."""

    note: str
    prologue: tuple[Let, ...]
    items: Counter
    body: tuple[Statement, ...]
    vector: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """Sums over `reduced` for every value of `outer` and `column`, in ascending order of `reduced` within blocks of rows.

    results: (buffer, index, mode, value): value is summed.
    """

    note: str
    outer: Counter
    reduced: Counter
    column: Counter
    body: tuple[Let, ...]
    combine: str
    results: tuple[tuple[str, Index, str, Expression], ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """A strided view of a buffer: element (i, j, ...) lies at offset + sum of stride * index, in elements."""

    buffer: str
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """acc[batch, m, n] = sum over k of a * b, then the epilogue for each element. Index groups are (extent, a stride, b stride)."""

    note: str
    a: Operand
    b: Operand
    batch: tuple[tuple[int, int, int], ...]
    m: tuple[tuple[int, int, int], ...]
    n: tuple[tuple[int, int, int], ...]
    k: tuple[tuple[int, int, int], ...]
    counters: tuple[Counter, Counter, Counter]  # batch, m, n, each flat
    row_body: tuple[Let, ...]  # depend on batch and m only
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention kernels of the runtime. operands: q, k, v, mask or None, then y, lse (and dy, dq, dk, dv for the vjp)."""

    note: str
    vjp: bool
    dims: tuple[int, ...]  # batch, time, keys, heads, groups, head, value
    operands: tuple[Operand | None, ...]
    scale: float
    causal: bool
    dtype: str


@dataclass(frozen=True, slots=True)
class Select:
    """The k largest of each row with their indices; ties take the lowest index. `values` is None for argmax."""

    note: str
    items: Counter
    along: Counter
    body: tuple[Let, ...]
    value: Expression
    dtype: str
    k: int
    values: tuple[str, Index] | None  # buffer, index with `rank` counting the k
    indices: tuple[str, Index]
    rank: Counter


Kernel = Nest | Columns | Contract | Attention | Select


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of a function. kind: "parameter" and "result" are bound by the call; "work" is its own while it runs."""

    name: str
    dtype: str
    elements: int
    kind: str
