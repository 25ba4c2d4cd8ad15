"""The calls of sweeps that a rank makes in a step, as --print-launches writes them, worked out from plan.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlc.mesh import Cohort, Portions
from mlc.parallel.entries import Entry
from mlc.parallel.planned import NUMBER_BYTES, RECORD_HEAD_BYTES, RECORD_ONE, RESULTS_HEAD_BYTES, Buffer, Place, Planned, Use
from mlc.parallel.shards import Share, line_bytes
from mlc.parallel.sweeps import OWN, Sweep
from mlc.parallel.tree import subtrees

#: Slots of the record, and of the results of a rank.
SLOTS = {"one": RECORD_ONE, "scale": 40, "clip": 48, "held": 56, "mean": 64, "limit": 72, "share": RECORD_HEAD_BYTES - 8}
RESULTS = {"norm": 0, "flaw": 8, "squares": 16, "statistics": RESULTS_HEAD_BYTES}

#: What an action runs behind its own sweeps: of what it has exchanged.
BEHIND = {"STATISTICS": ("WEIGH",), "NORM": ("CLIP",)}


class Swept:
    """One rank of a plan in f32."""

    def __init__(self, planned: Planned, rank: int):
        self.planned = planned
        here = planned.mesh.coordinate(rank)
        self.place: Place = planned.places[here.pp]
        self.replica = here.dp
        portion = Cohort(planned.dp).portion(self.replica)
        self.portions = Portions(portion, portion + 1)
        self.shares = self.place.sharing(planned.dp, planned.unit).shares(self.portions)
        self.uses = {(use.parameter, use.ordinal): use for _, use in self.place.uses()}
        self.masters = {held.parameter: held.master for held in self.place.held}
        self.copies = {held.parameter: held.copy for held in self.place.held}
        self.states = dict(self._states())

    def lines(self, entry: Entry) -> Iterator[str]:
        """What an action of the list calls."""
        moment = "FOLD" if entry.kind.startswith("FOLD") else entry.kind
        for sweep in [sweep for of in (moment, *BEHIND.get(moment, ())) for sweep in self.planned.sweeps if sweep.moment == of]:
            if sweep.over == "rank":
                yield from self._of_rank(sweep)
            elif moment != "REDUCE" or entry.microbatch == 0:
                for parameter, begin, end, uses in self._items(sweep, entry):
                    yield from self._calls(sweep, entry, parameter, (begin, end), uses)

    def _of_rank(self, sweep: Sweep) -> Iterator[str]:
        for kernel, words in sweep.calls:
            for left in self._left() if "value" in words else [{}]:
                at = " ".join(str(left[word] if word in left else self._slot(word)) for word in words)
                yield f"{kernel} rank: {at}, elements 0 to 1"

    def _left(self) -> Iterator[dict[str, int]]:
        """Where each number lies that microbatches leave, its weight and the number of its microbatch."""
        for chunk in self.place.chunks["train"]:
            for n in range(self.planned.rounds["train"]):
                for _, value in chunk.values:
                    weight = self._slot("one") if chunk.weight is None else self._in_slot(chunk.buffers[chunk.weight], n)
                    number = self.place.microbatches + NUMBER_BYTES * n
                    yield {"value": self._in_slot(chunk.buffers[value], n), "weight": weight, "number": number}

    def _in_slot(self, buffer: Buffer, n: int) -> int:
        region = self.place.regions[buffer.region]
        return region.base + n % region.slots * region.stride + buffer.at

    def _slot(self, word: str) -> int:
        return self.place.record + SLOTS[word] if word in SLOTS else self.place.results + RESULTS[word]

    def _states(self) -> Iterator[tuple[int, list[int]]]:
        at = self.place.states.at
        for share in self.shares:
            found: list[int] = []
            for _ in self.planned.parameters[share.parameter].kind.states:
                found.append(at)
                at += line_bytes(share.size, self.planned.unit)
            yield share.parameter, found

    def _items(self, sweep: Sweep, entry: Entry) -> Iterator[tuple[int, int, int, list[Use]]]:
        """(parameter, first element, end, its uses here) of each that a sweep takes."""
        elements = [p.kind.elements for p in self.planned.parameters]
        if sweep.over == "uses":
            phases = entry.kind.removeprefix("FOLD") if sweep.moment == "FOLD" else "FIW"
            for use in self.place.chunks["train"][int(entry.of)].uses:
                if use.phase in phases:
                    yield use.parameter, 0, elements[use.parameter], [use]
        elif sweep.over == "use":
            use = self.uses.get((entry.microbatch, int(entry.of)))
            owns = self.planned.parameters[entry.microbatch].owner == self.place.number
            if use is not None and ("further" not in sweep.only or (owns and use.ordinal)):
                owner = self.planned.places[self.planned.parameters[entry.microbatch].owner]
                begin, end = owner.sharing(self.planned.dp, self.planned.unit).elements(use.parameter, self.portions)
                yield from [(use.parameter, begin, end, [use])] if begin < end else []
        else:
            for share in self.shares:
                if self._taken(sweep, share):
                    uses = [use for (parameter, _), use in sorted(self.uses.items()) if parameter == share.parameter]
                    yield share.parameter, share.begin, share.end, uses

    def _taken(self, sweep: Sweep, share: Share) -> bool:
        parameter = self.planned.parameters[share.parameter]
        spread = any(self.planned.stages[stage] != parameter.owner for stage, _ in parameter.uses)
        words = {{"loss": "loss", "accumulate": "accumulated"}.get(parameter.kind.fed), "spread" if spread else "here"}
        if parameter.kind.update is not None:
            words.add("elementwise" if parameter.kind.elementwise else "whole")
        return words >= set(sweep.only)

    def _calls(self, sweep: Sweep, entry: Entry, parameter: int, span: tuple[int, int], uses: Sequence[Use]) -> Iterator[str]:
        name = self.planned.parameters[parameter].name
        for kernel, words in sweep.calls:
            found = [self._addresses(word, entry, parameter, span[0], uses) for word in words]
            if kernel in OWN:
                given = [(word, entry, parameter, span[0], uses) for word in ("master", "gradient", "state", "master", "state")]
                reads = next(one.reads for one in self.place.owned if one.parameter == parameter)
                found = [[at] for of in given for at in self._addresses(*of)] + [[at] for at in reads]
            times = max(map(len, found)) if all(found) else 0
            for k in range(1 if kernel in OWN else times):
                at = " ".join(str(of[k * len(of) // max(times, 1)]) for of in found)
                yield f"{kernel} {name}: {at}, elements {span[0]} to {span[1]}"

    def _addresses(self, word: str, entry: Entry, parameter: int, begin: int, uses: Sequence[Use]) -> list[int]:
        unit = self.planned.unit
        waiting, merges = self._siblings(entry)
        match word:
            case "sum":
                found = [use.levels[0] for use in uses]
            case "waiting":
                found = [use.levels[waiting - k] for use in uses for k in range(merges)]
            case "kept":
                found = [use.levels[waiting - merges + 1] for use in uses]
            case "gradient":
                found = [self.uses[parameter, 0].levels[0]]
            case "further":
                found = [use.levels[0] for use in uses if use.ordinal]
            case "master":
                found = [self.masters[parameter]]
            case "state":
                return self.states[parameter]
            case "copy":
                copy = self.copies[parameter]
                return [] if copy is None else [copy + 2 * begin]
            case _:
                return [self._slot(word)]
        return [at + unit * begin for at in found]

    def _siblings(self, entry: Entry) -> tuple[int, int]:
        """Sums that wait when a group is complete, and how many of them join it: that of a fold, else the replica's last."""
        groups, own = self.planned.groups, self.planned.groups // self.planned.dp
        first, group = own * self.replica, own - 1
        if entry.kind.startswith("FOLD"):
            group = entry.microbatch // (self.planned.microbatches // groups)
        before, after = (len(list(subtrees(first, first + end, groups))) for end in (group, group + 1))
        return before, before + 1 - after
