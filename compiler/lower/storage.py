"""Which values of a function lie in memory, and where.

Values are computed inside the kernels that use them unless they must be kept: results of the function, results of
contractions, reductions and library kernels, and what those read. Pieces of a concatenation, and what a result is a view
of, are written in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlc.ir.function import Instruction
from mlc.ir.op import Apply, Contraction, Generate, LibraryKernel, Lowering, Pointwise, Reduction, Scalar, Scan, Scatter
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.expression import Counter
from mlc.lower.graph import VIEWS, Graph, Placement, base_of, move_coordinates
from mlc.lower.loops import Buffer

#: Scalar functions that cost tens of operations: a value made with one is kept rather than computed twice.
EXPENSIVE = ("exp", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow")

#: Coordinates longer than this are no strided place again.
MOST_VIEW_ATOMS = 256


@dataclass(slots=True)
class Storage:
    """memory: where a value can be read. stores: where a value must be written, and how (mode of loops.Store).

    costly: values kept for the sake of work and code alone; where their kernel alone reads them they are its locals
    """

    memory: dict[str, Placement] = field(default_factory=dict)
    stores: dict[str, list[tuple[Placement, str]]] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    copies: dict[str, list[tuple[Value, Placement, str]]] = field(default_factory=dict)  # by the value whose place in the order they take
    costly: set[str] = field(default_factory=set)


def is_opaque(lowering: Lowering) -> bool:
    """Whether a kernel of its own makes the result, reading operands from memory."""
    return isinstance(lowering, Contraction | Scatter | Scan | LibraryKernel)


def is_expensive(lowering: Lowering) -> bool:
    """Whether an element of the result costs tens of operations."""

    def costs(scalar: Scalar) -> bool:
        return isinstance(scalar, Apply) and (scalar.fn in EXPENSIVE or any(costs(a) for a in scalar.args))

    match lowering:
        case Pointwise(scalar):
            return costs(scalar)
        case Generate(kind):
            return kind.startswith("random")
    return False


def work_name(buffers: Mapping[str, Buffer], name: str) -> str:
    """What a work buffer of a value is called; its own name may be taken by the result it is added into."""
    return f"{name}.value" if name in buffers else name


def contiguous(buffer: str, value: Value) -> Placement:
    """A value row-major at the start of a buffer."""
    return Placement(buffer, 0, ix.row_major(value.type.shape))


def through_view(instruction: Instruction, result: int, placement: Placement) -> Placement | None:
    """Where the operand of a view lies when its result lies at `placement`; None when that is not a strided place.

    Only moves that keep every element: reshape and transpose.
    """
    (operand,) = instruction.operands
    fresh = tuple(Counter(n, e) for n, e in enumerate(operand.type.shape))
    at = tuple(ix.counter(c) for c in fresh)
    if instruction.op == "reshape":
        coordinates = ix.unflatten(ix.linear(at, ix.row_major(operand.type.shape)), instruction.results[result].type.shape)
    elif instruction.op == "transpose":
        coordinates = tuple(at[p] for p in instruction.attribute("permutation"))
    else:
        return None
    return affine(placement.buffer, placement.index(coordinates), fresh)


def affine(buffer: str, index: ix.Index, fresh: tuple[Counter, ...]) -> Placement | None:
    """The strided place an index over fresh counters stands for, None when it is not one."""
    strides: list[int] = []
    for c in fresh:
        stride = ix.coefficient_of(index, c.number) if c.extent > 1 else 0
        if stride is None:
            return None
        strides.append(stride)
    if any(not isinstance(atom, Counter) for atom, _ in index.terms):
        return None
    return Placement(buffer, index.constant, tuple(strides))


def view_of(graph: Graph, memory: Mapping[str, Placement], value: Value) -> Placement | None:
    """The strided place of a value that is a view of something in memory; None when it is not."""
    fresh = tuple(Counter(n, e) for n, e in enumerate(value.type.shape))
    at = tuple(ix.counter(c) for c in fresh)
    while value.name not in memory:
        produced = graph.producer(value)
        if produced is None or produced[0].op not in VIEWS:
            return None
        at = move_coordinates(*produced, at)
        if ix.length(at) > MOST_VIEW_ATOMS:
            return None
        value = produced[0].operands[0]
    return affine(memory[value.name].buffer, memory[value.name].index(at), fresh)


class Chooser:
    """Chooses what lies in memory.

    folds: results of the function that are added into what their buffer holds
    """

    def __init__(self, graph: Graph, folds: frozenset[str]):
        self.graph = graph
        self.folds = folds
        self.storage = Storage()
        self.uses: dict[str, int] = {}
        for instruction in graph.function.instructions:
            for operand in instruction.operands:
                self.uses[operand.name] = self.uses.get(operand.name, 0) + 1
        for result in graph.function.results:
            self.uses[result.name] = self.uses.get(result.name, 0) + 1

    def copy(self) -> Chooser:
        """One that has chosen the same so far."""
        other = Chooser(self.graph, self.folds)
        stores = {name: list(places) for name, places in self.storage.stores.items()}
        copies = {name: list(places) for name, places in self.storage.copies.items()}
        other.storage = Storage(dict(self.storage.memory), stores, dict(self.storage.buffers), copies, set(self.storage.costly))
        return other

    def buffer(self, name: str, value: Value, kind: str, dtype: str | None = None) -> Placement:
        """A new buffer that holds a value, in another dtype than its own where one is given."""
        self.storage.buffers[name] = Buffer(name, dtype or value.type.dtype, value.type.size, kind)
        return contiguous(name, value)

    def keep(self, value: Value, placement: Placement | None = None, dtype: str | None = None) -> None:
        """Give a value a place it can be read at."""
        if value.name in self.storage.memory:
            return
        place = placement or self.buffer(work_name(self.storage.buffers, value.name), value, "work", dtype)
        self.storage.memory[value.name] = place
        produced = self.graph.producer(value)
        if produced and produced[0].op == "concat":
            self._distribute(value, produced[0], place, "write")
            return
        self.storage.stores.setdefault(value.name, []).append((place, "write"))

    def _distribute(self, value: Value, concat: Instruction, placement: Placement, mode: str) -> None:
        """Write the pieces of a concatenation straight into it."""
        axis = concat.attribute("axis")
        start = 0
        for operand in concat.operands:
            piece = Placement(placement.buffer, placement.offset + start * placement.strides[axis], placement.strides)
            if not self._put(operand, piece, mode):
                self.storage.copies.setdefault(value.name, []).append((operand, piece, mode))
            start += operand.type.shape[axis]

    def _put(self, value: Value, placement: Placement, mode: str) -> bool:
        """Have a value written at `placement` by what computes it. False when it lies elsewhere already."""
        produced = self.graph.producer(value)
        if produced is None or value.name in self.storage.memory:
            return False
        instruction, result = produced
        if mode == "fold" and self.uses[value.name] > 1:
            return False
        if instruction.op in VIEWS:
            inner = through_view(instruction, result, placement)
            return inner is not None and self._put(instruction.operands[0], inner, mode)
        if mode == "fold":
            return self._put_fold(value, instruction, placement)
        library = isinstance(self.graph.lowering(instruction), LibraryKernel)
        if library and self.storage.buffers[placement.buffer].dtype != value.type.dtype:
            return False
        if library and value.type.dims and value.type.shape[-1] > 1 and placement.strides[-1] != 1:
            return False
        self.keep(value, placement)
        return True

    def _put_fold(self, value: Value, instruction: Instruction, placement: Placement) -> bool:
        lowering = self.graph.lowering(instruction)
        if isinstance(lowering, LibraryKernel | Scan) or instruction.op == "put_along":
            return False
        if instruction.op == "concat":
            self._distribute(value, instruction, placement, "fold")
            return True
        self.storage.stores.setdefault(value.name, []).append((placement, "fold"))
        return True

    def result(self, value: Value) -> None:
        """Give a result of the function its buffer, written by what computes the value where that can be."""
        mode = "fold" if value.name in self.folds else "write"
        placement = self.buffer(value.name, value, "result")
        if self._put(value, placement, mode):
            if mode == "write":
                self.storage.memory.setdefault(value.name, placement)
            return
        self.storage.copies.setdefault(value.name, []).append((value, placement, mode))

    def operands(self) -> None:
        """Keep what opaque kernels read, and what those make that have no loop to fuse into."""
        for instruction in self.graph.function.instructions:
            lowering = self.graph.lowering(instruction)
            if isinstance(lowering, LibraryKernel | Scan | Scatter):
                for result in instruction.results:
                    if result.name not in self.storage.stores:
                        self.keep(result)
            if is_opaque(lowering):
                for operand in instruction.operands:
                    self._keep_view(operand, isinstance(lowering, LibraryKernel))

    def _keep_view(self, operand: Value, last_contiguous: bool) -> None:
        self.keep(base_of(self.graph, operand))
        view = view_of(self.graph, self.storage.memory, operand)
        if view is None or (last_contiguous and operand.type.dims and operand.type.shape[-1] > 1 and view.strides[-1] != 1):
            self.keep(operand)

    def shared(self) -> None:
        """Keep what is expensive and used by several kernels."""
        reach: dict[str, frozenset[str]] = {}
        for instruction in reversed(self.graph.function.instructions):
            lowering = self.graph.lowering(instruction)
            for result in instruction.results:
                into = reach.get(result.name, frozenset())
                if len(into) > 1 and is_expensive(lowering) and result.type.size > 1:
                    self.keep(result)
                if result.name in self.storage.stores or is_kept(lowering):
                    into = frozenset([result.name])
                for operand in instruction.operands:
                    reach[operand.name] = reach.get(operand.name, frozenset()) | into


def is_kept(lowering: Lowering) -> bool:
    """Whether results are not computed by element: they are locals of their kernel, or lie in memory."""
    return is_opaque(lowering) or isinstance(lowering, Reduction)


def chosen(graph: Graph, folds: frozenset[str]) -> Chooser:
    """What must lie in memory, and what is expensive.

    folds: results of the function that are added into what their buffer holds
    Results of contractions and reductions get no place here unless a kernel must read or write them in memory; `form`
    adds one when it could not fuse all who read them.
    """
    chooser = Chooser(graph, folds)
    for parameter in graph.function.parameters:
        placement = chooser.buffer(parameter.name, parameter, "parameter")
        chooser.storage.memory[parameter.name] = placement
    for result in graph.function.results:
        chooser.result(result)
    chooser.operands()
    chooser.shared()
    return chooser
