"""The backward rows of a stage: what a call makes again, its input gradient, then its weight gradient, from the last call to the first.

A state that is not kept is made again by the forward of its maker as a whole, with all that the maker's own backward wants, before the
first call that reads it on the way back.

The gradient of a state is the sum of what its readers give, from the last call to the first: total = total + part. Over a cut
travels the total so far, so the order of additions does not depend on cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.frozen import frozen
from mlc.ir.program import STATES, Call, Unit, Variant
from mlc.ir.types import Value
from mlc.lower.again import Again
from mlc.lower.arrangement import Stored
from mlc.lower.program import Lowered
from mlc.lower.routine import Routine
from mlc.plan.forward import Accumulators, Values
from mlc.plan.rows import StageRows
from mlc.plan.stages import StagedChain

#: A buffer of the step record that holds 1: the cotangent of a loss whose microbatch has no weight of its own.
ONE = "one"


@frozen
class _Gradient:
    """One call of the chain with its derivative; `values`, the buffers of its values by name, grows.

    again: what makes values again; None where all are kept, or its forward runs once more as a whole
    """

    number: int
    call: Call
    unit: Unit
    variant: Variant
    again: Again | None
    values: dict[str, str]

    @property
    def label(self) -> str:
        return self.call.path or self.unit.name

    @property
    def arguments(self) -> Mapping[str, tuple[str, Value]]:
        """What each parameter of the unit is bound to, and the parameter."""
        names = zip(self.unit.function.parameters, self.call.arguments, strict=True)
        return {p.name: (name, p) for p, name in names}


def add_backward_rows(
    lowered: Lowered, staged: StagedChain, uses: Accumulators, choices: Sequence[str], values: Values, rows: StageRows
) -> None:
    """Append the backward half to the rows of a stage of the train chain."""
    planner = _Planner(lowered, staged, uses, choices, values, rows)
    planner.pass_on()
    for number in reversed(staged.calls[rows.stage]):
        gradient = planner.gradient(number)
        if gradient is not None:
            planner.add(gradient)


class _Planner:
    """The calls of a stage, from the last to the first.

    totals:   the buffer that holds the gradient so far of each state that has one
    makers:   of each state that is still to be made again, the call
    readers:  of each that is made again, those who read it
    """

    def __init__(self, lowered: Lowered, staged: StagedChain, uses: Accumulators, choices: Sequence[str], values: Values, rows: StageRows):
        self.lowered = lowered
        self.staged = staged
        self.uses = uses
        self.choices = choices
        self.values = values
        self.rows = rows
        own = [number for number in staged.calls[rows.stage] if choices[number] == STATES]
        self.makers = {state: number for number in own for state in staged.chain.calls[number].results}
        self.readers = self._readers()
        received = staged.gradients_received(rows.stage)
        self.totals = {state: rows.buffer(f"gradient received.{state}", staged.types[state]) for state in received}

    def pass_on(self) -> None:
        """Copy the gradients that arrive and leave with nothing added."""
        added = {state for n in self.staged.calls[self.rows.stage] for state in self._states(n)}
        for state in self.staged.gradients_sent(self.rows.stage):
            if state in self.totals and state not in added:
                kind = self.staged.types[state]
                buffers = [self.totals[state], self.rows.buffer(f"gradient.{state}", kind)]
                self.rows.add("I", self.lowered.copies[kind.key], buffers, "", f"gradient of {state} passes")

    def _states(self, number: int) -> list[str]:
        """The states whose gradients a call adds to."""
        gradient = self.gradient(number)
        return [gradient.arguments[parameter][0] for parameter, _ in gradient.variant.d_states] if gradient else []

    def gradient(self, number: int) -> _Gradient | None:
        """A call with its derivative; None where it makes no gradient."""
        call, step = self.staged.chain.calls[number], self.lowered.step
        unit, variant = step.program.units[call.unit], step.variant(call.unit, self.choices[number])
        again = self.lowered.again_of(call.unit, self.choices[number]) if self.choices[number] != STATES else None
        return _Gradient(number, call, unit, variant, again, self.values[number]) if variant else None

    def add(self, g: _Gradient) -> None:
        """Append the rows of one call."""
        for _, result, _ in g.variant.d_params:
            g.values[result] = self.uses[g.number, result]
        for n, cotangent in enumerate(g.variant.d_results):
            if cotangent is not None:
                g.values[cotangent] = self._cotangent(g, n)
        sums = self._state_gradients(g)
        self._place_pending(g)
        input_gradient, weight_gradient = self.lowered.input_gradient[g.call.unit], self.lowered.weight_gradient[g.call.unit]
        phase = "I" if input_gradient is not None else "W"
        for maker in self._unmade(g, (input_gradient, weight_gradient, g.again and g.again.routine)):
            self._make_whole(maker)
        self._make_again(g, phase)
        if input_gradient is not None:
            self.rows.add("I", input_gradient, [g.values[b] for b in input_gradient.binds], g.call.path, f"{g.label} input gradient")
        for parts, kind in sums:
            self.rows.add("I", self.lowered.adds[kind.key], parts, g.call.path, f"{g.label} sum of gradients")
        if weight_gradient is not None:
            self.rows.add("W", weight_gradient, [g.values[b] for b in weight_gradient.binds], g.call.path, f"{g.label} weight gradient")

    def _make_again(self, g: _Gradient, phase: str) -> None:
        """Append the row that makes saved values again, where none of them was kept from forward on."""
        if g.again is None:
            return
        kinds = {r.name: self.lowered.stored(g.call.unit, r) for r in g.variant.forward.results}
        g.values.update({name: self.rows.buffer(f"{g.number}.{name}", kinds[name]) for name in g.again.remade})
        routine = g.again.routine
        self.rows.add(phase, routine, [g.values[b] for b in routine.binds], g.call.path, f"{g.label} again", again=True)

    def _unmade(self, g: _Gradient, routines: Sequence[Routine | None]) -> list[int]:
        """The makers of states that the routines of a call read and that are not there yet, in the order of the chain."""
        read = {name for routine in routines if routine is not None for name in routine.binds}
        states = [state for parameter, (state, _) in g.arguments.items() if parameter in read]
        results = zip(g.unit.function.results, g.call.results, strict=False)
        return self._makers([*states, *(state for value, state in results if value.name in read)])

    def _makers(self, states: Sequence[str]) -> list[int]:
        """The makers of states that are not there, behind those of what they read themselves."""
        found: set[int] = set()
        wanted = [self.makers[state] for state in states if state in self.makers]
        while wanted:
            number = wanted.pop()
            if number in found:  # made for another reader
                continue
            found.add(number)
            wanted += [self.makers[name] for name in self.staged.chain.calls[number].arguments if name in self.makers]
        return sorted(found)

    def _make_whole(self, number: int) -> None:
        """Append the row that runs the forward of a call once more; from here on all that it made lies where this row puts it.

        It is of I, for other calls may read its states there.
        """
        call, routine = self.staged.chain.calls[number], self.lowered.forward[self.staged.chain.calls[number].unit]
        unit, variant = self.lowered.step.program.units[call.unit], self.lowered.step.variant(call.unit)
        again: dict[str, str] = {}
        for value, state in zip(unit.function.results, call.results, strict=True):
            again[state] = self.rows.buffer(f"again.{state}", self.lowered.stored(call.unit, value))
            self.values[number][value.name] = again[state]
        for value in variant.forward.results[unit.outputs :] if variant else ():
            self.values[number][value.name] = self.rows.buffer(f"{number}.{value.name}", self.lowered.stored(call.unit, value))
        buffers = [self.values[number][name] for name in routine.binds]
        self.rows.add("I", routine, buffers, call.path, f"{call.path or unit.name} again", again=True)
        for state, buffer in again.items():
            del self.makers[state]
            for reader, parameter in self.readers.get(state, ()):
                self.values[reader][parameter] = buffer

    def _readers(self) -> dict[str, list[tuple[int, str]]]:
        """By state that is to be made again: calls that read it, and the parameter that it is for each."""
        found: dict[str, list[tuple[int, str]]] = {}
        for number in self.staged.calls[self.rows.stage] if self.makers else ():
            call = self.staged.chain.calls[number]
            for parameter, name in zip(self.lowered.step.program.units[call.unit].function.parameters, call.arguments, strict=True):
                if name in self.makers:
                    found.setdefault(name, []).append((number, parameter.name))
        return found

    def _cotangent(self, g: _Gradient, n: int) -> str:
        """Where the cotangent of a result lies; that of a state nothing reads is set to 0 first."""
        if n >= g.unit.outputs or g.call.results[n] == self.staged.chain.loss:
            return self.rows.weight or ONE
        state, kind = g.call.results[n], self.lowered.stored(g.call.unit, g.unit.function.results[n])
        if state in self.totals:
            return self.totals[state]
        zero = self.rows.buffer(f"gradient.{state}", kind)
        self.rows.add("I", self.lowered.zeros[kind.key], [zero], g.call.path, f"{g.label} zero")
        return zero

    def _state_gradients(self, g: _Gradient) -> list[tuple[list[str], Stored]]:
        """Place the gradients of the states a call reads; returns what is to be added afterwards: total, part, new total."""
        sums: list[tuple[list[str], Stored]] = []
        for parameter, result in g.variant.d_states:
            state, value = g.arguments[parameter]
            kind = self.lowered.stored(g.call.unit, value)
            total = self.rows.buffer(f"gradient.{state}", kind)
            if state in self.totals:
                part = self.rows.buffer(f"{g.number}.part.{result}", kind)
                g.values[result] = part
                sums.append(([self.totals[state], part, total], kind))
            else:
                g.values[result] = total
            self.totals[state] = total
        return sums

    def _place_pending(self, g: _Gradient) -> None:
        """Place what is kept for the weight gradient: where it lies already, over a saved value, or by itself."""
        kinds = {r.name: self.lowered.stored(g.call.unit, r) for r in g.variant.input_gradient.results}
        kept = self.lowered.kept[g.call.unit]
        for name in g.variant.pending:
            same = kept.get(name) or self._overwritten(g, name)
            g.values[name] = g.values[same] if same else self.rows.buffer(f"{g.number}.pending.{name}", kinds[name])

    def _overwritten(self, g: _Gradient, pending: str) -> str | None:
        """The saved value a pending one may be written over: it is read for the last time as this one is made."""
        routine = self.lowered.input_gradient[g.call.unit]
        over = dict(routine.in_place).get(pending) if routine else None
        later = {p.name for p in g.variant.weight_gradient.parameters}
        made = g.variant.forward.results[: g.unit.outputs + len(g.unit.effects)]
        left = {value.name for value in made if value.type.size == 1}  # it may be a number that is looked at when the step has ended
        return over if over in g.variant.saved and over not in later | left else None
