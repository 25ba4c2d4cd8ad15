"""The loop IR: what a layer function does, as kernels over buffers. No addresses, no target.

Some kernels are loops (Nest), others say what they do (Scatter, Scan, Whole, Columns, Select) until a target lowers them to loops of its
own, or emits them as they are. Independence is stated of every loop, so that a target may share out or vectorise whichever it likes.

A kernel is run by all threads of a rank; its items (rows, blocks) are shared out among them. Between kernels that depend
on each other stands a barrier. A body is a small tree of statements over scalar expressions:

    items row:4096                          row is shared among the threads
      mean.sum := sum
      loop column:768  fold mean.sum += h[768 row + column]
      let mean = mean.sum * 0.0013
      loop column:768  store y[768 row + column] = h[768 row + column] - mean
"""

from __future__ import annotations

from mlc.frozen import frozen
from mlc.lower.arrangement import Arrangement
from mlc.lower.expression import Counter, Expression, Index
from mlc.lower.library import Constants, Operand, RuntimeKernel, Scratch

# Statements.


@frozen
class Let:
    """A local constant; `needs` are the loop counters it depends on."""

    name: str
    dtype: str
    value: Expression
    needs: frozenset[int]


@frozen
class Accumulator:
    """A local variable that Fold changes; starts at 0 for sum, at minus infinity (or the least i32) for max."""

    name: str
    dtype: str
    combine: str


@frozen
class Fold:
    """name = combine(name, value)."""

    name: str
    combine: str
    value: Expression


@frozen
class Store:
    """buffer[index] = value. mode: "write"; "fold": added when env->fold, else written; "add": always added."""

    buffer: str
    index: Index
    value: Expression
    mode: str


@frozen
class Loop:
    """The body for each value of the counter. `independent`: iterations are, but for the folds of `folds`."""

    counter: Counter
    body: tuple[Statement, ...]
    independent: bool
    folds: tuple[tuple[str, str], ...] = ()  # (accumulator, combine)


Statement = Let | Accumulator | Fold | Store | Loop

# Kernels.


@frozen
class Nest:
    """The body for each value of the item counter; items are independent. `vector`: the item loop itself is the inner loop."""

    note: str
    prologue: tuple[Let, ...]
    items: Counter
    body: tuple[Statement, ...]
    vector: bool


@frozen
class Whole:
    """Reductions of whole tensors, and what is computed from them: a nest of a single item, whose loops may be shared out."""

    note: str
    prologue: tuple[Let, ...]
    body: tuple[Statement, ...]


@frozen
class Scatter:
    """Lines of results cleared, then a value added at a place of the line that is looked up, in ascending order of `along`.

    lines:   are independent
    places:  of the result in a line
    along:   elements of the operand in a line
    shared:  whether each line has the same places, so that one look serves them all
    lookup:  locals that need `along`, and `lines` too unless places are shared
    body:    the other locals of the value
    clears:  stores of zero at (line, place)
    adds:    stores that add the value at the place that was looked up
    """

    note: str
    lines: Counter
    places: Counter
    along: Counter
    shared: bool
    lookup: tuple[Let, ...]
    body: tuple[Let, ...]
    clears: tuple[Store, ...]
    adds: tuple[Store, ...]


@frozen
class Scan:
    """Lines, which are independent, combined in ascending order of `along`: each partial value of `fold` is stored."""

    note: str
    lines: Counter
    along: Counter
    start: Accumulator
    body: tuple[Let, ...]
    fold: Fold
    stores: tuple[Store, ...]


@frozen
class Columns:
    """Sums over `reduced` for every value of `outer` and `column`, in ascending order of `reduced` within blocks of rows.

    dtype:   of the values and sums
    results: (buffer, index, mode, value): value is summed
    rows:    of a block; the sums of blocks are summed in their order
    block:   columns of a work item
    """

    note: str
    outer: Counter
    reduced: Counter
    column: Counter
    body: tuple[Let, ...]
    combine: str
    dtype: str
    results: tuple[tuple[str, Index, str, Expression], ...]
    rows: int
    block: int


@frozen
class Contract:
    """acc[batch, m, n] = sum over k of a * b, then the epilogue for each element. Index groups are (extent, a stride, b stride).

    dtype:  of acc
    stored: of the elements of a and of b
    sums:   the work buffer that takes sums of a over m besides, where a target makes them on the way: [blocks of rows, k]
    """

    note: str
    a: Operand
    b: Operand
    batch: tuple[tuple[int, int, int], ...]
    m: tuple[tuple[int, int, int], ...]
    n: tuple[tuple[int, int, int], ...]
    k: tuple[tuple[int, int, int], ...]
    counters: tuple[Counter, Counter, Counter]  # batch, m, n, each flat
    dtype: str
    stored: tuple[str, str]
    row_body: tuple[Let, ...]  # depend on batch and m only
    body: tuple[Statement, ...]
    scratch: Scratch
    sums: str | None = None


@frozen
class Call:
    """A kernel of the runtime, called by all threads. The first `reads` operands are read, the others written.

    function:   of C
    flops:      floating-point operations
    constants:  the fields of the kernel's struct
    workspace:  the work buffer that is passed last; None: none
    """

    note: str
    kernel: RuntimeKernel
    function: str
    flops: int
    operands: tuple[Operand | None, ...]
    reads: int
    constants: tuple[Constants, ...]
    scratch: Scratch
    workspace: str | None


@frozen
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


Kernel = Nest | Whole | Scatter | Scan | Columns | Select | Contract | Call


@frozen
class Buffer:
    """Memory of a function. kind: "parameter" and "result" are bound by the call; "work" is its own while it runs.

    arranged: of what is bound by the call and not canonical: how it lies
    """

    name: str
    dtype: str
    elements: int
    kind: str
    arranged: Arrangement | None = None
