"""The split of a derivative into input gradient and weight gradient, and the choice of what is kept in between.

before:  forward      %y = contract %x, %w {spec="ik,kj->ij"}
         backward     %d.x = contract %d.y, %w {spec="ij,kj->ik"}
                      %d.w = contract %x, %d.y {spec="ik,ij->kj"}
after:   input_gradient(%w, %d.y)      -> %d.x, %d.y.kept        (pending: d.y.kept)
         weight_gradient(%x, %d.y.kept) -> %d.w
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mlc.diagnostics import NO_SPAN
from mlc.frozen import frozen
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Op
from mlc.ir.program import CHOICES, Unit, Variant
from mlc.ir.types import Value
from mlc.passes.kinds import Graph, Kind, is_costly, is_weight_op
from mlc.passes.rewrite import renamed
from mlc.passes.saved import saved_values
from mlc.passes.simplify import simplify

#: What weight gradient may do again.
REMADE = (Kind.VIEW, Kind.GENERATE, Kind.POINTWISE, Kind.MOVE)


@frozen
class Joint:
    """Forward and backward of a unit as one function: its results are those of the unit, then the gradients.

    seeds:    by result of the unit, the name of the cotangent that arrives for it
    states:   by state parameter, the name of its gradient
    params:   by model parameter, the name of its gradient
    slopes:   what forward makes for the gradients alone, and keeps (slopes.py)
    """

    function: Function
    seeds: Mapping[str, str]
    states: Mapping[str, str]
    params: Mapping[str, str]
    slopes: frozenset[str] = frozenset()


def split(number: int, unit: Unit, joint: Joint, ops: Mapping[str, Op]) -> Variant:
    """The unit's Variant.

    Input gradient is what gradients of states need, and all reductions to gradients of parameters. Weight gradient is
    the contractions and scatters that only gradients of parameters wait for, and what comes after them; for a unit without
    gradients of states it is everything.
    """
    cut = _Cut(unit, joint, ops)
    late = cut.late()
    places = {p: "weight_gradient" if cut.graph.place[name] in late else "input_gradient" for p, name in joint.params.items()}
    early_results = [*joint.states.values(), *(name for p, name in joint.params.items() if places[p] == "input_gradient")]
    late_results = [name for p, name in joint.params.items() if places[p] == "weight_gradient"]
    pending = cut.kept(cut.pending(late, early_results), early_results) if joint.states else {}

    forward = cut.forward_function()
    early = cut.function("input_gradient", early_results, pending, {})
    later = cut.function("weight_gradient", late_results, {}, pending)
    read = {v.name for f in (early, later) for v in f.parameters}
    seeds = (joint.seeds.get(v.name) for v in unit.function.results)
    return Variant(
        unit=number,
        forward=forward,
        input_gradient=early,
        weight_gradient=later,
        saved=tuple(cut.saved.values()),
        saved_w=tuple(name for name in cut.saved.values() if name in {v.name for v in later.parameters}),
        pending=tuple(pending.values()),
        d_results=tuple(seed if seed in read else None for seed in seeds),
        d_states=tuple(joint.states.items()),
        d_params=tuple((p, name, places[p]) for p, name in joint.params.items()),
        choice=CHOICES[0],
        again=None,
    )


class _Cut:
    """A joint function with what cutting it needs.

    saved:   values that forward keeps, each with the name it is kept under
    leaves:  values that the gradients find in memory: parameters and outputs of the unit, saved values, seeds
    """

    def __init__(self, unit: Unit, joint: Joint, ops: Mapping[str, Op]):
        self.unit, self.joint, self.ops = unit, joint, ops
        self.graph = Graph(joint.function.instructions, ops)
        made = [v for i in joint.function.instructions for v in i.results]
        self.values = {v.name: v for v in (*joint.function.parameters, *made)}
        results = [v.name for v in unit.function.results]
        self.forward = sorted(self.graph.above([*results, *joint.slopes], set()))
        self.backward = set(range(len(self.graph.instructions))) - set(self.forward)
        self.seeds = dict.fromkeys(joint.seeds.values()).keys()
        self.available = dict.fromkeys([*(v.name for v in unit.function.parameters), *results[: unit.outputs]]).keys()
        forward = Graph((self.graph.instructions[n] for n in self.forward), ops)
        saved = saved_values(forward, self._reads(), set(self.available), joint.slopes)
        self.saved = self.kept([v.name for v in made if v.name in saved], results)
        self.leaves = saved | self.available | self.seeds

    def _reads(self) -> set[str]:
        """Values of forward that backward reads."""
        backward = (self.graph.instructions[n] for n in self.backward)
        return {
            v.name for i in backward for v in i.operands if v.name not in self.seeds and self.graph.place.get(v.name) not in self.backward
        }

    def kept(self, names: Iterable[str], results: Iterable[str]) -> dict[str, str]:
        """The names under which values are kept: their own, but for seeds and what is a result of the same function already."""
        taken = {*results, *self.seeds}
        return {name: self._other_name(name, "kept") if name in taken else name for name in names}

    def _other_name(self, name: str, suffix: str) -> str:
        named = f"{name}.{suffix}"
        return next(n for n in (named, *(f"{named}.{k}" for k in range(len(self.values)))) if n not in self.values)

    def late(self) -> set[int]:
        """Positions of the weight gradient's own instructions."""
        params = self.graph.above(self.joint.params.values(), self.leaves) & self.backward
        if not self.joint.states:
            return params
        late: set[int] = set()
        for n in sorted(params - self.graph.above(self.joint.states.values(), self.leaves)):
            instruction = self.graph.instructions[n]
            if is_weight_op(self.ops[instruction.op]) or any(self.graph.place.get(v.name) in late for v in instruction.operands):
                late.add(n)
        return late

    def pending(self, late: set[int], early_results: list[str]) -> list[str]:
        """Names of the values that input gradient keeps for weight gradient, in order.

        Weight gradient makes again what is cheap to make from values it has: views always, elementwise work and moves unless
        input gradient stores their results in any case; nothing costly that input gradient computes too.
        """
        early = self.graph.above(early_results, self.leaves)
        stored = self.graph.stored(self.graph.instructions[n] for n in early)
        needed = self._needed(late)
        pending = [name for name in needed if name in self.seeds]
        known = self.leaves - self.seeds | set(pending)
        for n in sorted(self.graph.above(needed, known)):
            instruction = self.graph.instructions[n]
            wanted = [v.name for v in instruction.results if v.name in needed]
            costly = n in early and is_costly(self.ops[instruction.op])
            remade = self.graph.kind(instruction) in REMADE and not costly and all(v.name in known for v in instruction.operands)
            if remade and not stored.intersection(wanted):
                known.update(v.name for v in instruction.results)
            else:
                pending += wanted
                known.update(wanted)
        return pending

    def _needed(self, late: set[int]) -> list[str]:
        """Values that weight gradient reads and does not find in memory: the bases where it reads views."""
        found: dict[str, None] = {}
        waiting = [v.name for n in sorted(late, reverse=True) for v in self.graph.instructions[n].operands[::-1]]
        while waiting:
            name = waiting.pop()
            if name in self.leaves - self.seeds or self.graph.place.get(name) in late:
                continue
            if name not in self.seeds and self.graph.kind(self.graph.made[name]) is Kind.VIEW:
                waiting += [v.name for v in self.graph.made[name].operands]
            else:
                found[name] = None
        return list(found)

    def forward_function(self) -> Function:
        """The unit's function with the saved values as further results."""
        unit = self.unit.function
        instructions = [self.graph.instructions[n] for n in self.forward]
        results = [self.values[v.name] for v in unit.results]
        return self._finished("forward", unit.parameters, instructions, results, self.saved)

    def function(self, role: str, results: list[str], kept: Mapping[str, str], pending: Mapping[str, str]) -> Function:
        """The gradient that makes `results` and the values of `kept`, reading those of `pending`; its parameters are what it reads."""
        late = role == "weight_gradient" and self.joint.states
        leaves = self.leaves - self.seeds | set(pending) if late else self.leaves
        names = {**self.saved, **pending}
        instructions = [renamed(self._beside(i, leaves), names) for i in self._ordered([*results, *kept], leaves)]
        sources = [*(v.name for v in self.unit.function.parameters), *self.available, *names, *self.seeds]
        parameters = tuple({names.get(n, n): Value(names.get(n, n), self.values[n].type) for n in sources}.values())
        whole = self._finished(role, parameters, instructions, [self.values[n] for n in results], kept)
        read = {v.name for i in whole.instructions for v in i.operands}
        return replace(whole, parameters=tuple(p for p in whole.parameters if p.name in read))

    def _ordered(self, results: list[str], leaves: set[str]) -> list[Instruction]:
        """What makes the results from the leaves; work of forward that is done again stands before its first reader."""
        places = self.graph.above(results, leaves)
        ordered: dict[int, None] = {}
        done = set(leaves)
        for n in (*sorted(places & self.backward), *sorted(places - self.backward)):
            again = self.graph.above([v.name for v in self.graph.instructions[n].operands], done)
            ordered.update(dict.fromkeys((*sorted(again), n)))
            done.update(v.name for m in (*again, n) for v in self.graph.instructions[m].results)
        return [self.graph.instructions[n] for n in ordered]

    def _beside(self, instruction: Instruction, leaves: set[str]) -> Instruction:
        """An instruction that is done again for one of its results, while others are found in memory under their names."""
        if not any(v.name in leaves for v in instruction.results):
            return instruction
        results = (Value(self._other_name(v.name, "again"), v.type) if v.name in leaves else v for v in instruction.results)
        return replace(instruction, results=tuple(results))

    def _finished(
        self, role: str, parameters: tuple[Value, ...], instructions: list[Instruction], results: list[Value], kept: Mapping[str, str]
    ) -> Function:
        """Simplified; the values of `kept` are further results under those names."""
        others = [(self.values[name], Value(other, self.values[name].type)) for name, other in kept.items()]
        span = instructions[-1].span if instructions else NO_SPAN
        copies = [Instruction("copy", (v,), (), (o,), span, "differentiate") for v, o in others if o.name != v.name]
        function = Function(f"{self.unit.name}.{role}", parameters, (*instructions, *copies), (*results, *(o for _, o in others)))
        return simplify(function, self.ops)
