"""A chain planned on all its stages, before anything has an address."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.frozen import frozen
from mlc.lower.program import Lowered
from mlc.parallel.actions import Schedule
from mlc.parallel.entries import Entries
from mlc.parallel.planned import Columns
from mlc.parallel.simulate import Costs
from mlc.plan.backward import add_backward_rows
from mlc.plan.boxes import Boxes, Edge, chain_boxes, chain_edges
from mlc.plan.channels import Folds, chain_lists
from mlc.plan.forward import add_forward_rows
from mlc.plan.layout import Layout
from mlc.plan.lists import Timetable, forward_schedule, timetable
from mlc.plan.regions import StageMemory, stage_memory
from mlc.plan.rows import StageRows, input_buffer
from mlc.plan.stages import StagedChain
from mlc.plan.uses import Use


@frozen
class PlannedChain:
    """A chain with what each stage does and needs.

    rows, memories:  per stage
    edges:           per place, those that begin or end there, in the order of cuts
    boxes:           what joins two places
    lists:           per place
    values:          per stage, (column, buffer)
    """

    staged: StagedChain
    table: Timetable
    rows: tuple[StageRows, ...]
    memories: tuple[StageMemory, ...]
    edges: tuple[tuple[Edge, ...], ...]
    boxes: Boxes
    lists: tuple[Entries, ...]
    columns: Columns
    values: tuple[tuple[tuple[int, str], ...], ...]


def plan_chain(
    lowered: Lowered,
    layout: Layout,
    staged: StagedChain,
    uses: Sequence[Use],
    rounded: Sequence[frozenset[str]],
    endings: Sequence[Entries],
) -> PlannedChain:
    """Plan one chain. Per place, rounded: parameters of which its microbatches have copies of their own; endings: what ends its list."""
    train = staged.kind == "train"
    table = timetable(_schedule(layout, staged.kind), _costs(layout))
    accumulators = {(use.call, use.result): use.buffer for use in uses} if train else {}
    inputs = {i.name: i.type for i in lowered.step.program.inputs}
    rows = tuple(StageRows(stage, rounded[place], not train) for stage, place in enumerate(layout.schedule.placement))
    choices = layout.choices if train else ()
    for of in rows:
        values = add_forward_rows(lowered, staged, accumulators, choices, of)
        if train:
            add_backward_rows(lowered, staged, accumulators, choices, values, of)
        for name in of.inputs:
            of.buffer(input_buffer(name), inputs[name])
    columns, found = _columns(lowered, staged, rows)
    joint = [table.joint(stage) for stage in range(layout.stages)]
    if train and table.schedule.microbatches == 1:
        _own_gradients(lowered, staged, uses, [of for of in rows if joint[of.stage]])
    memories = tuple(
        stage_memory(staged, of, table.kinds[of.stage], _lasting(of, lasting), _logits(staged, of), joint[of.stage])
        for of, lasting in zip(rows, found, strict=True)
    )
    edges = tuple(chain_edges(staged, memories))
    boxes = chain_boxes(table, edges)
    lists = chain_lists(table, edges, boxes, _folds(layout, staged, uses) if train else Folds(), endings)
    return PlannedChain(staged, table, rows, memories, _by_place(edges, layout), boxes, lists, columns, found)


def _by_place(edges: Sequence[Edge], layout: Layout) -> tuple[tuple[Edge, ...], ...]:
    placement = layout.schedule.placement
    found: list[list[Edge]] = [[] for _ in range(layout.pp)]
    for edge in edges:
        for place in dict.fromkeys((placement[edge.source], placement[edge.target])):
            found[place].append(edge)
    return tuple(map(tuple, found))


def _own_gradients(lowered: Lowered, staged: StagedChain, uses: Sequence[Use], stages: Sequence[StageRows]) -> None:
    """Accumulators of the one microbatch of a step, which need no memory before it and none of other microbatches."""
    of_call = {number: of for of in stages for number in staged.calls[of.stage]}
    for parameter, _, call, _, _, buffer in uses:
        if call in of_call:
            of_call[call].sizes[buffer] = lowered.parameters[parameter].master.bytes
            of_call[call].gradients.append(buffer)


def _costs(layout: Layout) -> Costs | None:
    """What the stages are said to cost, where that is said; a stage without calls takes no time."""
    costs = [note.cost for note in layout.notes]
    if not costs or not all(costs):
        return None
    names = ("forward", "input_gradient", "weight_gradient")
    forward, inputs, weights = (tuple(float(cost[f"{name}_seconds"]) for cost in costs) for name in names)
    return Costs(forward, inputs, weights)


def _folds(layout: Layout, staged: StagedChain, uses: Sequence[Use]) -> Folds:
    """The phases of stages that add to gradients."""
    stage_of = {call: stage for stage, numbers in enumerate(staged.calls) for call in numbers}
    return Folds(tuple(sorted({(stage_of[use.call], use.phase) for use in uses})), layout.microbatches // layout.groups)


def _schedule(layout: Layout, kind: str) -> Schedule:
    """train: the layout's. evaluate: as many microbatches a round as there are places. sample and decode: one."""
    if kind == "train":
        return layout.schedule
    return forward_schedule(layout, layout.pp if kind == "evaluate" else 1)


def _columns(lowered: Lowered, staged: StagedChain, rows: Sequence[StageRows]) -> tuple[Columns, tuple[tuple[tuple[int, str], ...], ...]]:
    """The columns of a chain, the loss first, then what adds to it; and per stage, (column, buffer)."""
    if staged.chain.logits is not None:
        return Columns((), 0, _stage_of(staged, staged.chain.logits)), tuple(() for _ in rows)
    loss = staged.chain.loss
    columns = [] if loss is None else [("loss", _stage_of(staged, loss), _noted(lowered, staged, rows, loss))]
    columns += [(name, of.stage, buffer) for of in rows for name, buffer in of.losses]
    losses = len(columns)
    columns += [(name, of.stage, buffer) for of in rows for name, buffer in of.metrics]
    columns += [(name, _stage_of(staged, state), _noted(lowered, staged, rows, state)) for name, state in staged.chain.metrics]
    values = tuple(tuple((n, buffer) for n, (_, stage, buffer) in enumerate(columns) if stage == of.stage) for of in rows)
    return Columns(tuple((name, stage) for name, stage, _ in columns), losses, -1), values


def _noted(lowered: Lowered, staged: StagedChain, rows: Sequence[StageRows], state: str) -> str:
    """The buffer in which a state stays to the end of the list: a copy where the state itself leaves in a message."""
    stage, kind = _stage_of(staged, state), staged.types[state]
    if state not in staged.sent(stage):
        return f"state.{state}"
    of = rows[stage]
    buffer = f"noted.{state}"
    if buffer not in of.sizes:
        of.add("F", lowered.copies[kind.key], [f"state.{state}", of.buffer(buffer, kind)], "", f"{state} is noted")
    return buffer


def _stage_of(staged: StagedChain, state: str | None) -> int:
    """The stage that makes a state, -1 for none."""
    for stage, numbers in enumerate(staged.calls):
        if any(state in staged.chain.calls[n].results for n in numbers):
            return stage
    return -1


def _lasting(rows: StageRows, values: Sequence[tuple[int, str]]) -> list[str]:
    """The numbers that a stage leaves: its columns, and the weight of the microbatch."""
    return [*(buffer for _, buffer in values), *([rows.weight] if rows.weight else [])]


def _logits(staged: StagedChain, rows: StageRows) -> str | None:
    """The buffer of the logits, on the stage that makes them."""
    logits = staged.chain.logits
    return None if logits is None or _stage_of(staged, logits) != rows.stage else f"state.{logits}"
