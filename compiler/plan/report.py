"""plan.json in words: `mlc explain plan.json`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from math import prod
from typing import Any

#: Tensors listed by size; the others are summed up.
_LISTED = 12


def explain_plan(plan: Mapping[str, Any]) -> str:
    """Memory, work and order of a plan that `mlc compile` wrote."""
    lines = [
        f"{plan['model']}: {plan['parameters']:,} parameters",
        f"memory  {_size(plan['arena_bytes'])} arena, and {_size(plan['scratch_bytes_per_thread'])} scratch a thread",
        f"work    {plan['flops_per_microbatch'] / 1e9:,.3f} GFLOP a microbatch, {plan['microbatches']} a step in {plan['groups']} groups",
        "",
        *_chain("forward", plan["forward"]),
        *_chain("backward", plan["backward"]),
        "",
        *_tensors(plan["tensors"]),
    ]
    return "\n".join(lines) + "\n"


def _chain(title: str, rows: list[str]) -> list[str]:
    """The rows in order, runs of one layer at several places in one line: h.0 ... h.11 forward."""
    runs = [[row for row in run] for _, run in groupby(rows, key=_kind)]
    shown = [run[0] if len(run) == 1 else f"{run[0]} ... {run[-1]}" for run in runs]
    return [f"{title:8}{row}" if i == 0 else f"        {row}" for i, row in enumerate(shown)]


def _kind(row: str) -> str:
    """A row's name without numbers."""
    return ".".join("#" if part.isdigit() else part for part in row.replace(" ", ". ").split("."))


def _tensors(tensors: list[dict[str, Any]]) -> list[str]:
    sizes = sorted(((4 * prod(t["shape"]), t["name"], t["shape"]) for t in tensors), key=lambda row: (-row[0], row[1]))
    width = max((len(name) for _, name, _ in sizes[:_LISTED]), default=0)
    lines = [f"{name:{width}}  {_size(size):>10}  {shape}" for size, name, shape in sizes[:_LISTED]]
    rest = sizes[_LISTED:]
    if rest:
        lines.append(f"and {len(rest)} others  {_size(sum(size for size, _, _ in rest))}")
    return lines


def _size(count: int) -> str:
    """Bytes in the unit that leaves one to four digits before the point."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count} B"
