"""Broadcasting made explicit: what the elaborator and derivative rules use to align tensors and to undo it.

Dims are aligned at the right, missing leading dims are added, and only the literal 1 stretches: a named dim that is 1
today does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlc.diagnostics import OpError
from mlc.ir.builder import Builder
from mlc.ir.dtypes import dtype_of
from mlc.ir.types import ONE, Dim, TensorType, Value
from mlc.ops.rules import best_dim, kept_axes


def broadcast_dims(types: Sequence[TensorType], op: str = "broadcast") -> tuple[Dim, ...]:
    """The dims that tensors of these types broadcast to; E0201 names both full types where they do not agree."""
    rank = max(len(t.dims) for t in types)
    return tuple(_joint_dim(types, place, op) for place in range(-rank, 0))


def _joint_dim(types: Sequence[TensorType], place: int, op: str) -> Dim:
    at = [(t.dims[place], t) for t in types if len(t.dims) >= -place]
    firm = [(d, t) for d, t in at if not d.stretches]
    if not firm:
        return ONE
    first, first_type = firm[0]
    for d, t in firm[1:]:
        if d.size != first.size:
            message = f"{op}: shapes do not broadcast: {first_type} and {t} differ in dimension {place}: {first} and {d}"
            raise OpError("E0201", message, _stretching(*((d, t) if d.size == 1 else (first, first_type)), place))
    return best_dim([d for d, _ in firm])


def _stretching(d: Dim, value_type: TensorType, place: int) -> str:
    """How a tensor whose dim is 1 under a name is made to stretch: `v` stands for the tensor in what is to be written."""
    if d.size != 1:
        return "only a literal 1 stretches: None in an index, keepdims=True, or 1 in a shape"
    before = ":, " * (len(value_type.dims) + place)
    return f"{d} of {value_type} has a name, so that it does not stretch: `v[{before}0][{before}None]` does, `v[{before}0]` is without it"


def broadcast_to(b: Builder, value: Value, dims: Sequence[Dim]) -> Value:
    """`value` with these dims, aligned at the right; the value itself when it has them already."""
    have = value.type.dims
    if have == tuple(dims):
        return value
    firm = [d.stretches for d in have] == [d.stretches for d in dims]
    if firm and value.type.shape == tuple(d.size for d in dims):
        return value
    offset = len(dims) - len(have)
    return b.one("broadcast", value, dims=tuple(dims), axes=tuple(range(offset, len(dims))))


def align(b: Builder, *values: Value, op: str = "broadcast") -> tuple[Value, ...]:
    """The values broadcast against each other; a value that has the joint sizes stays as it is."""
    first = values[0].type.dims
    if all(v.type.dims == first for v in values):
        return values
    dims = broadcast_dims([v.type for v in values], op)
    shape = tuple(d.size for d in dims)
    return tuple(v if v.type.shape == shape else broadcast_to(b, v, dims) for v in values)


def constant_like(b: Builder, number: float | int | bool, value_type: TensorType) -> Value:
    """A tensor of this type, filled with `number` taken to its dtype."""
    scalar = b.one("constant", dtype=value_type.dtype, value=constant_value(number, value_type.dtype))
    return broadcast_to(b, scalar, value_type.dims)


def constant_value(number: float | int | bool, dtype: str) -> float | int | bool:
    """`number` as attribute `value` of a constant of this dtype."""
    return {"float": float, "int": int, "bool": bool}[dtype_of(dtype).kind](number)


def cast_to(b: Builder, value: Value, dtype: str) -> Value:
    """The value in this dtype."""
    return value if value.type.dtype == dtype else b.one("cast", value, dtype=dtype)


def widened(b: Builder, value: Value) -> Value:
    """The value in the dtype in which it is summed."""
    return cast_to(b, value, dtype_of(value.type.dtype).wide)


def numbered(b: Builder, dims: Sequence[Dim]) -> Value:
    """The number of each element of these dims in row-major order, from iotas that each count one factor."""
    factors = [f for d in dims for f in d.factors if f.size > 1]
    apart = TensorType("i32", tuple(Dim((f,)) for f in factors))
    if len(factors) == 1 and len(dims) == 1:
        return b.one("iota", dim=dims[0])
    number = zeros(b, apart)
    stride = apart.size
    for axis, d in enumerate(apart.dims):
        stride //= d.size
        steps = b.one("mul", b.one("iota", dim=d), constant_like(b, stride, TensorType("i32", (d,))))
        number = b.one("add", number, b.one("broadcast", steps, dims=apart.dims, axes=(axis,)))
    return number if tuple(dims) == apart.dims else b.one("reshape", number, dims=tuple(dims))


def zeros(b: Builder, value_type: TensorType) -> Value:
    return constant_like(b, 0, value_type)


def sum_back(b: Builder, cotangent: Value, value_type: TensorType, axes: tuple[int, ...]) -> Value:
    """The derivative of `broadcast`: dim i of the operand went to axis axes[i]."""
    added = kept_axes(cotangent.type, axes)
    sizes = cotangent.type.shape
    stretched = tuple(a for a, size in zip(axes, value_type.shape, strict=True) if size != sizes[a])
    if not added and not stretched:
        return cotangent
    total = b.one("sum", cotangent, axes=tuple(sorted((*added, *stretched))), keepdims=bool(stretched) and not added)
    return total if total.type.shape == value_type.shape else b.one("reshape", total, dims=value_type.dims)


def spread(b: Builder, value: Value, dims: tuple[Dim, ...], axes: tuple[int, ...], keepdims: bool) -> Value:
    """The opposite of a reduction over `axes`: `value` repeated along them to `dims`."""
    if keepdims and any(not value.type.dims[a].stretches for a in axes):
        value = b.one("reshape", value, dims=tuple(ONE if a in axes else d for a, d in enumerate(value.type.dims)))
    places = tuple(range(len(dims))) if keepdims else tuple(a for a in range(len(dims)) if a not in axes)
    return b.one("broadcast", value, dims=dims, axes=places)

