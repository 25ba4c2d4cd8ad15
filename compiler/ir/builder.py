"""Builds lists of instructions; the op's own rule gives every result type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlc.diagnostics import InternalError, OpError, Span
from mlc.ir.function import Instruction
from mlc.ir.op import Op
from mlc.ir.types import MOST_ELEMENTS, Value, too_large


class FreshNames:
    """Gives names that no value of a function has. taken: names already used in it."""

    def __init__(self, taken: Iterable[str] = ()):
        self._taken = set(taken)
        self._last: dict[str, int] = {}

    def name(self, hint: str) -> str:
        """`hint`, or hint.1, hint.2 ... when it is taken."""
        name = hint
        while name in self._taken:
            self._last[hint] = self._last.get(hint, 0) + 1
            name = f"{hint}.{self._last[hint]}"
        self._taken.add(name)
        return name


#: NumPy, which says what ops mean, takes no more.
MOST_DIMS = 32


class Builder:
    """Appends instructions with fresh result names.

    ops:    the op table
    via:    the pass or rule the instructions are credited to
    taken:  names already used in the function
    Raises OpError from the op's type rule; the caller adds the span.
    """

    def __init__(self, ops: Mapping[str, Op], via: str, span: Span, taken: Iterable[str] = ()):
        self.ops = ops
        self.via = via
        self.span = span
        self.instructions: list[Instruction] = []
        self._names = FreshNames(taken)

    def fresh(self, hint: str) -> str:
        """A name that no value has: `hint`, or hint.1, hint.2 ... when it is taken."""
        return self._names.name(hint)

    def emit(self, op: str, *operands: Value, hint: str | None = None, **attributes: Any) -> tuple[Value, ...]:
        """Append one instruction; returns its results, named after `hint` (default: the op)."""
        record = self.ops[op]
        if set(attributes) != set(record.attributes):
            raise InternalError(f"{op}: attributes {sorted(attributes)} are not the declared {sorted(record.attributes)}")
        types = record.type_rule(tuple(v.type for v in operands), attributes)
        if any(len(t.dims) > MOST_DIMS for t in types):
            raise OpError("E0414", f"{op}: a tensor has {MOST_DIMS} dims at most")
        large = next((t for t in types if t.size > MOST_ELEMENTS), None)
        if large is not None:
            raise too_large(op, large.size)
        results = tuple(Value(self.fresh(hint or op), t) for t in types)
        self.instructions.append(Instruction(op, operands, tuple(sorted(attributes.items())), results, self.span, self.via))
        return results

    def one(self, op: str, *operands: Value, hint: str | None = None, **attributes: Any) -> Value:
        """emit() for an op of one result."""
        (value,) = self.emit(op, *operands, hint=hint, **attributes)
        return value
