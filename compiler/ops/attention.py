"""Softmax attention, kept whole: targets have a kernel without a [time, keys] buffer.

q [b, t, h, d], k [b, s, g, d], v [b, s, g, e], mask bool [b, s] (true where a key may be seen); h query heads share g key heads.

Causal attention lets a query see the keys that are not later than it. The times of parts of a longer context are operands, i32 [t] of the
queries and i32 [s] of the keys; without them both count from 0. So operands are q, k, v, then the mask if there is one, then both times if
they are given; of the gradients also y, the log-sum-exp, the gradient of y, and that of the log-sum-exp if one arrives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlc.diagnostics import InternalError, OpError
from mlc.frozen import frozen
from mlc.ir.builder import Builder
from mlc.ir.dtypes import dtype_of
from mlc.ir.factors import Correspondence, Join, Offset
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Keys, LibraryKernel, NoGradient, Op, Sample
from mlc.ir.types import TensorType, Value
from mlc.ops.broadcasting import numbered, zeros
from mlc.ops.contraction import contract
from mlc.ops.families import Array, Arrays, given
from mlc.ops.letters import NO_OFFSETS, Letters, lettered, linear_in
from mlc.ops.normalizers import log_sum_exp_meaning
from mlc.ops.rules import FLOATS, Types, check_dims, check_dtype, same_dtype, show


@frozen
class _Form:
    """Which operands there are besides q, k and v: told by their number and dtypes.

    rest:  where those of the gradient begin
    """

    masked: bool
    timed: bool

    @property
    def rest(self) -> int:
        return 3 + self.masked + 2 * self.timed


def _form(dtypes: Sequence[str]) -> _Form:
    masked = dtypes[3:4] == ("bool",)
    return _Form(masked, dtypes[3 + masked : 5 + masked] == ("i32", "i32"))


def form_of(instruction: Instruction) -> _Form:
    """The form of an instruction that its type rule has accepted."""
    return _form(tuple(v.type.dtype for v in instruction.operands))


def _check(op: str, types: Types, attributes: Attributes, rest: tuple[int, ...]) -> _Form:
    """The form of operands that fit together, with so many behind those of attention itself."""
    if op == "attention" and len(types) == 4:
        check_dtype(op, types[3], ("bool",))
    form = _form(tuple(t.dtype for t in types))
    if len(types) - form.rest not in rest or (form.timed and not attributes["causal"]):
        raise InternalError(f"{op}: these are not operands of it: {show(types)}")
    q, k, v = types[:3]
    check_dtype(op, q, FLOATS)
    same_dtype(op, (q, k, v))
    if any(len(t.dims) != 4 for t in (q, k, v)):
        raise OpError("E0201", f"{op}: wants q[b, t, h, d], k[b, s, g, d] and v[b, s, g, e], got {show((q, k, v))}")
    b, t, h, d = q.dims
    _, s, g, _ = k.dims
    check_dims(op, (b, s, g, d), k.dims, (q, k, v))
    check_dims(op, (b, s, g), v.dims[:3], (q, k, v))
    if h.size % g.size:
        raise OpError("E0201", f"{op}: {h} query heads cannot share {g} key heads: {show((q, k, v))}")
    if form.masked:
        check_dims(op, (b, s), types[3].dims, types[:4])
    if form.timed:
        check_dims(op, (t,), types[form.rest - 2].dims, types)
        check_dims(op, (s,), types[form.rest - 1].dims, types)
    return form


def _forward_rule(types: Types, attributes: Attributes) -> Types:
    _check("attention", types, attributes, (0,))
    q, _, v = types[:3]
    b, t, h, _ = q.dims
    return (TensorType(q.dtype, (b, t, h, v.dims[3])), TensorType(dtype_of(q.dtype).wide, (b, h, t)))


def _scores(operands: Arrays, form: _Form, attributes: Attributes) -> Array:
    """[b, g, h / g, t, s]; -inf where a key is not seen."""
    q, k = operands[:2]
    b, t, h, d = q.shape
    s, g = k.shape[1:3]
    scores = contract("btgrd,bsgd->bgrts", q.reshape(b, t, g, h // g, d), k) * attributes["scale"]
    seen = operands[3][:, None, None, None, :] if form.masked else np.ones((b, 1, 1, t, s), bool)
    if attributes["causal"]:
        query, key = operands[form.rest - 2 : form.rest] if form.timed else (np.arange(t), np.arange(s))
        seen = seen & (key <= query[:, None])
    return np.where(seen, scores, np.array(-np.inf, scores.dtype))


def _meant(operands: Arrays) -> _Form:
    return _form(tuple({"b": "bool", "i": "i32"}.get(a.dtype.kind, "f32") for a in operands))


def _forward_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    q, _, v = operands[:3]
    b, t, h, _ = q.shape
    scores = _scores(operands, _meant(operands), attributes)
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights = weights / np.sum(weights, axis=-1, keepdims=True)
    y = contract("bgrts,bsge->btgre", weights, v).reshape(b, t, h, v.shape[3])
    return (y, log_sum_exp_meaning(scores, -1).reshape(b, h, t))


def _forward_vjp(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    dy, dlse = cotangents
    none = (None,) * len(instruction.operands)
    if dy is None and dlse is None:
        return none
    arriving = [zeros(b, instruction.results[0].type) if dy is None else dy, *([] if dlse is None else [dlse])]
    gradients = b.emit("attention_vjp", *instruction.operands, *instruction.results, *arriving, **given(instruction))
    return (*gradients, *none[3:])


def _letters(instruction: Instruction) -> Letters:
    """Groups of heads are shared, heads of a group are the queries' own. Keys are whole where softmax runs over them; a gradient
    is a sum over what it is no gradient of."""
    form = form_of(instruction)
    vjp = instruction.op == "attention_vjp"
    heads, groups = instruction.operands[0].type.shape[2], instruction.operands[1].type.shape[2]
    q, k, v, y, lse = ("b", "t", "gr", "d"), ("b", "s", "g", "d"), ("b", "s", "g", "e"), ("b", "t", "gr", "e"), ("b", "gr", "t")
    slots = [q, k, v, *([("b", "s")] if form.masked else []), *([("t",), ("s",)] if form.timed else [])]
    count = len(instruction.operands) - form.rest
    slots += [y, lse, y, lse][:count]
    slots += [q, k, v] if vjp else [y, lse]
    joins = {"d": Join.WHOLE, "e": Join.WHOLE, "s": Join.SUM if vjp else Join.WHOLE}
    if vjp:
        joins |= {"t": Join.SUM, "r": Join.SUM}
    counted = instruction.attribute("causal") and not form.timed
    offsets = {"t": Offset.POSITION, "s": Offset.POSITION} if counted else NO_OFFSETS
    return lettered(instruction, slots, joins, offsets, {"g": groups, "r": heads // groups})


def _timed(b: Builder, instruction: Instruction) -> tuple[Value, ...]:
    """With the times of queries and keys."""
    q, k = instruction.operands[:2]
    rest = form_of(instruction).rest
    times = [numbered(b, x.type.dims[1:2]) for x in (q, k)]
    return b.emit(instruction.op, *instruction.operands[:rest], *times, *instruction.operands[rest:], **given(instruction))


def _vjp_linear(instruction: Instruction) -> tuple[frozenset[int], ...]:
    """In what arrives."""
    return (frozenset(range(form_of(instruction).rest + 2, len(instruction.operands))),)


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


def _sample(dtype: str, sizes: tuple[int, ...], causal: bool, masked: bool, scale: float = 0.5, timed: bool = False) -> Sample:
    """sizes: batch, time, keys, heads, groups, head, value. Times are drawn so that every query sees the first key."""
    b, t, s, h, g, d, e = sizes
    keys = f"{dtype}[batch={b}, {s}, groups={g}"
    operands = (f"{dtype}[batch={b}, {t}, heads={h}, {d}]", f"{keys}, {d}]", f"{keys}, {e}]")
    others = [(f"bool[{b}, {s}]", "mask")] if masked else []
    others += [(f"i32[{t}]", "index:9"), (f"i32[{s}]", "rising")] if timed else []
    return Sample((*operands, *(o for o, _ in others)), _attributes(causal, scale), (*("normal",) * 3, *(how for _, how in others)))


ATTENTION = Op(
    name="attention",
    doc="softmax(q k scale) v by heads, and the log-sum-exp of the scores; causal: query t sees keys up to t, by place or by given times",
    attributes=("causal", "scale"),
    type_rule=_forward_rule,
    meaning=_forward_meaning,
    vjp=_forward_vjp,
    factors=Correspondence(_letters, linear_in(), _timed, None),
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
        _sample("f32", (2, 4, 6, 4, 2, 4, 4), True, False),
    ),
)

#: Samples of the forms that no kernel takes: parts of a longer context.
TIMED = (_sample("f32", (2, 4, 6, 2, 1, 4, 4), True, False, timed=True), _sample("f32", (1, 6, 4, 4, 2, 4, 4), True, True, timed=True))


def _vjp_rule(types: Types, attributes: Attributes) -> Types:
    form = _check("attention_vjp", types, attributes, (3, 4))
    q, k, v = types[:3]
    y, lse, dy, *dlse = types[form.rest :]
    b, t, h, _ = q.dims
    for each in (y, dy):
        check_dims("attention_vjp", (b, t, h, v.dims[3]), each.dims, types)
    for each in (lse, *dlse):
        check_dims("attention_vjp", (b, h, t), each.dims, types)
        check_dtype("attention_vjp", each, (dtype_of(q.dtype).wide,))
    same_dtype("attention_vjp", (q, y, dy))
    return (q, k, v)


def _vjp_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    form = _meant(operands)
    q, k, v = operands[:3]
    y, lse, dy, *dlse = operands[form.rest :]
    b, t, h, d = q.shape
    g = k.shape[2]
    weights = np.exp(_scores(operands, form, attributes) - lse.reshape(b, g, h // g, t, 1))
    dy_heads = dy.reshape(b, t, g, h // g, -1)
    dv = contract("bgrts,btgre->bsge", weights, dy_heads)
    dweights = contract("btgre,bsge->bgrts", dy_heads, v)
    inner = np.sum(dy * y, axis=-1).transpose(0, 2, 1).reshape(b, g, h // g, t, 1)
    for each in dlse:
        inner = inner - each.reshape(b, g, h // g, t, 1)
    dscores = weights * (dweights - inner) * attributes["scale"]
    dq = contract("bgrts,bsgd->btgrd", dscores, k).reshape(b, t, h, d)
    dk = contract("bgrts,btgrd->bsgd", dscores, q.reshape(b, t, g, h // g, d))
    return (dq, dk, dv)


def _vjp_sample(forward: Sample, y: str, lse: str, both: bool = False) -> Sample:
    """lse is drawn large enough that the weights stay moderate. both: gradients of y and of lse arrive."""
    others = (y, lse, y, lse) if both else (y, lse, y)
    return Sample((*forward.operands, *others), forward.attributes, (*forward.draw, *("normal",) * len(others)))


ATTENTION_VJP = Op(
    name="attention_vjp",
    doc="the gradients of attention's q, k and v, from its operands, its results and the gradients of these, of y alone or of both",
    attributes=("causal", "scale"),
    type_rule=_vjp_rule,
    meaning=_vjp_meaning,
    vjp=NoGradient("second derivatives are not taken"),
    factors=Correspondence(_letters, _vjp_linear, _timed, None),
    lowering=LibraryKernel("attention_vjp"),
    flops=_vjp_flops,
    samples=(
        _vjp_sample(_sample("f32", (2, 5, 5, 3, 3, 4, 4), True, False), "f32[2, 5, 3, 4]", "f32[2, 3, 5]"),
        _vjp_sample(_sample("f32", (1, 3, 7, 4, 2, 5, 3), False, False), "f32[1, 3, 4, 3]", "f32[1, 4, 3]"),
        _vjp_sample(_sample("f32", (2, 5, 7, 2, 2, 4, 4), False, True), "f32[2, 5, 2, 4]", "f32[2, 2, 5]"),
        _vjp_sample(_sample("bf16", (2, 5, 5, 2, 1, 8, 8), True, False), "bf16[2, 5, 2, 8]", "f32[2, 2, 5]"),
        _vjp_sample(_sample("f32", (2, 4, 6, 4, 2, 4, 4), True, False), "f32[2, 4, 4, 4]", "f32[2, 4, 4]"),
    ),
)

VJP_TIMED = (
    _vjp_sample(TIMED[0], "f32[2, 4, 2, 4]", "f32[2, 2, 4]", True),
    _vjp_sample(TIMED[1], "f32[1, 6, 4, 4]", "f32[1, 4, 6]"),
    _vjp_sample(_sample("f32", (2, 5, 7, 2, 2, 4, 4), False, True), "f32[2, 5, 2, 4]", "f32[2, 2, 5]", True),
)
