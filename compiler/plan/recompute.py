"""What the backward pass of each call makes again: what was asked for, or as little as the memory of its rank allows.

    costs by choice, a cut, the microbatches in flight  ->  a choice for each call

A state between two calls that make everything again need not be kept either: the forward of its maker runs once more as a whole, right
before the first backward that reads it. Calls then come in runs, of which the arguments of the first are kept, and all else is made again
at once.

A call whose backward follows its forward at once (the last of the chain, where its stage goes backward right after it went forward)
keeps what it saves: it would make it again just after it was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from mlc.ir.program import CHOICES, STATES
from mlc.lower.program import Lowered
from mlc.parallel.costs import CallCost
from mlc.parallel.footprint import Footprint, Window

#: The costs of every call under each choice.
ByChoice = Mapping[str, Sequence[CallCost]]


def asked_choices(by_choice: ByChoice, choice: str, cuts: Sequence[range], windows: Sequence[Window]) -> tuple[str, ...]:
    """The same choice for every call, as far as each can and gains by it."""
    waits = _waiting(cuts, windows)
    return tuple(cost.choice if waiting else CHOICES[0] for cost, waiting in zip(by_choice[choice], waits, strict=True))


def costs_of(by_choice: ByChoice, choices: Sequence[str]) -> tuple[CallCost, ...]:
    """The cost of every call under its own choice."""
    remade = {name for number, choice in enumerate(choices) if choice == STATES for name in by_choice[CHOICES[-1]][number].makes}
    return tuple(
        _whole(by_choice[CHOICES[-1]][number], remade) if choice == STATES else _without(by_choice[choice][number], remade)
        for number, choice in enumerate(choices)
    )


def _whole(cost: CallCost, remade: set[str]) -> CallCost:
    """The cost of a call whose forward runs once more as a whole."""
    seconds = cost.input_gradient_seconds - cost.again_seconds + cost.forward_seconds
    return _without(replace(cost, choice=STATES, input_gradient_seconds=seconds, again_seconds=cost.forward_seconds), remade)


def _without(cost: CallCost, remade: set[str]) -> CallCost:
    """The cost of a call for which some states are made again: while it runs, those that it reads are there."""
    there = sum(kept.bytes for kept in cost.kept if kept.name in remade)
    kept = tuple(kept for kept in cost.kept if kept.name not in remade)
    return replace(cost, kept=kept, work_bytes=cost.work_bytes + there) if there else cost


def in_runs(lowered: Lowered, choices: Sequence[str], cuts: Sequence[range], windows: Sequence[Window], length: int) -> tuple[str, ...]:
    """The choices where calls that make everything again come in runs: of so many calls in a row, the states of the last alone are kept."""
    free = remakable(lowered, choices, cuts, windows)
    changed = list(choices)
    for calls in cuts:
        row = 0
        for number in calls:
            row = row + 1 if number in free else 0
            if row % length:
                changed[number] = STATES
    return tuple(changed)


def remakable(lowered: Lowered, choices: Sequence[str], cuts: Sequence[range], windows: Sequence[Window]) -> frozenset[int]:
    """The calls whose states need not be kept: all who read these are of their stage and wait, and nothing else leaves the calls."""
    program = lowered.step.program
    chain, waits = program.train, _waiting(cuts, windows)
    stage_of = {number: stage for stage, calls in enumerate(cuts) for number in calls}
    noted = {chain.loss, chain.logits, *(state for _, state in chain.metrics)}
    readers: dict[str, list[int]] = {}
    for number, call in enumerate(chain.calls):
        for name in program.units[call.unit].bound("state", call.arguments):
            readers.setdefault(name, []).append(number)

    def free(number: int) -> bool:
        call = chain.calls[number]
        most = lowered.again_of(call.unit, CHOICES[-1])
        everything = choices[number] == STATES or lowered.again_of(call.unit, choices[number]) is most
        if program.units[call.unit].effects or noted & set(call.results) or not (everything and waits[number]):
            return False
        reading = [reader for name in call.results for reader in readers.get(name, ())]
        return all(waits[reader] and stage_of[reader] == stage_of[number] for reader in reading)

    return frozenset(number for number in range(len(chain.calls)) if free(number))


def least_choices(
    by_choice: ByChoice, cuts: Sequence[range], placement: Sequence[int], windows: Sequence[Window], memory_bytes: int
) -> tuple[str, ...]:
    """As little made again as lets every rank keep to its memory, cheapest first; all that can be where that is not enough."""
    choices = [CHOICES[0]] * sum(map(len, cuts))
    waits = _waiting(cuts, windows)
    for rank in range(max(placement) + 1):
        stages = [stage for stage, place in enumerate(placement) if place == rank]
        steps = _steps(by_choice, [(n, windows[stage]) for stage in stages for n in cuts[stage] if waits[n]])
        low, high = 0, len(steps)
        while low < high:
            middle = (low + high) // 2
            if _rank_bytes(by_choice, _with(choices, steps[:middle]), stages, cuts, windows) <= memory_bytes:
                high = middle
            else:
                low = middle + 1
        choices = _with(choices, steps[:low])
    return tuple(choices)


def _waiting(cuts: Sequence[range], windows: Sequence[Window]) -> list[bool]:
    """Whether other work comes between forward and backward, of each call."""
    last = max((stage for stage, calls in enumerate(cuts) if calls), default=0)
    at_once = windows[last].joint
    count = sum(map(len, cuts))
    return [not at_once or number < count - 1 for number in range(count)]


def _steps(by_choice: ByChoice, calls: Sequence[tuple[int, Window]]) -> list[tuple[int, str]]:
    """(call, choice) from cheapest to dearest: by seconds for each byte that is no longer kept, earlier calls first.

    A choice that frees bytes at a higher price than a greater one does is passed over.
    """
    priced: list[tuple[float, int, int, str]] = []
    for number, window in calls:
        found: list[tuple[float, str]] = []
        for choice in CHOICES[1:]:
            cost = by_choice[choice][number]
            if cost.choice == choice:
                price = _price(by_choice[CHOICES[0]][number], cost, window)
                found = [(p, c) for p, c in found if p < price] + ([(price, choice)] if price < float("inf") else [])
        prices = accumulate((price for price, _ in found), max)
        priced += [(price, number, CHOICES.index(choice), choice) for price, (_, choice) in zip(prices, found, strict=True)]
    return [(number, choice) for _, number, _, choice in sorted(priced)]


def _price(kept: CallCost, made: CallCost, window: Window) -> float:
    """Seconds for each byte."""
    freed = _alive(kept, window) - _alive(made, window)
    return made.again_seconds / freed if freed > 0 else float("inf")


def _alive(cost: CallCost, window: Window) -> int:
    return window.saved * cost.saved_bytes + window.saved_w * cost.saved_w_bytes + window.pending * cost.pending_bytes


def _with(choices: Sequence[str], steps: Sequence[tuple[int, str]]) -> list[str]:
    """The choices after some steps."""
    changed = list(choices)
    for number, choice in steps:
        changed[number] = choice
    return changed


def _rank_bytes(
    by_choice: ByChoice, choices: Sequence[str], stages: Sequence[int], cuts: Sequence[range], windows: Sequence[Window]
) -> int:
    """Bytes of a rank that holds some stages, from the costs of their calls alone."""
    numbers = [n for stage in stages for n in cuts[stage]]
    footprint = Footprint([by_choice[choices[n]][n] for n in numbers])
    ends = list(accumulate((len(cuts[stage]) for stage in stages), initial=0))
    return footprint.rank_total((i, j, windows[stage]) for i, j, stage in zip(ends, ends[1:], stages, strict=False))
