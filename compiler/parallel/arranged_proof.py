"""How parameters lie: every element has a place of its own, and all that read or write one know the same arrangement.

    places     of each master, copy and whole state: strides show that no two elements share a place, and that all lie in the buffer
    routines   rows, initial values and updates are given a buffer by routines whose code has it arranged as it is; a rule over elements,
               to which the runtime gives them in canonical order, knows nothing of it
    chains     a state, or the gradient of one, lies alike in all chunks of its chain, for messages carry it as it lies; what the runtime
               fills or reads itself is canonical
    scratch    each thread has room for what it holds in canonical order

Shards, messages and files number elements in canonical order, so nothing that is proved of them depends on how they lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mlc.ir.dtypes import dtype_of
from mlc.lower.arrangement import Arrangement, is_bijective
from mlc.parallel.faults import Fault
from mlc.parallel.planned import STRIP_ELEMENTS, STRIPS, Arranged, Chunk, Held, OwnedParameter, Place, Planned, PlannedParameter, Signature
from mlc.parallel.row_proof import SENT_AS

_CANONICAL = Arranged(None, None, ())

#: What names of states and their gradients begin with, at each end of a message, and those that senders have for them.
_ENDS = tuple((prefix, sent) for received, sent in SENT_AS for prefix in (received, sent))
#: How they lie, by chain and by the name that senders have for them.
_States = dict[tuple[str, str], Arrangement | None]


def arranged_faults(planned: Planned) -> Iterator[Fault]:
    """What is wrong with how the parameters of a plan lie."""
    lies = [parameter for parameter in planned.parameters if parameter.kind.arranged is not None]
    if not lies and all(operand.arranged is None for routine in planned.routines for operand in routine.operands):
        return
    for parameter in lies:
        yield from _parameter_faults(parameter)
    least = STRIPS * STRIP_ELEMENTS * planned.unit
    if lies and planned.scratch_bytes_per_thread < least:
        yield Fault("E1206", f"{planned.scratch_bytes_per_thread} bytes of scratch a thread, canonical elements of parameters take {least}")
    states: _States = {}
    for place in planned.places:
        for held in place.held:
            yield from _init_faults(planned, place, held)
        for one in place.owned:
            yield from _update_faults(planned, place, one)
        for chain, chunks in place.chunks.items():
            for number, chunk in enumerate(chunks):
                where, buffers = f"{chain}: place {place.number}, chunk {number}", _known(planned, place, chunk)
                yield from _chunk_faults(planned, chunk, buffers, where)
                yield from _state_faults(chunk, buffers, chain, states, where)


def _parameter_faults(parameter: PlannedParameter) -> Iterator[Fault]:
    arranged = parameter.kind.arranged or _CANONICAL
    if len(arranged.states) != len(parameter.kind.states):
        yield Fault("E1204", f"parameter {parameter.name}: {len(arranged.states)} states are arranged, it has {len(parameter.kind.states)}")
        return
    if parameter.kind.elementwise and any(state is not None for state in arranged.states):
        yield Fault("E1204", f"parameter {parameter.name}: states of a rule over elements are canonical")
    if arranged.copy is not None and dtype_of(parameter.kind.dtype).wide == parameter.kind.dtype:
        yield Fault("E1204", f"parameter {parameter.name}: it has no copy that is arranged")
    shapes = [("master", arranged.master, parameter.kind.shape), ("copy", arranged.copy, parameter.kind.shape)]
    shapes += [(f"state {name}", of, shape) for (name, shape), of in zip(parameter.kind.states, arranged.states, strict=True)]
    for what, of, shape in shapes:
        if of is not None and not is_bijective(of, shape):
            yield Fault("E1206", f"parameter {parameter.name}: {what} of {list(shape)} arranged {of}: some of its elements share a place")


def _wrong(where: str, routine: Signature, wanted: Sequence[Arrangement | None]) -> Iterator[Fault]:
    """wanted: of its first operands"""
    for number, (operand, arrangement) in enumerate(zip(routine.operands, wanted, strict=False)):
        if operand.arranged != arrangement:
            text = f"operand {number} of {routine.name} is arranged {operand.arranged or 'canonically'}, what it is given"
            yield Fault("E1206", f"{where}: {text} {arrangement or 'canonically'}")


def _init_faults(planned: Planned, place: Place, held: Held) -> Iterator[Fault]:
    parameter = planned.parameters[held.parameter]
    where = f"place {place.number}: initial value of {parameter.name}"
    yield from _wrong(where, planned.routines[held.init.routine], [(parameter.kind.arranged or _CANONICAL).master])
    if parameter.kind.arranged and parameter.kind.arranged.master and planned.routines[held.init.routine].flat:
        yield Fault("E1206", f"{where}: it runs over a range of elements, which do not lie one after the other")


def _update_faults(planned: Planned, place: Place, one: OwnedParameter) -> Iterator[Fault]:
    parameter = planned.parameters[one.parameter]
    if one.update is None:
        return
    arranged = parameter.kind.arranged or _CANONICAL
    states = arranged.states or (None,) * len(parameter.kind.states)
    wanted: list[Arrangement | None] = [arranged.master, arranged.master, *states, arranged.master, *states]
    if parameter.kind.elementwise:
        wanted = [None] * len(wanted)
    yield from _wrong(f"place {place.number}: update of {parameter.name}", planned.routines[one.update], wanted)


def _chunk_faults(planned: Planned, chunk: Chunk, lies: dict[int, Arrangement | None], where: str) -> Iterator[Fault]:
    """Each buffer lies in one way, for all rows. lies: those that are known, to which the others are added"""
    for row in (row for rows in chunk.rows.values() for row in rows):
        routine = planned.routines[row.routine]
        for number, operand in zip(row.buffers, routine.operands, strict=True):
            if lies.setdefault(number, operand.arranged) != operand.arranged:
                text = f"{chunk.buffers[number].name} is arranged {lies[number] or 'canonically'}, to {routine.name}"
                yield Fault("E1206", f"{where}: {text} {operand.arranged or 'canonically'}")


def _state_faults(chunk: Chunk, lies: Mapping[int, Arrangement | None], chain: str, states: _States, where: str) -> Iterator[Fault]:
    """Both ends of a message have its states lie alike, as all between them."""
    for number, arrangement in lies.items():
        name = chunk.buffers[number].name
        sent = next((to + name.removeprefix(prefix) for prefix, to in _ENDS if name.startswith(prefix)), None)
        if sent is not None and states.setdefault((chain, sent), arrangement) != arrangement:
            text = f"{name} is arranged {arrangement or 'canonically'}, elsewhere {states[chain, sent] or 'canonically'}"
            yield Fault("E1206", f"{where}: {text}")


def _known(planned: Planned, place: Place, chunk: Chunk) -> dict[int, Arrangement | None]:
    """How buffers of a chunk lie that are of parameters and gradients, or that the runtime fills or reads."""
    shown = [buffer for _, buffer in (*chunk.inputs, *chunk.values)]
    shown += [] if chunk.weight is None else [chunk.weight]
    shown += [] if chunk.logits is None else [chunk.logits.buffer]
    known = _of_parameters(planned, place, chunk)
    return dict.fromkeys(shown) | {number: known[buffer.name] for number, buffer in enumerate(chunk.buffers) if buffer.name in known}


def _of_parameters(planned: Planned, place: Place, chunk: Chunk) -> dict[str, Arrangement | None]:
    """By name. Rows read the copy where the place has one that lasts."""
    known: dict[str, Arrangement | None] = {}
    for held in place.held:
        parameter = planned.parameters[held.parameter]
        arranged = parameter.kind.arranged or _CANONICAL
        known[f"parameter {parameter.name}"] = arranged.master if held.copy is None else arranged.copy
        known[f"copy of {parameter.name}"] = arranged.copy
    for use in chunk.uses:
        parameter = planned.parameters[use.parameter]
        known[f"gradient of {parameter.name} {use.ordinal} 0"] = (parameter.kind.arranged or _CANONICAL).master
    return known
