"""The best cut of a chain when every rank holds one stage, by dynamic programming over bounds.

What a stage costs never falls when calls join it at either end: not its work, not the time of a step it implies (work of the
stages before + microbatches * its work), not its bytes. So the least maximum over stages of a prefix,

    best[s][j] = min over i of max(best[s - 1][i], cost of calls i to j - 1 as stage s)

does not fall with j, and the i where both sides meet is found by bisection: O(stages * calls * log calls). First the least
bottleneck, then the least time of a step among those cuts, then the most even one, with the fewest bytes sent and kept.

source: PipeDream (Narayanan et al. 2019), section 3.1, and Alpa (Zheng et al. 2022), section 5, for the sum over stages
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import add

from mlc.parallel.cut import Bounds, Question
from mlc.parallel.footprint import Window

_NEVER = 1 << 200


def exact_cut(question: Question) -> Bounds | None:
    """The cut of the best balance, then traffic; None where no cut fits the memory."""
    work, count = question.work, question.microbatches
    least = _least_starts(question)
    bottleneck = _least_maximum(question, least, work, work)
    if bottleneck >= _NEVER:
        return None
    least = _tightened(least, work, work, bottleneck)
    ends, starts = [count * w for w in work], [(count - 1) * w for w in work]
    step = _least_maximum(question, least, ends, starts)
    return _most_even(question, _tightened(least, ends, starts, step))


def _least_starts(question: Question) -> list[list[int]]:
    """[stage][j]: the least i for which calls i to j - 1 fit the stage."""
    return [_stage_starts(question, stage) for stage in range(question.stages)]


def _stage_starts(question: Question, stage: int) -> list[int]:
    limit, window = question.memory_bytes, question.windows[stage]
    starts, i = [], 0
    for j in range(len(question.work)):
        while limit is not None and i < j and question.footprint.stage_total(i, j, window) > limit:
            i += 1
        starts.append(i)
    return starts


def _least_maximum(question: Question, least: Sequence[Sequence[int]], ends: Sequence[int], starts: Sequence[int]) -> int:
    """The least possible maximum over stages of ends[j] - starts[i]; _NEVER where no cut fits."""
    best = [ends[j] - starts[0] if least[0][j] == 0 else _NEVER for j in range(len(ends))]
    for stage in range(1, question.stages):
        meets = list(map(add, best, starts))
        best = [_meeting(best, meets, least[stage][j], j, ends[j], starts) for j in range(len(ends))]
    return best[-1]


def _meeting(best: Sequence[int], meets: Sequence[int], low: int, j: int, end: int, starts: Sequence[int]) -> int:
    """min over i in low..j of max(best[i], end - starts[i]): the first rises with i, the second falls."""
    at = bisect_left(meets, end, low, j + 1)
    candidates = [i for i in (at - 1, at) if low <= i <= j]
    return min(max(best[i], end - starts[i]) for i in candidates)


def _tightened(least: Sequence[Sequence[int]], ends: Sequence[int], starts: Sequence[int], limit: int) -> list[list[int]]:
    """The least starts for which ends[j] - starts[i] stays within the limit too."""
    within = [bisect_left(starts, end - limit) for end in ends]
    return [list(map(max, row, within)) for row in least]


#: Of the stages of a prefix: sum of their squared work, bytes sent, bytes kept.
_Sums = tuple[int, int, int]


def _most_even(question: Question, least: Sequence[Sequence[int]]) -> Bounds:
    """Among cuts that start stages no earlier than allowed, the one with the least squares of work, then bytes sent, then kept."""
    last = len(question.work) - 1
    best: list[_Sums] = [(0, 0, 0), *[(_NEVER, 0, 0)] * last]
    choices: list[list[int]] = []
    for stage in range(question.stages):
        reached = [i for i, sums in enumerate(best) if sums[0] < _NEVER]
        low = least[stage]
        starts = (reached[bisect_left(reached, low[j]) : bisect_right(reached, j)] for j in range(last + 1))
        found = [_least_sums(question, best, stage, of, j) for j, of in enumerate(starts)]
        best = [sums for sums, _ in found]
        choices.append([i for _, i in found])
    return _traced(choices, last)


def _least_sums(question: Question, best: Sequence[_Sums], stage: int, starts: Sequence[int], j: int) -> tuple[_Sums, int]:
    """The least sums of a prefix whose last stage ends at j, and where that stage starts: at one of those that the stages before reach."""
    work = question.work
    sums = [best[i][0] + (work[j] - work[i]) ** 2 for i in starts]
    least = min(sums, default=_NEVER)
    if least >= _NEVER:
        return (_NEVER, 0, 0), j
    equal = [i for i, total in zip(starts, sums, strict=True) if total == least]
    return min(((least, best[i][1] + _sent(question, stage, i), best[i][2] + question.alive_bytes(stage, i, j)), i) for i in equal)


def _sent(question: Question, stage: int, i: int) -> int:
    """Bytes sent to a stage that starts at call i."""
    return question.crossing[i] if stage else 0


def _traced(choices: Sequence[Sequence[int]], end: int) -> Bounds:
    """The bounds of the choices that lead to the end."""
    bounds = [end]
    for choice in reversed(choices):
        bounds.append(choice[bounds[-1]])
    return tuple(reversed(bounds))


def even_bytes(question: Question) -> Bounds:
    """The cut whose fullest stage is least full, where every stage has a rank of its own."""
    low, high = 0, max(question.footprint.stage_total(0, len(question.costs), w) for w in question.windows)
    while low < high:
        middle = (low + high) // 2
        if _filled(question, middle) is None:
            low = middle + 1
        else:
            high = middle
    bounds = _filled(question, high)
    assert bounds is not None  # the whole chain fits any stage
    return bounds


def _filled(question: Question, limit: int) -> Bounds | None:
    """Stages filled in turn with as many calls as fit the limit; None where some are left over."""
    bounds = [0]
    for window in question.windows:
        bounds.append(_longest(question, bounds[-1], window, limit))
    return tuple(bounds) if bounds[-1] == len(question.costs) else None


def _longest(question: Question, i: int, window: Window, limit: int) -> int:
    """The largest j for which calls i to j - 1 fit the limit."""
    low, high = i, len(question.costs)
    while low < high:
        middle = (low + high + 1) // 2
        if question.footprint.stage_total(i, middle, window) <= limit:
            low = middle
        else:
            high = middle - 1
    return low
