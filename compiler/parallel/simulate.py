"""What a schedule costs: when each action runs, how long ranks idle, what they hold and send.

A rank runs its list in order, each action as soon as the rank is free and what it needs has arrived. A transfer between two ranks
takes a fixed time, beside computation, and any number of them go on at once. A stage's next action on the same rank waits for none.

    bubble    the makespan less the work of the busiest rank: what is lost at a barrier before the next step
    span      of a rank, from the start of its first action to the end of its last: what is lost when steps follow without one
    residual  what a forward leaves for its backward: saved until the input gradient has ended, pending from then until the
              weight gradient has; B keeps it saved to its end
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mlc.frozen import frozen
from mlc.parallel.actions import KINDS, Action, Schedule, needed, refusal


@frozen
class Costs:
    """Seconds, or any other unit of time: per stage, and of one transfer between two ranks (latency and bytes together)."""

    forward: tuple[float, ...]
    input_gradient: tuple[float, ...]
    weight_gradient: tuple[float, ...]
    transfer: float = 0.0

    def seconds(self, action: Action) -> float:
        stage = action.stage
        match action.kind:
            case "F":
                return self.forward[stage]
            case "I":
                return self.input_gradient[stage]
            case "W":
                return self.weight_gradient[stage]
            case _:
                return self.input_gradient[stage] + self.weight_gradient[stage]


@frozen
class Residuals:
    """What one microbatch leaves on each stage: in bytes, or 1 each to count residuals whole."""

    saved: tuple[int, ...]  # per stage, from F to the end of I
    pending: tuple[int, ...]  # per stage, from the end of I to the end of W


@frozen
class Simulation:
    """What `simulate` found; lists are those of the schedule, ranks in order."""

    start: tuple[tuple[float, ...], ...]  # per rank, per action of its list
    end: tuple[tuple[float, ...], ...]
    busy: tuple[float, ...]  # per rank, the work it does
    makespan: float
    peak: tuple[int, ...]  # per rank, residuals of a microbatch on a chunk, those that wait for W counted whole
    messages: tuple[int, ...]  # per rank, those it sends

    @property
    def bubble(self) -> float:
        return self.makespan - max(self.busy)

    @property
    def fraction(self) -> float:
        """The bubble as a part of the makespan."""
        return self.bubble / self.makespan if self.makespan > 0 else 0.0

    @property
    def span(self) -> tuple[float, ...]:
        return tuple(end[-1] - start[0] if start else 0.0 for start, end in zip(self.start, self.end))


def uniform(stages: int, forward: float, input_gradient: float, weight_gradient: float, transfer: float = 0.0) -> Costs:
    """Every stage takes the same."""
    return Costs((forward,) * stages, (input_gradient,) * stages, (weight_gradient,) * stages, transfer)


def simulate(schedule: Schedule, costs: Costs) -> Simulation:
    """Run the lists once.

    schedule: `validate_imported` holds
    raises:   E1105 when no rank can go on, naming for each that has not ended its next action and what that waits for
    """
    start, end = run(schedule, costs)
    return Simulation(
        tuple(map(tuple, start)),
        tuple(map(tuple, end)),
        tuple(sum(map(costs.seconds, actions)) for actions in schedule.lists),
        max((times[-1] for times in end if times), default=0.0),
        peak(schedule, Residuals((1,) * schedule.stages, (1,) * schedule.stages)),
        messages(schedule),
    )


def makespan(schedule: Schedule, costs: Costs) -> float:
    """That of `simulate`, alone."""
    return max((times[-1] for times in run(schedule, costs)[1] if times), default=0.0)


def run(schedule: Schedule, costs: Costs) -> tuple[list[list[float]], list[list[float]]]:
    """Start and end of every action of every list. Each action is looked at once, and once more for each time its rank waits at it."""
    placement, last, count = schedule.placement, schedule.stages - 1, schedule.microbatches
    seconds = {kind: [costs.seconds(Action(kind, stage, 0)) for stage in range(schedule.stages)] for kind in KINDS}
    behind = [costs.transfer * (placement[s] != placement[s + 1]) for s in range(last)]  # over the cut behind a stage
    forward: list[float | None] = [None] * (schedule.stages * count)  # when F of stage * count + microbatch ended
    gradient: list[float | None] = [None] * (schedule.stages * count)  # and I or B
    waiting: defaultdict[int, list[int]] = defaultdict(list)  # by what is missing: its number in `forward`, or below 0 in `gradient`
    start: list[list[float]] = [[] for _ in schedule.lists]
    end: list[list[float]] = [[] for _ in schedule.lists]
    ready = list(range(schedule.ranks))
    while ready:
        rank = ready.pop()
        actions, starts, ends = schedule.lists[rank], start[rank], end[rank]
        now = ends[-1] if ends else 0.0
        for position in range(len(ends), len(actions)):
            kind, stage, microbatch = actions[position]
            own, arrival, made = stage * count + microbatch, now, None
            if kind == "F":
                made = own
                if stage > 0:
                    sent = forward[own - count]
                    if sent is None:
                        waiting[own - count].append(rank)
                        break
                    arrival = sent + behind[stage - 1]
            elif kind == "W":
                if gradient[own] is None:
                    waiting[~own].append(rank)
                    break
            else:
                made = ~own
                if forward[own] is None:
                    waiting[own].append(rank)
                    break
                if stage < last:
                    sent = gradient[own + count]
                    if sent is None:
                        waiting[~(own + count)].append(rank)
                        break
                    arrival = sent + behind[stage]
            if arrival > now:
                now = arrival
            starts.append(now)
            now += seconds[kind][stage]
            ends.append(now)
            if made is not None:
                if made >= 0:
                    forward[made] = now
                else:
                    gradient[~made] = now
                if made in waiting:
                    ready += waiting.pop(made)
    if waiting:
        raise _stuck(schedule, {_missing(number, count): ranks for number, ranks in waiting.items()})
    return start, end


def _missing(number: int, count: int) -> Action:
    """The action of a number in `run`."""
    return Action("F", *divmod(number, count)) if number >= 0 else Action("I", *divmod(~number, count))


def _stuck(schedule: Schedule, waiting: dict[Action, list[int]]) -> Exception:
    waits = sorted((rank, missing) for missing, ranks in waiting.items() for rank in ranks)
    done = {rank: _position(schedule, rank, missing) for rank, missing in waits}
    told = [
        f"rank {rank} at {schedule.lists[rank][done[rank]]} waits for {missing} of rank {schedule.placement[missing.stage]}"
        for rank, missing in waits
    ]
    return refusal("E1105", f"{schedule.name}: no rank can go on: {'; '.join(told)}")


def _position(schedule: Schedule, rank: int, missing: Action) -> int:
    """The action of a rank that waits: the first that needs what is missing."""
    return next(i for i, action in enumerate(schedule.lists[rank]) if missing in needed(action, schedule.stages))


def peak(schedule: Schedule, residuals: Residuals) -> tuple[int, ...]:
    """The most that each rank holds at once, in the unit of the residuals. It follows from the lists alone."""
    return tuple(rank_peak(actions, residuals) for actions in schedule.lists)


def rank_peak(actions: Sequence[Action], residuals: Residuals) -> int:
    """The most that one rank holds at once, from its list."""
    saved, pending = residuals.saved, residuals.pending
    held = most = 0
    for kind, stage, _ in actions:
        if kind == "F":
            held += saved[stage]
        elif kind == "I":
            held += pending[stage] - saved[stage]
        else:
            held -= pending[stage] if kind == "W" else saved[stage]
        if held > most:
            most = held
    return most


def messages(schedule: Schedule) -> tuple[int, ...]:
    """How many messages each rank sends: an activation behind, a gradient before, unless the other stage is its own."""
    placement, last = schedule.placement, schedule.stages - 1
    behind = [s < last and placement[s] != placement[s + 1] for s in range(schedule.stages)]
    before = [s > 0 and placement[s] != placement[s - 1] for s in range(schedule.stages)]
    sends = {"F": behind, "I": before, "B": before, "W": [False] * schedule.stages}
    return tuple(sum(sends[kind][stage] for kind, stage, _ in actions) for actions in schedule.lists)
