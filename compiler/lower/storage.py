"""Which values of a function lie in memory, and where.

Values are computed inside the kernels that use them unless they must be kept: results of the function, results of
contractions, reductions and library kernels, and what those read. Pieces of a concatenation, and what a result is a view
of, are written in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlc.diagnostics import InternalError
from mlc.ir.function import Instruction
from mlc.ir.op import Apply, Contraction, Generate, LibraryKernel, Lowering, Pointwise, Reduction, Scalar, Scan, Scatter, View
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.arrangement import Arrangement, Placement, canonical, is_strided, ordered, placed
from mlc.lower.expression import Counter
from mlc.lower.graph import Graph, base_of, is_concat, view_coordinates
from mlc.lower.groups import index_groups, spec_of
from mlc.lower.loops import Buffer

#: Coordinates longer than this are no strided place again.
MOST_VIEW_ATOMS = 256


@dataclass(slots=True)
class Storage:
    """memory: where a value can be read. stores: where a value must be written, and how (mode of loops.Store).

    strided: values again, as kernels that walk by strides read them, where their own place is none
    regrouped: (result of a contraction, 0 or 1) -> that operand again, in an order that its kernel can walk
    costly: values kept for the sake of work and code alone; where their kernel alone reads them they are its locals
    """

    memory: dict[str, Placement] = field(default_factory=dict)
    stores: dict[str, list[tuple[Placement, str]]] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    copies: dict[str, list[tuple[Value, Placement, str]]] = field(default_factory=dict)  # by the value whose place in the order they take
    strided: dict[str, Placement] = field(default_factory=dict)
    regrouped: dict[tuple[str, int], Placement] = field(default_factory=dict)
    costly: set[str] = field(default_factory=set)


def is_opaque(lowering: Lowering) -> bool:
    """Whether a kernel of its own makes the result, reading operands from memory."""
    return isinstance(lowering, Contraction | Scatter | Scan | LibraryKernel)


def is_expensive(lowering: Lowering, expensive: frozenset[str]) -> bool:
    """Whether an element of the result takes one of the expensive scalar functions, or a random number."""

    def costs(scalar: Scalar) -> bool:
        return isinstance(scalar, Apply) and (scalar.fn in expensive or any(costs(a) for a in scalar.args))

    match lowering:
        case Pointwise(scalar):
            return costs(scalar)
        case Generate(kind):
            return kind.startswith("random")
    return False


def work_name(buffers: Mapping[str, Buffer], name: str) -> str:
    """What a work buffer of a value is called; its own name may be taken by the result it is added into."""
    return f"{name}.value" if name in buffers else name


def through_view(view: View, instruction: Instruction, result: int, placement: Placement) -> Placement | None:
    """Where the operand of a view lies when its result lies at `placement`; None when that is not a strided place, or not every element."""
    if view.result is None:
        return None
    (operand,) = instruction.operands
    fresh = tuple(Counter(n, e) for n, e in enumerate(operand.type.shape))
    coordinates = tuple(map(ix.index_of, view.result(instruction, result, tuple(ix.At(ix.counter(c)) for c in fresh))))
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
        view = None if produced is None else graph.lowering(produced[0])
        if produced is None or not isinstance(view, View) or not view.alias:
            return None
        at = view_coordinates(view, *produced, at)
        if ix.length(at) > MOST_VIEW_ATOMS:
            return None
        value = produced[0].operands[0]
    return affine(memory[value.name].buffer, memory[value.name].index(at), fresh)


class Chooser:
    """Chooses what lies in memory.

    folds: results of the function that are added into what their buffer holds
    arranged: parameters and results that are not canonical
    """

    def __init__(self, graph: Graph, folds: frozenset[str], arranged: Mapping[str, Arrangement]):
        self.graph = graph
        self.folds = folds
        self.arranged = arranged
        self.storage = Storage()
        self.uses: dict[str, int] = {}
        for instruction in graph.function.instructions:
            for operand in instruction.operands:
                self.uses[operand.name] = self.uses.get(operand.name, 0) + 1
        for result in graph.function.results:
            self.uses[result.name] = self.uses.get(result.name, 0) + 1

    def copy(self) -> Chooser:
        """One that has chosen the same so far."""
        other = Chooser(self.graph, self.folds, self.arranged)
        stores = {name: list(places) for name, places in self.storage.stores.items()}
        copies = {name: list(places) for name, places in self.storage.copies.items()}
        again = (dict(self.storage.strided), dict(self.storage.regrouped))
        other.storage = Storage(dict(self.storage.memory), stores, dict(self.storage.buffers), copies, *again, set(self.storage.costly))
        return other

    def bound(self, value: Value, kind: str) -> Placement:
        """The buffer of a parameter or result."""
        plain = canonical(value.type.shape)
        arrangement = self.arranged.get(value.name) or plain
        arranged = None if arrangement == plain else arrangement
        self.storage.buffers[value.name] = Buffer(value.name, value.type.dtype, arrangement.elements, kind, arranged)
        return placed(value.name, arrangement)

    def work(self, value: Value, dtype: str | None = None, strided: bool = False) -> Placement:
        """A new buffer for a value, in another dtype than its own where one is given. strided: its kernel walks by strides."""
        dtype = dtype or value.type.dtype
        return add_work(self.graph, self.storage, work_name(self.storage.buffers, value.name), value, dtype, strided)

    def keep(self, value: Value, placement: Placement | None = None, dtype: str | None = None, strided: bool = False) -> None:
        """Give a value a place it can be read at."""
        if value.name in self.storage.memory:
            return
        place = placement or self.work(value, dtype, strided)
        self.storage.memory[value.name] = place
        produced = self.graph.producer(value)
        if produced and is_concat(self.graph.lowering(produced[0])) and not place.panels:
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
        lowering = self.graph.lowering(instruction)
        if (mode == "fold" and self.uses[value.name] > 1) or (is_concat(lowering) and placement.panels):
            return False
        if isinstance(lowering, View) and lowering.alias:
            inner = through_view(lowering, instruction, result, placement)
            return inner is not None and self._put(instruction.operands[0], inner, mode)
        if mode == "fold":
            return self._put_fold(value, instruction, placement)
        library = isinstance(lowering, LibraryKernel)
        if library and self.storage.buffers[placement.buffer].dtype != value.type.dtype:
            return False
        if library and not _is_walked(value, placement, value.name in self._plain(instruction)):
            return False
        self.keep(value, placement)
        return True

    def _put_fold(self, value: Value, instruction: Instruction, placement: Placement) -> bool:
        lowering = self.graph.lowering(instruction)
        if isinstance(lowering, LibraryKernel | Scan) or lowering == Scatter("put_along"):
            return False
        if is_concat(lowering):
            self._distribute(value, instruction, placement, "fold")
            return True
        self.storage.stores.setdefault(value.name, []).append((placement, "fold"))
        return True

    def result(self, value: Value) -> None:
        """Give a result of the function its buffer, written by what computes the value where that can be."""
        mode = "fold" if value.name in self.folds else "write"
        placement = self.bound(value, "result")
        if self._put(value, placement, mode):
            if mode == "write":
                self.storage.memory.setdefault(value.name, placement)
            return
        if self.storage.buffers[value.name].arranged is not None:
            self._put_aside(value, mode)
        self.storage.copies.setdefault(value.name, []).append((value, placement, mode))

    def _put_aside(self, value: Value, mode: str) -> None:
        """Have a result that cannot be written where it lies written beside it, if it could be were it canonical: no bit depends on that.

        What computes it rounds to the dtype of its buffer; in a place of its own it would be rounded to one more dtype.
        """
        place = placed(work_name(self.storage.buffers, value.name), canonical(value.type.shape))
        buffer = Buffer(place.buffer, value.type.dtype, value.type.size, "work")
        trial = self.copy()
        trial.storage.buffers[place.buffer] = buffer
        if trial._put(value, place, mode):
            self.storage.buffers[place.buffer] = buffer
            self._put(value, place, "write")

    def operands(self) -> None:
        """Keep what opaque kernels read, and what those make that have no loop to fuse into."""
        for instruction in self.graph.function.instructions:
            lowering = self.graph.lowering(instruction)
            if isinstance(lowering, LibraryKernel | Scan | Scatter):
                for result in instruction.results:
                    if result.name not in self.storage.stores:
                        plain = self.bare(result) if result.name in self._plain(instruction) else None
                        self.keep(result, plain, strided=isinstance(lowering, LibraryKernel))
            if is_opaque(lowering):
                for operand in instruction.operands:
                    self._keep_view(operand, isinstance(lowering, LibraryKernel), operand.name in self._plain(instruction))
            if isinstance(lowering, Contraction):
                self._regroup(instruction)

    def _plain(self, instruction: Instruction) -> set[str]:
        """Names of the values of a library kernel that lie row-major without gaps."""
        lowering = self.graph.lowering(instruction)
        kernel = self.graph.rules.kernels.get(lowering.name) if isinstance(lowering, LibraryKernel) else None
        return set() if kernel is None else {value.name for value in kernel.plain(instruction)}

    def bare(self, value: Value) -> Placement:
        """A new canonical buffer for a value."""
        buffer = work_name(self.storage.buffers, value.name)
        self.storage.buffers[buffer] = Buffer(buffer, value.type.dtype, value.type.size, "work")
        return placed(buffer, canonical(value.type.shape))

    def _keep_view(self, operand: Value, library: bool, plain: bool) -> None:
        self.keep(base_of(self.graph, operand))
        view = view_of(self.graph, self.storage.memory, operand)
        if view is not None and (not library or _is_walked(operand, view, plain)):
            return
        if operand.name not in self.storage.memory:
            self.keep(operand, self.bare(operand) if plain else None, strided=True)
        elif operand.name not in self.storage.strided:
            place = placed(f"{operand.name}.strided", canonical(operand.type.shape))
            self.storage.buffers[place.buffer] = Buffer(place.buffer, operand.type.dtype, operand.type.size, "work")
            self.storage.strided[operand.name] = place
            self.storage.copies.setdefault(operand.name, []).append((operand, place, "write"))

    def _regroup(self, contraction: Instruction) -> None:
        """Copy the operands of a contraction whose strides make more indices of a group than its kernel walks."""
        spec, result = spec_of(contraction), contraction.results[0].name
        operands = (spec.a, spec.b)
        a, b = (self._place(value) for value in operands)
        if max(map(len, index_groups(spec, a.strides, b.strides))) <= self.graph.rules.contractions.indices:
            return
        letters = (spec.letters_a, spec.letters_b)
        for number, (value, own, order) in enumerate(zip(operands, letters, spec.orders, strict=True)):
            arrangement = ordered(value.type.shape, [own.index(c) for c in order])
            buffer = f"{value.name}.{number}.{result}"
            self.storage.buffers[buffer] = Buffer(buffer, value.type.dtype, value.type.size, "work")
            self.storage.regrouped[result, number] = placed(buffer, arrangement)
            self.storage.copies.setdefault(value.name, []).append((value, self.storage.regrouped[result, number], "write"))

    def _place(self, value: Value) -> Placement:
        """Where a kernel walks a value that is kept for it."""
        place = self.storage.strided.get(value.name) or view_of(self.graph, self.storage.memory, value)
        if place is None:
            raise InternalError(f"lower: {value} has no strided place")
        return place

    def shared(self) -> None:
        """Keep what is expensive and used by several kernels."""
        reach: dict[str, frozenset[str]] = {}
        for instruction in reversed(self.graph.function.instructions):
            lowering = self.graph.lowering(instruction)
            for result in instruction.results:
                into = reach.get(result.name, frozenset())
                if len(into) > 1 and is_expensive(lowering, self.graph.rules.fusion.expensive) and result.type.size > 1:
                    self.keep(result)
                if result.name in self.storage.stores or is_kept(lowering):
                    into = frozenset([result.name])
                for operand in instruction.operands:
                    reach[operand.name] = reach.get(operand.name, frozenset()) | into


def _is_walked(value: Value, place: Placement, plain: bool) -> bool:
    """Whether a library kernel walks a place: the last dim in steps of one element. plain: row-major without gaps."""
    if place.panels:
        return False
    if plain:
        steps = zip(value.type.shape, place.strides, ix.row_major(value.type.shape), strict=True)
        return all(n == 1 or stride == whole for n, stride, whole in steps)
    return not value.type.dims or value.type.shape[-1] <= 1 or place.strides[-1] == 1


def add_work(graph: Graph, storage: Storage, buffer: str, value: Value, dtype: str, strided: bool = False) -> Placement:
    """A work buffer for a value as the target arranges it; canonical where a kernel walks it by strides and could not otherwise."""
    arrangement = graph.rules.arrange(dtype, value.type.shape)
    if value.type.size <= 1 or (strided and not is_strided(arrangement)):
        arrangement = canonical(value.type.shape)
    storage.buffers[buffer] = Buffer(buffer, dtype, arrangement.elements, "work")
    return placed(buffer, arrangement)


def is_kept(lowering: Lowering) -> bool:
    """Whether results are not computed by element: they are locals of their kernel, or lie in memory."""
    return is_opaque(lowering) or isinstance(lowering, Reduction)


def chosen(graph: Graph, folds: frozenset[str], arranged: Mapping[str, Arrangement]) -> Chooser:
    """What must lie in memory, and what is expensive.

    folds:    results of the function that are added into what their buffer holds
    arranged: parameters and results that are not canonical
    Results of contractions and reductions get no place here unless a kernel must read or write them in memory; `form`
    adds one when it could not fuse all who read them.
    """
    chooser = Chooser(graph, folds, arranged)
    for parameter in graph.function.parameters:
        chooser.storage.memory[parameter.name] = chooser.bound(parameter, "parameter")
    for result in graph.function.results:
        chooser.result(result)
    chooser.operands()
    chooser.shared()
    return chooser
