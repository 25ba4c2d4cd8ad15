"""The contraction of two tensors: matrix products of every kind, as a binary einsum."""

from __future__ import annotations

import math
from functools import lru_cache

from mlc.diagnostics import OpError
from mlc.ir.builder import Builder
from mlc.ir.factors import Join
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Contraction, Keys, Op, Sample
from mlc.ir.types import TensorType, Value
from mlc.ops.families import Array, Arrays, given, other_dtypes
from mlc.ops.letters import Letters, corresponding, lettered
from mlc.ops.rules import FLOATS, Types, check_count, check_dtype, same_dtype, show


@lru_cache(maxsize=4096)
def letters(spec: str) -> tuple[str, str, str]:
    """The letters of left operand, right operand and result of "bik,bkj->bij"; E0209 when it is not a contraction."""
    inputs, arrow, out = spec.partition("->")
    left, comma, right = inputs.partition(",")
    if not arrow or not comma or not (left + right + out + "a").isalpha():
        raise OpError("E0209", f'contract: "{spec}" is not of the form "ik,kj->ij"')
    for group in (left, right, out):
        repeated = next((letter for letter in group if group.count(letter) > 1), None)
        if repeated:
            raise OpError("E0209", f'contract: letter {repeated} occurs twice in "{group}" of "{spec}"', "diagonals are not taken")
    for letter in left + right:
        if letter not in out and not (letter in left and letter in right):
            message = f'contract: letter {letter} of "{spec}" is in one operand only and not in the result'
            raise OpError("E0209", message, "sum over it first")
    for letter in out:
        if letter not in left + right:
            raise OpError("E0209", f'contract: letter {letter} of the result of "{spec}" is in no operand')
    return left, right, out


def _contract_rule(types: Types, attributes: Attributes) -> Types:
    check_count("contract", types, 2)
    spec = attributes["spec"]
    left, right, out = letters(spec)
    x, y = types
    check_dtype("contract", x, FLOATS)
    same_dtype("contract", types)
    if len(left) != len(x.dims) or len(right) != len(y.dims):
        raise OpError("E0209", f'contract "{spec}": the letters do not match the dims of {show(types)}')
    dims = dict(zip(left, x.dims, strict=True))
    for letter, d in zip(right, y.dims, strict=True):
        if dims.setdefault(letter, d) is not d and dims[letter].size != d.size:
            raise OpError("E0203", f'contract "{spec}": dimension {letter} differs: {x} and {y}')
    return (TensorType(x.dtype, tuple(dims[letter] for letter in out)),)


def contract(spec: str, x: Array, y: Array) -> Array:
    """The einsum of two arrays as one batched matrix product, in their own precision."""
    left, right, out = letters(spec)
    batch = [letter for letter in left if letter in right and letter in out]
    rows = [letter for letter in left if letter not in right]
    columns = [letter for letter in right if letter not in left]
    inner = [letter for letter in left if letter in right and letter not in out]
    size = {**dict(zip(left, x.shape, strict=True)), **dict(zip(right, y.shape, strict=True))}

    def grouped(array: Array, have: str, *groups: list[str]) -> Array:
        order = [have.index(letter) for group in groups for letter in group]
        return array.transpose(order).reshape([math.prod(size[letter] for letter in group) for group in groups])

    product = grouped(x, left, batch, rows, inner) @ grouped(y, right, batch, inner, columns)
    made = batch + rows + columns
    return product.reshape([size[letter] for letter in made]).transpose([made.index(letter) for letter in out])


def _contract_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    return (contract(attributes["spec"], *operands),)


def _contract_vjp(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """Each letter of an operand is in the other or in the result, so either gradient is again one contraction."""
    (dz,) = cotangents
    if dz is None:
        return (None, None)
    left, right, out = letters(given(instruction)["spec"])
    x, y = instruction.operands
    dx = b.one("contract", dz, y, spec=f"{out},{right}->{left}")
    dy = b.one("contract", x, dz, spec=f"{left},{out}->{right}")
    return (dx, dy)


def _contract_letters(instruction: Instruction) -> Letters:
    left, right, out = letters(instruction.attribute("spec"))
    return lettered(instruction, (left, right, out), {letter: Join.SUM for letter in left if letter not in out})


def contraction_flops(instruction: Instruction) -> int:
    """2 for each product of two elements."""
    left, right, _ = letters(given(instruction)["spec"])
    x, y = (v.type.shape for v in instruction.operands)
    return 2 * math.prod({**dict(zip(left, x, strict=True)), **dict(zip(right, y, strict=True))}.values())


def _sample(spec: str, x: str, y: str) -> Sample:
    return Sample((x, y), (("spec", spec),), ("normal", "normal"))


CONTRACT = Op(
    name="contract",
    doc="the sum of products over the letters that are not in the result (einsum of two operands); summed in f32, of f64 in f64",
    attributes=("spec",),
    type_rule=_contract_rule,
    meaning=_contract_meaning,
    vjp=_contract_vjp,
    factors=corresponding(_contract_letters, (0,), (1,)),
    lowering=Contraction(),
    flops=contraction_flops,
    samples=(
        _sample("ik,kj->ij", "f32[3, 5]", "f32[5, 7]"),
        _sample("ik,jk->ij", "f32[batch=17, width=33]", "f32[hidden=19, width=33]"),
        _sample("btn,nm->btm", "f32[2, 3, 5]", "f32[5, 4]"),
        _sample("bik,bkj->bij", "f32[2, 3, 5]", "f32[2, 5, 7]"),
        _sample("btgrd,bsgd->bgrts", "f32[2, 3, 2, 1, 4]", "f32[2, 5, 2, 4]"),
        _sample("bhij,bhjd->bihd", "f32[2, 3, 4, 4]", "f32[2, 3, 4, 5]"),
        _sample("ij,j->i", "f32[3, 5]", "f32[5]"),
        _sample("i,j->ij", "f32[3]", "f32[5]"),
        _sample("i,i->", "f32[13]", "f32[13]"),
        _sample("ik,kj->ij", "f32[1, 1]", "f32[1, 1]"),
        *other_dtypes(_sample("ik,kj->ij", "f32[5, 33]", "f32[33, 7]"), FLOATS),
    ),
)
