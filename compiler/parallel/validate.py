"""Whether the lists of a schedule are those of one training step, whatever time their actions take.

Whether they can also run to their end, dependencies met, is `simulate`'s to say.
"""

from __future__ import annotations

from mlc.parallel.actions import KINDS, Action, Schedule, refusal


def validate(schedule: Schedule) -> None:
    """The schedule can be compiled.

    raises: E1104, naming rank and action, where `validate_imported` does; and where a stage runs the microbatches of a kind in
            another order than ascending: gradients are folded in that order, so bits depend on it
    """
    validate_imported(schedule)
    for rank, actions in enumerate(schedule.lists):
        last: dict[tuple[str, int], Action] = {}
        for action in actions:
            for part in "IW" if action.kind == "B" else action.kind:
                before = last.get((part, action.stage))
                if before is not None and before.microbatch > action.microbatch:
                    raise _invalid(rank, action, f"comes after {before}: a stage takes the microbatches of a kind in ascending order")
                last[part, action.stage] = action


def validate_imported(schedule: Schedule) -> None:
    """The lists are complete: what torch.distributed.pipelining checks, and each action once.

    raises: E1104, naming rank and action: an action that does not exist, on another rank than its stage, twice, before the
            forward or the input gradient that it needs from its own stage, or missing; a stage's microbatch has F, and I and W or B
    """
    if len(schedule.lists) != schedule.ranks or schedule.stages != schedule.ranks * schedule.chunks:
        found = f"{len(schedule.lists)} lists and {schedule.stages} stages"
        raise refusal("E1104", f"{schedule.name}: {found} for {schedule.ranks} ranks of {schedule.chunks} chunks")
    done: set[tuple[str, int, int]] = set()
    for rank, actions in enumerate(schedule.lists):
        for action in actions:
            _check_place(schedule, rank, action)
            _check_before(done, rank, action)
    for stage, rank in enumerate(schedule.placement):
        for part in "FIW":
            for j in range(schedule.microbatches):
                if (part, stage, j) not in done:
                    raise _invalid(rank, Action(part, stage, j), "is missing")


def _check_place(schedule: Schedule, rank: int, action: Action) -> None:
    if action.kind not in KINDS or not 0 <= action.stage < schedule.stages or not 0 <= action.microbatch < schedule.microbatches:
        size = f"{schedule.stages} stages and {schedule.microbatches} microbatches"
        raise _invalid(rank, action, f"does not exist: there are {size}, and kinds {', '.join(KINDS)}")
    owner = schedule.placement[action.stage]
    if owner != rank:
        raise _invalid(rank, action, f"is not of this place: stage {action.stage} is on place {owner}")


def _check_before(done: set[tuple[str, int, int]], rank: int, action: Action) -> None:
    """One action against those before it on its rank, which it is then added to."""
    stage, j = action.stage, action.microbatch
    for part in "IW" if action.kind == "B" else action.kind:
        if (part, stage, j) in done:
            raise _invalid(rank, action, "comes twice" if part == action.kind else f"does {part} of its microbatch a second time")
        before = {"F": None, "I": "F", "W": "I"}[part]
        if before is not None and (before, stage, j) not in done:
            raise _invalid(rank, action, f"comes before {Action(before, stage, j)}")
        done.add((part, stage, j))


def _invalid(rank: int, action: Action, what: str) -> Exception:
    return refusal("E1104", f"place {rank}: {action} {what}")
