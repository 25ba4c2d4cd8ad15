"""Drop locals that nothing reads: moves compose away some of the reads that were made for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlc.lower.expression import index_locals, locals_of
from mlc.lower.loops import Columns, Contract, Fold, Kernel, Let, Loop, Nest, Scan, Scatter, Select, Statement, Store, Whole


def _live(statements: Sequence[Statement], used: set[str]) -> tuple[Statement, ...]:
    """The statements without dead lets; `used` grows by what they read."""
    kept: list[Statement] = []
    for s in reversed(statements):
        match s:
            case Let(name, _, value, _):
                if name not in used:
                    continue
                used |= locals_of(value)
            case Fold(_, _, value):
                used |= locals_of(value)
            case Store(_, index, value, _):
                used |= locals_of(value) | index_locals(index)
            case Loop(body=body):
                s = replace(s, body=_live(body, used))
            case _:
                pass
        kept.append(s)
    return tuple(reversed(kept))


def drop_dead(kernel: Kernel) -> Kernel:
    """The kernel with live lets only."""
    used: set[str] = set()
    match kernel:
        case Nest() | Whole():
            body = _live(kernel.body, used)
            return replace(kernel, body=body, prologue=_live(kernel.prologue, used))
        case Scatter():
            _live((*kernel.clears, *kernel.adds), used)
            body = _live(kernel.body, used)
            return replace(kernel, body=body, lookup=_live(kernel.lookup, used))
        case Scan():
            _live((kernel.fold, *kernel.stores), used)
            return replace(kernel, body=_live(kernel.body, used))
        case Columns():
            for _, index, _, value in kernel.results:
                used |= locals_of(value) | index_locals(index)
            return replace(kernel, body=_live(kernel.body, used))
        case Contract():
            body = _live(kernel.body, used)
            return replace(kernel, body=body, row_body=_live(kernel.row_body, used))
        case Select():
            used |= locals_of(kernel.value)
            return replace(kernel, body=_live(kernel.body, used))
    return kernel
