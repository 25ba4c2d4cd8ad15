"""Which routines a plan calls, and what each does with its operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.lower.program import Lowered
from mlc.lower.routine import Routine
from mlc.lower.scratch import scratch_bytes
from mlc.parallel.planned import Operand, Signature


@frozen
class Routines:
    """The routines that rows call, in the order they were lowered; `numbers` by name."""

    signatures: tuple[Signature, ...]
    numbers: dict[str, int]

    def number(self, routine: Routine) -> int:
        return self.numbers[routine.name]


def called_routines(lowered: Lowered, called: Iterable[Routine]) -> Routines:
    """Those of the lowered routines that are called."""
    names = {routine.name for routine in called}
    used = [routine for routine in lowered.routines if routine.name in names]
    updates = {routine.name for routine in lowered.updates}
    signatures = tuple(_signature(r, r.name in lowered.flat, r.name in updates) for r in used)
    return Routines(signatures, {routine.name: number for number, routine in enumerate(used)})


def _signature(routine: Routine, flat: bool, updates: bool) -> Signature:
    parameters = {p.name for p in routine.function.parameters}
    over = _overwritten(routine) if not flat else _updated(routine.binds, parameters) if updates else {}
    operands = [_operand(routine, name, name in parameters, over.get(name, -1), flat) for name in routine.binds]
    if routine.work_bytes:
        operands.append(Operand("work", routine.work_bytes, -1, False))
    return Signature(routine.name, routine.flops, scratch_bytes(routine), flat, tuple(operands))


def _operand(routine: Routine, name: str, read: bool, over: int, flat: bool) -> Operand:
    buffer = routine.buffers[name]
    each = flat and buffer.elements > 1
    size = dtype_of(buffer.dtype).bytes * (1 if each else buffer.elements)
    return Operand("read" if read else "add" if name in routine.folds else "write", size, over, each, buffer.arranged)


def _overwritten(routine: Routine) -> dict[str, int]:
    """The operand whose place each result may take."""
    return {result: routine.binds.index(parameter) for result, parameter in routine.in_place}


def _updated(binds: Sequence[str], parameters: set[str]) -> dict[str, int]:
    """Of a rule over elements: the new parameter may take the place of the old one, new states that of the states behind the gradient."""
    results = [name for name in binds if name not in parameters]
    return {name: 0 if n == 0 else n + 1 for n, name in enumerate(results)}
