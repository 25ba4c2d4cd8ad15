"""The actions of a pipeline step and the lists of them that ranks execute: `spec/schedules.md`.

A schedule is data: whoever makes one, reads one from a file or checks one needs nothing but this module.
"""

from __future__ import annotations

from typing import NamedTuple

from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError
from mlc.frozen import frozen

#: Forward, input gradient, weight gradient, and the whole backward: B is I, then W.
KINDS = ("F", "I", "W", "B")


class Action(NamedTuple):
    """One computation of one microbatch on one stage; printed as torch.distributed.pipelining writes it: 3F12."""

    kind: str  # one of KINDS
    stage: int  # in the whole pipeline, 0 to ranks * chunks - 1
    microbatch: int  # of this replica, from 0

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"


@frozen
class Schedule:
    """What every rank of one pipeline executes in a step."""

    name: str
    ranks: int
    chunks: int  # stages a rank
    microbatches: int  # of one replica
    placement: tuple[int, ...]  # stage -> rank
    lists: tuple[tuple[Action, ...], ...]  # per rank, in execution order, without idle slots

    @property
    def stages(self) -> int:
        return len(self.placement)


def refusal(code: str, message: str, help: str | None = None) -> MlcError:
    """The error of a schedule: it speaks of no place in a model's file."""
    return MlcError([Diagnostic(code, message, NO_SPAN, (), help)])


def needed(action: Action, stages: int) -> tuple[Action, ...]:
    """What must end before an action starts, where `I` stands for whichever of I and B makes the gradient.

    An activation comes from the stage before, a gradient from the stage behind, and what a stage saved from its own forward.
    """
    stage, microbatch = action.stage, action.microbatch
    match action.kind:
        case "F":
            return (Action("F", stage - 1, microbatch),) if stage > 0 else ()
        case "W":
            return (Action("I", stage, microbatch),)
        case _:
            own = Action("F", stage, microbatch)
            return (own, Action("I", stage + 1, microbatch)) if stage < stages - 1 else (own,)
