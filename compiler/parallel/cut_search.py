"""A good cut of a chain when ranks hold several stages: from some first cuts, moved while that makes them better.

The work of a rank is the sum over its stages, which may lie anywhere in the chain, so no recurrence over prefixes finds the best
cut. A move takes one call from stage a and gives one to stage b: every bound between them shifts by one.

    a | b c d | e f | g      stage 1 gives, stage 3 takes      a | b c | d e | f g

Moves from the busiest rank are tried first, then single bounds, then all pairs. They serve three ends in turn: to fit the memory,
to make the busiest rank less busy (or one of several such: the sum of squares tells), and to better the balance as a whole. The
search ends when none helps, or when so many cuts were weighed, and goes on from the best cut with some bounds kicked, more often when
there are few. Where there are only so many cuts, all are weighed instead. It is deterministic, and never worse than any of the cuts it
starts from, the equal one among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, combinations_with_replacement, islice
from math import comb
from random import Random

from mlc.parallel.cut import Balance, Bounds, Question, Traffic, equal_cut
from mlc.parallel.cut_exact import even_bytes, exact_cut

#: What a search lowers: numbers of ticks, of which the first difference decides.
Aimed = tuple[int, ...]
Aim = Callable[[Question, Bounds], Aimed]

#: Times a cut of one stage would be kicked. A search from a kicked cut weighs stages squared moves, each in time that grows with them.
_KICKS = 20_000

#: So many cuts are weighed one by one.
_FEW = 1000

#: Stages that are looked at in all searches from the first cuts together; to weigh a cut is to look at each of its stages.
_LOOKS = 3_000_000
#: Searches there are: from each of the first cuts, towards each aim.
_SEARCHES = 6


def searched_cut(question: Question) -> Bounds:
    """The best cut found. One that does not fit the memory means that none was found that does."""
    calls, inner = len(question.costs), question.stages - 1
    if comb(calls + inner, inner) <= _FEW:
        cuts = ((0, *bounds, calls) for bounds in combinations_with_replacement(range(calls + 1), inner))
        return min(cuts, key=lambda bounds: _rank(question, bounds))
    found = [_searched(question, start) for start in dict.fromkeys(_starts(question))]
    best = min(found, key=lambda bounds: _rank(question, bounds))
    generator = Random(0)
    for _ in range(_KICKS // question.stages**3):
        kicked = _searched(question, _kicked(best, generator))
        best = min(best, kicked, key=lambda bounds: _rank(question, bounds))
    return best


def _rank(question: Question, bounds: Bounds) -> tuple[int, Balance, Traffic, Bounds]:
    return question.excess_bytes(bounds), question.balance(bounds), question.traffic(bounds), bounds


def _kicked(bounds: Bounds, generator: Random) -> Bounds:
    """A few inner bounds moved a little, at random but always the same."""
    moved = [bound + generator.randint(-2, 2) if generator.random() < 0.4 else bound for bound in bounds[1:-1]]
    return (0, *sorted(min(max(bound, 0), bounds[-1]) for bound in moved), bounds[-1])


def _searched(question: Question, bounds: Bounds) -> Bounds:
    """Towards less pressure, then towards a better balance; towards that alone where the way over less pressure ends in a worse one."""
    found = _descend(question, _descend(question, bounds, _pressure), _balance)
    return found if _rank(question, found) <= _rank(question, bounds) else _descend(question, bounds, _balance)


def _pressure(question: Question, bounds: Bounds) -> Aimed:
    ranks = question.rank_work(bounds)
    return max(ranks), sum([w * w for w in ranks])


def _balance(question: Question, bounds: Bounds) -> Aimed:
    return question.balance(bounds)


def _starts(question: Question) -> Iterator[Bounds]:
    """The equal cut, the best one with a rank for every stage, the one that shares out memory evenly."""
    yield equal_cut(len(question.costs), question.stages)
    alone = Question(question.costs, range(question.stages), question.windows, question.microbatches, None)
    yield _exact(alone)
    if question.memory_bytes is not None:
        yield even_bytes(question)


def _exact(question: Question) -> Bounds:
    bounds = exact_cut(question)
    assert bounds is not None  # nothing limits its memory
    return bounds


def _descend(question: Question, bounds: Bounds, aim: Aim) -> Bounds:
    """Apply moves while one helps and there are some left: first those that fit it into memory, then those that lower the aim."""
    excess, score = question.excess_bytes(bounds), aim(question, bounds)
    left = _LOOKS // (_SEARCHES * question.stages)
    while True:
        found, weighed = _better(question, bounds, excess, score, aim, left)
        left -= weighed
        if found is None:
            return bounds
        excess, score, bounds = found


def _better(
    question: Question, bounds: Bounds, excess: int, score: Aimed, aim: Aim, left: int
) -> tuple[tuple[int, Aimed, Bounds] | None, int]:
    """The first cut one move away that is better, with its excess and its score; and how many of at most `left` were weighed."""
    tried = islice(chain.from_iterable(moves(question, bounds) for moves in (_of_busiest, _single_bounds, _all_pairs)), left)
    weighed = 0
    for weighed, (giver, taker) in enumerate(tried, 1):
        moved = _moved(bounds, giver, taker)
        made = aim(question, moved) if moved else score
        if moved is None or (excess == 0 and made >= score):
            continue
        remaining = question.excess_bytes(moved)
        if (remaining, made) < (excess, score):
            return (remaining, made, moved), weighed
    return None, weighed


def _moved(bounds: Bounds, giver: int, taker: int) -> Bounds | None:
    """One call less for a stage, one more for another; None where a stage between them would get a negative number of calls."""
    if giver < taker:
        moved = (*bounds[: giver + 1], *(b - 1 for b in bounds[giver + 1 : taker + 1]), *bounds[taker + 1 :])
    else:
        moved = (*bounds[: taker + 1], *(b + 1 for b in bounds[taker + 1 : giver + 1]), *bounds[giver + 1 :])
    return moved if moved[giver] <= moved[giver + 1] else None


def _of_busiest(question: Question, bounds: Bounds) -> Iterator[tuple[int, int]]:
    """From every stage of the busiest rank to every stage of the others."""
    work = question.rank_work(bounds)
    for giver in question.stages_of[work.index(max(work))]:
        yield from ((giver, taker) for taker in range(question.stages) if question.placement[taker] != question.placement[giver])


def _single_bounds(question: Question, _bounds: Bounds) -> Iterator[tuple[int, int]]:
    for stage in range(question.stages - 1):
        yield from ((stage, stage + 1), (stage + 1, stage))


def _all_pairs(question: Question, _bounds: Bounds) -> Iterator[tuple[int, int]]:
    stages = range(question.stages)
    return ((giver, taker) for giver in stages for taker in stages if giver != taker)
