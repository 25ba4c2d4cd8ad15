"""What type rules share: checks that raise OpError naming the op and full types, and dims of results.

Rules run many thousand times in a compilation: the common case (equal types) is tested first.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlc.diagnostics import InternalError, OpError
from mlc.ir.dtypes import DTYPES, FLOAT_DTYPES
from mlc.ir.op import Attributes
from mlc.ir.types import ONE, Dim, Factor, TensorType, abbreviated

#: Dtypes an op may be declared for.
FLOATS = FLOAT_DTYPES
NUMBERS = (*FLOAT_DTYPES, "i32")
ANY = tuple(DTYPES)

Types = tuple[TensorType, ...]


def show(types: Sequence[TensorType]) -> str:
    return " and ".join(map(str, types)) if len(types) < 3 else ", ".join(map(str, types))


def check_count(op: str, types: Types, count: int) -> None:
    if len(types) != count:
        raise InternalError(f"{op}: wants {count} operands, got {len(types)}: {show(types)}")


def check_dtype(op: str, t: TensorType, allowed: tuple[str, ...]) -> None:
    if t.dtype not in allowed:
        raise OpError("E0208", f"{op}: wants {wanted(allowed)}, got {t}")


def check_positions(op: str, d: Dim) -> None:
    """Positions along d are elements of an i32 tensor."""
    if d.size > 2**31:
        raise OpError("E0211", f"{op}: the last of {abbreviated(d.size)} positions does not fit an i32")


def wanted(allowed: tuple[str, ...]) -> str:
    """The allowed dtypes in words: "a float tensor", "i32"."""
    if allowed == FLOATS:
        return "a float tensor"
    return "a float or i32 tensor" if allowed == NUMBERS else " or ".join(allowed)


def check_axis(op: str, axis: int, t: TensorType) -> None:
    """Axes of instructions count from 0; `normal_axis` maps negative ones."""
    if not 0 <= axis < len(t.dims):
        raise OpError("E0204", f"{op}: axis {axis} is out of range for {t}")


def normal_axis(op: str, axis: int, t: TensorType) -> int:
    """`axis` counted from 0; negative ones count from the end."""
    rank = len(t.dims)
    if not -rank <= axis < rank:
        raise OpError("E0204", f"{op}: axis {axis} is out of range for {t}")
    return axis % rank


def same_sizes(op: str, types: Types) -> None:
    first = types[0]
    for t in types[1:]:
        if t.dims is not first.dims and t.dims != first.dims and t.shape != first.shape:
            raise OpError("E0201", f"{op}: shapes differ: {show(types)}")


def same_dtype(op: str, types: Types) -> None:
    for t in types[1:]:
        if t.dtype != types[0].dtype:
            raise OpError("E0202", f"{op}: dtypes differ: {show(types)}", "cast one of them")


def merged_dims(types: Types) -> tuple[Dim, ...]:
    """Dims of an elementwise result: at each place the first labelled dim, else the first operand's."""
    first = types[0].dims
    if all(t.dims == first for t in types[1:]):
        return first
    return tuple(best_dim(at) for at in zip(*(t.dims for t in types), strict=True))


def best_dim(dims: Sequence[Dim]) -> Dim:
    """Of dims that agree: the first with a label, else the first that is not the literal 1, else the first."""
    for d in dims:
        if any(f.label for f in d.factors):
            return d
    return next((d for d in dims if d.factors), dims[0])


def elementwise(op: str, types: Types, count: int, allowed: tuple[str, ...]) -> TensorType:
    """The type of `count` operands of one allowed dtype and equal sizes."""
    check_count(op, types, count)
    first = types[0]
    if first.dtype not in allowed:
        check_dtype(op, first, allowed)
    if all(t is first for t in types):
        return first
    same_dtype(op, types)
    same_sizes(op, types)
    return TensorType(first.dtype, merged_dims(types))


def kept_axes(t: TensorType, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of `t` that are not in `axes`."""
    return tuple(a for a in range(len(t.dims)) if a not in axes)


def reduced_dims(op: str, t: TensorType, attributes: Attributes) -> tuple[Dim, ...]:
    """Dims after reducing attribute `axes` (or `axis`); a kept dim becomes the literal 1 when `keepdims`."""
    axes: tuple[int, ...] = attributes["axes"] if "axes" in attributes else (attributes["axis"],)
    for axis in axes:
        check_axis(op, axis, t)
    if len(set(axes)) != len(axes):
        raise OpError("E0204", f"{op}: axis given twice in {axes} for {t}")
    if attributes["keepdims"]:
        return tuple(ONE if a in axes else d for a, d in enumerate(t.dims))
    return tuple(d for a, d in enumerate(t.dims) if a not in axes)


def plain(size: int) -> Dim:
    """A dim without label that does not stretch, even at size 1."""
    return Dim((Factor("", size),))


def label(d: Dim) -> str:
    """The label of a dim as written in another dim's label: "3*heads", "" when it has none."""
    if not any(f.label for f in d.factors):
        return ""
    return "*".join(f.label or str(f.size) for f in d.factors)


def check_dims(op: str, wanted_dims: Sequence[Dim], dims: Sequence[Dim], types: Types) -> None:
    """Two lists of dims must agree in number and size."""
    if len(wanted_dims) != len(dims) or any(a.size != b.size for a, b in zip(wanted_dims, dims, strict=True)):
        expected = ", ".join(map(str, wanted_dims))
        raise OpError("E0201", f"{op}: shapes differ: expected [{expected}], got [{', '.join(map(str, dims))}] in {show(types)}")
