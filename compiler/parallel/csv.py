"""Schedules as text: the compute_only CSV of torch.distributed.pipelining, in and out.

Line i is rank i, a cell an action: stage, kind, microbatch (`3F12`). There is no header. Written are no idle slots; read are those of
others, cells that hold several actions, and what torch derives from the actions when it prepares a list to be run: that is left out.
"""

from __future__ import annotations

import re

from mlc.parallel.actions import Action, Schedule, refusal
from mlc.parallel.validate import validate_imported

_ACTION = re.compile(r"(\d{1,9})([FIWB])(\d{1,9})")
_SEVERAL = re.compile(r"\(([^()]*)\)[A-Z_]+")
_DERIVED = re.compile(r"\d+(UNSHARD|RESHARD|REDUCE_GRAD|(SEND|RECV)_[FB]\d+)")


def write_csv(schedule: Schedule) -> str:
    """The lists as text; `read_csv` and torch's `_load_csv(format="compute_only")` read it."""
    return "".join(",".join(map(str, actions)) + "\n" for actions in schedule.lists)


def read_csv(text: str, name: str) -> Schedule:
    """A schedule from its text.

    name:    what it is called from here on
    raises:  E1106 where the text is not of this form, or ranks have not all the same number of stages; E1104 as `validate_imported`
             does. `validate` says whether it can be compiled, `simulate` whether it can run to its end
    """
    rows = text.splitlines()
    lists = tuple(tuple(_cells(row, name, number)) for number, row in enumerate(rows, 1))
    owners: dict[int, int] = {}
    for rank, actions in enumerate(lists):
        for action in actions:
            if owners.setdefault(action.stage, rank) != rank:
                where = f"stage {action.stage} is on place {owners[action.stage]}"
                raise refusal("E1104", f"place {rank}: {action} is not of this place: {where}")
    if not owners:
        raise refusal("E1106", f"{name}: no actions")
    ranks, stages = len(lists), max(owners) + 1
    missing = next((stage for stage in range(stages) if stage not in owners), None)
    if missing is not None:
        raise refusal("E1106", f"{name}: there is a stage {stages - 1}, but no action of stage {missing}")
    placement = tuple(owners[stage] for stage in range(stages))
    counts = [placement.count(rank) for rank in range(ranks)]
    if len(set(counts)) > 1:
        raise refusal("E1106", f"{name}: ranks hold {', '.join(map(str, counts))} stages, not all the same number")
    microbatches = 1 + max(action.microbatch for actions in lists for action in actions)
    schedule = Schedule(name, ranks, counts[0], microbatches, placement, lists)
    validate_imported(schedule)
    return schedule


def _cells(row: str, name: str, number: int) -> list[Action]:
    """The actions of a line, cells of several taken apart in order."""
    actions: list[Action] = []
    for cell in map(str.strip, row.split(",")):
        several = _SEVERAL.fullmatch(cell)
        for part in several[1].split(";") if several else [cell]:
            found = _ACTION.fullmatch(part.strip())
            if found:
                actions.append(Action(found[2], int(found[1]), int(found[3])))
            elif part and not _DERIVED.fullmatch(part):
                raise refusal("E1106", f"{name}:{number}: `{cell}` is not an action")
    return actions
