"""What the end of a place's list does to gradients and values: each thing once, and nothing before what it needs.

    STATISTICS   first of all: the step is known to be whole, and the scale of its gradients
    REDUCE       the turns of a chunk in order, so that sums join along the tree; one chunk at a time where there are guests, for their sums
                 lie in one place
    SHARE        of a use whose chunk has been through all turns; the owner adds uses in the order of the chain
    NORM         of whole gradients; UPDATE behind it
    SPREAD       what the owner has updated
    GATHER       turns from the last to the first, of values that are all there
    VERDICT      behind UPDATE: what it left that is not finite

All replicas of a place have one list, so what is found of it holds for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mlc.mesh import Cohort
from mlc.parallel.entries import Entry
from mlc.parallel.faults import Fault
from mlc.parallel.planned import Place, Planned

#: Actions of all gradients and values.
_WHOLE = ("STATISTICS", "NORM", "UPDATE", "VERDICT")


def ending_faults(planned: Planned, place: Place, chain: str) -> Iterator[Fault]:
    """What is wrong with the end of a list."""
    entries, where = place.lists[chain], f"{chain}: place {place.number}"
    ends = [(at, entries[at]) for at in np.flatnonzero(entries.endings).tolist()]
    last = int(np.flatnonzero(~entries.endings).max(initial=-1))
    if ends and ends[0][0] < last:
        yield Fault("E1204", f"{where}, action {ends[0][0]} ({ends[0][1]}): comes before action {last} ({entries[last]})")
    if chain != "train":
        wanted = [("STATISTICS", 0, 0)] if chain == "evaluate" else []
        if [entry for _, entry in ends] != wanted:
            said, due = (" ".join(kind for kind, _, _ in of) or "nothing" for of in ([entry for _, entry in ends], wanted))
            yield Fault("E1204", f"{where}: the list ends with {said}, not with {due}")
        return
    ending = _Ending(planned, place)
    for at, entry in ends:
        for code, text in ending.act(entry):
            yield Fault(code, f"{where}, action {at} ({entry}): {text}")
    yield from (Fault("E1204", f"{where}: {text}") for text in ending.missing())


@dataclass
class _Ending:
    """A place as far as its list has ended.

    turns:    by chunk, that of halving which comes next; gathered: of doubling
    joined:   by parameter of the place's own, uses that have been added up; given: uses of others that went to their owners
    spread:   (place, parameter) whose values went or came
    """

    planned: Planned
    place: Place
    done: set[str] = field(default_factory=set)
    turns: dict[int, int] = field(default_factory=dict)
    gathered: int = 0
    joined: dict[int, int] = field(default_factory=dict)
    given: set[tuple[int, int]] = field(default_factory=set)
    spread: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        planned, own = self.planned, self.place.number
        self.cohort = Cohort(planned.dp)
        self.gathered = self.cohort.turns
        self.turns = dict.fromkeys(range(len(self.place.stages)), 0)
        self.homes = {
            number: [planned.stages[stage] for stage, _ in parameter.uses]
            for number, parameter in enumerate(planned.parameters)
            if parameter.kind.fed != "none" and any(planned.stages[stage] != parameter.owner for stage, _ in parameter.uses)
        }
        self.joined = {number: 0 for number in self.homes if planned.parameters[number].owner == own}
        others = {n: homes for n, homes in self.homes.items() if n not in self.joined}
        self.wanted = {(use, n) for n, homes in others.items() for use, home in enumerate(homes) if home == own}
        moved = {(place.number, held.parameter) for place in planned.places for held in place.held}
        moved = {(place, n) for place, n in moved if self._owner(n) != place and planned.parameters[n].kind.update is not None}
        self.moved = {(place, n) for place, n in moved if own in (place, self._owner(n))}

    def act(self, entry: Entry) -> Iterator[tuple[str, str]]:
        """Do an action; yields what is wrong with it."""
        if ("STATISTICS" in self.done) == (entry.kind == "STATISTICS"):
            yield "E1204", "STATISTICS is done once, before all else that ends a step"
        of, number = int(entry.of), entry.microbatch
        if (of and entry.kind not in ("REDUCE", "SHARE", "SPREAD")) or (number and entry.kind in _WHOLE):
            yield "E1204", "it is of nothing that has a number"
        match entry.kind:
            case "REDUCE":
                yield from self._reduce(of, number)
            case "SHARE":
                yield from self._share(of, number)
            case "SPREAD":
                yield from self._pass_on(of, number)
            case "GATHER":
                yield from self._gather(number)
            case _:
                yield from self._whole(entry.kind)
        self.done.add(entry.kind)

    def missing(self) -> Iterator[str]:
        """What has not been done."""
        for kind in ("STATISTICS", "NORM", "UPDATE", "VERDICT"):
            if kind not in self.done:
                yield f"the list ends without {kind}"
        yield from self._unjoined()
        for use, number in sorted(self.wanted - self.given):
            yield f"the gradient of use {use} of {self._name(number)} does not go to place {self._owner(number)}"
        for place, number in sorted(self.moved - self.spread):
            yield f"new values of {self._name(number)} do not go from place {self._owner(number)} to place {place}"
        if self.gathered:
            yield f"new values are not passed on to other replicas: turn {self.gathered - 1} of GATHER is missing"

    # ---- the actions ----

    def _reduce(self, chunk: int, turn: int) -> Iterator[tuple[str, str]]:
        wanted = self.turns.get(chunk, self.cohort.turns)
        if wanted == self.cohort.turns or turn != wanted:
            next_one = f"turn {wanted} is next" if wanted < self.cohort.turns else "it has had all its turns"
            yield "E1204", f"turn {turn} of chunk {chunk}, but {next_one}"
            return
        begun = [c for c, t in self.turns.items() if c != chunk and 0 < t < self.cohort.turns]
        if begun and self.cohort.most_hosted:
            yield "E1205", f"overwrites the sums that a replica keeps for an absent one of chunk {begun[0]}, which has turns to come"
        self.turns[chunk] = turn + 1

    def _share(self, use: int, number: int) -> Iterator[tuple[str, str]]:
        homes, own = self.homes.get(number, []), self.place.number
        if not 0 <= use < len(homes) or own not in (homes[use], self._owner(number)):
            yield "E1204", "there is no such gradient here that another place has, or wants"
            return
        if number not in self.joined:
            yield from self._unreduced(number, use)
            if (use, number) in self.given:
                yield "E1204", f"this gradient has gone to place {self._owner(number)} before"
            self.given.add((use, number))
            return
        if use != self.joined[number]:
            yield "E1204", f"use {self.joined[number]} of {self._name(number)} is next: they add up in the order of the chain"
        yield from self._unreduced(number, use if homes[use] == own else 0)
        self.joined[number] = use + 1

    def _whole(self, kind: str) -> Iterator[tuple[str, str]]:
        """NORM, UPDATE and VERDICT."""
        if kind == "STATISTICS":
            return
        if kind in self.done:
            yield "E1204", f"{kind} is done once"
        if kind == "NORM":
            yield from (("E1204", text) for text in self._unjoined())
        if kind == "UPDATE" and "NORM" not in self.done:
            yield "E1204", "gradients are not scaled, nor is their norm known"
        if kind == "VERDICT" and "UPDATE" not in self.done:
            yield "E1204", "nothing has been updated"

    def _pass_on(self, place: int, number: int) -> Iterator[tuple[str, str]]:
        if (place, number) not in self.moved or (place, number) in self.spread:
            yield "E1204", "no such values are to move here, or they have moved before"
            return
        if self._owner(number) == self.place.number and "UPDATE" not in self.done:
            yield "E1204", f"the values of {self._name(number)} are not the new ones yet"
        self.spread.add((place, number))

    def _gather(self, turn: int) -> Iterator[tuple[str, str]]:
        if turn != self.gathered - 1:
            yield "E1204", f"turn {self.gathered - 1} of GATHER is next" if self.gathered else "all values have been gathered before"
            return
        if "UPDATE" not in self.done:
            yield "E1204", "the values of this place are not the new ones yet"
        for place, number in sorted(self.moved - self.spread):
            if place == self.place.number:
                yield "E1204", f"the new values of {self._name(number)} are not here yet"
        self.gathered = turn

    # ---- what is not there yet ----

    def _unjoined(self) -> Iterator[str]:
        for chunk, turn in self.turns.items():
            if turn < self.cohort.turns:
                yield f"gradients of chunk {chunk} are not whole: turn {turn} of REDUCE is missing"
        for number, use in self.joined.items():
            if use < len(self.homes[number]):
                yield f"the gradient of {self._name(number)} is not whole: SHARE of use {use} is missing"

    def _unreduced(self, number: int, use: int) -> Iterator[tuple[str, str]]:
        """The chunk of a use of this place has turns to come."""
        stage = self.planned.parameters[number].uses[use][0]
        chunk = self.place.stages.index(stage) if stage in self.place.stages else -1
        if self.turns.get(chunk, self.cohort.turns) < self.cohort.turns:
            yield "E1204", f"the gradient of chunk {chunk} is not whole: turn {self.turns[chunk]} of REDUCE is missing"

    def _owner(self, number: int) -> int:
        return self.planned.parameters[number].owner

    def _name(self, number: int) -> str:
        return self.planned.parameters[number].name
