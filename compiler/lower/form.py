"""Group the instructions of a function into kernels.

    before:  %s = sum %x {axes=(1)}   %m = mul %s, %c   %h = sub %x, %m.row     (%h is kept)
    after:   one nest over rows: fold s, then store h

Every value that must be stored and every reduction is a root. A root joins the kernel that makes what it reads, when both
go over the same rows (or the same elements, or the same block of a contraction), or any later kernel of the same space;
else it starts a kernel. Contractions, scatters, scans and library kernels always start one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from mlc.diagnostics import InternalError
from mlc.frozen import frozen
from mlc.ir.function import Instruction
from mlc.ir.op import Contraction, Reduction
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.arrangement import Placement
from mlc.lower.expression import Counter, Index, Ref
from mlc.lower.graph import Graph, is_concat, is_over_rows, is_view, reduced_axes, reduction_order
from mlc.lower.scope import Scope
from mlc.lower.storage import Storage, add_work, is_kept, is_opaque, work_name

#: In a function of more instructions values stay locals of their kernel in their order: builders of expressions are recursive.
LONG = 400


@frozen
class Root:
    """Something a kernel must compute: a store of a value, or a reduction.

    shape: the space it goes over; for a reduction kept dims first, reduced dims last (row) or in the middle (columns)
    order: the axes of the reduction's operand in the order of `shape`
    placement, mode: where a store goes and how (loops.Store); None and "write" for a reduction, and for what is a local only
    copy:  the store is of a value that is made elsewhere
    loads: what is read, by value and coordinates in counters numbered like `shape`
    """

    value: Value
    kind: str  # store, row, columns
    shape: tuple[int, ...]
    order: tuple[int, ...]
    placement: Placement | None
    mode: str
    copy: bool
    loads: tuple[tuple[str, tuple[Index, ...]], ...]

    @property
    def coordinates(self) -> tuple[Index, ...]:
        """The coordinates of the value (of the operand, for a reduction) in counters numbered like `shape`."""
        at = tuple(ix.counter(Counter(n, e)) for n, e in enumerate(self.shape))
        source = dict(zip(self.order, at, strict=True))
        return tuple(source[d] for d in range(len(self.order)))


@dataclass(slots=True)
class Draft:
    """A kernel being formed.

    shape:       the space of its roots; of a nest over rows, that of the first
    rows:        the leading extents that every root has, shared out among threads; None while the kernel is flat
    instruction: the contraction, or what is a kernel of its own
    makes:       names of the values it computes
    """

    kind: str  # nest, columns, contract, opaque
    shape: tuple[int, ...]
    rows: tuple[int, ...] | None
    roots: list[Root] = field(default_factory=list)
    instruction: Instruction | None = None
    makes: set[str] = field(default_factory=set)


class Former:
    """Forms the drafts of one function, in order."""

    def __init__(self, graph: Graph, storage: Storage):
        self.graph = graph
        self.storage = storage
        self.drafts: list[Draft] = []
        self.made_by: dict[str, int] = {}
        kept = [i for i in graph.function.instructions if isinstance(graph.lowering(i), Contraction | Reduction)]
        self.leaves = {r.name: Ref(r.name) for i in kept for r in i.results if r.name not in storage.memory}

    def _reduction(self, instruction: Instruction) -> Root:
        """A reduction as a root: over rows when the last axis is reduced, else over columns."""
        (operand,) = instruction.operands
        kind, order = "row" if is_over_rows(instruction) else "columns", reduction_order(instruction)
        shape = tuple(operand.type.shape[d] for d in order)
        return self._with_loads(Root(instruction.results[0], kind, shape, order, None, "write", False, ()), operand)

    def _store(self, value: Value, placement: Placement, mode: str, copy: bool) -> Root:
        order = tuple(range(len(value.type.dims)))
        return self._with_loads(Root(value, "store", value.type.shape, order, placement, mode, copy, ()), value)

    def _with_loads(self, root: Root, source: Value) -> Root:
        scope = Scope(self.graph, self.storage.memory, self.leaves, {}, set())
        if root.kind == "store" and not root.copy:
            scope.define(source, root.coordinates)
        else:
            scope.value(source, root.coordinates)
        return replace(root, loads=tuple(dict.fromkeys(scope.loaded)))

    def run(self) -> list[Draft]:
        """The drafts, each after those that make what it reads."""
        for parameter in self.graph.function.parameters:
            self._copies(parameter, True)
        for instruction in self.graph.function.instructions:
            self._instruction(instruction)
        return self.drafts

    def _instruction(self, instruction: Instruction) -> None:
        lowering = self.graph.lowering(instruction)
        if is_opaque(lowering):
            shape = instruction.results[0].type.shape
            kind = "contract" if isinstance(lowering, Contraction) else "opaque"
            makes = {r.name for r in instruction.results}
            self._start(Draft(kind, shape, None, [], instruction, makes))
        elif isinstance(lowering, Reduction):
            self._join(self._reduction(instruction))
        for result in instruction.results:
            if not is_kept(lowering):
                for placement, mode in self.storage.stores.get(result.name, ()):
                    self._join(self._store(result, placement, mode, False))
            written = self._copies(result, False)
            if result.name in self.storage.memory and result.name not in self.made_by:
                made = [n for o in instruction.operands for n in self._makers(o)]
                if made or written:
                    self.made_by[result.name] = max([*made, *written])
            self._copies(result, True)

    def _makers(self, value: Value) -> list[int]:
        """The drafts that write a value, through the views and concatenations that have no place of their own."""
        found: list[int] = []
        seen: set[str] = set()
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if value.name in seen:
                continue
            seen.add(value.name)
            produced = self.graph.producer(value)
            if value.name in self.made_by:
                found.append(self.made_by[value.name])
            elif produced is not None and self._is_passed(produced[0]):
                waiting.extend(produced[0].operands)
        return found

    def _is_passed(self, instruction: Instruction) -> bool:
        """Whether its result lies where its operands lie."""
        lowering = self.graph.lowering(instruction)
        return is_view(lowering) or is_concat(lowering)

    def _copies(self, after: Value, own: bool) -> list[int]:
        """Copies of a value itself, or of others into its pieces; returns the drafts that do it."""
        copies = [copy for copy in self.storage.copies.get(after.name, ()) if (copy[0].name == after.name) is own]
        return [self._join(self._store(v, placement, mode, True)) for v, placement, mode in copies]

    def _start(self, draft: Draft) -> None:
        self.drafts.append(draft)
        for name in draft.makes:
            self.made_by[name] = len(self.drafts) - 1

    def _join(self, root: Root) -> int:
        """Put a root into a draft; returns which."""
        earliest = max((self._after(name) for name, _ in root.loads if name in self.made_by), default=0)
        for n in range(earliest, len(self.drafts)):
            if self._accepts(n, root):
                draft = self.drafts[n]
                if draft.kind == "nest" and draft.rows is None and root.kind == "row":
                    draft.rows = self._rows(root)
                break
        else:
            draft = self._draft_for(root)
            self._start(draft)
            n = len(self.drafts) - 1
        draft.roots.append(root)
        if not root.copy:
            draft.makes.add(root.value.name)
            self.made_by[root.value.name] = n
        return n

    def _after(self, name: str) -> int:
        """The first draft that may read a value: the one that makes it, or the next when it is made there through a view."""
        n = self.made_by[name]
        return n if name in self.drafts[n].makes else n + 1

    def _rows(self, root: Root) -> tuple[int, ...]:
        """The extents of the dims a reduction over rows keeps."""
        return root.shape[: len(root.shape) - len(reduced_axes(self.graph.maker(root.value)))]

    def _draft_for(self, root: Root) -> Draft:
        if root.kind == "columns":
            return Draft("columns", root.shape, None)
        if root.kind == "row":
            return Draft("nest", root.shape, self._rows(root))
        return Draft("nest", root.shape, () if not root.shape else None)

    def _accepts(self, n: int, root: Root) -> bool:
        draft = self.drafts[n]
        inside = [(name, at) for name, at in root.loads if name in draft.makes]
        match draft.kind:
            case "opaque":
                return False
            case "contract":
                return root.kind == "store" and bool(inside) and root.shape == draft.shape and self._aligned(inside, root, len(root.shape))
            case "columns":
                return root.kind == "columns" and root.shape == draft.shape and self._same_columns(draft, root) and not inside
        if root.kind == "columns":
            return False
        rows = self._rows_with(draft, root)
        return rows is not None and self._aligned(inside, root, rows)

    def _same_columns(self, draft: Draft, root: Root) -> bool:
        first = draft.roots[0]
        a, b = (self.graph.maker(r.value) for r in (first, root))
        return a.op == b.op and first.order == root.order and a.attribute("axes") == b.attribute("axes")

    def _rows_with(self, draft: Draft, root: Root) -> int | None:
        """How many leading dims would be rows with the root in the draft; None when it does not fit."""
        if draft.rows is not None:
            rows = draft.rows
            if root.kind == "row":
                fits = self._rows(root) == rows
            else:
                fits = root.shape[: len(rows)] == rows and self._enough(rows, root.shape)
            return len(rows) if fits else None
        if root.kind == "store":
            return len(root.shape) if root.shape == draft.shape else None
        rows = self._rows(root)
        if not rows or not all(r.shape[: len(rows)] == rows and self._enough(rows, r.shape) for r in draft.roots):
            return None
        return len(rows)

    def _enough(self, rows: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Whether a store of this shape may be shared out by rows."""
        fusion = self.graph.rules.fusion
        return math.prod(rows) >= fusion.few_rows or math.prod(shape) <= (fusion.small if rows else 1)

    def _aligned(self, loads: list[tuple[str, tuple[Index, ...]]], root: Root, rows: int) -> bool:
        """Whether what the root reads of its own kernel is of its own row."""
        own = tuple(ix.counter(Counter(n, e)) for n, e in enumerate(root.shape))[:rows]
        for name, at in loads:
            value = self._value(name)
            leading = at[:rows]
            if len(at) < rows or leading != own or value.type.shape[:rows] != root.shape[:rows]:
                return False
        return True

    def _value(self, name: str) -> Value:
        produced = self.graph.producers.get(name)
        if produced is None:
            raise InternalError(f"lower: {name} is no value of the function")
        return produced[0].results[produced[1]]


def add_places(graph: Graph, storage: Storage, drafts: list[Draft]) -> None:
    """Give a place to every contraction and reduction that another kernel than its own reads."""
    home = {name: n for n, draft in enumerate(drafts) for name in draft.makes}
    for n, draft in enumerate(drafts):
        for root in draft.roots:
            for name, _ in root.loads:
                if name not in storage.memory and home[name] != n:
                    instruction, result = graph.producers[name]
                    value = instruction.results[result]
                    storage.memory[name] = add_work(graph, storage, work_name(storage.buffers, name), value, value.type.dtype)
                    storage.stores.setdefault(name, []).append((storage.memory[name], "write"))


def drop_unread(graph: Graph, storage: Storage, drafts: list[Draft]) -> None:
    """Forget stores of values that only their own kernel uses, in the loop that computes them."""
    read = {name for n, d in enumerate(drafts) for r in d.roots for name, _ in r.loads if name not in d.makes or d.rows is not None}
    for draft in drafts:
        if draft.instruction is not None:
            read |= {name for o in draft.instruction.operands for name in _bases(graph, o)}
    long = len(graph.function.instructions) > LONG
    for draft in drafts:
        for root in list(draft.roots):
            name = root.value.name
            if root.placement is None or root.placement.buffer != name or storage.buffers[name].kind != "work":
                continue
            if name not in read and not _sliced(storage, name):
                draft.roots = _without(draft.roots, root, local=long or name in storage.costly)
                del storage.memory[name]
                del storage.buffers[name]
        if all(r.kind == "store" and r.placement is None for r in draft.roots):
            draft.roots = []


def _without(roots: list[Root], root: Root, local: bool) -> list[Root]:
    """The roots without one; as a local it stays in its place, so that what is made of it does not start from nothing."""
    if local:
        return [replace(r, placement=None) if r is root else r for r in roots]
    return [r for r in roots if r is not root]


def _bases(graph: Graph, value: Value) -> list[str]:
    """A value and what it is computed from element by element, as far as that is one value."""
    names = [value.name]
    while (produced := graph.producer(value)) and not is_kept(graph.lowering(produced[0])) and len(produced[0].operands) == 1:
        value = produced[0].operands[0]
        names.append(value.name)
    return names


def _sliced(storage: Storage, name: str) -> bool:
    """Whether pieces of other values lie in the buffer of this one."""
    return sum(p.buffer == name for p in storage.memory.values()) > 1
