"""Cross entropy of logits and class indices, kept whole so that no second copy of the logits is made.

    normalizer = logsumexp(logits)            loss = mean over kept rows of normalizer - logits[target] + z normalizer^2
    kept       = targets != ignore            (every row when ignore is None; the mean is over at least 1 row)
"""

from __future__ import annotations

import numpy as np

from mlc.diagnostics import InternalError
from mlc.ir.builder import Builder
from mlc.ir.dtypes import dtype_of
from mlc.ir.factors import Join, values_of
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Composite, Keys, NoGradient, Op, Sample
from mlc.ir.types import ONE, TensorType, Value
from mlc.ops.broadcasting import broadcast_to, cast_to, constant_like, widened, zeros
from mlc.ops.families import Array, Arrays, given, times
from mlc.ops.letters import NAMES, Letters, corresponding, lettered
from mlc.ops.normalizers import log_sum_exp, log_sum_exp_meaning
from mlc.ops.rules import FLOATS, Types, check_axis, check_count, check_dims, check_dtype, check_positions


def _check(op: str, logits: TensorType, targets: TensorType) -> None:
    check_dtype(op, logits, FLOATS)
    check_dtype(op, targets, ("i32",))
    check_axis(op, len(logits.dims) - 1, logits)
    check_positions(op, logits.dims[-1])
    check_dims(op, logits.dims[:-1], targets.dims, (logits, targets))


def _flops(instruction: Instruction) -> int:
    """max, sub, exp and sum; or sub, exp, sub and mul."""
    return 4 * instruction.operands[0].type.size


def _forward_rule(types: Types, _attributes: Attributes) -> Types:
    check_count("cross_entropy", types, 2)
    logits, targets = types
    _check("cross_entropy", logits, targets)
    wide = dtype_of(logits.dtype).wide
    return (TensorType(wide), TensorType(wide, logits.dims[:-1]))


def _kept(targets: Array, attributes: Attributes) -> tuple[Array, Array, float]:
    """Which rows count, an index that is valid in every row, and how many rows count (at least 1)."""
    kept = np.ones(targets.shape, bool) if attributes["ignore"] is None else targets != attributes["ignore"]
    return kept, np.where(kept, targets, 0), float(max(kept.sum(), 1))


def _forward_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    logits, targets = operands
    kept, index, count = _kept(targets, attributes)
    lse = log_sum_exp_meaning(logits, -1)
    losses = lse - np.take_along_axis(logits, index[..., None], -1)[..., 0]
    if attributes["z"]:
        losses = losses + attributes["z"] * lse * lse
    return (np.sum(np.where(kept, losses, np.zeros_like(losses))) / np.array(count, lse.dtype), lse)


def _forward_vjp(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    dloss, dlse = cotangents
    if dlse is not None:
        raise InternalError(f"cross_entropy: a gradient reaches the log-sum-exp {instruction.results[1]}")
    if dloss is None:
        return (None, None)
    logits, targets = instruction.operands
    return (b.one("cross_entropy_vjp", logits, targets, instruction.results[1], dloss, **given(instruction)), None)


def _rows(b: Builder, instruction: Instruction) -> tuple[Value | None, Value, Value]:
    """The three of `_kept` as values: kept is None when every row counts."""
    targets = instruction.operands[1]
    ignore = given(instruction)["ignore"]
    scalar = TensorType(dtype_of(instruction.operands[0].type.dtype).wide)
    if ignore is None:
        return None, targets, constant_like(b, max(targets.type.size, 1), scalar)
    kept = b.one("not_equal", targets, constant_like(b, ignore, targets.type))
    index = b.one("select", kept, targets, zeros(b, targets.type))
    total = b.one("sum", b.one("cast", kept, dtype=scalar.dtype), axes=tuple(range(len(targets.type.dims))), keepdims=False)
    return kept, index, b.one("maximum", total, constant_like(b, 1.0, scalar))


def _forward_expand(b: Builder, instruction: Instruction) -> tuple[Value, ...]:
    logits, targets = instruction.operands
    last = len(logits.type.dims) - 1
    rows = targets.type.dims
    kept, index, count = _rows(b, instruction)
    lse = log_sum_exp(b, widened(b, logits), last)
    picked = b.one("take_along", logits, b.one("reshape", index, dims=(*rows, ONE)), axis=last)
    losses = b.one("sub", lse, b.one("reshape", widened(b, picked), dims=rows))
    z = given(instruction)["z"]
    if z:
        losses = b.one("add", losses, b.one("mul", times(b, lse, z), lse))
    if kept is not None:
        losses = b.one("select", kept, losses, zeros(b, losses.type))
    total = b.one("sum", losses, axes=tuple(range(last)), keepdims=False)
    return (b.one("div", total, count), lse)


def _options(ignore: int | None, z: float):
    return (("ignore", ignore), ("z", z))


_CASES = (
    ("f32[7, vocab=11]", "i32[7]", "f32[7]", _options(None, 0.0)),
    ("f32[batch=2, 5, vocab=3]", "i32[batch=2, 5]", "f32[2, 5]", _options(0, 0.0)),
    ("f32[2, 5, 17]", "i32[2, 5]", "f32[2, 5]", _options(3, 0.01)),
    ("f32[1, 13]", "i32[1]", "f32[1]", _options(None, 0.1)),
    ("f32[4, 1]", "i32[4]", "f32[4]", _options(-100, 0.0)),
    ("f32[9]", "i32[]", "f32[]", _options(None, 0.0)),
    ("bf16[3, 7]", "i32[3]", "f32[3]", _options(2, 0.0)),
)


def _index(logits: str) -> str:
    """How targets are drawn: below the last dim."""
    return f"index:{logits.rstrip(']').replace('[', ' ').replace('=', ' ').split()[-1]}"


def _letters(instruction: Instruction) -> Letters:
    """All is whole: classes, for they are normalized, and rows, for the mean counts them. Written out, sums of either may be divided."""
    names = NAMES[: len(instruction.operands[0].type.dims)]
    slots = [names[: len(v.type.dims)] for v in values_of(instruction)]
    return lettered(instruction, slots, dict.fromkeys(names, Join.WHOLE))


CROSS_ENTROPY = Op(
    name="cross_entropy",
    doc="the mean over kept targets of -log softmax(logits)[target] + z * logsumexp(logits)^2, and that logsumexp; `ignore` is not kept",
    attributes=("ignore", "z"),
    type_rule=_forward_rule,
    meaning=_forward_meaning,
    vjp=_forward_vjp,
    factors=corresponding(_letters),
    lowering=Composite(_forward_expand),
    flops=_flops,
    samples=tuple(Sample((logits, targets), options, ("normal", _index(logits))) for logits, targets, _, options in _CASES),
)


def _vjp_rule(types: Types, _attributes: Attributes) -> Types:
    check_count("cross_entropy_vjp", types, 4)
    logits, targets, lse, dloss = types
    _check("cross_entropy_vjp", logits, targets)
    check_dims("cross_entropy_vjp", targets.dims, lse.dims, (logits, lse))
    check_dims("cross_entropy_vjp", (), dloss.dims, (logits, dloss))
    wide = (dtype_of(logits.dtype).wide,)
    check_dtype("cross_entropy_vjp", lse, wide)
    check_dtype("cross_entropy_vjp", dloss, wide)
    return (logits,)


def _vjp_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    logits, targets, lse, dloss = operands
    kept, index, count = _kept(targets, attributes)
    weights = np.exp(logits - lse[..., None]) * (1 + 2 * attributes["z"] * lse)[..., None]
    hot = index[..., None] == np.arange(logits.shape[-1])
    scale = np.where(kept, dloss / np.array(count, lse.dtype), np.zeros((), lse.dtype))
    return ((weights - hot.astype(weights.dtype)) * scale[..., None],)


def _vjp_expand(b: Builder, instruction: Instruction) -> tuple[Value, ...]:
    """Pointwise over [rows, classes] from values a row: lse, target, and the row's share of dloss."""
    logits, _, lse, dloss = instruction.operands
    dims = logits.type.dims
    rows = tuple(range(len(dims) - 1))

    def every(value: Value) -> Value:
        return b.one("broadcast", value, dims=dims, axes=rows)

    kept, index, count = _rows(b, instruction)
    share = broadcast_to(b, b.one("div", dloss, count), lse.type.dims)
    if kept is not None:
        share = b.one("select", kept, share, zeros(b, share.type))
    weights = b.one("exp", b.one("sub", widened(b, logits), every(lse)))
    z = given(instruction)["z"]
    if z:
        growth = b.one("add", times(b, lse, 2.0 * z), constant_like(b, 1.0, lse.type))
        weights = b.one("mul", weights, every(growth))
    place = b.one("broadcast", b.one("iota", dim=dims[-1]), dims=dims, axes=(len(dims) - 1,))
    hot = b.one("cast", b.one("equal", place, every(index)), dtype=lse.type.dtype)
    gradient = b.one("mul", b.one("sub", weights, hot), every(share))
    return (cast_to(b, gradient, logits.type.dtype),)


CROSS_ENTROPY_VJP = Op(
    name="cross_entropy_vjp",
    doc="the gradient of cross_entropy's logits from its operands, its log-sum-exp and the gradient of the loss",
    attributes=("ignore", "z"),
    type_rule=_vjp_rule,
    meaning=_vjp_meaning,
    vjp=NoGradient("second derivatives are not taken"),
    factors=corresponding(_letters, (3,)),
    lowering=Composite(_vjp_expand),
    flops=_flops,
    samples=tuple(
        Sample((logits, targets, lse, "f32[]"), options, ("normal", _index(logits), "positive", "normal"))
        for logits, targets, lse, options in _CASES
    ),
)

LOSSES = (CROSS_ENTROPY, CROSS_ENTROPY_VJP)
