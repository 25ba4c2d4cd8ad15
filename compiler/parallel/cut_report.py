"""Why a cut is where it is: what each stage holds and costs, and what moving a call across each bound would do.

`stage_rows` makes the rows of `stages` in plan.json, plain data; `explain_stages` turns such rows into lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from mlc.ir.program import CALL_CHOICES
from mlc.parallel.costs import CallCost
from mlc.parallel.cut import Bounds, Question
from mlc.parallel.footprint import Window
from mlc.parallel.quantities import seconds_text, size_text, size_texts


def stage_rows(
    costs: Sequence[CallCost],
    cut: Sequence[range],
    placement: Sequence[int],
    windows: Sequence[Window],
    microbatches: int,
    memory_bytes: int | None = None,
) -> list[dict[str, Any]]:
    """One row a stage: stage, place, calls, cost, why.

    cost:  modelled seconds of F, I and W of a microbatch, the stage's share of all, bytes of parameters, optimizer states and
           accumulators, bytes kept for each microbatch by the phases they live through, microbatches in flight, bytes sent
    why:   one sentence for each call that could move to the stage before or behind
    """
    question = Question(costs, placement, windows, microbatches, memory_bytes)
    bounds = (0, *(calls.stop for calls in cut))
    return [_row(question, bounds, stage) for stage in range(question.stages)]


def _row(question: Question, bounds: Bounds, stage: int) -> dict[str, Any]:
    i, j = bounds[stage], bounds[stage + 1]
    return {
        "stage": stage,
        "place": question.placement[stage],
        "calls": [cost.label for cost in question.costs[i:j]],
        "cost": _cost(question, i, j, stage),
        "why": "; ".join(_reasons(question, bounds, stage)),
    }


def _cost(question: Question, i: int, j: int, stage: int) -> dict[str, Any]:
    calls, held, window = question.costs[i:j], question.footprint.stage(i, j), question.windows[stage]
    total = question.work[-1]
    return {
        "forward_seconds": sum(c.forward_seconds for c in calls),
        "input_gradient_seconds": sum(c.input_gradient_seconds for c in calls),
        "weight_gradient_seconds": sum(c.weight_gradient_seconds for c in calls),
        "share": (question.work[j] - question.work[i]) / total if total else 0.0,
        "parameter_bytes": held.parameters,
        "state_bytes": held.states,
        "accumulator_bytes": held.accumulators,
        "saved_bytes": held.saved,
        "saved_w_bytes": held.saved_w,
        "pending_bytes": held.pending,
        "in_flight": window.saved_w,
        "sent_bytes": question.crossing[j] if stage < question.stages - 1 else 0,
    }


def _reasons(question: Question, bounds: Bounds, stage: int) -> Iterator[str]:
    """What moving the first call back or the last call on would do."""
    i, j = bounds[stage], bounds[stage + 1]
    if i == j:
        yield f"{len(question.costs)} calls for {question.stages} stages: this one passes the state on"
        return
    if stage > 0:
        yield _effect(question, bounds, (*bounds[:stage], i + 1, *bounds[stage + 1 :]), i, stage - 1)
    if stage < question.stages - 1:
        yield _effect(question, bounds, (*bounds[: stage + 1], j - 1, *bounds[stage + 2 :]), j - 1, stage + 1)


def _effect(question: Question, bounds: Bounds, moved: Bounds, call: int, stage: int) -> str:
    """The first thing that would differ, in the order in which the search decides."""
    move = f"moving {question.costs[call].label} to stage {stage}"
    rank = question.placement[stage]
    wanted, limit = question.rank_bytes(moved, rank), question.memory_bytes
    if limit is not None and wanted > limit:
        wants, has = size_texts(wanted, limit)
        return f"{move} would want {wants} on place {rank}, which has {has}"
    for name, here, there in _compared(question, bounds, moved):
        if seconds_text(here) != seconds_text(there):
            return f"{move} would {'raise' if there > here else 'lower'} {name} from {seconds_text(here)} to {seconds_text(there)}"
    before, after = question.balance(bounds).unevenness, question.balance(moved).unevenness
    if before != after:
        return f"{move} would make the stages {'less' if after > before else 'more'} even"
    return f"{move} would make no difference to the time"


def _compared(question: Question, bounds: Bounds, moved: Bounds) -> Iterator[tuple[str, float, float]]:
    """(what, seconds here, seconds there) in the order in which cuts are compared."""
    before, after, tick = question.balance(bounds), question.balance(moved), question.tick_seconds
    yield "the bottleneck", question.bottleneck(bounds) * tick, question.bottleneck(moved) * tick
    yield "the modelled step", before.pace * tick, after.pace * tick
    yield "the time to fill the pipeline and do the work of a rank", before.fill * tick, after.fill * tick


def explain_stages(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of plan.json in lines."""
    return [line for row in rows for line in _stage_lines(row)]


def _stage_lines(row: Mapping[str, Any]) -> Iterator[str]:
    cost = row["cost"]
    parts = (cost["forward_seconds"], cost["input_gradient_seconds"], cost["weight_gradient_seconds"])
    yield f"stage {row['stage']} on place {row['place']}: {_calls(row['calls'])}"
    if row["calls"]:
        named = ", ".join(f"{name} {seconds_text(seconds)}" for name, seconds in zip("FIW", parts, strict=True))
        yield f"    time   {seconds_text(sum(parts))} a microbatch on a core, as modelled ({cost['share']:.1%} of all): {named}"
        yield (
            f"    holds  {size_text(cost['parameter_bytes'])} parameters, {size_text(cost['state_bytes'])} optimizer states, "
            f"{size_text(cost['accumulator_bytes'])} gradients"
        )
        kept = cost["saved_bytes"] + cost["saved_w_bytes"]
        yield (
            f"    keeps  {size_text(kept)} a microbatch for its backward, {cost['in_flight']} in flight; "
            f"{size_text(cost['saved_w_bytes'])} of it and {size_text(cost['pending_bytes'])} more for W"
        )
    if any(choice != CALL_CHOICES[0] for choice in row.get("recompute", ())):
        yield f"    again  {_again(row)}"
    if cost["sent_bytes"]:
        yield f"    sends  {size_text(cost['sent_bytes'])} a microbatch to stage {row['stage'] + 1}"
    yield from (f"    why    {reason}" for reason in row["why"].split("; ") if reason)


def _again(row: Mapping[str, Any]) -> str:
    """What backward passes make again, by choice."""
    made = list(zip(row["calls"], row["recompute"], strict=True))
    found = [(choice, [call for call, c in made if c == choice]) for choice in CALL_CHOICES[:0:-1]]
    return "; ".join(f"{choice}: {_calls(calls)}" for choice, calls in found if calls)


def _calls(labels: Sequence[str]) -> str:
    """Calls in a row whose paths differ in their numbers alone are said in one: h.3 to h.7."""
    if not labels:
        return "no calls"
    runs = [list(run) for _, run in groupby(labels, key=_without_numbers)]
    told = [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"{', '.join(told)} ({len(labels)} call{'' if len(labels) == 1 else 's'})"


def _without_numbers(path: str) -> str:
    plain = path.partition("#")[0]
    return ".".join("#" if part.isdigit() else part for part in plain.split("."))
