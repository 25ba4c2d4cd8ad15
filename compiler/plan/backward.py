"""The backward rows of the train chain: input gradient, then weight gradient of each call, from the last to the first."""

from __future__ import annotations

from dataclasses import dataclass

from mlc.ir.program import Call, Unit, Variant
from mlc.ir.types import TensorType
from mlc.lower.program import Lowered
from mlc.plan.forward import ChainRows
from mlc.plan.memory import Memory
from mlc.plan.timeline import Place, Timeline


@dataclass(frozen=True, slots=True)
class _Gradient:
    """One call of the chain with its derivative; `places` of its values, by name, grows."""

    number: int
    call: Call
    unit: Unit
    variant: Variant
    places: dict[str, Place]

    @property
    def label(self) -> str:
        return self.call.path or self.unit.name

    @property
    def arguments(self) -> dict[str, tuple[str, TensorType]]:
        """What each parameter of the unit is bound to, and its type."""
        names = zip(self.unit.function.parameters, self.call.arguments, strict=True)
        return {p.name: (name, p.type) for p, name in names}


def add_backward_rows(lowered: Lowered, memory: Memory, rows: ChainRows) -> None:
    """Append the backward half to the rows of the train chain."""
    planner = _Planner(lowered, memory, rows)
    gradients = [g for n in range(len(rows.chain.calls)) if (g := planner.gradient(n)) is not None]
    for gradient in reversed(gradients):
        planner.add(gradient)


class _Planner:
    """written: states whose gradient has a value already."""

    def __init__(self, lowered: Lowered, memory: Memory, rows: ChainRows):
        self.lowered = lowered
        self.memory = memory
        self.rows = rows
        self.written: set[str] = set()

    @property
    def timeline(self) -> Timeline:
        return self.rows.timeline

    def gradient(self, number: int) -> _Gradient | None:
        """A call with an accumulator for each parameter gradient it makes; None where it makes no gradient."""
        call, step = self.rows.chain.calls[number], self.lowered.step
        unit, variant = step.program.units[call.unit], step.variants[call.unit]
        if variant is None:
            return None
        gradient = _Gradient(number, call, unit, variant, self.rows.places[number])
        for parameter, result, _ in variant.d_params:
            gradient.places[result] = self.memory.use(gradient.arguments[parameter][0])
        return gradient

    def add(self, g: _Gradient) -> None:
        """Append the rows of one call."""
        for n, cotangent in enumerate(g.variant.d_results):
            if cotangent is not None:
                g.places[cotangent] = self._cotangent(g, n)
        sums = self._state_gradients(g)
        self._place_pending(g)
        input_gradient, weight_gradient = self.lowered.input_gradient[g.call.unit], self.lowered.weight_gradient[g.call.unit]
        if input_gradient is not None:
            self.timeline.add(input_gradient, [g.places[b] for b in input_gradient.binds], g.call.path, f"{g.label} input gradient")
        for total, part, kind in sums:
            routine = self.lowered.adds[kind.dtype, kind.size]
            self.timeline.add(routine, [total, part, total], g.call.path, f"{g.label} sum of gradients")
        if weight_gradient is not None:
            self.timeline.add(weight_gradient, [g.places[b] for b in weight_gradient.binds], g.call.path, f"{g.label} weight gradient")

    def _cotangent(self, g: _Gradient, n: int) -> Place:
        """Where the cotangent of a result lies; that of a state nothing reads is set to 0 first."""
        if n >= g.unit.outputs or g.call.results[n] == self.rows.chain.loss:
            return self.memory.seed
        state, kind = g.call.results[n], g.unit.function.results[n].type
        slot = self.timeline.slot(f"gradient.{state}", kind)
        if state not in self.written:
            self.timeline.add(self.lowered.zeros[kind.dtype, kind.size], [slot], g.call.path, f"{g.label} zero")
        return slot

    def _state_gradients(self, g: _Gradient) -> list[tuple[Place, Place, TensorType]]:
        """Place the gradients of the states a call reads; returns what must be added afterwards as (total, part, type)."""
        sums: list[tuple[Place, Place, TensorType]] = []
        for parameter, result in g.variant.d_states:
            state, kind = g.arguments[parameter]
            total = self.timeline.slot(f"gradient.{state}", kind)
            if state not in self.written:
                self.written.add(state)
                g.places[result] = total
                continue
            part = self.timeline.slot(f"{g.number}.part.{result}", kind)
            g.places[result] = part
            sums.append((total, part, kind))
        return sums

    def _place_pending(self, g: _Gradient) -> None:
        """Place what is kept for the weight gradient: where it lies already, over a saved value, or by itself."""
        kinds = {r.name: r.type for r in g.variant.input_gradient.results}
        kept = self.lowered.kept[g.call.unit]
        for name in g.variant.pending:
            same = kept.get(name) or self._overwritten(g, name)
            g.places[name] = g.places[same] if same else self.timeline.slot(f"{g.number}.pending.{name}", kinds[name])

    def _overwritten(self, g: _Gradient, pending: str) -> str | None:
        """The saved value a pending one may be written over: it is read for the last time as this one is made."""
        routine = self.lowered.input_gradient[g.call.unit]
        over = dict(routine.in_place).get(pending) if routine else None
        later = {p.name for p in g.variant.weight_gradient.parameters}
        return over if over in g.variant.saved and over not in later else None
