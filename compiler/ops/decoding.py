"""Ops of the decode chain, which computes a text one time after the other: what was kept of times before, and attention to it.

`append` puts what is new at one time beside what is kept of others; the result may lie where the kept lies, and a plan has it lie there.
`attention_next` is causal attention of the queries of one time: of keys and values only those of times up to it are read.
The time is an i32 scalar.
"""

from __future__ import annotations

import math

import numpy as np

from mlc.diagnostics import InternalError
from mlc.ir.factors import Join
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Keys, LibraryKernel, NoGradient, Op, Sample
from mlc.ir.types import TensorType
from mlc.ops.contraction import contract
from mlc.ops.families import Arrays, no_flops, other_dtypes
from mlc.ops.letters import NAMES, NO_OFFSETS, WHOLE, Letters, corresponding, lettered
from mlc.ops.rules import ANY, FLOATS, Types, check_count, check_dims, check_dtype, same_dtype, show

_NO_GRADIENT = NoGradient("texts are made without one")


def _append_rule(types: Types, attributes: Attributes) -> Types:
    check_count("append", types, 3)
    kept, new, time = types
    axis = attributes["axis"]
    same_dtype("append", (kept, new))
    check_dtype("append", time, ("i32",))
    check_dims("append", (), time.dims, types)
    if len(new.dims) != len(kept.dims) or not 0 <= axis < len(kept.dims) or new.shape[axis] != 1:
        raise InternalError(f"append: what is new is of one time along axis {axis}: {show(types)}")
    for d, size in enumerate(kept.shape):
        if d != axis and new.shape[d] != size:
            raise InternalError(f"append: new and kept differ along axis {d}: {show(types)}")
    return (kept,)


def _append_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    kept, new, time = operands
    made = kept.copy()
    place = [slice(None)] * kept.ndim
    place[attributes["axis"]] = slice(int(time), int(time) + 1)
    made[tuple(place)] = new
    return (made,)


def _append_letters(instruction: Instruction) -> Letters:
    rank, axis = len(instruction.result.type.dims), instruction.attribute("axis")
    kept = list(NAMES[:rank])
    new = [WHOLE if d == axis else kept[d] for d in range(rank)]
    return lettered(instruction, [kept, new, (), kept], {NAMES[axis]: Join.WHOLE})


APPEND = Op(
    name="append",
    doc="x with other elements at one index of an axis, that of a time",
    attributes=("axis",),
    type_rule=_append_rule,
    meaning=_append_meaning,
    vjp=_NO_GRADIENT,
    factors=corresponding(_append_letters, (0, 1)),
    lowering=LibraryKernel("append"),
    flops=no_flops,
    samples=(
        Sample(("f32[7]", "f32[1]", "i32[]"), (("axis", 0),), ("normal", "normal", "index:7")),
        Sample(("f32[2, context=5, 3]", "f32[2, 1, 3]", "i32[]"), (("axis", 1),), ("normal", "normal", "index:5")),
        Sample(("f32[4, 1]", "f32[4, 1]", "i32[]"), (("axis", 1),), ("normal", "normal", "index:1")),
        *other_dtypes(Sample(("f32[3, 5]", "f32[3, 1]", "i32[]"), (("axis", 1),), ("normal", "normal", "index:5")), ANY),
    ),
)


def _attention_rule(types: Types, _attributes: Attributes) -> Types:
    check_count("attention_next", types, 4)
    q, k, v, time = types
    check_dtype("attention_next", q, FLOATS)
    same_dtype("attention_next", (q, k, v))
    check_dtype("attention_next", time, ("i32",))
    check_dims("attention_next", (), time.dims, types)
    if any(len(t.dims) != 4 for t in (q, k, v)) or q.shape[1] != 1 or q.shape[2] % k.shape[2]:
        raise InternalError(f"attention_next: wants q[b, 1, h, d], k[b, s, g, d] and v[b, s, g, e]: {show(types)}")
    b, one, h, d = q.dims
    _, s, g, _ = k.dims
    check_dims("attention_next", (b, s, g, d), k.dims, (q, k, v))
    check_dims("attention_next", (b, s, g), v.dims[:3], (q, k, v))
    return (TensorType(q.dtype, (b, one, h, v.dims[3])),)


def _attention_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    q, k, v, time = operands
    b, _, h, d = q.shape
    g, seen = k.shape[2], int(time) + 1
    scores = contract("bgrd,bsgd->bgrs", q.reshape(b, g, h // g, d), k[:, :seen]) * attributes["scale"]
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights = weights / np.sum(weights, axis=-1, keepdims=True)
    return (contract("bgrs,bsge->bgre", weights, v[:, :seen]).reshape(b, 1, h, v.shape[3]),)


def _attention_letters(instruction: Instruction) -> Letters:
    heads, groups = instruction.operands[0].type.shape[2], instruction.operands[1].type.shape[2]
    q, k, v, y = ("b", "t", "gr", "d"), ("b", "s", "g", "d"), ("b", "s", "g", "e"), ("b", "t", "gr", "e")
    joins = dict.fromkeys("dse", Join.WHOLE)
    return lettered(instruction, [q, k, v, (), y], joins, NO_OFFSETS, {"g": groups, "r": heads // groups})


def _attention_flops(instruction: Instruction) -> int:
    """Over half of the keys, as many as are seen on the average."""
    q, k, v, _ = (o.type for o in instruction.operands)
    return math.prod((q.shape[0], q.shape[2], k.shape[1], q.shape[3] + v.shape[3]))


def _attention_sample(dtype: str, sizes: tuple[int, ...], scale: float = 0.5) -> Sample:
    """sizes: batch, keys, heads, groups, head, value."""
    b, s, h, g, d, e = sizes
    keys = f"{dtype}[batch={b}, {s}, groups={g}"
    operands = (f"{dtype}[batch={b}, 1, heads={h}, {d}]", f"{keys}, {d}]", f"{keys}, {e}]", "i32[]")
    return Sample(operands, (("scale", scale),), ("normal", "normal", "normal", f"index:{s}"))


ATTENTION_NEXT = Op(
    name="attention_next",
    doc="attention of one time: softmax(q k scale) v by heads over the keys of times up to the one that is given",
    attributes=("scale",),
    type_rule=_attention_rule,
    meaning=_attention_meaning,
    vjp=_NO_GRADIENT,
    factors=corresponding(_attention_letters, (2,)),
    lowering=LibraryKernel("attention_next"),
    flops=_attention_flops,
    samples=(
        _attention_sample("f32", (2, 5, 3, 3, 4, 4)),
        _attention_sample("f32", (1, 7, 4, 2, 5, 3)),
        _attention_sample("f32", (2, 150, 2, 1, 8, 8), 0.125),
        _attention_sample("f32", (1, 1, 1, 1, 1, 1)),
        _attention_sample("bf16", (2, 9, 2, 1, 8, 8)),
    ),
)


DECODING = (APPEND, ATTENTION_NEXT)
