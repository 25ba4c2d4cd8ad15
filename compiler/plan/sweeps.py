"""The sweeps of a plan: folding, joining, scaling, norm, clipping, update, copies, and what is looked at for what is not finite.

All that any parameter may need is written down once; what none of the plan's needs is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from mlc.lower.program import Lowered
from mlc.parallel.planned import PlannedParameter
from mlc.parallel.sweeps import CONDITIONS, OPERANDS, Sweep, SweepCall
from mlc.parallel.tree import tree_levels
from mlc.plan.layout import Layout

#: The sum of a group joins its siblings that wait.
_JOIN = SweepCall("add", ("sum", "waiting"))
#: Uses behind the first join it, in the order of the chain.
_ADD_USES = SweepCall("add", ("gradient", "further"))
_UPDATE = SweepCall("update", ())
_INITIAL = SweepCall("initial", ())
_ROUND = SweepCall("round", ("copy", "master"))
#: What an update left.
_VALUES = (SweepCall("inspect", ("master",)), SweepCall("inspect_copy", ("copy",)))
_STATES = SweepCall("inspect", ("state",))

#: What ranks exchange, and what follows from that of all of them.
_NOTE = (SweepCall("refusals", ("statistics",)), SweepCall("account", ("statistics", "value", "weight", "number", "share")))
_WEIGH = SweepCall("weigh", ("scale", "held", "statistics"))
_TOTAL = SweepCall("total", ("squares",))
_CLIP = SweepCall("norm", ("norm", "clip", "held", "squares", "limit"))
_FIRST = SweepCall("first", ("flaw",))

#: By what feeds a parameter: the scalar that its gradient is multiplied by, and the kernel that looks through it.
_FED = {"loss": ("scale", "squares"), "accumulated": ("mean", "finite")}


def plan_sweeps(lowered: Lowered, layout: Layout, parameters: Sequence[PlannedParameter]) -> tuple[Sweep, ...]:
    """Those of all places, in the order in which they run."""
    kinds = _kinds(lowered, layout, parameters)
    fitted = (_fitted(sweep, kinds[sweep.over]) for sweep in _sweeps(layout))
    return tuple(sweep for sweep in fitted if sweep.calls)


# ---- what there may be ----


def _sweeps(layout: Layout) -> Iterator[Sweep]:
    """Of any parameters. The sum of a replica's last group is whole where it is first read: by REDUCE, where there are replicas."""
    joins = (_JOIN,) if layout.dp == 1 else ()
    yield Sweep("FOLD", "uses", (), "whole", False, (_JOIN, SweepCall("copy", ("kept", "sum"))))
    yield Sweep("STATISTICS", "rank", (), "whole", False, _NOTE)
    yield Sweep("WEIGH", "rank", (), "whole", False, (_WEIGH,))
    if not joins:
        yield Sweep("REDUCE", "uses", (), "whole", False, (_JOIN,))
    yield Sweep("SHARE", "use", (), "shard", False, joins)
    yield Sweep("SHARE", "use", ("further",), "shard", False, (SweepCall("add", ("gradient", "sum")),))
    for fed, (scalar, look) in _FED.items():
        last = (SweepCall("scale", ("gradient", scalar)), SweepCall(look, ("gradient",)))
        yield Sweep("NORM", "pieces", (fed, "here"), "shard", False, (*joins, _ADD_USES, *last))
        yield Sweep("NORM", "pieces", (fed, "spread"), "shard", False, last)
    yield Sweep("NORM", "rank", (), "whole", False, (_TOTAL,))
    yield Sweep("CLIP", "rank", (), "whole", False, (_CLIP,))
    for fed in _FED:
        yield from _updates(fed)
    yield Sweep("UPDATE", "rank", (), "whole", False, (_FIRST,))
    yield Sweep("START", "held", ("elementwise",), "whole", False, (_INITIAL,))
    yield Sweep("START", "held", ("whole",), "tensor", False, (_INITIAL,))
    for moment in ("START", "COPIES"):
        yield Sweep(moment, "held", (), "whole", False, (_ROUND,))
    yield Sweep("SEARCH", "uses", (), "whole", False, (SweepCall("finite", ("sum",)),))


def _updates(fed: str) -> Iterator[Sweep]:
    clip = (SweepCall("scale", ("gradient", "clip")),) if fed == "loss" else ()
    yield Sweep("UPDATE", "pieces", (fed, "elementwise"), "shard", True, (*clip, _UPDATE, _ROUND, *_VALUES, _STATES))
    values = (SweepCall("copy", ("master", "new master")), _ROUND, *_VALUES)
    states = (SweepCall("copy", ("state", "new state")), _STATES)
    yield Sweep("UPDATE", "pieces", (fed, "whole"), "tensor", True, (*clip, _UPDATE, *values, *states))


# ---- what there is ----


class _Kind(NamedTuple):
    """Something that sweeps go over: the conditions that hold of it, and the operands that it has."""

    words: frozenset[str]
    operands: frozenset[str]


def _fitted(sweep: Sweep, kinds: Sequence[_Kind]) -> Sweep:
    """With the calls that something has all operands of."""
    takers = [kind for kind in kinds if kind.words.issuperset(sweep.only)]
    calls = (call for call in sweep.calls if any(kind.operands.issuperset(call.operands) for kind in takers))
    return replace(sweep, calls=tuple(calls))


def _kind(words: Mapping[str, bool], operands: Mapping[str, bool]) -> _Kind:
    """Of what holds; operands that nothing is said of are there."""
    return _Kind(
        frozenset(word for word in CONDITIONS if words.get(word, False)), frozenset(word for word in OPERANDS if operands.get(word, True))
    )


class _Alike(NamedTuple):
    """What sweeps can tell of a parameter: with most layers, that of the layer before.

    here:  of each use, whether it is on the place of the owner
    flat:  its initial value runs over ranges of elements
    """

    here: tuple[bool, ...]
    flat: bool
    fed: str
    trained: bool
    elementwise: bool
    dtype: str
    states: bool


def _alike(lowered: Lowered, layout: Layout, number: int, parameter: PlannedParameter) -> _Alike:
    of, placement = parameter.kind, layout.schedule.placement
    here = tuple([placement[stage] == parameter.owner for stage, _ in parameter.uses])
    flat = lowered.inits[number].name in lowered.flat
    return _Alike(here, flat, of.fed, of.update is not None, of.elementwise, of.dtype, bool(of.states))


def _kinds(lowered: Lowered, layout: Layout, parameters: Sequence[PlannedParameter]) -> dict[str, list[_Kind]]:
    """By what sweeps go over, what there is of it."""
    waits = tree_levels(layout.groups, layout.dp) > 1
    waiting = {"waiting": waits, "kept": waits}
    pieces, held, shared = list[_Kind](), list[_Kind](), list[_Kind]()
    met = {(id(p.kind), p.owner, p.uses, lowered.inits[n].name): n for n, p in enumerate(parameters)}
    for of in dict.fromkeys(_alike(lowered, layout, number, parameters[number]) for number in met.values()):
        spread, further = not all(of.here), any(of.here[1:])
        fed = {"loss": of.fed == "loss", "accumulated": of.fed == "accumulate"}
        rule = {"elementwise": of.trained and of.elementwise, "whole": not of.elementwise}
        values = {"copy": of.dtype != lowered.step.program.wide}
        states = dict.fromkeys(("state", "new state"), of.states)
        pieces.append(_kind({**fed, **rule, "here": not spread, "spread": spread}, {**waiting, **values, **states, "further": further}))
        held.append(_kind({"elementwise": of.flat, "whole": not of.flat}, values))
        if spread:
            shared.append(_kind({"further": further}, waiting))
    return {"uses": [_kind({}, waiting)], "use": shared, "pieces": pieces, "held": held, "rank": [_kind({}, {})]}
