"""Ops of indices on a part of what they count along: a run that begins at a number which is the last operand.

Indices outside of the run pick -0.0, which adds nothing to any number, or add nothing: the sum over all parts is the op on the whole.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mlc.ir.builder import Builder
from mlc.ir.factors import Site
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Composite, Keys, NoGradient, Op, Sample
from mlc.ir.types import Value
from mlc.ops.broadcasting import constant_like, spread
from mlc.ops.families import Array, Arrays, given
from mlc.ops.indexing import GATHER, PICKED, PUT_ALONG, SCATTER_ADD, TAKE_ALONG
from mlc.ops.letters import Letters, corresponding
from mlc.ops.rules import NUMBERS, Types, check_count, check_dims, check_dtype


def _behind_begin(site: Site) -> Site:
    """Results come one slot later."""
    return site._replace(slot=site.slot + (site.slot >= 2))


def _part(op: Op, doc: str, picks: bool, count: int) -> Op:
    """The op on a run of what its index counts along. picks: elements are taken from it, not added to it; `count` samples of its own."""
    name = f"{op.name}_part"

    def type_rule(types: Types, attributes: Attributes) -> Types:
        check_count(name, types, 3)
        check_dtype(name, types[0], NUMBERS)
        check_dtype(name, types[2], ("i32",))
        check_dims(name, (), types[2].dims, types)
        return op.type_rule(types[:2], attributes)

    def run(operands: Arrays, attributes: Attributes) -> int:
        """How many indices the run has."""
        if "dim" in attributes:
            return attributes["dim"].size
        return operands[0].shape[attributes["axis"]]

    def meaning(operands: Arrays, attributes: Attributes, keys: Keys) -> Arrays:
        data, index, begin = operands
        local = index - begin
        kept = (local >= 0) & (local < run(operands, attributes))
        safe = np.where(kept, local, 0)
        nothing = np.array(-0.0 if data.dtype.kind == "f" else 0, data.dtype)
        if not picks:
            return op.meaning((np.where(_lifted(kept, 0, data.ndim), data, nothing), safe), attributes, keys)
        (made,) = op.meaning((data, safe), attributes, keys)
        at = attributes["axis"] if op is GATHER else 0
        return (np.where(_lifted(kept, at, made.ndim), made, nothing),)

    def expand(b: Builder, instruction: Instruction) -> tuple[Value, ...]:
        data, index, begin = instruction.operands
        attributes = given(instruction)
        size = attributes["dim"].size if "dim" in attributes else data.type.dims[attributes["axis"]].size
        dims = index.type.dims
        local = b.one("sub", index, b.one("broadcast", begin, dims=dims, axes=()))
        kept = b.one(
            "and",
            b.one("less_equal", constant_like(b, 0, index.type), local),
            b.one("less", local, constant_like(b, size, index.type)),
        )
        safe = b.one("select", kept, local, constant_like(b, 0, index.type))
        if not picks:
            return (b.one(op.name, _kept(b, kept, 0, data), safe, **attributes),)
        made = b.one(op.name, data, safe, **attributes)
        return (_kept(b, kept, attributes["axis"] if op is GATHER else 0, made),)

    def letters(instruction: Instruction) -> Letters:
        """Those of the op, but that what it counts along is whole: it is a part already."""
        whole = op.factors.letters(replace(instruction, op=op.name, operands=instruction.operands[:2]))
        return tuple(letter._replace(sites=tuple(map(_behind_begin, letter.sites))) for letter in whole if letter.name != PICKED)

    return Op(
        name=name,
        doc=doc,
        attributes=op.attributes,
        type_rule=type_rule,
        meaning=meaning,
        vjp=NoGradient("it is made after differentiation"),
        factors=corresponding(letters, (0,)),
        lowering=Composite(expand),
        flops=op.flops,
        samples=tuple(_sample(s) for s in op.samples[:count]),
    )


def _lifted(kept: Array, before: int, rank: int) -> Array:
    """A mask with dims of 1 behind, and in front where `before` dims are: those of the index begin there."""
    return kept.reshape((1,) * before + kept.shape + (1,) * (rank - before - kept.ndim))


def _kept(b: Builder, kept: Value, before: int, data: Value) -> Value:
    """The data where the mask is true, else -0.0."""
    dims = data.type.dims
    axes = range(before, before + len(kept.type.dims))
    mask = spread(b, kept, dims, tuple(d for d in range(len(dims)) if d not in axes), False)
    return b.one("select", mask, data, constant_like(b, -0.0, data.type))


def _sample(sample: Sample) -> Sample:
    """A sample of the op with a begin that is near enough for some indices to fall into the part."""
    return Sample((*sample.operands, "i32[]"), sample.attributes, (*sample.draw, "index:3"))


PICKED_PARTS = (
    _part(GATHER, "gather of a run of the dim, which begins at the last operand: -0.0 where the index is not in it", True, 6),
    _part(SCATTER_ADD, "scatter_add into a run of the dim, which begins at the last operand: others are not added", False, 5),
    _part(TAKE_ALONG, "take_along of a run of the dim, which begins at the last operand: -0.0 where the index is not in it", True, 4),
    _part(PUT_ALONG, "put_along into a run of the dim, which begins at the last operand: others are not added", False, 4),
)
