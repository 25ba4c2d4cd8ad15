"""Ops that move elements without changing them."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import numpy as np

from mlc.diagnostics import OpError
from mlc.ir.builder import Builder
from mlc.ir.factors import Correspondence, values_of
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Coordinates, Keys, Move, Op, Sample, View
from mlc.ir.types import ONE, Dim, TensorType, Value, dim
from mlc.ops.broadcasting import sum_back, zeros
from mlc.ops.families import Arrays, given, no_flops, other_dtypes
from mlc.ops.letters import NAMES, WHOLE, Letters, corresponding, lettered, linear_in_all, reshaped
from mlc.ops.rules import ANY, Types, check_axis, check_count, label, plain, same_dtype, show

Cotangents = tuple[Value | None, ...]


def _listed(dims: tuple[Dim, ...]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _reshape_rule(types: Types, attributes: Attributes) -> Types:
    check_count("reshape", types, 1)
    (x,) = types
    result = TensorType(x.dtype, attributes["dims"])
    if result.size != x.size:
        raise OpError("E0205", f"reshape: {x} has {x.size} elements, {_listed(result.dims)} has {result.size}")
    return (result,)


def _reshape_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    return (operands[0].reshape(tuple(d.size for d in attributes["dims"])),)


def _reshape_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    return (None,) if dy is None else (b.one("reshape", dy, dims=instruction.operands[0].type.dims),)


def _dims(*sizes: int | str) -> tuple[Dim, ...]:
    """dims for samples: 3, or "width=4"."""
    return tuple(dim(s) if isinstance(s, int) else dim(int(s.split("=")[1]), s.split("=")[0]) for s in sizes)


def _through(at: Coordinates, shape: tuple[int, ...], other: tuple[int, ...]) -> Coordinates:
    """The coordinates in a tensor of another shape of the element that is as far from the first."""
    flat = sum(i * math.prod(shape[d + 1 :]) for d, i in enumerate(at))
    found = []
    for extent in reversed(other):
        found.append(flat % extent)
        flat = flat // extent
    return tuple(reversed(found))


def _reshape_operand(reshape: Instruction, _result: int, at: Coordinates) -> Coordinates:
    return _through(at, reshape.results[0].type.shape, reshape.operands[0].type.shape)


def _reshape_result(reshape: Instruction, _result: int, at: Coordinates) -> Coordinates:
    return _through(at, reshape.operands[0].type.shape, reshape.results[0].type.shape)


RESHAPE = Op(
    name="reshape",
    doc="the elements in their order, under other dims",
    attributes=("dims",),
    type_rule=_reshape_rule,
    meaning=_reshape_meaning,
    vjp=_reshape_vjp,
    factors=corresponding(reshaped, (0,)),
    lowering=View("reshape", _reshape_operand, _reshape_result, True),
    flops=no_flops,
    samples=(
        Sample(("f32[6]",), (("dims", _dims("a=2", 3)),), ("normal",)),
        Sample(("f32[]",), (("dims", (ONE, ONE)),), ("normal",)),
        Sample(("f32[2, 3*heads=4, 5]",), (("dims", _dims(2, 3, "heads=4", 5)),), ("normal",)),
        *other_dtypes(Sample(("f32[3, 1, 5]",), (("dims", _dims(15)),), ("normal",)), ANY),
    ),
)


def _transpose_rule(types: Types, attributes: Attributes) -> Types:
    check_count("transpose", types, 1)
    (x,) = types
    permutation = attributes["permutation"]
    if sorted(permutation) != list(range(len(x.dims))):
        raise OpError("E0204", f"transpose: {permutation} is not an order of the axes of {x}")
    return (TensorType(x.dtype, tuple(x.dims[p] for p in permutation)),)


def _transpose_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    return (np.transpose(operands[0], attributes["permutation"]),)


def _inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))


def _transpose_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    return (None,) if dy is None else (b.one("transpose", dy, permutation=_inverse(given(instruction)["permutation"])),)


def _transpose_letters(instruction: Instruction) -> Letters:
    permutation = instruction.attribute("permutation")
    return lettered(instruction, (NAMES[: len(permutation)], [NAMES[p] for p in permutation]))


def _transpose_operand(transpose: Instruction, _result: int, at: Coordinates) -> Coordinates:
    return tuple(at[p] for p in _inverse(transpose.attribute("permutation")))


def _transpose_result(transpose: Instruction, _result: int, at: Coordinates) -> Coordinates:
    return tuple(at[p] for p in transpose.attribute("permutation"))


TRANSPOSE = Op(
    name="transpose",
    doc="axis i of the result is axis permutation[i] of x",
    attributes=("permutation",),
    type_rule=_transpose_rule,
    meaning=_transpose_meaning,
    vjp=_transpose_vjp,
    factors=corresponding(_transpose_letters, (0,)),
    lowering=View("transpose", _transpose_operand, _transpose_result, True),
    flops=no_flops,
    samples=(
        Sample(("f32[3, 5]",), (("permutation", (1, 0)),), ("normal",)),
        Sample(("f32[a=2, b=3, c=4]",), (("permutation", (2, 0, 1)),), ("normal",)),
        Sample(("f32[1, 7]",), (("permutation", (1, 0)),), ("normal",)),
        *other_dtypes(Sample(("f32[2, 3, 17]",), (("permutation", (0, 2, 1)),), ("normal",)), ANY),
    ),
)


def _slice_rule(types: Types, attributes: Attributes) -> Types:
    check_count("slice", types, 1)
    (x,) = types
    bounds = tuple(zip(attributes["starts"], attributes["stops"], attributes["steps"], strict=True))
    if len(bounds) != len(x.dims):
        raise OpError("E0206", f"slice: {len(bounds)} ranges for {x}")
    return (TensorType(x.dtype, tuple(_slice_dim(x, d, *bound) for d, bound in zip(x.dims, bounds, strict=True))),)


def _slice_dim(x: TensorType, d: Dim, start: int, stop: int, step: int) -> Dim:
    size = d.size
    if start == 0 and stop == size and step == 1:
        return d
    if step < 1 or not 0 <= start < stop <= size:
        raise OpError("E0206", f"slice: {start}:{stop}:{step} is empty or out of range for dim {d} of {x}")
    return plain(-(-(stop - start) // step))


def _slices(attributes: Attributes) -> tuple[slice, ...]:
    return tuple(slice(*bound) for bound in zip(attributes["starts"], attributes["stops"], attributes["steps"], strict=True))


def _slice_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    return (operands[0][_slices(attributes)],)


def _slice_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    if dy is None:
        return (None,)
    starts, steps = instruction.attribute("starts"), instruction.attribute("steps")
    return (b.one("pad", dy, dims=instruction.operands[0].type.dims, starts=starts, steps=steps),)


def _bounds(starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...]):
    return (("starts", starts), ("steps", steps), ("stops", stops))


def _run_letters(instruction: Instruction) -> Letters:
    """Of slice and pad, whose one side is a run of the other: a run that is one of the equal parts of a dim is a factor of it."""
    starts, steps = instruction.attribute("starts"), instruction.attribute("steps")
    x, y = (v.type.shape for v in (*instruction.operands, *instruction.results))
    names = [
        NAMES[d] if step == 1 and max(n, m) % min(n, m) == 0 and start % min(n, m) == 0 else WHOLE
        for d, (start, step, n, m) in enumerate(zip(starts, steps, x, y, strict=True))
    ]
    return lettered(instruction, (names, names), sizes={NAMES[d]: min(n, m) for d, (n, m) in enumerate(zip(x, y, strict=True))})


def _slice_operand(cut: Instruction, _result: int, at: Coordinates) -> Coordinates:
    starts, steps = cut.attribute("starts"), cut.attribute("steps")
    return tuple(start + step * i for i, start, step in zip(at, starts, steps, strict=True))


SLICE = Op(
    name="slice",
    doc="elements start, start + step, ... below stop of each axis; step >= 1",
    attributes=("starts", "stops", "steps"),
    type_rule=_slice_rule,
    meaning=_slice_meaning,
    vjp=_slice_vjp,
    factors=corresponding(_run_letters, (0,)),
    lowering=View("slice", _slice_operand, None, True),
    flops=no_flops,
    samples=(
        Sample(("f32[7]",), _bounds((2,), (5,), (1,)), ("normal",)),
        Sample(("f32[batch=3, 8]",), _bounds((0, 1), (3, 8), (1, 2)), ("normal",)),
        Sample(("f32[3, 8]",), _bounds((2, 0), (3, 8), (1, 3)), ("normal",)),
        Sample(("f32[3, 8]",), _bounds((0, 4), (3, 8), (1, 1)), ("normal",)),
        *other_dtypes(Sample(("f32[3, 8]",), _bounds((0, 3), (3, 4), (1, 1)), ("normal",)), ANY),
    ),
)


def _pad_rule(types: Types, attributes: Attributes) -> Types:
    check_count("pad", types, 1)
    (x,) = types
    dims = attributes["dims"]
    places = zip(x.shape, dims, attributes["starts"], attributes["steps"], strict=True)
    if any(start < 0 or step < 1 or start + (n - 1) * step >= d.size for n, d, start, step in places):
        raise OpError("E0206", f"pad: {x} does not fit into {_listed(dims)} at {attributes['starts']} by {attributes['steps']}")
    return (TensorType(x.dtype, dims),)


def _pad_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    (x,) = operands
    y = np.zeros(tuple(d.size for d in attributes["dims"]), x.dtype)
    places = zip(attributes["starts"], x.shape, attributes["steps"], strict=True)
    y[tuple(slice(start, start + (n - 1) * step + 1, step) for start, n, step in places)] = x
    return (y,)


def _pad_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    if dy is None:
        return (None,)
    starts, steps = given(instruction)["starts"], given(instruction)["steps"]
    stops = tuple(s + (n - 1) * t + 1 for s, n, t in zip(starts, instruction.operands[0].type.shape, steps, strict=True))
    return (b.one("slice", dy, starts=starts, stops=stops, steps=steps),)


PAD = Op(
    name="pad",
    doc="zeros of `dims`, with element i of x at starts + i * steps",
    attributes=("dims", "starts", "steps"),
    type_rule=_pad_rule,
    meaning=_pad_meaning,
    vjp=_pad_vjp,
    factors=corresponding(_run_letters, (0,)),
    lowering=Move("pad"),
    flops=no_flops,
    samples=(
        Sample(("f32[3]",), (("dims", _dims(7)), ("starts", (2,)), ("steps", (1,))), ("normal",)),
        Sample(("f32[3, 4]",), (("dims", _dims(3, "width=8")), ("starts", (0, 1)), ("steps", (1, 2))), ("normal",)),
        Sample(("f32[1, 1]",), (("dims", _dims(2, 2)), ("starts", (1, 0)), ("steps", (1, 1))), ("normal",)),
        Sample(("f32[3, 4]",), (("dims", _dims(3, 12)), ("starts", (0, 8)), ("steps", (1, 1))), ("normal",)),
        *other_dtypes(Sample(("f32[3]",), (("dims", _dims(5)), ("starts", (0,)), ("steps", (2,))), ("normal",)), ANY),
    ),
)


def _broadcast_rule(types: Types, attributes: Attributes) -> Types:
    check_count("broadcast", types, 1)
    (x,) = types
    dims, axes = attributes["dims"], attributes["axes"]
    ascending = all(a < b for a, b in pairwise(axes))
    if len(axes) != len(x.dims) or not ascending or any(not 0 <= a < len(dims) for a in axes):
        raise OpError("E0210", f"broadcast: {x} does not broadcast to {_listed(dims)} at axes {axes}")
    if any(d.factors and d.size != dims[a].size for d, a in zip(x.dims, axes, strict=True)):
        raise OpError("E0210", f"broadcast: {x} does not broadcast to {_listed(dims)}", "only a literal 1 stretches")
    return (TensorType(x.dtype, dims),)


def _broadcast_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    (x,) = operands
    sizes = dict(zip(attributes["axes"], x.shape, strict=True))
    shape = tuple(d.size for d in attributes["dims"])
    return (np.broadcast_to(x.reshape(tuple(sizes.get(a, 1) for a in range(len(shape)))), shape),)


def _broadcast_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    if dy is None or not dy.type.is_float:
        return (None,)
    return (sum_back(b, dy, instruction.operands[0].type, given(instruction)["axes"]),)


def _broadcast_letters(instruction: Instruction) -> Letters:
    """Dims that are added or stretched are the result's own: each makes its part of them."""
    axes = instruction.attribute("axes")
    x, y = (v.type.shape for v in (*instruction.operands, *instruction.results))
    return lettered(instruction, ([NAMES[a] if n == y[a] else WHOLE for a, n in zip(axes, x, strict=True)], NAMES[: len(y)]))


def _broadcast_operand(broadcast: Instruction, _result: int, at: Coordinates) -> Coordinates:
    sizes = broadcast.operands[0].type.shape
    return tuple(0 if n == 1 else at[a] for n, a in zip(sizes, broadcast.attribute("axes"), strict=True))


BROADCAST = Op(
    name="broadcast",
    doc="x repeated to `dims`: axis i of x is axis axes[i] of the result, of its size or a literal 1",
    attributes=("axes", "dims"),
    type_rule=_broadcast_rule,
    meaning=_broadcast_meaning,
    vjp=_broadcast_vjp,
    factors=corresponding(_broadcast_letters, (0,)),
    lowering=View("broadcast", _broadcast_operand, None, True),
    flops=no_flops,
    samples=(
        Sample(("f32[]",), (("axes", ()), ("dims", _dims(3, "width=5"))), ("normal",)),
        Sample(("f32[5]",), (("axes", (1,)), ("dims", _dims(3, 5))), ("normal",)),
        Sample(("f32[3]",), (("axes", (0,)), ("dims", _dims(3, 17))), ("normal",)),
        Sample(("f32[3, 1]",), (("axes", (0, 1)), ("dims", _dims(3, 7))), ("normal",)),
        Sample(("f32[1, 5]",), (("axes", (1, 3)), ("dims", _dims(2, 4, 3, 5))), ("normal",)),
        *other_dtypes(Sample(("f32[3]",), (("axes", (0,)), ("dims", _dims(3, 4))), ("normal",)), ANY),
    ),
)


def _concat_rule(types: Types, attributes: Attributes) -> Types:
    axis = attributes["axis"]
    first = types[0]
    check_axis("concat", axis, first)
    same_dtype("concat", types)
    others = tuple(s for a, s in enumerate(first.shape) if a != axis)
    if any(len(t.dims) != len(first.dims) or tuple(s for a, s in enumerate(t.shape) if a != axis) != others for t in types):
        raise OpError("E0207", f"concat: only axis {axis} may differ: {show(types)}")
    joined = tuple(t.dims[axis] for t in types)
    names = [label(d) for d in joined]
    total = sum(d.size for d in joined)
    place = dim(total, "+".join(n or str(d.size) for n, d in zip(names, joined, strict=True))) if any(names) else plain(total)
    return (TensorType(first.dtype, (*first.dims[:axis], joined[0] if len(joined) == 1 else place, *first.dims[axis + 1 :])),)


def _concat_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    return (np.concatenate(operands, axis=attributes["axis"]),)


def _concat_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    if dy is None:
        return (None,) * len(instruction.operands)
    axis = given(instruction)["axis"]
    return b.emit("split", dy, axis=axis, sizes=tuple(x.type.dims[axis] for x in instruction.operands))


def _parts_letters(instruction: Instruction) -> Letters:
    """Of split and concat: a dim of equal parts is a factor that tells them times the dim of a part."""
    axis = instruction.attribute("axis")
    values = values_of(instruction)
    sizes = sorted({v.type.shape[axis] for v in values})
    equal = len(values) == 2 or len(sizes) == 2
    names = [NAMES[d] if d != axis or equal else WHOLE for d in range(len(values[0].type.dims))]
    return lettered(instruction, [names] * len(values), sizes={NAMES[axis]: sizes[0]})


CONCAT = Op(
    name="concat",
    doc="the operands one after the other along an axis",
    attributes=("axis",),
    type_rule=_concat_rule,
    meaning=_concat_meaning,
    vjp=_concat_vjp,
    factors=Correspondence(_parts_letters, linear_in_all, None, None),
    lowering=Move("concat"),
    flops=no_flops,
    samples=(
        Sample(("f32[3]", "f32[5]"), (("axis", 0),), ("normal",) * 2),
        Sample(("f32[2, nope=3]", "f32[2, rope=4]", "f32[2, 1]"), (("axis", 1),), ("normal",) * 3),
        Sample(("f32[1, 7]",), (("axis", 0),), ("normal",)),
        Sample(("f32[2, 6]", "f32[2, 6]"), (("axis", 1),), ("normal",) * 2),
        *other_dtypes(Sample(("f32[3, 2]", "f32[1, 2]"), (("axis", 0),), ("normal",) * 2), ANY),
    ),
)


def _split_rule(types: Types, attributes: Attributes) -> Types:
    check_count("split", types, 1)
    (x,) = types
    axis, sizes = attributes["axis"], attributes["sizes"]
    check_axis("split", axis, x)
    if sum(d.size for d in sizes) != x.dims[axis].size:
        raise OpError("E0207", f"split: sizes {_listed(sizes)} do not add up to dim {x.dims[axis]} of {x}")
    return tuple(TensorType(x.dtype, (*x.dims[:axis], d, *x.dims[axis + 1 :])) for d in sizes)


def _split_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    ends = tuple(accumulate(d.size for d in attributes["sizes"]))
    return tuple(np.split(operands[0], ends[:-1], axis=attributes["axis"]))


def _split_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    if all(d is None for d in cotangents):
        return (None,)
    parts = tuple(zeros(b, y.type) if d is None else d for y, d in zip(instruction.results, cotangents, strict=True))
    return (b.one("concat", *parts, axis=instruction.attribute("axis")),)


def _split_operand(split: Instruction, result: int, at: Coordinates) -> Coordinates:
    axis = split.attribute("axis")
    start = sum(d.size for d in split.attribute("sizes")[:result])
    return tuple(i + start if d == axis else i for d, i in enumerate(at))


SPLIT = Op(
    name="split",
    doc="x cut along an axis into parts of `sizes`",
    attributes=("axis", "sizes"),
    type_rule=_split_rule,
    meaning=_split_meaning,
    vjp=_split_vjp,
    factors=corresponding(_parts_letters, (0,)),
    lowering=View("split", _split_operand, None, True),
    flops=no_flops,
    samples=(
        Sample(("f32[8]",), (("axis", 0), ("sizes", _dims(3, 5))), ("normal",)),
        Sample(("f32[2, 3*width=4]",), (("axis", 1), ("sizes", _dims("width=4", "width=4", "width=4"))), ("normal",)),
        Sample(("f32[1, 7]",), (("axis", 0), ("sizes", (ONE,))), ("normal",)),
        *other_dtypes(Sample(("f32[3, 4]",), (("axis", 0), ("sizes", _dims(1, 2))), ("normal",)), ANY),
    ),
)

MOVES = (RESHAPE, TRANSPOSE, SLICE, PAD, BROADCAST, CONCAT, SPLIT)
