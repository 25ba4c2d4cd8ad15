"""@kernel functions that the IR keeps whole: calls that fit the op of the same name become that op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlc.elaborate.site import Site
from mlc.elaborate.values import FunctionValue
from mlc.ir.types import Value


def whole(site: Site, function: FunctionValue, values: dict[str, Any]) -> Value | None:
    """The call as one op, None where the body must be inlined."""
    made = WHOLE.get(function.name)
    if made is None or made[0] != tuple(p.name for p in function.node.parameters):
        return None
    return made[1](site, values)


def _attention(site: Site, values: dict[str, Any]) -> Value | None:
    q, k, v, bias, mask, scale = (values[n] for n in ("q", "k", "v", "bias", "mask", "scale"))
    heads, groups = q.type.dims[2].size, k.type.dims[2].size
    if bias is not None or heads % groups or len({q.type.dtype, k.type.dtype, v.type.dtype}) > 1:
        return None
    scale = 1.0 / q.type.dims[3].size ** 0.5 if scale is None else float(scale)
    operands = (q, k, v) if mask is None else (q, k, v, mask)
    return site.builder.emit("attention", *operands, causal=values["causal"], scale=scale)[0]


def _cross_entropy(site: Site, values: dict[str, Any]) -> Value | None:
    ignore = values["ignore"]
    attributes = {"ignore": None if ignore is None else int(site.index(ignore, "cross_entropy")), "z": float(values["z"])}
    return site.builder.emit("cross_entropy", values["logits"], values["targets"], **attributes)[0]


#: name -> parameters, and the op's instruction
WHOLE: dict[str, tuple[tuple[str, ...], Callable[[Site, dict[str, Any]], Value | None]]] = {
    "attention": (("q", "k", "v", "causal", "scale", "bias", "mask"), _attention),
    "cross_entropy": (("logits", "targets", "ignore", "z"), _cross_entropy),
}
