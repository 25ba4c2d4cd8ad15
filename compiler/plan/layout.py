"""How a program is spread over ranks: what is decided before memory is planned."""

from __future__ import annotations

import math

from mlc.frozen import frozen
from mlc.ir.program import CHOICES, Program
from mlc.mesh import Mesh
from mlc.parallel.actions import Action, Schedule
from mlc.parallel.planned import StageNote


@frozen
class Layout:
    """A mesh, a cut and a schedule.

    cuts:          per stage, its calls of the train chain; consecutive, some may be empty
    microbatches:  M, of a step over all replicas; the schedule is of one replica, with M / dp
    groups:        G
    notes:         per stage, or none
    choices:       per call of the train chain, what its backward pass makes again (ir.program.CALL_CHOICES)
    """

    mesh: Mesh
    chunks: int
    schedule: Schedule
    cuts: tuple[range, ...]
    microbatches: int
    groups: int
    choices: tuple[str, ...]
    notes: tuple[StageNote, ...] = ()

    @property
    def pp(self) -> int:
        """Places of the pipeline."""
        return self.mesh.pp

    @property
    def dp(self) -> int:
        """Replicas."""
        return self.mesh.dp

    @property
    def stages(self) -> int:
        return len(self.cuts)


def single_layout(program: Program) -> Layout:
    """All of the chain on one rank, each microbatch backward right after forward; M and G are the recipe's."""
    microbatches = program.recipe.microbatches
    actions = tuple(Action(kind, 0, j) for j in range(microbatches) for kind in ("F", "B"))
    return Layout(
        mesh=Mesh(),
        chunks=1,
        schedule=Schedule("1f1b", 1, 1, microbatches, (0,), (actions,)),
        cuts=(range(len(program.train.calls)),),
        microbatches=microbatches,
        groups=program.recipe.groups or math.gcd(microbatches, 8),
        choices=(CHOICES[0],) * len(program.train.calls),
    )
