"""What sweeps do to gradients, parameters and copies: the kernels are run on symbols, for each way in which a parameter can lie on a place.

    fold     the sum of a group joins its siblings that wait and waits in their place; every other sum stays (for each height of the stack)
    whole    what REDUCE, SHARE or NORM begin with is the sum of a replica's last group and its siblings
    scale    what microbatches left is accounted for, all ranks exchange it, and the scale of loss gradients follows from it
    norm     the gradient is that of all uses, in the order of the chain, times the scale of what feeds it; its squares count once
    clip     the sum of what was noted is exchanged; clip and whether the step is held follow from that of all ranks
    update   is given the clipped gradient, the master and the states; where nothing is updated nothing changes; copies are those of the
             new masters; all that is new is looked through
    start    masters are initial values; copies are those of their masters, then and whenever they are made anew

A kernel is elementwise, so what holds of one element holds of all that a sweep goes over; those are the shard's, or all, as `fits` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlc.parallel.faults import Fault
from mlc.parallel.planned import Place, Planned, PlannedParameter
from mlc.parallel.sweeps import KERNELS, OF_RANK, OF_RANK_ALONE, OPERANDS, OVER, OWN, Sweep, SweepCall
from mlc.parallel.tree import subtrees

#: A buffer: what it is of, and numbers of a use, level or state. What lies there: an operation and what it was done to.
Buffer = tuple[Any, ...]
Term = tuple[Any, ...]

#: What feeds a parameter, as conditions say it.
_FED = {"loss": "loss", "accumulate": "accumulated"}

#: What finds something, and when that is asked for: what is noted of values is forgotten at other moments.
_FINDS = {
    "squares": ("NORM",),
    "finite": ("NORM", "SEARCH"),
    "inspect": ("UPDATE",),
    "inspect_copy": ("UPDATE",),
    "refusals": ("STATISTICS",),
    "account": ("STATISTICS",),
    "weigh": ("WEIGH",),
    "total": ("NORM",),
    "norm": ("CLIP",),
    "first": ("UPDATE",),
}

#: By what a sweep goes over, the conditions that can be asked.
_ONLY: dict[str, tuple[str, ...]] = {
    "uses": (),
    "use": ("further",),
    "pieces": ("loss", "accumulated", "here", "spread", "elementwise", "whole"),
    "held": ("elementwise", "whole"),
    "rank": (),
}


def sweep_faults(planned: Planned) -> Iterator[Fault]:
    """What is wrong with the sweeps of a plan."""
    said = [(f"sweep {n} ({sweep.moment})", sweep) for n, sweep in enumerate(planned.sweeps)]
    misfits = [Fault(code, f"{where}: {text}") for where, sweep in said for code, text in _misfits(sweep)]
    yield from misfits
    if misfits:
        return
    levels = max((place.levels for place in planned.places), default=1)
    yield from (Fault("E1204", text) for depth in range(levels) for text in _fold_faults(planned, depth, levels > 1))
    for case, name in _cases(planned).items():
        yield from (Fault("E1204", f"parameter {name}: {text}") for text in _Course(planned, case).faults())
    yield from (Fault("E1204", text) for text in _held_faults(planned))


#: What a rank has one of, and what microbatches left where a list has come to STATISTICS.
_OF_RANK = ("scale", "clip", "mean", "limit", "value", "weight", "number", "share", "held", "statistics", "squares", "norm", "flaw")


# ---- what fits ----


def _misfits(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Where the words of a sweep do not go together."""
    if not sweep.calls:
        yield "E1204", "it calls nothing"
    of_chunk = sweep.moment in ("FOLD", "REDUCE", "SEARCH")
    if of_chunk != (sweep.over == "uses") or (sweep.moment == "SHARE") != (sweep.over == "use") or not _has_rank(sweep):
        yield "E1204", f"it goes over {sweep.over}, which this action does not have"
    if sweep.range != OVER[sweep.over] and not (sweep.range == "tensor" and "whole" in sweep.only):
        yield "E1204", f"it goes over elements of {sweep.over} by {sweep.range}, not by {OVER[sweep.over]}"
    if strange := [word for word in sweep.only if word not in _ONLY[sweep.over]]:
        yield "E1204", f"it takes of {sweep.over} those that are {strange[0]}, which is no matter of them"
    if len(set(sweep.only)) < len(sweep.only):
        yield "E1204", "it has a condition twice"
    if sweep.gated != (sweep.moment == "UPDATE" and sweep.over != "rank"):
        yield "E1204", "it does not run where a step is held" if sweep.gated else "it runs where a step is held"
    words = _words(sweep)
    for call in sweep.calls:
        yield from _call_misfits(sweep, call, words)


def _has_rank(sweep: Sweep) -> bool:
    """Does it go over the rank where, and only where, it may?"""
    return sweep.moment in OF_RANK if sweep.over == "rank" else sweep.moment not in OF_RANK_ALONE


def _call_misfits(sweep: Sweep, call: SweepCall, words: frozenset[str]) -> Iterator[tuple[str, str]]:
    if call.kernel in OWN and (sweep.over != {"update": "pieces", "initial": "held"}[call.kernel] or not _is_own(sweep)):
        yield "E1204", f"there is no {call.kernel} of {sweep.over} that runs by {sweep.range}"
    if sweep.moment not in _FINDS.get(call.kernel, (sweep.moment,)):
        yield "E1204", f"nobody asks for what {call.kernel} finds"
    for word, (use, kind) in zip(call.operands, KERNELS[call.kernel].operands, strict=True):
        if word not in words:
            yield "E1206", f"{call.kernel} is given {word}, which is not there"
        elif OPERANDS[word] != kind:
            yield "E1206", f"{call.kernel} {use}s {word}, which is {OPERANDS[word]}, not {kind}"


def _is_own(sweep: Sweep) -> bool:
    """Does it take what has a routine for its range?"""
    return ("whole" if sweep.range == "tensor" else "elementwise") in sweep.only


def _words(sweep: Sweep) -> frozenset[str]:
    """What there is of that which a sweep goes over."""
    sums, values = ("sum", "waiting"), ("master", "copy")
    here, whole = "here" in sweep.only, "whole" in sweep.only
    match sweep.over:
        case "uses":
            return frozenset((*sums, *("kept",) * (sweep.moment == "FOLD")))
        case "use":
            return frozenset((*sums, *("gradient",) * ("further" in sweep.only)))
        case "held":
            return frozenset(values)
        case "rank":
            left = ("value", "weight", "number")
            return frozenset(word for word in _OF_RANK if sweep.moment == "STATISTICS" or word not in left)
        case _:
            found = (*values, "state", "scale", "clip", "mean", "gradient", *(*sums, "further") * here)
            return frozenset((*found, *("new master", "new state") * whole))


# ---- symbols ----


class _Case(NamedTuple):
    """A parameter as it lies on a place, as far as sweeps can tell.

    fed:     by the loss, by what is accumulated; "" by nothing
    homes:   of each use, is it on the owner's place
    rule:    of its update, or its initial value: elementwise, whole; "" there is none
    """

    fed: str
    homes: tuple[bool, ...]
    rule: str
    copied: bool
    states: int


@dataclass
class _Memory:
    """What lies where, and what was noted of it by each kernel that looks through values.

    uses:    that the sweep at work has of the parameter
    depth:   sums that wait when a group is complete; merges: how many of them join it
    """

    case: _Case
    depth: int
    merges: int
    uses: Sequence[int] = ()
    content: dict[Buffer, Term] = field(default_factory=dict)
    noted: dict[str, list[tuple[Buffer, Term]]] = field(default_factory=lambda: defaultdict(list))

    def run(self, sweeps: Sequence[Sweep], moment: str, uses: Sequence[int]) -> None:
        """Run the sweeps of a moment."""
        self.uses = uses
        self.noted.clear()
        for sweep in sweeps:
            if sweep.moment == moment and self._takes(sweep):
                for call in sweep.calls:
                    self._call(call)

    def at(self, *buffer: Any) -> Term:
        """What lies in a buffer; what nothing was said of lies there as it was."""
        return self.content.get(buffer, ("before", *buffer))

    def found(self, *kernels: str) -> Term:
        """What these have noted so far, as one."""
        return ("found", *(tuple(self.noted[kernel]) for kernel in kernels))

    def exchange(self, what: str) -> Term:
        """All ranks exchange something. Returns what it is now."""
        self.content[what,] = ("of all ranks", self.at(what))
        return self.content[what,]

    def _takes(self, sweep: Sweep) -> bool:
        case, home = self.case, all(self.case.homes)
        met = {
            "loss": case.fed == "loss",
            "accumulated": case.fed == "accumulated",
            "here": home,
            "spread": not home,
            "elementwise": case.rule == "elementwise",
            "whole": case.rule == "whole",
            "further": len(self.uses) == 1 and self.uses[0] > 0 and case.homes[self.uses[0]],
        }
        return all(met[word] for word in sweep.only)

    def _call(self, call: SweepCall) -> None:
        if call.kernel in OWN:
            self._own(call.kernel)
            return
        found = [self._buffers(word) for word in call.operands]
        times = max(map(len, found)) if all(found) else 0
        for k in range(times):
            self._kernel(call.kernel, [of[k * len(of) // times] for of in found])

    def _buffers(self, word: str) -> list[Buffer]:
        """Those that an operand stands for."""
        case, depth, merges = self.case, self.depth, self.merges
        match word:
            case "sum":
                return [("level", use, 0) for use in self.uses]
            case "waiting":
                return [("level", use, depth - k) for use in self.uses for k in range(merges)]
            case "kept":
                return [("level", use, depth - merges + 1) for use in self.uses]
            case "gradient":
                return [("level", 0, 0)] * bool(case.homes)
            case "further":
                return [("level", use, 0) for use in range(1, len(case.homes))]
            case "copy":
                return [("copy",)] * case.copied
            case "state" | "new state":
                return [(word, state) for state in range(case.states)]
            case _:
                return [(word,)]

    def _kernel(self, kernel: str, given: Sequence[Buffer]) -> None:
        first, values = given[0], [self.at(*buffer) for buffer in given]
        match kernel:
            case "copy":
                self.content[first] = values[1]
            case "add" | "scale":
                self.content[first] = (kernel, *values)
            case "round":
                self.content[first] = ("round", values[1])
            case "refusals" | "account":
                self.content[first] = _accounted(values[0], (kernel, *values[1:]))
            case "weigh":
                self.content[first], self.content[given[1]] = ("scale of", values[2]), ("held by", values[2])
            case "total":
                self.content[first] = self.found("squares", "finite")
            case "norm":
                self.content[first], self.content[given[1]] = ("norm", values[3]), ("clip", values[3], values[4])
                self.content[given[2]] = ("held by", values[2], values[3])
            case "first":
                self.content[first] = self.found("inspect", "inspect_copy")
            case _:
                self.noted[kernel].append((first, values[0]))

    def _own(self, kernel: str) -> None:
        """A routine of the parameter's; an update that runs over the whole leaves its results beside what it read."""
        states = range(self.case.states)
        if kernel == "initial":
            self.content["master",] = ("initial",)
            return
        made = updated(self.at("master"), self.at("level", 0, 0), [self.at("state", s) for s in states])
        beside = "new " if self.case.rule == "whole" else ""
        for buffer, term in zip([(f"{beside}master",), *((f"{beside}state", s) for s in states)], made, strict=True):
            self.content[buffer] = term


def _accounted(statistics: Term, what: Term) -> Term:
    """Statistics with something more in them, in whatever order."""
    if statistics[0] != "sums of":
        return ("sums of", statistics, what)
    return ("sums of", statistics[1], *sorted((*statistics[2:], what), key=repr))


def updated(master: Term, gradient: Term, states: Sequence[Term]) -> list[Term]:
    """What a rule makes: a new master, then new states."""
    return [("update", result, master, gradient, *states) for result in range(1 + len(states))]


# ---- sums of groups ----


def _joined(use: int, depth: int, merges: int) -> Term:
    """The sum of a group and its siblings, of those that wait the last one first."""
    term: Term = ("before", "level", use, 0)
    for k in range(merges):
        term = ("add", term, ("before", "level", use, depth - k))
    return term


_PLAIN = _Case("loss", (True,), "elementwise", False, 0)


def _fold_faults(planned: Planned, depth: int, folds: bool) -> Iterator[str]:
    """Where so many sums wait: for each number of them that a group may complete. folds: a replica has several groups"""
    for merges in range(depth + 1):
        kept = depth - merges + 1
        folded, last = (_Memory(_PLAIN, depth, merges) for _ in range(2))
        folded.run(planned.sweeps, "FOLD", (0,))
        found = {level: folded.at("level", 0, level) for level in range(1, kept + 1)}
        wanted = {**{level: ("before", "level", 0, level) for level in range(1, kept)}, kept: _joined(0, depth, merges)}
        if folds and (found != wanted or _strays(folded, lambda buffer: buffer[0] == "level")):
            yield f"FOLD: {depth} sums of groups wait and {merges} join: the sum of all of them is not kept in their place"
        if planned.dp > 1:
            last.run(planned.sweeps, "REDUCE", (0,))
            if last.at("level", 0, 0) != _joined(0, depth, merges) or _strays(last, lambda buffer: buffer == ("level", 0, 0)):
                yield f"REDUCE: {depth} sums of groups wait and {merges} join: their sum is not what is reduced"
    looked = _Memory(_PLAIN, depth, depth)
    looked.run(planned.sweeps, "SEARCH", (0,))
    seen = [*looked.noted["finite"], *looked.noted["squares"]]
    if looked.content or (("level", 0, 0), looked.at("level", 0, 0)) not in seen:
        yield "SEARCH: the gradient of a microbatch is not looked through, or changes"


def _strays(memory: _Memory, may: Any, before: Mapping[Buffer, Term] | None = None) -> list[Buffer]:
    """Buffers that were written and may not be. before: what lay there"""
    old = before or {}
    return [buffer for buffer, term in memory.content.items() if not may(buffer) and term != old.get(buffer, ("before", *buffer))]


#: The statistics of a rank.
_NOTED = _accounted(
    _accounted(("before", "statistics"), ("refusals",)), ("account", *(("before", word) for word in ("value", "weight", "number", "share")))
)


# ---- parameters ----


def _cases(planned: Planned) -> dict[_Case, str]:
    """The ways in which owners have parameters, each with the name of one; and that of nothing, for a rank that owns none."""
    found = {_Case("", (), "", False, 0): "none"}
    for place in planned.places:
        copied = {held.parameter: held.copy is not None for held in place.held}
        met: set[tuple[object, ...]] = set()
        for one in place.owned:
            parameter = planned.parameters[one.parameter]
            alike = id(parameter.kind), parameter.uses, one.update, copied.get(one.parameter)
            if alike in met:
                continue
            met.add(alike)
            rule = "" if one.update is None else "elementwise" if planned.routines[one.update].flat else "whole"
            fed = _FED.get(parameter.kind.fed, "") if parameter.uses else ""
            homes = _homes(planned, place, parameter)
            found.setdefault(_Case(fed, homes, rule, copied.get(one.parameter, False), len(parameter.kind.states)), parameter.name)
    return found


def _homes(planned: Planned, place: Place, parameter: PlannedParameter) -> tuple[bool, ...]:
    return tuple(planned.stages[stage] == place.number for stage, _ in parameter.uses)


class _Course:
    """A parameter from the last microbatch of a step to its end, on the place of its owner.

    depth:  sums that wait, all of which join that of the last group; joins: those that are still to be joined, for REDUCE does it
    """

    def __init__(self, planned: Planned, case: _Case):
        self.planned = planned
        self.case = case
        alone = len(list(subtrees(0, planned.groups - 1, planned.groups)))
        self.depth = alone if planned.dp == 1 else max(place.levels for place in planned.places) - 1
        self.joins = alone if planned.dp == 1 else 0
        self.memory = self._memory()

    def _memory(self) -> _Memory:
        return _Memory(self.case, self.depth, self.depth)

    def faults(self) -> Iterator[str]:
        """What is wrong with what sweeps do to it."""
        yield from self._statistics()
        yield from self._share()
        gradient = self._whole()
        if self.case.fed:
            gradient = ("scale", gradient, self.memory.at("scale") if self.case.fed == "loss" else ("before", "mean"))
        yield from self._norm(gradient)
        yield from self._clip()
        if self.case.fed == "loss":
            gradient = ("scale", gradient, self.memory.at("clip"))
        yield from self._update(gradient)

    def _statistics(self) -> Iterator[str]:
        """Of the rank, as of any that has microbatches with values."""
        self.memory.run(self.planned.sweeps, "STATISTICS", ())
        if self.memory.at("statistics") != _NOTED or _strays(self.memory, lambda buffer: buffer == ("statistics",)):
            yield "STATISTICS: what ranks exchange is not what their microbatches left"
        found = self.memory.exchange("statistics")
        wanted: dict[Buffer, Term] = {("statistics",): found, ("scale",): ("scale of", found), ("held",): ("held by", found)}
        self.memory.run(self.planned.sweeps, "WEIGH", ())
        if self.memory.content != wanted:
            yield "STATISTICS: the scale of loss gradients, or whether the step is held, does not follow from what ranks have exchanged"

    def _clip(self) -> Iterator[str]:
        """What follows from the squares of all ranks."""
        memory = self.memory
        found, held = memory.exchange("squares"), memory.at("held")
        wanted = dict(memory.content)
        wanted["norm",], wanted["clip",], wanted["held",] = ("norm", found), ("clip", found, ("before", "limit")), ("held by", held, found)
        memory.run(self.planned.sweeps, "CLIP", ())
        if memory.content != wanted:
            yield "NORM: clip, or whether the step is held, does not follow from the squares that ranks have exchanged"

    def _whole(self) -> Term:
        """The gradient of all uses."""
        total = _joined(0, self.joins, self.joins)
        for use in range(1, len(self.case.homes)):
            total = ("add", total, _joined(use, self.joins, self.joins))
        return total

    def _share(self) -> Iterator[str]:
        """Uses come one after the other, of other places in messages that the owner adds to its own."""
        if not self.case.fed or all(self.case.homes):
            return
        before = dict(self.memory.content)
        for use, home in enumerate(self.case.homes):
            if home:
                self.memory.run(self.planned.sweeps, "SHARE", (use,))
                continue
            there = self._memory()
            there.run(self.planned.sweeps, "SHARE", (use,))
            sent = _joined(use, self.joins, self.joins)
            if there.at("level", use, 0) != sent or _strays(there, lambda buffer: buffer[0] == "level"):
                yield f"SHARE: what goes to its owner is not the sum of use {use}"
            self.memory.content["level", 0, 0] = ("add", self.memory.at("level", 0, 0), sent)
        if self.memory.at("level", 0, 0) != self._whole() or _strays(self.memory, lambda buffer: buffer[0] == "level", before):
            yield "SHARE: its gradient is not the sum of its uses, in the order of the chain"

    def _norm(self, gradient: Term) -> Iterator[str]:
        here, before = all(self.case.homes), dict(self.memory.content)
        self.memory.run(self.planned.sweeps, "NORM", range(len(self.case.homes)) if here else ())
        whole, counted = ("level", 0, 0), self.memory.noted["squares"]
        if self.case.fed and self.memory.at(*whole) != gradient:
            yield "NORM: its gradient is not the sum of its uses, scaled"
        if _strays(self.memory, lambda buffer: (buffer[0] == "level" and self.case.fed) or buffer == ("squares",), before):
            yield "NORM: something else changes than its gradient"
        if self.memory.at("squares") != self.memory.found("squares", "finite"):
            yield "NORM: what ranks exchange is not all that was noted of its gradient"
        if counted != [(whole, gradient)] * (self.case.fed == "loss"):
            yield f"NORM: squares of its gradient count {len(counted)} times, or not those of the whole"
        if self.case.fed and (whole, gradient) not in [*counted, *self.memory.noted["finite"]]:
            yield "NORM: its gradient is not looked through"

    def _update(self, gradient: Term) -> Iterator[str]:
        case, states = self.case, range(self.case.states)
        old = [self.memory.at("state", s) for s in states]
        made = updated(("before", "master"), gradient, old) if case.rule else [("before", "master"), *old]
        wanted: dict[Buffer, Term] = {("master",): made[0], **{("state", s): made[1 + s] for s in states}}
        if case.copied:
            wanted["copy",] = ("round", made[0]) if case.rule else ("before", "copy")
        before = dict(self.memory.content)
        self.memory.run(self.planned.sweeps, "UPDATE", range(len(case.homes)) if all(case.homes) else ())
        for buffer, term in wanted.items():
            said = " ".join(map(str, buffer))
            if self.memory.at(*buffer) != term:
                yield f"UPDATE: its {said} is not what its rule makes of the clipped gradient"
            elif case.rule and (buffer, term) not in [*self.memory.noted["inspect"], *self.memory.noted["inspect_copy"]]:
                yield f"UPDATE: its {said} is not looked through"
        if self.memory.at("flaw") != self.memory.found("inspect", "inspect_copy"):
            yield "UPDATE: what ranks exchange is not the first of what was noted"
        may = ("level", "new master", "new state", "flaw")
        if strays := _strays(self.memory, lambda buffer: buffer in wanted or buffer[0] in may, before):
            yield f"UPDATE: its {' '.join(map(str, strays[0]))} changes"
        if case.fed and case.rule and self.memory.at("level", 0, 0) != gradient:
            yield "UPDATE: its gradient does not stay what it was clipped to"


def _held_faults(planned: Planned) -> Iterator[str]:
    """Initial values, and copies that are made anew."""
    held = [held for place in planned.places for held in place.held]
    rules = {(of.copy is not None, "elementwise" if planned.routines[of.init.routine].flat else "whole") for of in held}
    for copied, rule in sorted(rules):
        for moment, master in (("START", ("initial",)), ("COPIES", ("before", "master"))):
            memory = _Memory(_Case("", (), rule, copied, 0), 0, 0)
            memory.run(planned.sweeps, moment, ())
            wanted: Mapping[Buffer, Term] = {("master",): master, **({("copy",): ("round", master)} if copied else {})}
            if any(memory.at(*buffer) != term for buffer, term in wanted.items()) or _strays(memory, wanted.__contains__):
                yield f"{moment}: masters with {rule} initial values, or their copies, are not what they should be"
