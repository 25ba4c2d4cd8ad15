"""Which indices are checked while the program runs: those of a forward function that nothing shows to be in range.

What feeds an input keeps to its limit and bounds, so an index that is an input's element, or a number that the function itself makes, needs
no check. The others are checked where they are looked up; a derivative looks up what its forward function has checked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlc.frozen import frozen
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Op
from mlc.ir.program import Bound, Input
from mlc.ir.types import Dim, Value
from mlc.ops.origins import GREATEST, LEAST, Lookup, Origin, elements_of, is_followed, lookup_of, origins


@frozen
class Check:
    """A lookup that is checked. `inputs`: the parameters that the index is computed from; `each`: elements of a record, 0: unknown."""

    instruction: Instruction
    inputs: tuple[str, ...]
    each: int


@frozen
class Facts:
    """What a forward function may take for granted: the model's inputs that its parameters may be, and the rows of a microbatch."""

    inputs: Mapping[str, tuple[Input, ...]]
    rows: Dim


def checks(function: Function, ops: Mapping[str, Op], facts: Facts) -> dict[str, Check]:
    """Name of the result of a lookup -> how it is checked."""
    followed = [p.name for p in function.parameters if p.name in facts.inputs and is_followed(p.type)]
    lookups = [lookup for i in function.instructions if (lookup := lookup_of(i)) is not None]
    if not lookups:
        return {}
    found = origins(function, ops, followed)
    fed = _fed(function, followed, facts)
    reaching = _reaching(function, facts)
    made: dict[str, Check] = {}
    for lookup in lookups:
        origin = found.get(lookup.index.name)
        if origin is None or not _is_within(origin, lookup, fed):
            names = tuple(sorted({i.name for p in reaching.get(lookup.index.name, ()) for i in facts.inputs[p]}))
            made[lookup.instruction.results[0].name] = Check(lookup.instruction, names, _each(lookup.index, facts.rows))
    return made


def _each(index: Value, rows: Dim) -> int:
    """Elements of an index that belong to a record, where records surely lead: by the label of the dim, or by a size that no other has."""
    if rows.size == 1:
        return index.type.size
    dims = index.type.dims
    if not dims:
        return 0
    labelled = all(f.label for f in rows.factors) and dims[0].factors[: len(rows.factors)] == rows.factors
    plain = not any(f.label for f in dims[0].factors) and [d.size for d in dims].count(rows.size) == 1 and dims[0].size == rows.size
    return index.type.size // rows.size if labelled or plain else 0


def _fed(function: Function, followed: list[str], facts: Facts) -> np.ndarray:
    """By id: the least and greatest value, and the value that passes (GREATEST + 1: none), whichever input it is of."""
    types = {p.name: p.type for p in function.parameters}
    parts = [np.zeros((3, 0), np.int64)]
    for name in followed:
        rows = [np.tile(_row(i, types[name].size // types[name].shape[0]), (1, types[name].shape[0])) for i in facts.inputs[name]]
        part = rows[0]
        for other in rows[1:]:
            same = np.where(part[2] == other[2], part[2], LEAST - 1)  # two values that pass are none that does
            part = np.stack([np.minimum(part[0], other[0]), np.maximum(part[1], other[1]), same])
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _row(value: Input, elements: int) -> np.ndarray:
    """The same of the elements of a row of an input."""
    bounds = value.bounds
    if not bounds:
        low, high = (LEAST, GREATEST) if value.limit is None else (0, value.limit - 1)
        bounds = (Bound(1, low, high, None),)
    before = [0, *(b.end for b in bounds[:-1])]
    period = np.concatenate([np.tile(_column(b), (1, b.end - start)) for b, start in zip(bounds, before, strict=True)], axis=1)
    return np.tile(period, (1, elements // period.shape[1]))


def _column(bound: Bound) -> np.ndarray:
    return np.array([[bound.low], [bound.high], [GREATEST + 1 if bound.passed is None else bound.passed]], np.int64)


def _is_within(origin: Origin, lookup: Lookup, fed: np.ndarray) -> bool:
    """Is every element in range, as far as inputs keep to what they are fed with?"""
    if origin.rest is not None and not (origin.rest[0] >= 0 and origin.rest[1] < lookup.extent):
        return False
    if origin.ids is None:
        return origin.rest is not None
    low, high, passed = fed[:, elements_of(origin, fed.shape[1])]
    held = (low + origin.offset >= 0) & (high + origin.offset < lookup.extent)
    replaced = passed == (GREATEST + 1 if origin.passed is None else origin.passed)
    return bool((held & (replaced | (passed == GREATEST + 1))).all())


def _reaching(function: Function, facts: Facts) -> dict[str, frozenset[str]]:
    """By value: the parameters that are inputs of the model and that it is computed from."""
    found = {p.name: frozenset([p.name]) for p in function.parameters if p.name in facts.inputs}
    for instruction in function.instructions:
        of = frozenset[str]().union(*(found.get(o.name, frozenset()) for o in instruction.operands))
        found.update((r.name, of) for r in instruction.results)
    return found
