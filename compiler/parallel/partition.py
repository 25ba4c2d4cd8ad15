"""Cut a chain into contiguous stages so that a step takes as little time as the memory of the ranks allows.

    before:  embed h.0 h.1 h.2 h.3 head       after, head as long as two blocks:  stage 0: embed h.0 h.1   stage 1: h.2 h.3   stage 2: head

With one stage a rank the cut is the best there is (`cut_exact`), with several it is the best that a search finds (`cut_search`). What is
best is `cut.Balance`: the busiest rank first, for a step goes at its pace; then what fills the pipeline; then evenness; and between
cuts of equal balance, bytes sent and bytes kept.
A stage may be empty: with fewer calls than stages some are, and a rank whose stage is empty passes the state on.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlc.parallel.actions import refusal
from mlc.parallel.costs import CallCost
from mlc.parallel.cut import Bounds, Question, ranges
from mlc.parallel.cut_exact import even_bytes, exact_cut
from mlc.parallel.cut_search import searched_cut
from mlc.parallel.footprint import Window
from mlc.parallel.quantities import size_text, size_texts


def partition(
    costs: Sequence[CallCost], placement: Sequence[int], windows: Sequence[Window], microbatches: int, memory_bytes: int | None = None
) -> tuple[range, ...]:
    """The calls of each stage: contiguous ranges in order of stage that cover the chain.

    costs:         of each call, at least one
    placement:     stage -> rank; every rank from 0 on holds a stage
    windows:       per stage, the microbatches in flight under the schedule
    microbatches:  of one replica in a step
    memory_bytes:  of a rank, None for no limit
    raises:        E1001 if one call alone exceeds the memory of a rank, E1002 if no cut fits
    """
    question = Question(costs, placement, windows, microbatches, memory_bytes)
    _check_calls(question)
    bounds = exact_cut(question) if question.ranks == question.stages else searched_cut(question)
    if bounds is None or question.excess_bytes(bounds):
        raise _overfull(question, bounds or even_bytes(question))
    return ranges(bounds)


def _check_calls(question: Question) -> None:
    """raises: E1001 for a call that fits no stage"""
    limit = question.memory_bytes
    for number, cost in enumerate(question.costs if limit is not None else ()):
        wanted, stage = min((question.footprint.stage_total(number, number + 1, w), s) for s, w in enumerate(question.windows))
        if limit is not None and wanted > limit:
            wants, has = size_texts(wanted, limit)
            message = (
                f"{cost.label} alone wants {wants} on stage {stage}, where it wants least, and a rank has {has}: "
                f"{_held(question, number, number + 1, stage)}"
            )
            raise refusal("E1001", message, "make the batch or the context smaller, or choose a schedule with fewer microbatches in flight")


def _overfull(question: Question, bounds: Bounds) -> Exception:
    """The fullest rank of the cut that comes nearest."""
    wanted, rank = max((question.rank_bytes(bounds, rank), rank) for rank in range(question.ranks))
    stage = max(question.stages_of[rank], key=lambda s: question.footprint.stage_total(bounds[s], bounds[s + 1], question.windows[s]))
    i, j = bounds[stage], bounds[stage + 1]
    calls = " to ".join(dict.fromkeys((question.costs[i].label, question.costs[j - 1].label)))
    wants, has = size_texts(wanted, question.memory_bytes or 0)
    fits = "fits" if question.ranks == question.stages else "was found that fits"
    message = (
        f"no cut into {question.stages} stages {fits}: the nearest wants {wants} on place {rank}, which has {has}, "
        f"with {calls} on stage {stage}: {_held(question, i, j, stage)}"
    )
    return refusal("E1002", message, "more ranks, a smaller batch, or a schedule with fewer microbatches in flight")


def _held(question: Question, i: int, j: int, stage: int) -> str:
    """What calls i to j - 1 hold on a stage, in words."""
    held, window = question.footprint.stage(i, j), question.windows[stage]
    fixed = held.parameters + held.states + held.accumulators
    alive, transient = question.alive_bytes(stage, i, j), question.footprint.transient(i, j, window)
    return (
        f"{size_text(fixed)} of parameters, gradients and optimizer states, {size_text(alive)} kept for "
        f"{window.saved_w} microbatch{'' if window.saved_w == 1 else 'es'} in flight, {size_text(transient)} while it runs"
    )
