"""What the builders of kernels share: the function and its storage, scopes over both, notes for people."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.diagnostics import InternalError
from mlc.frozen import frozen
from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower.arrangement import Placement
from mlc.lower.expression import Index
from mlc.lower.form import Draft, Root
from mlc.lower.graph import Graph
from mlc.lower.loops import Operand, Store
from mlc.lower.names import place_of
from mlc.lower.scope import Scope
from mlc.lower.storage import Storage, view_of


@frozen
class Sources:
    """A function and where its values lie."""

    graph: Graph
    storage: Storage

    def scope(self, taken: set[str] | None = None, parent: Scope | None = None) -> Scope:
        """A scope without locals of its own; `taken` are names it must not give."""
        return Scope(self.graph, self.storage.memory, {}, {}, set() if taken is None else taken, parent)

    def stores(self, value: Value) -> list[tuple[Placement, str]]:
        """Where a value must be written, and how."""
        return self.storage.stores.get(value.name, [])

    def regrouped(self, result: str, number: int) -> Operand | None:
        """An operand of the contraction that makes a result, as it is copied for its kernel; None where it is not."""
        place = self.storage.regrouped.get((result, number))
        return None if place is None else Operand(place.buffer, place.offset, place.strides)

    def operand(self, value: Value) -> Operand:
        """The strided place of a value that is kept."""
        place = self.storage.strided.get(value.name) or view_of(self.graph, self.storage.memory, value)
        if place is None:
            raise InternalError(f"lower: {value} has no strided place")
        return Operand(place.buffer, place.offset, place.strides)


def root_stores(scope: Scope, root: Root, at: Sequence[Index]) -> list[Store]:
    """The store of one element of a root; none for a root that is a local only, which is in the scope from here on."""
    value = scope.value(root.value, tuple(at)) if root.copy else scope.define(root.value, tuple(at))
    if root.placement is None:
        return []
    return [Store(root.placement.buffer, root.placement.index(at), value, root.mode)]


def draft_note(graph: Graph, draft: Draft) -> str:
    """The place in the model and the values of a kernel that is made of several instructions."""
    values = [r.value for r in draft.roots]
    if draft.instruction is not None:
        values = [*draft.instruction.results, *values]
    names = ", ".join(dict.fromkeys(f"{v.name} {v.type}" for v in values))
    spans = [graph.producers[v.name][0].span for v in values if v.name in graph.producers]
    return f"{place_of(spans[0])}  {names}" if spans else names


def instruction_note(instruction: Instruction) -> str:
    """The place in the model and the results of a kernel that is one instruction."""
    return f"{place_of(instruction.span)}  {', '.join(f'{r.name} {r.type}' for r in instruction.results)}"
