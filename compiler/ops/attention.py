"""Softmax attention, kept whole: targets have a kernel without a [time, keys] buffer.

q [b, t, h, d], k [b, s, g, d], v [b, s, g, e], mask bool [b, s] (true where a key may be seen); h query heads share g key heads.
"""

from __future__ import annotations

import numpy as np

from mlc.diagnostics import InternalError, OpError
from mlc.ir.builder import Builder
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Keys, LibraryKernel, NoGradient, Op, Sample
from mlc.ir.types import TensorType, Value
from mlc.ops.contraction import contract
from mlc.ops.families import Array, Arrays, given
from mlc.ops.normalizers import log_sum_exp_meaning
from mlc.ops.rules import FLOATS, Types, check_dims, check_dtype, same_dtype, show


def _check(op: str, types: Types, masked: bool) -> None:
    q, k, v = types[:3]
    check_dtype(op, q, FLOATS)
    same_dtype(op, (q, k, v))
    if any(len(t.dims) != 4 for t in (q, k, v)):
        raise OpError("E0201", f"{op}: wants q[b, t, h, d], k[b, s, g, d] and v[b, s, g, e], got {show((q, k, v))}")
    b, _, h, d = q.dims
    _, s, g, _ = k.dims
    check_dims(op, (b, s, g, d), k.dims, (q, k, v))
    check_dims(op, (b, s, g), v.dims[:3], (q, k, v))
    if h.size % g.size:
        raise OpError("E0201", f"{op}: {h} query heads cannot share {g} key heads: {show((q, k, v))}")
    if masked:
        check_dtype(op, types[3], ("bool",))
        check_dims(op, (b, s), types[3].dims, types[:4])


def _forward_rule(types: Types, _attributes: Attributes) -> Types:
    if len(types) not in (3, 4):
        raise InternalError(f"attention: wants q, k, v and perhaps a mask, got {show(types)}")
    _check("attention", types, len(types) == 4)
    q, _, v = types[:3]
    b, t, h, _ = q.dims
    return (TensorType(q.dtype, (b, t, h, v.dims[3])), TensorType("f32", (b, h, t)))


def _scores(q: Array, k: Array, mask: Array | None, attributes: Attributes) -> Array:
    """[b, g, h / g, t, s]; -inf where a key is not seen."""
    b, t, h, d = q.shape
    s, g = k.shape[1:3]
    scores = contract("btgrd,bsgd->bgrts", q.reshape(b, t, g, h // g, d), k) * attributes["scale"]
    seen = np.ones((b, 1, 1, t, s), bool) if mask is None else mask[:, None, None, None, :]
    if attributes["causal"]:
        seen = seen & (np.arange(s) <= np.arange(t)[:, None])
    return np.where(seen, scores, np.array(-np.inf, scores.dtype))


def _forward_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    q, k, v, *mask = operands
    b, t, h, _ = q.shape
    scores = _scores(q, k, mask[0] if mask else None, attributes)
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights = weights / np.sum(weights, axis=-1, keepdims=True)
    y = contract("bgrts,bsge->btgre", weights, v).reshape(b, t, h, v.shape[3])
    return (y, log_sum_exp_meaning(scores, -1).reshape(b, h, t))


def _forward_vjp(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    dy, dlse = cotangents
    if dlse is not None:
        raise InternalError(f"attention: a gradient reaches the log-sum-exp {instruction.results[1]}")
    none = (None,) * len(instruction.operands)
    if dy is None:
        return none
    gradients = b.emit("attention_vjp", *instruction.operands, *instruction.results, dy, **given(instruction))
    return (*gradients, *none[3:])


def _products(instruction: Instruction) -> int:
    """Query times key pairs that are computed, over all heads: half of them when causal."""
    (b, t, h, _), (_, s, _, _) = (v.type.shape for v in instruction.operands[:2])
    pairs = b * h * t * s
    return pairs // 2 if instruction.attribute("causal") else pairs


def _forward_flops(instruction: Instruction) -> int:
    d, e = instruction.operands[0].type.shape[3], instruction.operands[2].type.shape[3]
    return 2 * _products(instruction) * (d + e)


def _vjp_flops(instruction: Instruction) -> int:
    """dq, dk (over d) and dv, d(weights) (over e); scores computed again are not counted."""
    return 2 * _forward_flops(instruction)


def _attributes(causal: bool, scale: float):
    return (("causal", causal), ("scale", scale))


def _sample(dtype: str, sizes: tuple[int, ...], causal: bool, masked: bool, scale: float = 0.5) -> Sample:
    """sizes: batch, time, keys, heads, groups, head, value."""
    b, t, s, h, g, d, e = sizes
    keys = f"{dtype}[batch={b}, {s}, groups={g}"
    operands = (f"{dtype}[batch={b}, {t}, heads={h}, {d}]", f"{keys}, {d}]", f"{keys}, {e}]")
    if not masked:
        return Sample(operands, _attributes(causal, scale), ("normal",) * 3)
    return Sample((*operands, f"bool[{b}, {s}]"), _attributes(causal, scale), (*("normal",) * 3, "mask"))


ATTENTION = Op(
    name="attention",
    doc="softmax(q k scale) v by heads, and the log-sum-exp of the scores; causal: query t sees keys up to t",
    attributes=("causal", "scale"),
    type_rule=_forward_rule,
    meaning=_forward_meaning,
    vjp=_forward_vjp,
    lowering=LibraryKernel("attention_forward"),
    flops=_forward_flops,
    samples=(
        _sample("f32", (2, 5, 5, 3, 3, 4, 4), True, False),
        _sample("f32", (1, 3, 7, 4, 2, 5, 3), False, False),
        _sample("f32", (2, 17, 17, 2, 1, 8, 8), True, False, 0.125),
        _sample("f32", (2, 1, 1, 1, 1, 1, 1), True, False),
        _sample("f32", (2, 5, 7, 2, 2, 4, 4), False, True),
        _sample("f32", (2, 7, 7, 2, 1, 3, 4), True, True),
        _sample("bf16", (2, 5, 5, 2, 1, 8, 8), True, False),
    ),
)


def _vjp_rule(types: Types, _attributes: Attributes) -> Types:
    if len(types) not in (6, 7):
        raise InternalError(f"attention_vjp: wants the operands and results of attention and dy, got {show(types)}")
    _check("attention_vjp", types, len(types) == 7)
    q, k, v = types[:3]
    y, lse, dy = types[-3:]
    b, t, h, _ = q.dims
    for each in (y, dy):
        check_dims("attention_vjp", (b, t, h, v.dims[3]), each.dims, types)
    check_dims("attention_vjp", (b, h, t), lse.dims, types)
    check_dtype("attention_vjp", lse, ("f32",))
    same_dtype("attention_vjp", (q, y, dy))
    return (q, k, v)


def _vjp_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    q, k, v, *mask, y, lse, dy = operands
    b, t, h, d = q.shape
    g = k.shape[2]
    weights = np.exp(_scores(q, k, mask[0] if mask else None, attributes) - lse.reshape(b, g, h // g, t, 1))
    dy_heads = dy.reshape(b, t, g, h // g, -1)
    dv = contract("bgrts,btgre->bsge", weights, dy_heads)
    dweights = contract("btgre,bsge->bgrts", dy_heads, v)
    inner = np.sum(dy * y, axis=-1).transpose(0, 2, 1).reshape(b, g, h // g, t, 1)
    dscores = weights * (dweights - inner) * attributes["scale"]
    dq = contract("bgrts,bsgd->btgrd", dscores, k).reshape(b, t, h, d)
    dk = contract("bgrts,btgrd->bsgd", dscores, q.reshape(b, t, g, h // g, d))
    return (dq, dk, dv)


def _vjp_sample(forward: Sample, y: str, lse: str) -> Sample:
    """lse is drawn large enough that the weights stay moderate."""
    return Sample((*forward.operands, y, lse, y), forward.attributes, (*forward.draw, "normal", "normal", "normal"))


ATTENTION_VJP = Op(
    name="attention_vjp",
    doc="the gradients of attention's q, k and v, from its operands, its results and the gradient of y",
    attributes=("causal", "scale"),
    type_rule=_vjp_rule,
    meaning=_vjp_meaning,
    vjp=NoGradient("second derivatives are not taken"),
    lowering=LibraryKernel("attention_vjp"),
    flops=_vjp_flops,
    samples=(
        _vjp_sample(_sample("f32", (2, 5, 5, 3, 3, 4, 4), True, False), "f32[2, 5, 3, 4]", "f32[2, 3, 5]"),
        _vjp_sample(_sample("f32", (1, 3, 7, 4, 2, 5, 3), False, False), "f32[1, 3, 4, 3]", "f32[1, 4, 3]"),
        _vjp_sample(_sample("f32", (2, 5, 7, 2, 2, 4, 4), False, True), "f32[2, 5, 2, 4]", "f32[2, 2, 5]"),
        _vjp_sample(_sample("bf16", (2, 5, 5, 2, 1, 8, 8), True, False), "bf16[2, 5, 2, 8]", "f32[2, 2, 5]"),
    ),
)
