"""Values as scalar expressions of the loop counters.

A scope turns "element (i, j, ...) of this value" into lets: pointwise instructions become locals, moves compose indices,
what lies in memory is read. The same element asked for twice is the same local.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mlc.diagnostics import InternalError
from mlc.ir.function import Instruction
from mlc.ir.op import Apply, Arg, Const, Generate, Move, Pointwise, Scalar, Scan, View, resolve
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.arrangement import Placement
from mlc.lower.expression import Checked, Datum, Expression, Index, Number, Operation, Position, Random, Read, Ref, Within, data_of
from mlc.lower.graph import Graph, base_of, scalar_dtype, view_coordinates
from mlc.lower.loops import Let
from mlc.lower.names import local_name, place_of, unique_name

#: What chooses places of a dim.
_CHOSEN = (Scan("top_k"), Scan("argmax"))


class Scope:
    """Builds lets for elements of values.

    graph:    the function
    memory:   placements of the values that lie in memory
    leaves:   values that are locals already (the block element of a contraction, folded reductions)
    parent:   an enclosing scope whose locals may be used
    needs:    of leaves, by name of the local
    """

    def __init__(
        self,
        graph: Graph,
        memory: Mapping[str, Placement],
        leaves: Mapping[str, Ref],
        needs: Mapping[str, frozenset[int]],
        taken: set[str],
        parent: Scope | None = None,
    ):
        self.graph = graph
        self.memory = memory
        self.leaves = leaves
        self.parent = parent
        self.taken = taken
        self.lets: list[Let] = []
        self.loaded: list[tuple[str, tuple[Index, ...]]] = []
        self._memo: dict[tuple[str, tuple[Index, ...]], Expression] = {}
        self._needs: dict[str, frozenset[int]] = {**(parent._needs if parent else {}), **needs}
        self._guarded = 0

    def adopt(self, child: Scope, lets: Sequence[Let]) -> None:
        """Make locals of an inner scope, hoisted into this one, known here."""
        hoisted = {let.name for let in lets}
        self.lets.extend(lets)
        for key, node in child._memo.items():
            if isinstance(node, Ref) and node.name in hoisted:
                self._memo[key] = node
        for let in lets:
            self._needs[let.name] = let.needs

    def value(self, value: Value, at: tuple[Index, ...]) -> Expression:
        """The element of `value` at coordinates `at`."""
        key = (value.name, at)
        scope: Scope | None = self
        while scope is not None:
            if key in scope._memo:
                return scope._memo[key]
            scope = scope.parent
        return self._local(value, at, self._node(value, at))

    def define(self, value: Value, at: tuple[Index, ...]) -> Expression:
        """The element, computed by its instruction though the value has a place in memory."""
        if value.name in self.memory:
            return self._local(value, at, self._computed(value, at))
        return self.value(value, at)

    def _local(self, value: Value, at: tuple[Index, ...], node: Expression) -> Expression:
        key = (value.name, at)
        if self._guarded or isinstance(node, Ref | Number):
            if not self._guarded:
                self._memo[key] = node
            return node
        name = self.fresh(value.name)
        self.lets.append(Let(name, scalar_dtype(value.type.dtype), node, self.needs(node)))
        self._needs[name] = self.lets[-1].needs
        self._memo[key] = Ref(name)
        return self._memo[key]

    def leaf(self, value: str, local: Ref, needs: frozenset[int]) -> None:
        """From here on `value` is this local."""
        self.leaves = {**self.leaves, value: local}
        self._needs[local.name] = needs

    def fresh(self, name: str) -> str:
        """A name for a local that no other has."""
        return unique_name(local_name(name), self.taken)

    def needs(self, node: Expression) -> frozenset[int]:
        """The loop counters an expression depends on."""
        match node:
            case Ref(name):
                return self._needs.get(name, frozenset())
            case Number():
                return frozenset()
            case Read(_, index) | Position(index) | Random(index=index):
                return self.index_needs(index)
            case Operation(_, args):
                return frozenset().union(*(self.needs(a) for a in args))
            case Within(index, _, _, inside, outside):
                return self.index_needs(index) | self.needs(inside) | self.needs(outside)
            case Checked(inner, _, element):
                return self.needs(inner) | self.index_needs(element)

    def index_needs(self, index: Index) -> frozenset[int]:
        """The loop counters an index depends on, through what it is read from too."""
        found = frozenset(ix.counters(index))
        for atom in data_of(index):
            found |= self.needs(atom.key)
        return found

    def _node(self, value: Value, at: tuple[Index, ...]) -> Expression:
        local = self._leaf(value.name)
        if local is not None:
            self.loaded.append((value.name, at))
            return local
        if value.name in self.memory:
            self.loaded.append((value.name, at))
            return Read(self.memory[value.name].buffer, self.memory[value.name].index(at))
        return self._computed(value, at)

    def _leaf(self, name: str) -> Ref | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.leaves:
                return scope.leaves[name]
            scope = scope.parent
        return None

    def _computed(self, value: Value, at: tuple[Index, ...]) -> Expression:
        produced = self.graph.producer(value)
        if produced is None:
            raise InternalError(f"lower: {value} has no producer and no place")
        instruction, result = produced
        match self.graph.lowering(instruction):
            case Pointwise(scalar):
                return self._scalar(resolve(scalar, instruction), instruction, [self.value(o, at) for o in instruction.operands])
            case View() as view:
                return self.value(instruction.operands[0], view_coordinates(view, instruction, result, at))
            case Move(kind):
                return self._move(instruction, kind, at)
            case Generate(kind):
                return self._generate(instruction, kind, at)
        raise InternalError(f"lower: {instruction.op} is not computed by element and has no place")

    def _scalar(self, scalar: Scalar, instruction: Instruction, args: list[Expression]) -> Expression:
        match scalar:
            case Arg(index):
                return args[index]
            case Const(bool() | int() | float() as value):
                dtype = "bool" if isinstance(value, bool) else scalar_dtype(instruction.results[0].type.dtype)
                return Number(value, dtype)
            case Apply(fn, inner):
                return Operation(fn, tuple(self._scalar(s, instruction, args) for s in inner))
        raise InternalError(f"lower: {instruction.op} has an unresolved scalar expression")

    def _generate(self, instruction: Instruction, kind: str, at: tuple[Index, ...]) -> Expression:
        result = instruction.results[0]
        match kind:
            case "constant":
                return Number(instruction.attribute("value"), scalar_dtype(result.type.dtype))
            case "iota":
                begins = [self.value(o, ()) for o in instruction.operands]
                return Operation("add", (Position(at[0]), *begins)) if begins else Position(at[0])
            case "random_uniform" | "random_normal":
                flat = ix.linear(at, ix.row_major(result.type.shape))
                for numbers in instruction.operands:
                    flat = Index(((Datum(self.value(numbers, at), 1 << 31), 1),))
                return Random(kind, instruction.attribute("ordinal"), instruction.attribute("stream"), flat, result.type.dtype)
        raise InternalError(f"lower: no rule for {instruction.op}")

    def _move(self, instruction: Instruction, kind: str, at: tuple[Index, ...]) -> Expression:
        match kind:
            case "concat":
                return self._concat(instruction, at)
            case "pad":
                return self._pad(instruction, at)
            case "gather" | "take_along":
                return self._gather(instruction, kind, at)
        raise InternalError(f"lower: no rule for a move of kind {kind}")

    def _within(self, index: Index, low: int, high: int, inside: Callable[[], Expression], outside: Callable[[], Expression]) -> Expression:
        """A choice that is decided now where the index allows it. `inside` and `outside` make their expressions."""
        least, greatest = ix.bounds(index)
        if least >= low and greatest < high:
            return inside()
        if greatest < low or least >= high:
            return outside()
        self._guarded += 1
        node = Within(index, low, high, inside(), outside())
        self._guarded -= 1
        return node

    def _concat(self, instruction: Instruction, at: tuple[Index, ...]) -> Expression:
        axis = instruction.attribute("axis")
        zero = Number(0, scalar_dtype(instruction.results[0].type.dtype))

        def part(n: int, start: int) -> Expression:
            if n == len(instruction.operands):
                return zero
            operand = instruction.operands[n]
            size = operand.type.shape[axis]
            inner = tuple(ix.add(i, ix.number(-start)) if d == axis else i for d, i in enumerate(at))
            return self._within(at[axis], start, start + size, lambda: self.value(operand, inner), lambda: part(n + 1, start + size))

        return part(0, 0)

    def _pad(self, instruction: Instruction, at: tuple[Index, ...]) -> Expression:
        (operand,) = instruction.operands
        zero = Number(0, scalar_dtype(operand.type.dtype))
        starts, steps = instruction.attribute("starts"), instruction.attribute("steps")

        def axis(d: int, inner: tuple[Index, ...]) -> Expression:
            if d == len(at):
                return self.value(operand, inner)
            start, step, size = starts[d], steps[d], operand.type.shape[d]
            offset = ix.add(at[d], ix.number(-start))
            place = ix.divide(offset, step)

            def taken() -> Expression:
                return axis(d + 1, (*inner, place))

            def on_step() -> Expression:
                return self._within(ix.modulo(offset, step), 0, 1, taken, lambda: zero)

            return self._within(at[d], start, start + (size - 1) * step + 1, on_step, lambda: zero)

        return axis(0, ())

    def _gather(self, instruction: Instruction, kind: str, at: tuple[Index, ...]) -> Expression:
        source, indices = instruction.operands
        axis = instruction.attribute("axis") % len(source.type.dims)
        if kind == "take_along":
            place = at
            before, after = at[:axis], at[axis + 1 :]
        else:
            rank = len(indices.type.dims)
            place = at[axis : axis + rank]
            before, after = at[:axis], at[axis + rank :]
        row, found = self.lookup(instruction, tuple(place), source.type.shape[axis])
        element = self.value(source, (*before, row, *after))
        return self.found(element, found, source)

    def lookup(self, instruction: Instruction, at: tuple[Index, ...], extent: int) -> tuple[Index, Expression | None]:
        """The index of a lookup, read from memory, held in [0, extent), and whether it was there before (None: it always is)."""
        indices = instruction.operands[1]
        node = self.value(indices, at)
        produced = self.graph.producers.get(base_of(self.graph, indices).name)
        if produced is not None and self._counts(produced[0]):
            return Index(((Datum(node, extent), 1),)), None
        held = self._held(instruction, node, at, extent)
        if not self._guarded:
            name = self.fresh(f"{indices.name}.held")
            self.lets.append(Let(name, "i32", held, self.needs(held)))
            self._needs[name] = self.lets[-1].needs
            held = Ref(name)
        return Index(((Datum(held, extent), 1),)), Operation("equal", (node, held))

    def _held(self, instruction: Instruction, node: Expression, at: tuple[Index, ...], extent: int) -> Expression:
        """The number in [0, extent) that is nearest to the index."""
        name = instruction.results[0].name
        if name not in self.graph.checks:
            return Operation("clamp", (node, Number(extent, "i32")))
        check, site = self.graph.checks[name]
        element = ix.linear(at, ix.row_major(instruction.operands[1].type.shape))
        written = instruction.via if instruction.via in self.graph.ops else instruction.op
        where = f"{place_of(instruction.span)}: {written}"
        return Checked(node, extent, element, check.each, site, where, check.inputs)

    def found(self, element: Expression, found: Expression | None, value: Value) -> Expression:
        """The element, or NaN where its index was out of range: such a run ends with a message, not with other numbers."""
        if found is None or not value.type.is_float:
            return element
        return Operation("select", (found, element, Number(math.nan, scalar_dtype(value.type.dtype))))

    def _counts(self, instruction: Instruction) -> bool:
        """Are its i32 results indices of a dim, and so within it?"""
        lowering = self.graph.lowering(instruction)
        return lowering in _CHOSEN or (lowering == Generate("iota") and not instruction.operands)
