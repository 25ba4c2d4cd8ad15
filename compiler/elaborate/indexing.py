"""Subscripts: of tensors by compile-time ints, slices, None and `...`; of tuples and strings."""

from __future__ import annotations

from typing import Any

from mlc.elaborate.site import Site
from mlc.elaborate.values import describe, integer
from mlc.frozen import frozen
from mlc.ir.types import ONE, Dim, Value

#: The value of `...` in a subscript.
DOTS = Ellipsis


@frozen
class Range:
    """`start:stop:step` evaluated; None where nothing is written."""

    start: Any
    stop: Any
    step: Any


def subscript(site: Site, value: Any, items: tuple[Any, ...]) -> Any:
    match value:
        case Value():
            return index_tensor(site, value, items)
        case dict() if len(items) == 1 and isinstance(items[0], str):
            if items[0] not in value:
                raise site.fail("E0408", f'the record has no "{items[0]}", it has {", ".join(value)}')
            return value[items[0]]
        case tuple() | str() if len(items) == 1:
            return _index_sequence(site, value, items[0])
        case _:
            raise site.fail("E0406", f"{describe(value)} cannot be indexed like this")


def _index_sequence(site: Site, value: Any, item: Any) -> Any:
    if isinstance(item, Range):
        parts = [None if p is None else int(site.integer(p, "slice")) for p in (item.start, item.stop, item.step)]
        if parts[2] == 0:
            raise site.fail("E0408", "a slice of step 0")
        return value[slice(*parts)]
    at = site.integer(item, "index")
    if not -len(value) <= at < len(value):
        raise site.fail("E0408", f"index {int(at)} is out of range for {describe(value)}")
    return value[int(at)]


def index_tensor(site: Site, x: Value, items: tuple[Any, ...]) -> Value:
    """One slice where anything is cut, then one reshape where dims are dropped or added."""
    wanted = sum(1 for item in items if item is not None and item is not DOTS)
    rank = len(x.type.dims)
    if wanted > rank:
        raise site.fail("E0204", f"{wanted} indices for {x.type}")
    if sum(1 for item in items if item is DOTS) > 1:
        raise site.fail("E0204", "`...` twice in one subscript")
    full = _expanded(items, rank - wanted)
    cuts = [_cut(site, x, axis, item) for axis, item in enumerate(i for i in full if i is not None)]
    whole = all(start == 0 and stop == d.size and step == 1 for (start, stop, step), d in zip(cuts, x.type.dims, strict=True))
    y = x if whole else _slice(site, x, cuts)
    dims = _result_dims(full, y.type.dims)
    return y if dims == y.type.dims else site.one("reshape", y, dims=dims)


def _slice(site: Site, x: Value, cuts: list[tuple[int, int, int]]) -> Value:
    starts, stops, steps = zip(*cuts, strict=True)
    return site.one("slice", x, starts=starts, stops=stops, steps=steps)


def _expanded(items: tuple[Any, ...], missing: int) -> list[Any]:
    """The items with `...`, or the end, filled by whole dims."""
    rest = [Range(None, None, None)] * missing
    if DOTS not in [i if i is DOTS else None for i in items]:
        return [*items, *rest]
    at = next(i for i, item in enumerate(items) if item is DOTS)
    return [*items[:at], *rest, *items[at + 1 :]]


def _cut(site: Site, x: Value, axis: int, item: Any) -> tuple[int, int, int]:
    size = x.type.dims[axis].size
    if isinstance(item, Range):
        return _range(site, x, axis, item)
    if isinstance(item, Value):
        raise site.fail("E0406", f"a tensor cannot be an index: {item.type}", "write gather(x, i, axis) or take_along(x, i, axis)")
    if not integer(item):
        raise site.fail("E0406", f"an index is an int, a slice, None or `...`, not {describe(item)}")
    if not -size <= item < size:
        raise site.fail("E0206", f"index {int(item)} is out of range for dimension {axis} of {x.type}")
    start = int(item) % size
    return start, start + 1, 1


def _range(site: Site, x: Value, axis: int, item: Range) -> tuple[int, int, int]:
    size = x.type.dims[axis].size
    step = 1 if item.step is None else int(site.integer(item.step, "slice"))
    if step < 1:
        raise site.fail("E0206", f"a slice of step {step}: steps are at least 1")
    start, stop = (_bound(site, x, axis, b, end) for b, end in ((item.start, 0), (item.stop, size)))
    if stop <= start:
        raise site.fail("E0206", f"an empty slice {start}:{stop} of dimension {axis} of {x.type}")
    return start, stop, step


def _bound(site: Site, x: Value, axis: int, bound: Any, missing: int) -> int:
    size = x.type.dims[axis].size
    if bound is None:
        return missing
    at = int(site.integer(bound, "slice"))
    if not -size <= at <= size:
        raise site.fail("E0206", f"slice bound {at} is out of range for dimension {axis} of {x.type}")
    return at + size if at < 0 else at


def _result_dims(items: list[Any], sliced: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Dims after the slice: an int drops its dim, None adds a literal 1."""
    dims: list[Dim] = []
    remaining = iter(sliced)
    for item in items:
        if item is None:
            dims.append(ONE)
            continue
        d = next(remaining)
        if isinstance(item, Range):
            dims.append(d)
    return tuple(dims)
