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
        f"memory    {_size(plan['arena_bytes'])} arena, and {_size(plan['scratch_bytes_per_thread'])} scratch a thread",
        f"work      {plan['flops_per_microbatch'] / 1e9:,.3f} GFLOP a microbatch, {plan['microbatches']} a step in {plan['groups']} groups",
        "",
        *_chain("forward", plan["forward"]),
        *_chain("backward", plan["backward"]),
        "",
        *_tensors(plan["tensors"]),
    ]
    return "\n".join(lines) + "\n"


def _chain(title: str, rows: list[str]) -> list[str]:
    """The rows in order, layers of one kind that follow each other in one line: h.0 ... h.11: forward."""
    layers = [(path, ", ".join(what for _, what in run)) for path, run in groupby(map(_parts, rows), key=lambda row: row[0])]
    runs = [list(run) for _, run in groupby(layers, key=lambda layer: (_kind(layer[0]), layer[1]))]
    shown = [(run[0][0] if len(run) == 1 else f"{run[0][0]} ... {run[-1][0]}", run[0][1]) for run in runs]
    return [f"{title if i == 0 else '':10}{path}: {what}" for i, (path, what) in enumerate(shown)]


def _parts(row: str) -> tuple[str, str]:
    """ "h.3 input gradient" -> the call path, and what is computed there."""
    path, _, what = row.partition(" ")
    return path, what


def _kind(path: str) -> str:
    """A call path without its numbers."""
    return ".".join("#" if part.isdigit() else part for part in path.split("."))


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
