"""Addresses that hold for the whole run: the record, inputs, parameters, and what is taken while rows are planned."""

from __future__ import annotations

from mlc.ir.program import Call, Unit
from mlc.lower.layout import aligned
from mlc.lower.program import Lowered
from mlc.plan.placed import scalar_names
from mlc.plan.timeline import Place, Timeline

#: Bytes of mlc_record before its scalars.
RECORD_HEAD_BYTES = 64


class Memory:
    """The lower part of the arena, from its start, in bytes.

    levels:   accumulators of a use of a parameter: its groups are combined in a tree of so many levels
    scalars:  address of each scalar of the record
    seed:     of the f32 that is the cotangent of every loss
    masters:  of each parameter's f32 value; copies: of what the forward pass reads instead, in a narrower dtype
    uses:     of each parameter, the accumulators of each use so far, by level
    """

    def __init__(self, lowered: Lowered, groups: int):
        program = lowered.step.program
        self.bytes = 0
        self.levels = 1 + max(g.bit_count() for g in range(groups))
        names = scalar_names(program)
        self.record = self.take(RECORD_HEAD_BYTES + 4 * len(names))
        self.scalars = {name: self.record + RECORD_HEAD_BYTES + 4 * n for n, name in enumerate(names)}
        self.seed = self.take(4)
        self.inputs = {i.name: self.take(i.type.bytes) for i in program.inputs}
        self.masters = {p.name: self.take(4 * p.type.size) for p in program.parameters}
        self.copies = {p.name: self.take(p.type.bytes) for p in program.parameters if p.type.dtype != "f32"}
        self.uses: dict[str, list[tuple[int, ...]]] = {p.name: [] for p in program.parameters}
        self._sizes = {p.name: p.type.size for p in program.parameters}

    def take(self, size: int) -> int:
        """An address for `size` bytes more."""
        at = self.bytes
        self.bytes += aligned(size)
        return at

    def work(self, size: int) -> tuple[int, ...]:
        """The address of work memory of `size` bytes as the last of a row; none where it needs none."""
        return (self.take(size),) if size else ()

    def use(self, parameter: str) -> int:
        """An accumulator for one more use of a parameter; returns the address of its level 0."""
        size = 4 * self._sizes[parameter]
        self.uses[parameter].append(tuple(self.take(size) for _ in range(self.levels)))
        return self.uses[parameter][-1][0]

    def bound(self, role: str, name: str) -> int:
        """The address of what a parameter of a unit with role param, input or record is bound to."""
        match role:
            case "param":
                return self.copies.get(name, self.masters[name])
            case "input":
                return self.inputs[name]
        return self.scalars[name]

    def argument(self, timeline: Timeline, unit: Unit, call: Call, number: int) -> Place:
        """The place of an argument of a call; of a state, in the timeline."""
        role, name = unit.roles[number], call.arguments[number]
        if role == "state":
            return timeline.slot(f"state.{name}", unit.function.parameters[number].type)
        return self.bound(role, name)
