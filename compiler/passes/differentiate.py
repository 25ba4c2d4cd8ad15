"""Differentiation: a program becomes a step, in which each unit of the training chain has a split derivative.

before:  func @layer(%x, %w) -> (%y)          after:  func @layer.forward(%x, %w) -> (%y, saved...)
                                                      func @layer.input_gradient(%w, saved..., %d.y) -> (%d.x, pending...)
                                                      func @layer.weight_gradient(saved..., pending...) -> (%d.w)

A gradient is made where a parameter of the model asks for it and the loss depends on it: both are facts of the chain, found
first. Then every unit is differentiated by itself (reverse.py, slopes.py) and cut (split.py, saved.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.ir.program import Program, Step, Unit, Variant
from mlc.passes.reverse import active_values, derivative, reached_values
from mlc.passes.simplify import simplify
from mlc.passes.slopes import with_slopes
from mlc.passes.split import Joint, split


def differentiate(program: Program, ops: Mapping[str, Op], keep_slopes: bool = True) -> Step:
    """The step of a program: one variant of each unit that its training chain calls. Slopes are kept, or made again (slopes.py)."""
    used = dict.fromkeys(call.unit for call in program.train.calls)
    units = {u: replace(program.units[u], function=simplify(program.units[u].function, ops)) for u in used}
    flow = _Flow(program, units, ops)
    variants = {
        u: differentiate_unit(u, unit, frozenset(flow.wanted[u]), frozenset(flow.arriving[u]), ops, keep_slopes)
        for u, unit in units.items()
    }
    return Step(
        program=program,
        variants=tuple((variants[u],) if u in variants else () for u in range(len(program.units))),
        plain=tuple(None if u in variants else unit.function for u, unit in enumerate(program.units)),
        inits=tuple(parameter.init for parameter in program.parameters),
        updates=tuple(update.function for update in program.updates),
    )


def differentiate_unit(
    number: int, unit: Unit, wanted: frozenset[str], arriving: frozenset[str], ops: Mapping[str, Op], keep_slopes: bool = True
) -> Variant:
    """The derivative of one unit, whose function is simplified.

    wanted:    float parameters (param and state) that get a gradient if one reaches them
    arriving:  results that a cotangent arrives for
    """
    params = frozenset(v.name for v, role in zip(unit.function.parameters, unit.roles, strict=True) if role == "param")
    made = derivative(unit.function, wanted, arriving, params & wanted, ops)
    function = unit.function
    whole = Function(
        function.name,
        (*function.parameters, *made.seeds.values()),
        tuple(replace(i, op="copy") if i.op == "stop_gradient" else i for i in (*function.instructions, *made.instructions)),
        (*function.results, *made.cotangents.values()),
    )
    results = [v.name for v in function.results]
    available = {*(v.name for v in function.parameters), *results[: unit.outputs]}
    whole, slopes = with_slopes(simplify(whole, ops), results, available, ops)
    joint = Joint(
        whole,
        {name: seed.name for name, seed in made.seeds.items()},
        {name: v.name for name, v in made.cotangents.items() if name not in params},
        {name: v.name for name, v in made.cotangents.items() if name in params},
        slopes if keep_slopes else frozenset(),
    )
    return split(number, unit, joint, ops)


class _Flow:
    """Facts of the chain, by unit: `wanted`, the parameters that want a gradient; `arriving`, the results that get a cotangent.

    A unit that is called in several places wants what any of its calls wants. Sets only grow, so the walks end.
    """

    def __init__(self, program: Program, units: Mapping[int, Unit], ops: Mapping[str, Op]):
        self.program, self.units, self.ops = program, units, ops
        self.wanted: dict[int, set[str]] = {u: set() for u in units}
        self.arriving: dict[int, set[str]] = {u: set() for u in units}
        self.active: dict[tuple[int, int], set[str]] = {}
        self.reached: dict[tuple[int, int, int], set[str]] = {}
        while self._walk_forward():
            pass
        while self._walk_backward():
            pass

    def _active(self, u: int) -> set[str]:
        key = (u, len(self.wanted[u]))
        if key not in self.active:
            self.active[key] = active_values(self.units[u].function, frozenset(self.wanted[u]), self.ops)
        return self.active[key]

    def _reached(self, u: int) -> set[str]:
        key = (u, len(self.wanted[u]), len(self.arriving[u]))
        if key not in self.reached:
            self.reached[key] = reached_values(self.units[u].function, self._active(u), self.arriving[u], self.ops)
        return self.reached[key]

    def _walk_forward(self) -> bool:
        """Which arguments depend on learned parameters; returns whether more were found."""
        before = sum(map(len, self.wanted.values()))
        depends = {p.name for p in self.program.parameters if p.gradient == "loss"}
        for call in self.program.train.calls:
            unit = self.units[call.unit]
            arguments = zip(unit.function.parameters, unit.roles, call.arguments, strict=True)
            learned = {v.name for v, role, name in arguments if role in ("param", "state") and v.type.is_float and name in depends}
            self.wanted[call.unit] |= learned
            active = self._active(call.unit)
            depends.update(name for name, v in zip(call.results, unit.function.results, strict=False) if v.name in active)
        return sum(map(len, self.wanted.values())) > before

    def _walk_backward(self) -> bool:
        """Which results the loss depends on; returns whether more were found."""
        before = sum(map(len, self.arriving.values()))
        asked = {self.program.train.loss}
        for call in reversed(self.program.train.calls):
            unit, arriving = self.units[call.unit], self.arriving[call.unit]
            outputs = zip(unit.function.results, call.results, strict=False)
            losses = zip(unit.function.results[unit.outputs :], unit.effects, strict=True)
            arriving.update(v.name for v, name in outputs if name in asked)
            arriving.update(v.name for v, effect in losses if effect.kind == "add_loss")
            reached = self._reached(call.unit)
            asked.update(name for v, name in zip(unit.function.parameters, call.arguments, strict=True) if v.name in reached)
        return sum(map(len, self.arriving.values())) > before
