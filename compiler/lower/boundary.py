"""How the values between the functions of a program are arranged: all that make or read a value agree, and so do all chains.

    Step, Rules  ->  per unit, the values of its functions that are not canonical

A parameter, and the gradient of one, is arranged as the target wants its dtype and shape, in all units alike. A state is arranged as the
target wants its dtype and shape too, whichever calls make and read it; one that the runtime reads (a loss, a metric, logits) is canonical,
and so is each that shares a maker or a reader with it. The gradient of a state is arranged as the state is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mlc.ir.program import Chain, Program, Step, Unit, Variant
from mlc.ir.types import Value
from mlc.lower.arrangement import Arrangement, Stored, canonical, chosen_arrangement
from mlc.lower.rules import Rules

#: A state as a unit knows it: the unit's number, and the name of its parameter or result.
_Node = tuple[int, str]


def boundaries(step: Step, rules: Rules, kept: tuple[Mapping[str, str], ...]) -> Boundaries:
    """What the target chooses for the values of all units.

    kept: per unit, pending value -> the cotangent it is
    """
    classes = _Classes(step.program)
    found: list[dict[str, Arrangement]] = []
    for number, (unit, variants) in enumerate(zip(step.program.units, step.variants, strict=True)):
        arranged = {value.name: a for value in _states(unit) if (a := classes.arrangement((number, value.name), rules)) is not None}
        if variants:
            arranged |= _inside(unit, variants[0], arranged, rules, kept[number])
        for value in _parameters(unit, variants):
            if (kept_so := chosen_arrangement(rules.keep, value.type.dtype, value.type.shape)) is not None:
                arranged[value.name] = kept_so
        found.append(arranged)
    return Boundaries(found)


def _states(unit: Unit) -> Iterator[Value]:
    """The states that a unit reads and makes."""
    yield from unit.bound("state", unit.function.parameters)
    yield from unit.function.results[: unit.outputs]


def _parameters(unit: Unit, variants: Sequence[Variant]) -> Iterator[Value]:
    """The parameters of the model that a unit reads, and what it adds to the gradients of some."""
    yield from unit.bound("param", unit.function.parameters)
    effects = zip(unit.effects, unit.function.results[unit.outputs :], strict=False)
    yield from (result for effect, result in effects if effect.kind == "accumulate")
    if variants:
        made = {r.name: r for r in (*variants[0].input_gradient.results, *variants[0].weight_gradient.results)}
        yield from (made[gradient] for _, gradient, _ in variants[0].d_params)


def _inside(
    unit: Unit, variant: Variant, states: Mapping[str, Arrangement], rules: Rules, kept: Mapping[str, str]
) -> dict[str, Arrangement]:
    """What passes between the functions of a variant: saved and pending values, and gradients of states."""
    made = {r.name: r for r in (*variant.forward.results, *variant.input_gradient.results)}
    found = {name: arranged for name in variant.saved if (arranged := arranged_value(made[name], rules)) is not None}
    results = zip(unit.function.results, variant.d_results, strict=True)
    gradients = [(result.name, cotangent) for result, cotangent in results if cotangent is not None] + list(variant.d_states)
    found.update((gradient, states[state]) for state, gradient in gradients if state in states)
    for name in variant.pending:
        arranged = found.get(kept[name]) if name in kept else arranged_value(made[name], rules)
        if arranged is not None:
            found[name] = arranged
    return found


def arranged_value(value: Value, rules: Rules) -> Arrangement | None:
    """How the target arranges a value; None where that is canonical."""
    return chosen_arrangement(rules.arrange, value.type.dtype, value.type.shape)


class Boundaries:
    """How the values between the functions of each unit, and between units, lie in memory. Calls of a unit ask for the same ones again.

    arranged: per unit, value -> its arrangement, where that is not canonical
    """

    def __init__(self, arranged: Sequence[Mapping[str, Arrangement]]):
        self.arranged = tuple(arranged)
        self._known: dict[tuple[int, str], Stored] = {}

    def stored(self, unit: int, value: Value) -> Stored:
        """How a value of a unit lies in memory."""
        known = self._known.get((unit, value.name))
        if known is None or known.type is not value.type:
            arrangement = self.arranged[unit].get(value.name) or canonical(value.type.shape)
            known = self._known[unit, value.name] = Stored(value.type, arrangement)
        return known


class _Classes:
    """States that must be arranged alike: what makes and what reads one of them."""

    def __init__(self, program: Program):
        self.parents: dict[_Node, _Node] = {}
        self.values: dict[_Node, Value] = {(n, v.name): v for n, unit in enumerate(program.units) for v in _states(unit)}
        self.read = [[(n, v.name) for v in unit.bound("state", unit.function.parameters)] for n, unit in enumerate(program.units)]
        self.plain: set[_Node] = set()
        for _, chain in program.chains:
            self._join(program, chain)
        self.members: dict[_Node, list[_Node]] = {}
        for node in self.values:
            self.members.setdefault(self._root(node), []).append(node)

    def _root(self, node: _Node) -> _Node:
        while node in self.parents:
            node = self.parents[node]
        return node

    def _join(self, program: Program, chain: Chain) -> None:
        """Join what makes and what reads each state of a chain."""
        shown = {chain.loss, chain.logits, *(state for _, state in chain.metrics)}
        made: dict[str, _Node] = {}
        for call in chain.calls:
            unit = program.units[call.unit]
            for node, name in zip(self.read[call.unit], unit.bound("state", call.arguments), strict=True):
                self._same(made[name], node)
            made.update((name, (call.unit, v.name)) for name, v in zip(call.results, unit.function.results, strict=False))
        self.plain.update(made[name] for name in shown if name is not None)

    def _same(self, a: _Node, b: _Node) -> None:
        a, b = self._root(a), self._root(b)
        if a != b:
            self.parents[b] = a

    def arrangement(self, node: _Node, rules: Rules) -> Arrangement | None:
        """Of a state; None: canonical."""
        members = self.members[self._root(node)]
        kinds = {(self.values[m].type.dtype, self.values[m].type.shape) for m in members}
        if len(kinds) > 1 or not self.plain.isdisjoint(members):
            return None
        return arranged_value(self.values[node], rules)
