"""Slopes: a gradient that goes through elementwise work is multiplied once, by what that work's derivative is; forward keeps that instead.

before:  %t = tanh %y   %h = mul %y, %t ...                  saved: y
         backward  %a = mul %d.h, %t   %b = mul %d.h, %y  %c = mul %b, %s ...   %d.y = add %a, %c
after:   %t = tanh %y   %h = mul %y, %t ...   %slope = add %t, ...              saved: slope
         backward  %d.y = mul %d.h, %slope

A value is linear in a gradient when it is made of it by sums, and by products with values of forward. It becomes that gradient times one
value of forward, its slope, where three things hold together: making the slope costs more than reading it; with the slopes of one
gradient kept, forward keeps no more bytes than before; and what it keeps no longer is read elementwise alone, so it need not lie in memory.
The derivative is the same whether slopes are kept, or made again of what forward keeps otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mlc.ir.builder import Builder
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Op
from mlc.ir.types import Value
from mlc.ops.broadcasting import constant_like
from mlc.passes.kinds import Graph, Kind, is_costly
from mlc.passes.rewrite import live
from mlc.passes.saved import saved_values

#: Where a slope is rounded to when it is kept, products lose no more than sums do.
WIDE = ("f32", "f64")


#: So many gradients are looked at one by one; of more, all are taken or none.
MOST_TRIES = 16


def with_slopes(function: Function, results: Iterable[str], available: set[str], ops: Mapping[str, Op]) -> tuple[Function, frozenset[str]]:
    """Forward and backward of a unit as one function, with slopes; and the names of these.

    results:    of the unit
    available:  what backward finds in memory without it being kept
    """
    at = _Joint(function, tuple(results), available, ops)
    bases = list(at.costly_ends())
    for tried in [[base] for base in bases] if len(bases) <= MOST_TRIES else [bases]:
        at = at.with_slopes_of(tried) or at
    return at.function, at.slopes


class _Joint:
    """The function, with what is known of it.

    forward:    positions of the instructions that results of the unit, and slopes, depend on
    saved:      what forward keeps
    gradients:  values that depend on a gradient that arrives
    base:       by value that is linear in a gradient that it is made of: that gradient
    """

    def __init__(
        self, function: Function, results: tuple[str, ...], available: set[str], ops: Mapping[str, Op], slopes: frozenset[str] = frozenset()
    ):
        self.function, self.results, self.available, self.ops, self.slopes = function, results, available, ops, slopes
        self.graph = Graph(function.instructions, ops)
        self.forward = self.graph.above([*results, *slopes], set())
        self.saved = self._saved()
        self.gradients = self._gradients()
        self.base: dict[str, Value] = {}
        for instruction in function.instructions:
            base = self._base(instruction)
            if base is not None:
                self.base[instruction.result.name] = base

    def _saved(self) -> set[str]:
        makes = Graph((self.graph.instructions[n] for n in sorted(self.forward)), self.ops)
        others = [i for n, i in enumerate(self.graph.instructions) if n not in self.forward]
        return saved_values(makes, {v.name for i in others for v in i.operands if v.name in makes.made}, self.available, self.slopes)

    def _gradients(self) -> set[str]:
        found = {p.name for p in self.function.parameters} - self.available
        for instruction in self.graph.instructions:
            if any(v.name in found for v in instruction.operands):
                found.update(v.name for v in instruction.results)
        return found

    def _base(self, i: Instruction) -> Value | None:
        """The gradient that the result is a multiple of."""
        if i.op not in ("mul", "add", "sub", "neg") or i.result.type.dtype not in WIDE:
            return None
        moved = [v for v in i.operands if v.name in self.gradients]
        if len(moved) != (1 if i.op in ("mul", "neg") else 2):
            return None
        first, *others = (self.base.get(v.name, v) for v in moved)
        return first if all(other.name == first.name for other in others) else None

    def costly_ends(self) -> dict[str, list[Instruction]]:
        """By gradient, what is linear in it, read as something else, and costly."""
        ends = {v.name for v in self.function.results}
        for i in self.graph.instructions:
            inside = {self.base[v.name].name for v in i.results if v.name in self.base}
            ends.update(v.name for v in i.operands if v.name in self.base and self.base[v.name].name not in inside)
        found: dict[str, list[Instruction]] = {}
        for name, base in self.base.items():
            if name in ends and self._is_costly(name):
                found.setdefault(base.name, []).append(self.graph.made[name])
        return found

    def _chain(self, names: Iterable[str]) -> list[Instruction]:
        """The instructions that make values of their gradients, in order."""
        bases = {self.base[name].name for name in names}
        return [self.graph.instructions[n] for n in sorted(self.graph.above(names, bases)) if self._is_linear(self.graph.instructions[n])]

    def _is_linear(self, instruction: Instruction) -> bool:
        return any(v.name in self.base for v in instruction.results)

    def _is_costly(self, name: str) -> bool:
        """Whether its slope is not made of what forward keeps without a costly function; and made elementwise."""
        leaves = [v.name for i in self._chain([name]) for v in i.operands if v.name not in self.gradients]
        above = [self.graph.instructions[n] for n in self.graph.above(leaves, self.saved | self.available)]
        opaque = any(self.graph.kind(i) in (Kind.OPAQUE, Kind.REDUCTION) for i in above)
        return not opaque and any(is_costly(self.ops[i.op]) for i in above)

    def with_slopes_of(self, bases: Iterable[str]) -> _Joint | None:
        """The function in which what is linear in these gradients, and costly, is a product with a slope; None where that does not pay."""
        costly = self.costly_ends()
        ends = [end for base in bases for end in costly.get(base, ())]
        if not ends:
            return None
        b = Builder(self.ops, "differentiate", ends[0].span, [v.name for v in self._values()])
        slope_of = self._built(b, [end.result.name for end in ends])
        products = {
            end.result.name: Instruction("mul", (self.base[end.result.name], slope_of[end.result.name]), (), end.results, end.span, end.via)
            for end in ends
        }
        instructions = self._merged(b.instructions, products)
        function = replace(self.function, instructions=tuple(live(instructions, {v.name for v in self.function.results})))
        made = frozenset(slope_of[name].name for name in products)
        after = _Joint(function, self.results, self.available, self.ops, self.slopes | made)
        return after if self._gains(after) else None

    def _values(self) -> list[Value]:
        return [*self.function.parameters, *(v for i in self.graph.instructions for v in i.results)]

    def _built(self, b: Builder, ends: list[str]) -> dict[str, Value]:
        """What gradients are multiplied by, of values and of those that they are made of."""
        slopes: dict[str, Value] = {}
        for i in self._chain(ends):
            hint = "slope" if i.result.name in ends else None
            terms = [slopes.get(v.name) if v.name in self.gradients else v for v in i.operands]
            if i.op == "mul" and None in terms:  # 1 * y
                (slopes[i.result.name],) = (v for v in terms if v is not None)
                continue
            terms = [constant_like(b, 1.0, i.result.type) if v is None else v for v in terms]
            slopes[i.result.name] = b.one(i.op, *terms, hint=hint)
        return slopes

    def _merged(self, made: list[Instruction], products: Mapping[str, Instruction]) -> list[Instruction]:
        """The instructions, with what makes slopes as early as can be."""
        after: dict[int, list[Instruction]] = {}
        place = dict(self.graph.place)
        for instruction in made:
            at = max((place.get(v.name, -1) for v in instruction.operands), default=-1)
            after.setdefault(at, []).append(instruction)
            place.update((v.name, at) for v in instruction.results)
        merged = list(after.get(-1, ()))
        for n, instruction in enumerate(self.graph.instructions):
            merged.append(products.get(instruction.results[0].name, instruction) if instruction.results else instruction)
            merged += after.get(n, ())
        return merged

    def _gains(self, after: _Joint) -> bool:
        """Whether forward keeps something no longer, all of that is read elementwise alone, and no more bytes are kept."""
        dropped = self.saved - after.saved
        readers = (i for name in dropped for i in self.graph.reads[name] if self.graph.place[i.results[0].name] in self.forward)
        return bool(dropped) and all(self.graph.kind(i) is Kind.POINTWISE for i in readers) and after._bytes() <= self._bytes()

    def _bytes(self) -> int:
        return sum(v.type.bytes for v in self._values() if v.name in self.saved)
