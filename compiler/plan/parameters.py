"""Parameters in the whole plan: who owns and who holds each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mlc.frozen import tuples_of
from mlc.ir.dtypes import dtype_of
from mlc.ir.program import Parameter
from mlc.lower.arrangement import StoredParameter
from mlc.lower.program import Lowered
from mlc.parallel.footprint import schedule_windows
from mlc.parallel.planned import Arranged, ParameterKind, PlannedParameter
from mlc.parallel.shards import Owned, Sharing
from mlc.plan.layout import Layout
from mlc.plan.stages import StagedChain, parameters_of
from mlc.plan.uses import Use


def plan_parameters(lowered: Lowered, layout: Layout, chains: Sequence[StagedChain], uses: Sequence[Use]) -> tuple[PlannedParameter, ...]:
    """Every parameter of the program: its owner is the place of its first use."""
    stage_of = {n: stage for stage, numbers in enumerate(chains[0].calls) for n in numbers}
    found: dict[str, list[tuple[int, str]]] = {p.name: [] for p in lowered.step.program.parameters}
    for use in uses:
        found[use.parameter].append((stage_of[use.call], use.phase))
    first = _first_stages(lowered, chains) if not all(found.values()) else {}
    placement = layout.schedule.placement
    kinds: dict[tuple[int, str, int | None], ParameterKind] = {}
    made: list[tuple[str, ParameterKind, int, tuple[tuple[int, str], ...]]] = []
    for parameter in lowered.step.program.parameters:
        name, of = parameter.name, tuple(found[parameter.name])
        fed, update = (parameter.gradient, parameter.update) if of else ("none", None)
        key = id(lowered.parameters[name]), fed, update
        if key not in kinds:
            kinds[key] = _kind(lowered, parameter, fed, update)
        stage = of[0][0] if of else first.get(name, 0)
        made.append((name, kinds[key], placement[stage], of))
    return tuple(tuples_of(PlannedParameter, made))


def _kind(lowered: Lowered, parameter: Parameter, fed: str, update: int | None) -> ParameterKind:
    return ParameterKind(
        dtype=parameter.type.dtype,
        shape=parameter.type.shape,
        fed=fed,
        states=() if update is None else _states(lowered, parameter, update),
        elementwise=update is None or lowered.updates[update].name in lowered.flat,
        update=update,
        arranged=_arranged(lowered.parameters[parameter.name], update),
    )


def _arranged(stored: StoredParameter, update: int | None) -> Arranged | None:
    """How a parameter lies; None: canonical."""
    states = () if update is None else stored.states
    every = [None if of is None or of.is_canonical else of.arrangement for of in (stored.master, stored.copy, *states)]
    return None if every.count(None) == len(every) else Arranged(every[0], every[1], tuple(every[2:]))


def _states(lowered: Lowered, parameter: Parameter, update: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name and shape of what its update keeps from step to step."""
    rule = lowered.step.program.updates[update]
    return tuple([(name, parameter.type.shape if rule.elementwise else kind.shape) for name, kind in rule.states])


def _first_stages(lowered: Lowered, chains: Sequence[StagedChain]) -> dict[str, int]:
    """The stage of the first call that is given a parameter: of the train chain, else of the others."""
    first: dict[str, int] = {}
    for staged in chains:
        for stage, numbers in enumerate(staged.calls):
            for number in numbers:
                for name in parameters_of(lowered.step.program, staged.chain.calls[number]):
                    first.setdefault(name, stage)
    return first


def held_parameters(
    lowered: Lowered, layout: Layout, chains: Sequence[StagedChain], parameters: Sequence[PlannedParameter]
) -> list[list[int]]:
    """Per place, the parameters that one of its stages uses in any chain, and those it owns; ascending."""
    program = lowered.step.program
    number_of = {p.name: n for n, p in enumerate(program.parameters)}
    held: list[set[int]] = [set() for _ in range(layout.pp)]
    for number, parameter in enumerate(parameters):
        held[parameter.owner].add(number)
    for staged in chains:
        for stage, numbers in enumerate(staged.calls):
            place = held[layout.schedule.placement[stage]]
            for number in numbers:
                place.update(number_of[name] for name in parameters_of(program, staged.chain.calls[number]))
    return [sorted(place) for place in held]


def rounded_parameters(lowered: Lowered, layout: Layout, held: Sequence[Sequence[int]]) -> list[frozenset[str]]:
    """Per place, the parameters whose copy in the dtype of the forward pass is made and used up by one microbatch.

    In a step of one microbatch on one replica a copy need not outlive its last reader on the way back, if no other place reads it: what
    gradients take then lies where copies lay. On a target that says so.
    """
    places = [[n for n in numbers if lowered.step.program.parameters[n].type.dtype != lowered.step.program.wide] for numbers in held]
    joint = all(window.alone for window in schedule_windows(layout.schedule))
    if layout.microbatches > 1 or not joint or not lowered.rules.rounds:
        return [frozenset() for _ in places]
    several = Counter(n for numbers in places for n in numbers)
    return [frozenset(lowered.step.program.parameters[n].name for n in numbers if several[n] == 1) for numbers in places]


def place_sharings(lowered: Lowered, layout: Layout, parameters: Sequence[PlannedParameter]) -> list[Sharing]:
    """Per place, how its replicas share out the parameters that it owns."""
    owned: list[list[Owned]] = [[] for _ in range(layout.pp)]
    for number, planned in enumerate(parameters):
        owned[planned.owner].append(Owned(number, planned.kind.elements, planned.kind.sharing))
    return [Sharing(of, layout.dp, dtype_of(lowered.step.program.wide).bytes) for of in owned]
