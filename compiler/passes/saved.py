"""What forward keeps for the backward pass: selective recomputation.

Kept are the values that cost most to make again, and those that lie in memory anyway:

  - results of contractions, library kernels, scatters, scans, reductions (and softmax, logsumexp, cross_entropy)
  - values that one of these, reductions apart, reads: they must be whole tensors for it

Everything else (elementwise work, moves, masks, random draws) is made again from kept values where it is read. A view is
never kept, its base is; and no cast of a kept value is kept beside it.

A kept value that forward reads once only, elementwise, slides down to what is made of it while that is no larger: a contraction
to its sum with bias and residual, the sum of a row to the rsqrt of its mean. Forward stores that value in any case, or it is
the smaller one, and less is made again.
"""

from __future__ import annotations

from mlc.ir.function import Instruction
from mlc.passes.kinds import Graph, Kind


def saved_values(forward: Graph, reads: set[str], available: set[str], slopes: frozenset[str] = frozenset()) -> set[str]:
    """Names of the values to keep, so that those in `reads` can be made from them and from `available` ones.

    slopes: values that are worth keeping wherever they are read (slopes.py)
    """
    reduced = {v.name for i in forward.instructions if forward.kind(i) is Kind.REDUCTION for v in i.results}
    dear = available | reduced | slopes | forward.stored(forward.instructions)
    dear -= {i.result.name for i in forward.instructions if i.op == "cast" and i.operands[0].name in dear - available}
    kept = _leaves(forward, reads, dear) - available
    slid = {_slide(forward, name, reads) for name in kept}
    return _leaves(forward, reads, dear | slid) - available


def _leaves(forward: Graph, reads: set[str], leaves: set[str]) -> set[str]:
    """The leaves that `reads` depend on."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(reads)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in leaves:
            found.add(name)
        else:
            waiting += [v.name for v in forward.made[name].operands]
    return found


def _slide(forward: Graph, name: str, reads: set[str]) -> str:
    """Where the value `name` is kept: itself, or what its only reader makes of it, and so on."""
    while name not in reads and len(forward.reads.get(name, ())) == 1:
        (reader,) = forward.reads[name]
        if not _slides(forward, name, reader):
            break
        name = reader.result.name
    return name


def _slides(forward: Graph, name: str, reader: Instruction) -> bool:
    (value,) = (v for v in forward.made[name].results if v.name == name)
    match forward.kind(reader):
        case Kind.POINTWISE:
            return reader.result.type.bytes <= value.type.bytes
        case Kind.VIEW | Kind.MOVE:
            return len(reader.results) == 1 and reader.result.type.bytes < value.type.bytes
        case _:
            return False
