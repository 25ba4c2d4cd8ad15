"""What initial values and updates are given: each operand its own memory, whole, of the tensor that it is of.

An initial value gets the master, then work memory. Of an update a plan says where its gradient lies and which scalars it reads; the rest
of its operands each replica lays out for its own pieces, by a rule (memory_proof.py has the room for them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from mlc.parallel.faults import Fault
from mlc.parallel.meaning import init_meaning, update_meaning
from mlc.parallel.planned import NUMBER_BYTES, RECORD_HEAD_BYTES, Area, Held, OwnedParameter, ParameterKind, Place, Planned, Signature
from mlc.parallel.shards import line_bytes


def call_faults(planned: Planned) -> Iterator[Fault]:
    """What is wrong with the operands of initial values and updates."""
    unit = planned.unit
    for place in planned.places:
        fixed = {area.name: area for area in place.fixed}
        gradients = {number: levels[0] for number, index, _, levels in place.summed if index == 0 and levels}
        first = place.record + RECORD_HEAD_BYTES
        scalars = range(first, first + unit * len(planned.scalars), unit)
        yield from _record_faults(planned, place, fixed, unit)
        meanings = {number: init_meaning(planned.routines[number]) for number in {held.init.routine for held in place.held}}
        for held in place.held:
            if not _is_plain(planned, held, fixed, meanings):
                yield from _init_faults(planned, place, held, fixed, unit)
        right: set[tuple[object, ...]] = set()
        for one in place.owned:
            number, _, _, read, *rest = one
            parameter = planned.parameters[number]
            if read != gradients.get(number):
                text = f"reads a gradient at {read}, its own is at {gradients.get(number)}"
                yield Fault("E1206", f"place {place.number}: update of {parameter.name}: {text}")
            alike = id(parameter.kind), *rest
            if alike not in right:
                found = list(_update_faults(planned, place, one, scalars))
                yield from found
                right.update([] if found else [alike])


def _record_faults(planned: Planned, place: Place, fixed: Mapping[str, Area], unit: int) -> Iterator[Fault]:
    """The step record, a number for each microbatch of the longest list, and room for what any list finds."""
    numbers = NUMBER_BYTES * max(planned.rounds.values(), default=0)
    wanted = {
        "record": (place.record, RECORD_HEAD_BYTES + unit * len(planned.scalars)),
        "microbatches": (place.microbatches, numbers),
        "results": (place.results, planned.results_bytes),
    }
    for name, (at, size) in wanted.items():
        area = fixed.get(name)
        if area is None or area.at != at or area.bytes < size:
            yield Fault("E1206", f"place {place.number}: {name}, {size} bytes at {at}, are no memory of their own")


def _is_plain(planned: Planned, held: Held, fixed: Mapping[str, Area], meanings: Mapping[int, str]) -> bool:
    """Does it write a master, whole and no other memory, as most do? Then nothing is wrong with it. meanings: by routine"""
    number, master, copy, (called, at), meaning = held
    name, kind, _, _ = planned.parameters[number]
    area = fixed.get(f"parameter {name}")
    whole = area is not None and area[1:3] == (master, planned.unit * kind.stored)
    return whole and at == (master,) and copy is None and len(planned.routines[called].operands) == 1 and meanings[called] == meaning


def _init_faults(planned: Planned, place: Place, held: Held, fixed: Mapping[str, Area], unit: int) -> Iterator[Fault]:
    parameter, routine = planned.parameters[held.parameter], planned.routines[held.init.routine]
    name = parameter.name
    where = f"place {place.number}: initial value of {name}"
    if init_meaning(routine) != held.meaning:
        yield Fault("E1204", f"{where}: it is not that of the model")
    master = fixed.get(f"parameter {name}")
    if master is None or (master.at, master.bytes) != (held.master, unit * parameter.kind.stored) or held.init.at[:1] != (held.master,):
        yield Fault("E1206", f"{where}: it is not written to its master, which is at {held.master}")
    for operand, at in islice(zip(routine.operands, held.init.at, strict=True), 1, None):
        work = fixed.get(f"work of {name} init")
        if operand.use != "work" or work is None or not work.at <= at <= at + operand.bytes <= work.end:
            yield Fault("E1206", f"{where}: {operand} at {at} is no work memory of it")
    if held.copy is not None and ((copy := fixed.get(f"copy of {name}")) is None or copy.at != held.copy):
        yield Fault("E1206", f"{where}: its copy is not at {held.copy}")


def _update_faults(planned: Planned, place: Place, one: OwnedParameter, scalars: range) -> Iterator[Fault]:
    """What is wrong of all but the gradient, which parameters of equal layers have alike."""
    parameter = planned.parameters[one.parameter]
    where = f"place {place.number}: update of {parameter.name}"
    strange = [at for at in one.reads if at not in scalars]
    for at in strange:
        yield Fault("E1206", f"{where}: reads {at}, where no scalar of the record lies")
    names = [planned.scalars[scalars.index(at)] for at in one.reads if at in scalars]
    routine = None if one.update is None else planned.routines[one.update]
    if not strange and update_meaning(parameter.kind, routine, names) != one.meaning:
        yield Fault("E1204", f"{where}: it does not compute what that of the model does")
    if routine is None:
        return
    if routine.flat != parameter.kind.elementwise:
        yield Fault("E1204", f"{where}: {routine.name} runs over {'a range' if routine.flat else 'the whole'}, its rule does not")
    least = _work_bytes(parameter.kind, routine, planned.unit)
    if one.work < least or (routine.flat and one.work):
        yield Fault("E1206", f"{where}: what it makes and uses up are {least} bytes, {one.work} are planned")


def _work_bytes(kind: ParameterKind, routine: Signature, unit: int) -> int:
    """What an update makes beside what it reads, and its work memory; one that is elementwise has neither."""
    if routine.flat:
        return 0
    results = (kind.stored, *map(kind.stored_state, range(len(kind.states))))
    return sum(line_bytes(size, unit) for size in results) + sum(operand.bytes for operand in routine.operands if operand.use == "work")
