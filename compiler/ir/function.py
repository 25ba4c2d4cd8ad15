"""Instructions and functions: the verbs of the tensor IR.

A function is an immutable list of instructions in execution order (SSA). A pass is a function from functions to functions.
"""

from __future__ import annotations

from typing import Any

from mlc.diagnostics import Span
from mlc.frozen import frozen
from mlc.ir.types import Dim, Value

#: What an attribute may hold; nested tuples are allowed.
Attribute = None | bool | int | float | str | Dim | tuple["Attribute", ...]


@frozen
class Instruction:
    """One instruction: results = op(operands) {attributes}."""

    op: str
    operands: tuple[Value, ...]
    attributes: tuple[tuple[str, Attribute], ...]  # sorted by key
    results: tuple[Value, ...]
    span: Span  # where in the .dsl
    via: str  # the pass or rule that made it

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    def attribute(self, name: str) -> Any:
        """An attribute by name; the op's type rule has checked what it holds."""
        for key, value in self.attributes:
            if key == name:
                return value
        raise KeyError(f"{self.op} has no attribute {name}")


@frozen
class Function:
    """A straight line of instructions from parameters to results. Results are distinct and none is a parameter."""

    name: str
    parameters: tuple[Value, ...]
    instructions: tuple[Instruction, ...]
    results: tuple[Value, ...]
