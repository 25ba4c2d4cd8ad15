"""What the loop IR computes with: indices, which say where an element lies, and scalar expressions, which say what it is.

An index is a constant plus a sum of coefficient * atom. Atoms are loop counters, floor divisions and remainders of
indices, and numbers read from memory (gather). An expression has the dtype of a register; it reads buffers at indices.
Each holds the other, so both are here; `index` has the arithmetic of indices.
"""

from __future__ import annotations

from mlc.frozen import frozen

# Indices.


@frozen
class Counter:
    """A loop counter in [0, extent)."""

    number: int
    extent: int


@frozen
class Quotient:
    """floor(index / divisor)."""

    index: Index
    divisor: int


@frozen
class Remainder:
    """index mod divisor, never negative."""

    index: Index
    divisor: int


@frozen
class Datum:
    """A number read from memory, known to be in [0, extent): the value of the expression `key`."""

    key: Expression
    extent: int


Atom = Counter | Quotient | Remainder | Datum


@frozen
class Index:
    """constant + sum of coefficient * atom; no atom twice, no coefficient 0."""

    terms: tuple[tuple[Atom, int], ...] = ()
    constant: int = 0


# Expressions.


@frozen
class Ref:
    """A local: a Let, an Accumulator, or "acc", the block element of a contraction."""

    name: str


@frozen
class Number:
    """A constant; `dtype` is that of a register."""

    value: float | int | bool
    dtype: str


@frozen
class Read:
    """buffer[index], converted to its register when it is stored in a narrow dtype."""

    buffer: str
    index: Index


@frozen
class Position:
    """An index as an i32."""

    index: Index


@frozen
class Random:
    """Random number number `index` of the draw, in a wide float dtype; kind random_uniform or random_normal."""

    kind: str
    ordinal: int
    stream: str
    index: Index
    dtype: str


@frozen
class Operation:
    """A scalar function of mlc.ir.op.SCALAR_FUNCTIONS, or clamp(i, n): the integer nearest to i in [0, n)."""

    fn: str
    args: tuple[Expression, ...]


@frozen
class Within:
    """`inside` where low <= index < high, else `outside`; only the taken one is evaluated."""

    index: Index
    low: int
    high: int
    inside: Expression
    outside: Expression


@frozen
class Checked:
    """clamp(node, extent), which tells the runtime where node is out of range.

    element:  the number of the element in the index; `each` of them belong to a record, 0: unknown
    where:    the place in the model, and the op; site: of the lookups of a program, in the order of its functions
    inputs:   what the index is computed from
    """

    node: Expression
    extent: int
    element: Index
    each: int
    site: int
    where: str
    inputs: tuple[str, ...]


Expression = Ref | Number | Read | Position | Random | Operation | Within | Checked

# Questions about both.


def data_of(index: Index) -> list[Datum]:
    """The numbers read from memory that an index contains."""
    found: list[Datum] = []
    for atom, _ in index.terms:
        if isinstance(atom, Datum):
            found.append(atom)
        elif not isinstance(atom, Counter):
            found.extend(data_of(atom.index))
    return found


def nodes_of(*roots: Expression) -> list[Expression]:
    """Expressions and everything in them, down to what their indices are computed from."""
    found = list(roots)
    for node in found:  # it grows
        match node:
            case Read(_, index) | Position(index) | Random(index=index):
                found += keys_of(index)
            case Operation(_, args):
                found += args
            case Within(index, _, _, inside, outside):
                found += (*keys_of(index), inside, outside)
            case Checked(inner, _, element):
                found += (inner, *keys_of(element))
            case Ref() | Number():
                pass
    return found


def keys_of(index: Index) -> list[Expression]:
    """The expressions an index is computed from."""
    return [datum.key for datum in data_of(index)]


def index_nodes(index: Index) -> list[Expression]:
    """Everything in the expressions an index is computed from."""
    return nodes_of(*keys_of(index))


def indices_of(node: Expression) -> list[Index]:
    """Every index in an expression."""
    match node:
        case Read(_, index) | Position(index) | Random(index=index):
            return [index, *(i for d in data_of(index) for i in indices_of(d.key))]
        case Operation(_, args):
            return [i for a in args for i in indices_of(a)]
        case Within(index, _, _, inside, outside):
            return [index, *indices_of(inside), *indices_of(outside)]
        case Checked(inner, _, element):
            return [element, *indices_of(inner)]
        case Ref() | Number():
            return []


def reads_of(*roots: Expression) -> set[str]:
    """The buffers that expressions read."""
    return {n.buffer for n in nodes_of(*roots) if isinstance(n, Read)}


def read_indices(node: Expression, buffer: str) -> set[Index]:
    """The indices at which an expression reads a buffer."""
    return {n.index for n in nodes_of(node) if isinstance(n, Read) and n.buffer == buffer}


def locals_of(node: Expression) -> set[str]:
    """The locals an expression reads."""
    return {n.name for n in nodes_of(node) if isinstance(n, Ref)}


def index_locals(index: Index) -> set[str]:
    """The locals an index reads."""
    return {n.name for n in index_nodes(index) if isinstance(n, Ref)}
