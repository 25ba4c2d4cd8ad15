"""The proof of a plan: nothing is emitted that does not pass it, and `mlc verify plan.json` runs it alone.

coverage    each microbatch of each stage is forwarded and differentiated once, in ascending order; each element of each parameter
            is updated by one replica, with optimizer state of its own; every use of a parameter is summed once
transfers   each message is sent by one end, received and freed by the other, in one order
deadlock    the lists run to their end with the slots that the channels have
lifetimes   a slot is written before it is read and not overwritten while something will read it
memory      no two buffers in use at once share a byte; everything lies in the arena
sweeps      gradients are summed, scaled, clipped and counted once, parameters updated, copies made of them
rows        each buffer that a row is given lies where it was written, whole; what it writes, nothing else needs
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError
from mlc.frozen import frozen
from mlc.parallel.arranged_proof import arranged_faults
from mlc.parallel.call_proof import call_faults
from mlc.parallel.collective_proof import collective_faults
from mlc.parallel.ending_proof import ending_faults
from mlc.parallel.entries import CODES, RESTS, Column, Entries, Entry
from mlc.parallel.faults import Fault
from mlc.parallel.ground_proof import ground_faults
from mlc.parallel.memory_proof import memory_faults
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.planned import OwnedParameter, Place, Planned, PlannedParameter
from mlc.parallel.row_proof import row_faults
from mlc.parallel.sweep_proof import sweep_faults
from mlc.parallel.symbolic import run_symbolic


@frozen
class Proof:
    """What a plan was found to do.

    actions:     compute actions of a step, over all places of one replica; collectives: what ends it, the same
    messages:    of each channel in one list, by name
    live_bytes:  of each place, bytes of regions of the train chain in use at the worst moment of each
    """

    actions: int
    collectives: int
    messages: Mapping[str, int]
    live_bytes: tuple[int, ...]


def verify(content: Mapping[str, Any]) -> Proof:
    """Prove a parsed plan.json. raises: MlcError E1201 where it is not a plan, and as `prove` does"""
    return prove(read_plan(content))


def prove(planned: Planned, calls: tuple[str, ...] | None = None) -> Proof:
    """Prove a plan.

    calls:   names of the calls of the train chain in order, where the program is at hand
    raises:  MlcError E1202 (deadlock), E1203 (transfers), E1204 (coverage), E1205 (lifetimes), E1206 (memory)
    """
    if faults := list(_share_faults(planned)):
        raise _refused(faults)
    placed = (*memory_faults(planned), *row_faults(planned), *call_faults(planned), *ground_faults(planned), *sweep_faults(planned))
    placed += tuple(arranged_faults(planned))
    faults = [*_coverage(planned, calls), *_ownership(planned), *_channels(planned), *collective_faults(planned), *placed]
    if faults:
        raise _refused(faults)
    messages: dict[str, int] = {}
    live: tuple[int, ...] = ()
    for chain in planned.rounds:
        outcome = run_symbolic(planned, chain)
        if outcome.faults:
            raise _refused(list(outcome.faults))
        messages.update(outcome.messages)
        if chain == "train":
            pairs = zip(planned.places, outcome.peaks, strict=True)
            live = tuple(sum(place.regions[name].stride * slots for name, slots in peaks.items()) for place, peaks in pairs)
    actions = sum(int(place.lists["train"].computes.sum()) for place in planned.places)
    endings = sum(int(place.lists["train"].endings.sum()) for place in planned.places)
    return Proof(actions, endings, messages, live)


def explain_proof(proof: Proof) -> str:
    """What was proved, in words."""
    total = sum(proof.messages.values())
    live = ", ".join(f"place {place}: {size:,}" for place, size in enumerate(proof.live_bytes))
    return (
        f"verified: {proof.actions} actions a step of a replica, {total} messages over {len(proof.messages)} channels, "
        f"{proof.collectives} actions that end it\n"
        f"live bytes of the rings at their peak: {live}"
    )


def _refused(faults: list[Fault]) -> MlcError:
    return MlcError([Diagnostic(f.code, f.message, NO_SPAN) for f in list(dict.fromkeys(faults))[:20]])


# ---------------------------------------------------------------------------------------------------------------- coverage


def _share_faults(planned: Planned) -> Iterator[Fault]:
    """What else is proved takes it that replicas have the same share of microbatches and groups."""
    if planned.microbatches % planned.dp or planned.rounds.get("train") != planned.microbatches // planned.dp:
        text = f"{planned.microbatches} microbatches over {planned.dp} replicas are not lists of {planned.rounds.get('train')}"
        yield Fault("E1204", text)
    if planned.microbatches % planned.groups or planned.groups % planned.dp:
        yield Fault("E1204", f"{planned.microbatches} microbatches in {planned.groups} groups do not divide over {planned.dp} replicas")


def _coverage(planned: Planned, calls: tuple[str, ...] | None) -> Iterator[Fault]:
    yield from _stage_faults(planned)
    planned_calls = tuple(name for stage in planned.calls for name in stage)
    if calls is not None and planned_calls != calls:
        at = next((i for i, (a, b) in enumerate(zip(planned_calls, calls, strict=False)) if a != b), min(len(planned_calls), len(calls)))
        yield Fault("E1204", f"the stages do not hold the calls of the model in order: they differ at call {at}")
    for place in planned.places:
        for chain, whole in planned.rounds.items():
            if chain not in place.lists:
                yield Fault("E1204", f"{chain}: place {place.number} has no list")
                continue
            yield from _list_faults(planned, place, chain, whole)
            yield from ending_faults(planned, place, chain)


def _stage_faults(planned: Planned) -> Iterator[Fault]:
    numbers = tuple(p.number for p in planned.places)
    if numbers != tuple(range(planned.pp)):
        yield Fault("E1204", f"the places are {list(numbers)}, not 0 to {planned.pp - 1}")
        return
    for place in planned.places:
        own = tuple(s for s, p in enumerate(planned.stages) if p == place.number)
        if place.stages != own:
            yield Fault("E1204", f"place {place.number} holds stages {list(place.stages)}, the plan gives it {list(own)}")
    if any(not 0 <= p < planned.pp for p in planned.stages):
        yield Fault("E1204", f"a stage lies on a place outside 0 to {planned.pp - 1}")


def _list_faults(planned: Planned, place: Place, chain: str, whole: int) -> Iterator[Fault]:
    """Each microbatch once in each phase, ascending; nothing after the list's end."""
    entries = place.lists[chain]
    yield from _rest_faults(place, chain)
    compute = np.flatnonzero(entries.computes)
    of, microbatches = entries.of[compute], entries.microbatches[compute]
    chunks = len(place.stages)
    known = (of >= 0) & (of < chunks) & (microbatches >= 0) & (microbatches < whole)
    where = f"{chain}: place {place.number}"
    for at in compute[~known].tolist():
        text = f"this place has chunks 0 to {chunks - 1} and microbatches 0 to {whole - 1}"
        yield Fault("E1204", f"{where}, action {at} ({entries[at]}): {text}")
    if chain != "train":
        for at in compute[known & (entries.kinds[compute] != CODES["F"])].tolist():
            yield Fault("E1204", f"{where}, action {at} ({entries[at]}): only forward passes are made here")
    uses = place.uses() if chain == "train" else ()
    fed = {(chunk, use.phase) for chunk, use in uses if planned.parameters[use.parameter].kind.fed != "none"}
    folds = _Folded(frozenset(fed), max(planned.microbatches // planned.groups, 1))
    strange = [at for at in np.flatnonzero(entries.folds).tolist() if chain != "train" or not 0 <= int(entries[at].of) < chunks]
    yield from (Fault("E1204", f"{where}, action {at} ({entries[at]}): there are no such sums") for at in strange)
    at = compute[known]
    at = at[np.argsort(entries.of[at], kind="stable")]
    ends = np.searchsorted(entries.of[at], np.arange(1, chunks))
    for chunk, rows in enumerate(np.split(at, ends)):
        yield from _chunk_faults(entries, where, chunk, rows, whole if chain == "train" else 0, whole, folds)


def _rest_faults(place: Place, chain: str) -> Iterator[Fault]:
    """What is done in two parts is: the rest comes right behind its compute row, but for transfers, and nowhere else."""
    entries = place.lists[chain]
    at = np.flatnonzero(entries.computes | entries.rests | entries.folds)
    rests = {f"{phase}{number}": RESTS[phase] for number, chunk in enumerate(place.chunks.get(chain, ())) for phase in chunk.heads}
    found = [entries[n] for n in at.tolist()] if rests or entries.rests.any() else []
    wanted: Entry | None = None
    for n, entry in zip(at.tolist(), found, strict=False):
        where = f"{chain}: place {place.number}, action {n} ({entry})"
        if wanted is not None and entry != wanted:
            yield Fault("E1204", f"{where}: {wanted} comes next, the rest of an action")
        elif wanted is None and entry.kind in RESTS.values():
            yield Fault("E1204", f"{where}: is the rest of no action before it")
        rest = rests.get(f"{entry.kind}{entry.of}")
        wanted = Entry(rest, entry.of, entry.microbatch) if rest else None
    if wanted is not None:
        yield Fault("E1204", f"{chain}: place {place.number}: {wanted} is missing, the rest of an action")


#: What each part of a microbatch's work is called, the kinds that do it, and the part that must be done before.
_PARTS = {"F": ("forward", "F", None), "I": ("input gradient", "IB", "F"), "W": ("weight gradient", "WB", "I")}


class _Folded(NamedTuple):
    """(chunk, phase) that adds to gradients, and microbatches of a group."""

    phases: frozenset[tuple[int, str]]
    members: int


def _chunk_faults(
    entries: Entries, where: str, chunk: int, rows: Column, backward: int, whole: int, folds: _Folded
) -> Iterator[Fault]:
    """The compute rows of one chunk: once each, ascending, each part behind what it needs. backward: microbatches that have one"""
    done: dict[str, Column] = {}
    for part, (name, kinds, before) in _PARTS.items():
        at = rows[np.isin(entries.kinds[rows], [CODES[kind] for kind in kinds])]
        microbatches = entries.microbatches[at]
        for n in np.flatnonzero(np.diff(microbatches) < 0).tolist():
            text = f"microbatch {microbatches[n + 1]} comes after {microbatches[n]}; each phase of a chunk runs in ascending order"
            yield Fault("E1204", f"{where}, action {at[n + 1]} ({entries[int(at[n + 1])]}): {text}")
        done[part] = np.full(whole, len(entries))
        done[part][microbatches[::-1]] = at[::-1]
        for n in np.flatnonzero(done[before][microbatches] > at).tolist() if before else ():
            yield Fault("E1204", f"{where}, action {at[n]} ({entries[int(at[n])]}): {before} of its microbatch has not been done before")
        counts = np.bincount(microbatches, minlength=whole)
        wanted = np.arange(whole) < (whole if part == "F" else backward)
        for n in np.flatnonzero(counts != wanted)[:1].tolist():
            text = f"{name} of microbatch {n} is done {counts[n]} times, not {int(wanted[n])}"
            yield Fault("E1204", f"{where}, chunk {chunk}: {text}")
    if backward:
        yield from _fold_faults(entries, where, chunk, done, folds)


def _fold_faults(entries: Entries, where: str, chunk: int, done: Mapping[str, Column], folds: _Folded) -> Iterator[Fault]:
    """The sums of each group but a replica's last are folded once, behind its last microbatch and before the next one adds to them."""
    due = np.arange(folds.members - 1, len(done["F"]) - folds.members, folds.members)
    for phase, positions in done.items():
        rows = np.flatnonzero((entries.kinds == CODES[f"FOLD{phase}"]) & (entries.of == chunk))
        wanted = due if (chunk, phase) in folds.phases else due[:0]
        found = entries.microbatches[rows]
        if found.tolist() != wanted.tolist():
            text = f"sums of {phase} are folded behind microbatches {found.tolist()[:9]}, not {wanted.tolist()[:9]}"
            yield Fault("E1204", f"{where}, chunk {chunk}: {text}")
            continue
        for n in np.flatnonzero((rows < positions[wanted]) | (rows > positions[wanted + 1])).tolist():
            text = f"sums of a group are folded between microbatch {wanted[n]} and the next"
            yield Fault("E1204", f"{where}, action {rows[n]} ({entries[int(rows[n])]}): {text}")


# --------------------------------------------------------------------------------------------------------------- ownership


def _ownership(planned: Planned) -> Iterator[Fault]:
    """Each use summed once, each element updated once, by the place of the first use."""
    if not _owned_rightly(planned):
        yield from _ownership_faults(planned)
    for place in planned.places:
        numbers = [one.parameter for one in place.owned]
        if numbers != sorted(numbers):
            yield Fault("E1204", f"place {place.number}: what it owns is not in the order of parameters, by which replicas share it out")


def _owned_rightly(planned: Planned) -> bool:
    """Are uses and owners, as all places have them, those that the parameters say?"""
    every = [(place.stages[chunk], use) for place in planned.places for chunk, use in place.uses()]
    found = sorted([(number, ordinal, stage, phase) for stage, (number, ordinal, phase, _) in every])
    owners = sorted([(number, place.number, *rest) for place in planned.places for number, *rest in [one[:3] for one in place.owned]])
    uses: list[tuple[int, int, int, str]] = []
    shared: list[tuple[int, int, int, str]] = []
    for number, (_, kind, owner, of) in enumerate(planned.parameters):
        uses += [(number, index, stage, phase) for index, (stage, phase) in enumerate(of)]
        shared.append((number, owner, kind.elements, kind.sharing))
        if of and planned.stages[of[0][0]] != owner:
            return False
    return found == uses and owners == shared


def _ownership_faults(planned: Planned) -> Iterator[Fault]:
    """What of it is not so."""
    uses: defaultdict[int, list[tuple[int, int, str]]] = defaultdict(list)
    owners: defaultdict[int, list[tuple[int, OwnedParameter]]] = defaultdict(list)
    for place in planned.places:
        for chunk, use in place.uses():
            uses[use.parameter].append((use.ordinal, place.stages[chunk], use.phase))
        for one in place.owned:
            owners[one.parameter].append((place.number, one))
    for number, parameter in enumerate(planned.parameters):
        found = sorted(uses[number])
        wanted = [(index, stage, phase) for index, (stage, phase) in enumerate(parameter.uses)]
        if found != wanted:
            yield Fault("E1204", f"parameter {parameter.name}: uses (number, stage, phase) {found} are summed, the model has {wanted}")
        if not 0 <= parameter.owner < planned.pp:
            yield Fault("E1204", f"parameter {parameter.name}: its owner is place {parameter.owner} of {planned.pp}")
            continue
        first = planned.stages[parameter.uses[0][0]] if parameter.uses else parameter.owner
        if first != parameter.owner:
            yield Fault("E1204", f"parameter {parameter.name}: its owner is place {parameter.owner}, its first use is on place {first}")
        yield from _owner_faults(parameter, owners[number])


def _owner_faults(parameter: PlannedParameter, owners: list[tuple[int, OwnedParameter]]) -> Iterator[Fault]:
    """One place shares it out, in the way that its rule allows. owners: each with its place"""
    for place, _ in owners:
        if place != parameter.owner:
            yield Fault("E1204", f"parameter {parameter.name}: place {place} updates it, its owner is place {parameter.owner}")
    if len(owners) != 1:
        yield Fault("E1204", f"parameter {parameter.name}: its elements are updated {len(owners)} times, not once")
    wanted = parameter.kind.sharing
    for _, one in owners:
        if one.elements != parameter.kind.elements:
            yield Fault("E1204", f"parameter {parameter.name}: {one.elements} elements are updated, it has {parameter.kind.elements}")
        if one.sharing != wanted:
            yield Fault("E1204", f"parameter {parameter.name}: its replicas have it {one.sharing}, its rule wants it {wanted}")


# ---------------------------------------------------------------------------------------------------------------- channels


def _channels(planned: Planned) -> Iterator[Fault]:
    """Ends that exist, and channels for whatever replicas and shared parameters must exchange."""
    ends = {(c.kind, c.source, c.target) for c in planned.channels.values()}
    for c in planned.channels.values():
        low = -1 if c.kind == "tree" else 0
        if not low <= c.source < planned.pp or not low <= c.target < planned.pp:
            yield Fault("E1203", f"channel {c.name}: goes from place {c.source} to place {c.target} of {planned.pp}")
        if c.kind in ("activation", "gradient") and c.chain not in planned.rounds:
            yield Fault("E1203", f"channel {c.name}: joins place {c.source} to place {c.target} in the chain {c.chain}")
        if c.kind not in ("activation", "gradient") and c.chain is not None:
            yield Fault("E1203", f"channel {c.name}: a {c.kind} channel is of no chain, this one of {c.chain}")
        if (c.source == c.target) != (c.kind in ("replicas", "tree")):
            yield Fault("E1203", f"channel {c.name}: a {c.kind} channel from place {c.source} to place {c.target}")
        if c.slots < 1 or c.outbox_slots < 1 or c.slot_bytes < 1:
            yield Fault("E1206", f"channel {c.name}: {c.slots} slots, {c.outbox_slots} outbox slots of {c.slot_bytes} bytes")
    if planned.mesh.ranks > 1 and ("tree", -1, -1) not in ends:
        yield Fault("E1203", "there is no tree channel: the ranks cannot agree on loss and norm")
    for kind, source, target, why in _wanted_channels(planned):
        if (kind, source, target) not in ends:
            yield Fault("E1203", f"there is no {kind} channel from place {source} to place {target}: {why}")


def _wanted_channels(planned: Planned) -> Iterator[tuple[str, int, int, str]]:
    for parameter in planned.parameters:
        homes = [planned.stages[stage] for stage, _ in parameter.uses]
        if planned.dp > 1:
            for home in homes:
                yield "replicas", home, home, f"replicas sum gradients and exchange new values of {parameter.name}"
        for home in homes:
            if home != parameter.owner:
                yield "reduction", home, parameter.owner, f"{parameter.name} is used on both"
                yield "parameter", parameter.owner, home, f"{parameter.name} is used on both"
