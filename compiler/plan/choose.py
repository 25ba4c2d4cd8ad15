"""Choose a layout: how many ranks, which schedule, where the chain is cut.

Lowered, LayoutOptions  ->  Layout
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mlc.diagnostics import MlcError
from mlc.frozen import frozen
from mlc.ir.program import CHOICES, STATES
from mlc.lower.program import Lowered
from mlc.mesh import Mesh
from mlc.parallel.actions import Action, Schedule, refusal
from mlc.parallel.costs import CallCost, call_costs
from mlc.parallel.cut_report import stage_rows
from mlc.parallel.entries import COMPUTE
from mlc.parallel.footprint import schedule_windows
from mlc.parallel.limits import check_extent
from mlc.parallel.partition import partition
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.planned import Place, Planned, StageNote
from mlc.parallel.schedules import chunks_of, schedule
from mlc.parallel.simulate import Costs, simulate, uniform
from mlc.parallel.split import split_calls
from mlc.parallel.tree import most_roots, tree_levels
from mlc.parallel.validate import validate
from mlc.plan.layout import Layout
from mlc.plan.recompute import ByChoice, asked_choices, costs_of, in_runs, least_choices, remakable

#: A message between two processes of one machine: seconds to begin, bytes a second.
TRANSFER_SECONDS = 5e-6
TRANSFER_BYTES = 8e9

#: What is made again: as little as memory allows.
AUTO = "auto"


@frozen
class LayoutOptions:
    """What can be asked of a layout.

    schedule, chunks:  of the pipeline; None: `auto` with its default, 1f1b on one stage
    split:             the calls of each stage; None: balanced
    memory:            bytes that a rank has for its arena; None: no limit
    recompute:         what the backward pass of every call makes again: one of CHOICES, or `auto`: what `memory` demands
    """

    pp: int = 1
    dp: int = 1
    schedule: str | None = None
    chunks: int | None = None
    split: str | None = None
    memory: int | None = None
    recompute: str = AUTO


def choose_layout(
    lowered: Lowered, options: LayoutOptions, plan: Mapping[str, Any] | None = None, target_bytes: int | None = None
) -> Layout:
    """The layout of a program.

    plan:          a parsed plan.json, whose mesh, cut, lists and choices are taken in place of the options
    target_bytes:  what calls may hold where recomputation is chosen for memory; None: all of it. A plan has messages and more beside

    raises: E0813 for microbatches or groups that replicas do not divide, E0814 for a plan of another model, E10 and E11 for a cut or
            a schedule that cannot be made
    """
    recipe = lowered.step.program.recipe
    if plan is not None:
        return _planned_layout(lowered, plan)
    microbatches = recipe.microbatches
    check_extent(options.pp, options.dp, options.chunks or 1, microbatches)
    groups = recipe.groups or math.gcd(microbatches, 8)
    _check_division(microbatches, groups, options.dp)
    by_choice = _costs_by_choice(lowered, microbatches, groups, options.dp, considered(options))
    name = options.schedule
    if name is None:
        name = "auto" if options.pp * (options.chunks or 1) > 1 else "1f1b"
    chunks = chunks_of(name, options.chunks)
    own = microbatches // options.dp
    first = schedule(name, options.pp, own, chunks)
    cuts, choices = _cuts_and_choices(lowered, by_choice, first, options, target_bytes)
    layout = Layout(Mesh(options.pp, options.dp), chunks, first, cuts, microbatches, groups, choices)
    return _ordered(layout, by_choice, options.memory)


def layout_in_runs(lowered: Lowered, options: LayoutOptions, layout: Layout, run: int) -> Layout:
    """The layout where of so many calls in a row, all of which make everything again, the last alone keeps its states."""
    choices = in_runs(lowered, layout.choices, layout.cuts, schedule_windows(layout.schedule), run)
    if choices == layout.choices:
        return layout
    by_choice = _costs_by_choice(lowered, layout.microbatches, layout.groups, layout.dp, CHOICES)
    return _ordered(replace(layout, choices=choices), by_choice, options.memory)


def _costs_by_choice(lowered: Lowered, microbatches: int, groups: int, dp: int, choices: Sequence[str]) -> ByChoice:
    levels, roots = tree_levels(groups, dp), most_roots(groups, dp)
    return {choice: call_costs(lowered, levels, dp, choice, microbatches > 1, roots) for choice in choices}


def _ordered(layout: Layout, by_choice: ByChoice, memory_bytes: int | None) -> Layout:
    """The layout with notes, and where its schedule is ordered for costs, with such an order."""
    costs, made = costs_of(by_choice, layout.choices), layout.schedule
    if made.name == "auto":
        made = schedule(made.name, layout.pp, made.microbatches, layout.chunks, _stage_costs(costs, layout.cuts))
    return replace(layout, schedule=made, notes=_notes(costs, layout.cuts, made, memory_bytes))


def considered(options: LayoutOptions) -> tuple[str, ...]:
    """What calls may make again where no plan says it: choices, the least first."""
    if options.recompute != AUTO:
        return CHOICES[: CHOICES.index(options.recompute) + 1]
    return CHOICES if options.memory is not None else CHOICES[:1]


def may_make_again(options: LayoutOptions, plan: Mapping[str, Any] | None) -> bool:
    """Whether some backward pass may make something again: by the options, or by a parsed plan.json, which may be damaged."""
    if plan is None:
        return considered(options) != CHOICES[:1]
    stages = plan.get("stages")
    said = [stage.get("recompute") for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
    return any(choice != CHOICES[0] for choices in said if isinstance(choices, list) for choice in choices)


def _cuts_and_choices(
    lowered: Lowered, by_choice: ByChoice, made: Schedule, options: LayoutOptions, target_bytes: int | None
) -> tuple[tuple[range, ...], tuple[str, ...]]:
    """The calls of each stage, and what each call makes again. raises: E10 where nothing fits"""
    windows = schedule_windows(made)
    if options.recompute != AUTO or options.memory is None:
        choice = CHOICES[0] if options.recompute == AUTO else options.recompute
        cuts = _first_cuts(lowered, [by_choice[choice], *_least_costs(by_choice, choice)], made, options)
        return cuts, asked_choices(by_choice, choice, cuts, windows)
    most = CHOICES[-1]
    cuts = _first_cuts(lowered, [by_choice[CHOICES[0]], by_choice[most], *_least_costs(by_choice, most)], made, options)
    target = options.memory if target_bytes is None else target_bytes
    return cuts, least_choices(by_choice, cuts, made.placement, windows, target)


def _first_cuts(lowered: Lowered, costs: Sequence[Sequence[CallCost]], made: Schedule, options: LayoutOptions) -> tuple[range, ...]:
    """The calls of each stage by the first costs under which a cut fits. raises: E10 where none does"""
    for of in costs[:-1]:
        with suppress(MlcError):
            return _cuts(lowered, of, made, options)
    return _cuts(lowered, costs[-1], made, options)


def _least_costs(by_choice: ByChoice, choice: str) -> list[Sequence[CallCost]]:
    """What calls cost where no state between them is kept, which is less than any run of them can hold; nothing for other choices."""
    return [costs_of(by_choice, [STATES] * len(by_choice[choice]))] if choice == CHOICES[-1] else []


def _check_division(microbatches: int, groups: int, dp: int) -> None:
    """raises: E0813"""
    if microbatches % dp:
        near = _nearest(microbatches, [dp * (microbatches // dp), dp * (microbatches // dp + 1)])
        grouped = math.gcd(near, 8) if groups == math.gcd(microbatches, 8) else groups
        fits = near % grouped == 0 and grouped % dp == 0
        options = f"--microbatches {near}" + ("" if fits else f" --groups {_nearest_groups(grouped, near, dp)}")
        text = f"{microbatches} microbatches do not divide over {dp} replicas"
        raise refusal("E0813", text, f"the nearest number that does: {options} (it changes the batch of a step, and so the results)")
    if groups % dp:
        near = _nearest_groups(groups, microbatches, dp)
        text = f"the {groups} groups in which {microbatches} microbatches are summed do not divide over {dp} replicas"
        raise refusal("E0813", text, f"the nearest number that does: --groups {near} (it changes the order of sums, and so the last bits)")


def _nearest_groups(wanted: int, microbatches: int, dp: int) -> int:
    return _nearest(wanted, [g for g in range(dp, microbatches + 1, dp) if microbatches % g == 0])


def _nearest(wanted: int, valid: Sequence[int]) -> int:
    return min((v for v in valid if v > 0), key=lambda v: (abs(v - wanted), v))


def _cuts(lowered: Lowered, costs: Sequence[CallCost], made: Schedule, options: LayoutOptions) -> tuple[range, ...]:
    """The calls of each stage: as --split says, or balanced."""
    if options.split is None:
        return partition(costs, made.placement, schedule_windows(made), made.microbatches, options.memory)
    units = lowered.step.program.units
    return split_calls(options.split, [(units[c.unit].name, c.path) for c in lowered.step.program.train.calls], made.stages)


def _stage_costs(costs: Sequence[CallCost], cuts: Sequence[range]) -> Costs:
    """Modelled seconds of each stage; an empty one takes no time."""

    def total(field: str) -> tuple[float, ...]:
        return tuple(sum(getattr(costs[n], field) for n in calls) for calls in cuts)

    crossing = [costs[calls.stop - 1].crossing_bytes for calls in cuts[:-1] if calls.stop > 0]
    transfer = TRANSFER_SECONDS + max(crossing, default=0) / TRANSFER_BYTES
    return Costs(total("forward_seconds"), total("input_gradient_seconds"), total("weight_gradient_seconds"), transfer)


def _notes(costs: Sequence[CallCost], cuts: Sequence[range], made: Schedule, memory_bytes: int | None) -> tuple[StageNote, ...]:
    rows = stage_rows(costs, cuts, made.placement, schedule_windows(made), made.microbatches, memory_bytes)
    return tuple(StageNote(row["cost"], row["why"]) for row in rows)


def _planned_layout(lowered: Lowered, content: Mapping[str, Any]) -> Layout:
    """The layout that another compilation of the same model chose, or that someone edited. raises: E1201, E0814, E1104, E1105"""
    planned = read_plan(content)
    program = lowered.step.program
    labels = [cost.label for cost in call_costs(lowered)]
    found = [name for stage in planned.calls for name in stage]
    if found != labels:
        at = next((n for n, (a, b) in enumerate(zip(found, labels, strict=False)) if a != b), min(len(found), len(labels)))
        theirs, ours = (names[at] if at < len(names) else "nothing" for names in (found, labels))
        raise refusal("E0814", f"the plan is of another model: call {at} of {planned.model} is {theirs}, of {program.name} {ours}")
    ends = [0]
    for calls in planned.calls:
        ends.append(ends[-1] + len(calls))
    cuts = tuple(range(a, b) for a, b in itertools.pairwise(ends))
    made = _planned_schedule(planned)
    by_choice = _costs_by_choice(lowered, planned.microbatches, planned.groups, planned.dp, CHOICES)
    choices = _planned_choices(planned, by_choice)
    free = remakable(lowered, choices, cuts, schedule_windows(made))
    if kept := [labels[n] for n, choice in enumerate(choices) if choice == STATES and n not in free]:
        why = "they are read elsewhere or at once, or it leaves more than them"
        raise refusal("E1201", f"plan.json is damaged: the states that {kept[0]} makes cannot be made again: {why}")
    notes = _notes(costs_of(by_choice, choices), cuts, made, None)
    return Layout(planned.mesh, made.chunks, made, cuts, planned.microbatches, planned.groups, choices, notes)


def _planned_choices(planned: Planned, by_choice: ByChoice) -> tuple[str, ...]:
    """What each call makes again, as a plan says: nothing where it says nothing, no more than the call can."""
    found: list[str] = []
    for calls, choices in zip(planned.calls, planned.recompute, strict=True):
        if choices and len(choices) != len(calls):
            raise refusal("E1201", f"plan.json is damaged: {len(choices)} choices of recomputation for {len(calls)} calls")
        found += choices or [CHOICES[0]] * len(calls)
    return tuple(choice if choice == STATES else by_choice[choice][number].choice for number, choice in enumerate(found))


def _planned_schedule(planned: Planned) -> Schedule:
    """The compute actions of a plan, which may have been edited: they are those of a step, and run to their end.

    raises: E1201 for numbers that do not divide, E1104, E1105
    """
    if planned.microbatches % planned.groups or planned.groups % planned.dp:
        text = f"{planned.microbatches} microbatches in {planned.groups} groups do not divide over {planned.dp} replicas"
        raise refusal("E1201", f"plan.json is damaged: {text}")
    lists = tuple(_compute_list(place) for place in planned.places)
    made = Schedule(planned.schedule, planned.pp, planned.chunks, planned.microbatches // planned.dp, planned.stages, lists)
    validate(made)
    simulate(made, uniform(made.stages, 1.0, 1.0, 1.0))
    return made


def _compute_list(place: Place) -> tuple[Action, ...]:
    """The compute actions of a place, with stages for its chunks. raises: E1201 for a chunk that it has not"""
    entries = [e for e in place.lists.get("train", ()) if e.kind in COMPUTE]
    for entry in entries:
        if not 0 <= int(entry.of) < len(place.stages):
            raise refusal("E1201", f"plan.json is damaged: place {place.number} has {len(place.stages)} chunks, and an action {entry}")
    return tuple(Action(e.kind, place.stages[int(e.of)], e.microbatch) for e in entries)
