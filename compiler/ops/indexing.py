"""Ops that place elements by the values of an index tensor. Indices out of range are errors of the data, checked where it is loaded."""

from __future__ import annotations

import numpy as np

from mlc.ir.builder import Builder
from mlc.ir.factors import Join, Offset
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Keys, Move, Op, Sample, Scatter
from mlc.ir.types import Dim, TensorType, Value, dim
from mlc.ops.families import Arrays, given, no_flops, operand_elements, other_dtypes
from mlc.ops.letters import NAMES, WHOLE, Letters, corresponding, lettered
from mlc.ops.rules import ANY, NUMBERS, Types, check_axis, check_count, check_dims, check_dtype

Cotangents = tuple[Value | None, ...]


def _gather_rule(types: Types, attributes: Attributes) -> Types:
    check_count("gather", types, 2)
    x, index = types
    axis = attributes["axis"]
    check_axis("gather", axis, x)
    check_dtype("gather index", index, ("i32",))
    return (TensorType(x.dtype, (*x.dims[:axis], *index.dims, *x.dims[axis + 1 :])),)


def _gather_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    x, index = operands
    return (np.take(x, index, axis=attributes["axis"]),)


#: The letter that an index counts along, and those of all other dims.
PICKED = "v"
DIM_NAMES = NAMES.replace(PICKED, "")


def _picked(x: Value) -> str:
    """The letter of the dim that is picked from; whole where what parts pick cannot be summed."""
    return WHOLE if x.type.dtype == "bool" else PICKED


def _gather_letters(instruction: Instruction) -> Letters:
    x, index = instruction.operands
    axis, count = instruction.attribute("axis"), len(index.type.dims)
    names = DIM_NAMES[: len(instruction.result.type.dims)]
    slots = ((*names[:axis], _picked(x), *names[axis + count :]), names[axis : axis + count], names)
    return lettered(instruction, slots, {PICKED: Join.SUM}, {PICKED: Offset.INDEX})


def _gather_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    x, index = instruction.operands
    if dy is None or not x.type.is_float:
        return (None, None)
    axis, count = given(instruction)["axis"], len(index.type.dims)
    place = x.type.dims[axis]
    if axis == 0:
        return (b.one("scatter_add", dy, index, dim=place), None)
    rank = len(dy.type.dims)
    indexed = tuple(range(axis, axis + count))
    front = (*indexed, *(a for a in range(rank) if a not in indexed))
    rows = b.one("transpose", dy, permutation=front) if count else dy
    dx = b.one("scatter_add", rows, index, dim=place)
    back = (*range(1, axis + 1), 0, *range(axis + 1, len(x.type.dims)))
    return (b.one("transpose", dx, permutation=back), None)


def _at(axis: int):
    return (("axis", axis),)


GATHER = Op(
    name="gather",
    doc="the slices of x along an axis at the given indices (NumPy take)",
    attributes=("axis",),
    type_rule=_gather_rule,
    meaning=_gather_meaning,
    vjp=_gather_vjp,
    factors=corresponding(_gather_letters, (0,), part="gather_part"),
    lowering=Move("gather"),
    flops=no_flops,
    samples=(
        Sample(("f32[vocab=11, width=5]", "i32[2, 7]"), _at(0), ("normal", "index:11")),
        Sample(("f32[3, 5]", "i32[4]"), _at(1), ("normal", "index:5")),
        Sample(("f32[2, 5, 3]", "i32[4, 2]"), _at(1), ("normal", "index:5")),
        Sample(("f32[7]", "i32[]"), _at(0), ("normal", "index:7")),
        Sample(("f32[3, 7]", "i32[]"), _at(1), ("normal", "index:7")),
        Sample(("f32[1, 17]", "i32[3]"), _at(0), ("normal", "index:1")),
        *other_dtypes(Sample(("f32[5, 3]", "i32[4]"), _at(0), ("normal", "index:5")), ANY),
    ),
)


def _scatter_add_rule(types: Types, attributes: Attributes) -> Types:
    check_count("scatter_add", types, 2)
    rows, index = types
    check_dtype("scatter_add", rows, NUMBERS)
    check_dtype("scatter_add index", index, ("i32",))
    count = len(index.dims)
    check_dims("scatter_add", index.dims, rows.dims[:count], types)
    return (TensorType(rows.dtype, (attributes["dim"], *rows.dims[count:])),)


def _scatter_add_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    rows, index = operands
    y = np.zeros((attributes["dim"].size, *rows.shape[index.ndim :]), rows.dtype)
    np.add.at(y, index, rows)
    return (y,)


def _scatter_add_letters(instruction: Instruction) -> Letters:
    rows, index = instruction.operands
    count = len(index.type.dims)
    names = DIM_NAMES[: len(rows.type.dims)]
    slots = (names, names[:count], (PICKED, *names[count:]))
    return lettered(instruction, slots, dict.fromkeys(names[:count], Join.SUM), {PICKED: Offset.INDEX})


def _scatter_add_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    if dy is None or not dy.type.is_float:
        return (None, None)
    return (b.one("gather", dy, instruction.operands[1], axis=0), None)


def _into(size: int, name: str = ""):
    return (("dim", dim(size, name)),)


SCATTER_ADD = Op(
    name="scatter_add",
    doc="zeros [dim, ...] to which row i is added at index i, in the order of the rows",
    attributes=("dim",),
    type_rule=_scatter_add_rule,
    meaning=_scatter_add_meaning,
    vjp=_scatter_add_vjp,
    factors=corresponding(_scatter_add_letters, (0,), part="scatter_add_part"),
    lowering=Scatter("scatter_add"),
    flops=operand_elements,
    samples=(
        Sample(("f32[2, 7, width=5]", "i32[2, 7]"), _into(11, "vocab"), ("normal", "index:11")),
        Sample(("f32[13, 3]", "i32[13]"), _into(4), ("normal", "index:4")),
        Sample(("f32[7]", "i32[7]"), _into(3), ("normal", "index:3")),
        Sample(("f32[5]", "i32[]"), _into(3), ("normal", "index:3")),
        Sample(("f32[1, 17]", "i32[1]"), _into(1, "one"), ("normal", "index:1")),
        *other_dtypes(Sample(("f32[5, 3]", "i32[5]"), _into(4), ("normal", "index:4")), NUMBERS),
    ),
)


def _others(dims: tuple[Dim, ...], axis: int) -> tuple[Dim, ...]:
    return (*dims[:axis], *dims[axis + 1 :])


def _take_along_rule(types: Types, attributes: Attributes) -> Types:
    check_count("take_along", types, 2)
    x, index = types
    axis = attributes["axis"]
    check_axis("take_along", axis, x)
    check_dtype("take_along index", index, ("i32",))
    check_dims("take_along", _others(x.dims, axis), _others(index.dims, axis), types)
    return (TensorType(x.dtype, (*x.dims[:axis], index.dims[axis], *x.dims[axis + 1 :])),)


def _take_along_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    x, index = operands
    return (np.take_along_axis(x, index, attributes["axis"]),)


def _take_along_letters(instruction: Instruction) -> Letters:
    x, _ = instruction.operands
    axis = instruction.attribute("axis")
    names = DIM_NAMES[: len(x.type.dims)]
    slots = ((*names[:axis], _picked(x), *names[axis + 1 :]), names, names)
    return lettered(instruction, slots, {PICKED: Join.SUM}, {PICKED: Offset.INDEX})


def _take_along_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    x, index = instruction.operands
    if dy is None or not x.type.is_float:
        return (None, None)
    axis = given(instruction)["axis"]
    return (b.one("put_along", dy, index, axis=axis, dim=x.type.dims[axis]), None)


TAKE_ALONG = Op(
    name="take_along",
    doc="the elements of x at indices given for each place but along the axis (NumPy take_along_axis)",
    attributes=("axis",),
    type_rule=_take_along_rule,
    meaning=_take_along_meaning,
    vjp=_take_along_vjp,
    factors=corresponding(_take_along_letters, (0,), part="take_along_part"),
    lowering=Move("take_along"),
    flops=no_flops,
    samples=(
        Sample(("f32[3, 7]", "i32[3, 1]"), _at(1), ("normal", "index:7")),
        Sample(("f32[5, 2]", "i32[3, 2]"), _at(0), ("normal", "index:5")),
        Sample(("f32[2, 5, 3]", "i32[2, 4, 3]"), _at(1), ("normal", "index:5")),
        Sample(("f32[1]", "i32[3]"), _at(0), ("normal", "index:1")),
        *other_dtypes(Sample(("f32[3, 7]", "i32[3, 2]"), _at(1), ("normal", "index:7")), ANY),
    ),
)


def _put_along_rule(types: Types, attributes: Attributes) -> Types:
    check_count("put_along", types, 2)
    rows, index = types
    axis = attributes["axis"]
    check_dtype("put_along", rows, NUMBERS)
    check_axis("put_along", axis, rows)
    check_dtype("put_along index", index, ("i32",))
    check_dims("put_along", rows.dims, index.dims, types)
    return (TensorType(rows.dtype, (*rows.dims[:axis], attributes["dim"], *rows.dims[axis + 1 :])),)


def _put_along_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    rows, index = operands
    axis = attributes["axis"]
    y = np.zeros((*rows.shape[:axis], attributes["dim"].size, *rows.shape[axis + 1 :]), rows.dtype)
    places = list(np.indices(rows.shape, sparse=True))
    places[axis] = index
    np.add.at(y, tuple(places), rows)
    return (y,)


def _put_along_letters(instruction: Instruction) -> Letters:
    axis = instruction.attribute("axis")
    names = DIM_NAMES[: len(instruction.result.type.dims)]
    slots = (names, names, (*names[:axis], PICKED, *names[axis + 1 :]))
    return lettered(instruction, slots, {names[axis]: Join.SUM}, {PICKED: Offset.INDEX})


def _put_along_vjp(b: Builder, instruction: Instruction, cotangents: Cotangents) -> Cotangents:
    (dy,) = cotangents
    if dy is None or not dy.type.is_float:
        return (None, None)
    return (b.one("take_along", dy, instruction.operands[1], axis=given(instruction)["axis"]), None)


def _along(axis: int, size: int, name: str = ""):
    return (("axis", axis), ("dim", dim(size, name)))


PUT_ALONG = Op(
    name="put_along",
    doc="zeros with `dim` at the axis, to which elements are added at their indices along it, in the order of the rows",
    attributes=("axis", "dim"),
    type_rule=_put_along_rule,
    meaning=_put_along_meaning,
    vjp=_put_along_vjp,
    factors=corresponding(_put_along_letters, (0,), part="put_along_part"),
    lowering=Scatter("put_along"),
    flops=operand_elements,
    samples=(
        Sample(("f32[3, 1]", "i32[3, 1]"), _along(1, 7, "vocab"), ("normal", "index:7")),
        Sample(("f32[3, 2]", "i32[3, 2]"), _along(0, 5), ("normal", "index:5")),
        Sample(("f32[2, 4, 3]", "i32[2, 4, 3]"), _along(1, 5), ("normal", "index:5")),
        Sample(("f32[5]", "i32[5]"), _along(0, 2), ("normal", "index:2")),
        *other_dtypes(Sample(("f32[3, 2]", "i32[3, 2]"), _along(1, 7), ("normal", "index:7")), NUMBERS),
    ),
)

INDEXING = (GATHER, SCATTER_ADD, TAKE_ALONG, PUT_ALONG)
