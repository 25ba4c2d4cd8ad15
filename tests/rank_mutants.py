"""Random edits of divided functions: whatever a pass, a plan or a person could get wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from mlc.ir.factors import Join
from mlc.ir.forms import WHOLE, RankFunction, RankStep, RankVariant, Term
from mlc.ir.function import Function, Instruction
from mlc.ir.types import Value
from mlc.ops.mesh import MESH_OPS

Edit = Callable[[random.Random, RankFunction], RankFunction | None]


def _with(of: RankFunction, instructions: Sequence[Instruction]) -> RankFunction:
    return replace(of, function=replace(of.function, instructions=tuple(instructions)))


def _edited(of: RankFunction, at: int, instruction: Instruction) -> RankFunction:
    body = of.function.instructions
    return _with(of, (*body[:at], instruction, *body[at + 1 :]))


def _pick(rng: random.Random, of: RankFunction, fits: Callable[[Instruction], object]) -> int | None:
    found = [n for n, i in enumerate(of.function.instructions) if fits(i)]
    return rng.choice(found) if found else None


def _renamed(function: Function, names: dict[str, Value]) -> Function:
    def value(v: Value) -> Value:
        return names.get(v.name, v)

    body = tuple(replace(i, operands=tuple(map(value, i.operands))) for i in function.instructions)
    return replace(function, instructions=body, results=tuple(map(value, function.results)))


def drop(rng: random.Random, of: RankFunction) -> RankFunction | None:
    """An instruction of one result goes; who read it reads its operand."""
    at = _pick(rng, of, lambda i: len(i.results) == 1 and i.operands and (i.op in MESH_OPS or rng.random() < 0.1))
    if at is None:
        return None
    i = of.function.instructions[at]
    rest = _with(of, [j for j in of.function.instructions if j is not i])
    return replace(rest, function=_renamed(rest.function, {i.result.name: rng.choice(i.operands)}))


def twice(rng: random.Random, of: RankFunction) -> RankFunction | None:
    """A collective that keeps its type is done to its own result once more."""
    at = _pick(rng, of, lambda i: i.op == "all_reduce" and len(i.operands) == 1)
    if at is None:
        return None
    i = of.function.instructions[at]
    first = Value(f"{i.result.name}.first", i.result.type)
    body = of.function.instructions
    again = (replace(i, results=(first,)), replace(i, operands=(first,)))
    claims = (*of.claims, (first.name, dict(of.claims)[i.result.name]))
    return replace(_with(of, (*body[:at], *again, *body[at + 1 :])), claims=claims)


def other_op(rng: random.Random, of: RankFunction) -> RankFunction | None:
    at = _pick(rng, of, lambda i: i.op in ("add", "sub", "mul", "div", "sum", "max", *MESH_OPS))
    if at is None:
        return None
    i = of.function.instructions[at]
    alike = {"add": "sub", "sub": "add", "mul": "div", "div": "mul", "sum": "max", "max": "sum"}
    return _edited(of, at, replace(i, op=alike.get(i.op) or rng.choice(list(MESH_OPS))))


def other_factor(rng: random.Random, of: RankFunction) -> RankFunction | None:
    """Another factor, number of ranks, axis, join or place."""
    at = _pick(rng, of, lambda i: i.op in MESH_OPS)
    if at is None:
        return None
    i = of.function.instructions[at]
    key, value = rng.choice(i.attributes)
    if isinstance(value, str):
        edited = {"tp": "cp", "sum": "max", "max": "sum"}[value]
    else:
        assert isinstance(value, int)
        edited = rng.choice([value + 1, value - 1, value * 2, value // 2])
    return _edited(of, at, replace(i, attributes=tuple((k, edited if k == key else v) for k, v in i.attributes)))


def other_attribute(rng: random.Random, of: RankFunction) -> RankFunction | None:
    at = _pick(rng, of, lambda i: i.op not in MESH_OPS and i.attributes)
    if at is None:
        return None
    i = of.function.instructions[at]
    key, value = rng.choice(i.attributes)
    match value:
        case bool():
            edited: object = not value
        case int():
            edited = value + 1
        case float():
            edited = value * 1.25
        case str() if "->" in value:
            inputs, out = value.split("->")
            edited = f"{inputs}->{out[1:]}{out[:1]}"
        case tuple():
            edited = value[::-1]
        case _:
            return None
    return _edited(of, at, replace(i, attributes=tuple((k, edited if k == key else v) for k, v in i.attributes)))


def other_operand(rng: random.Random, of: RankFunction) -> RankFunction | None:
    """A value of the same type, made before: a stale one, another parameter, another strip."""
    at = _pick(rng, of, lambda i: i.operands)
    if at is None:
        return None
    i = of.function.instructions[at]
    slot = rng.randrange(len(i.operands))
    before = [*of.function.parameters, *(r for j in of.function.instructions[:at] for r in j.results)]
    like = [v for v in before if v.type.same(i.operands[slot].type) and v.name != i.operands[slot].name]
    return _edited(of, at, replace(i, operands=(*i.operands[:slot], rng.choice(like), *i.operands[slot + 1 :]))) if like else None


def other_order(rng: random.Random, of: RankFunction) -> RankFunction | None:
    at = _pick(rng, of, lambda i: len({v.name for v in i.operands}) > 1)
    if at is None:
        return None
    i = of.function.instructions[at]
    operands = list(i.operands)
    rng.shuffle(operands)
    return _edited(of, at, replace(i, operands=tuple(operands)))


def other_result(rng: random.Random, of: RankFunction) -> RankFunction | None:
    """A result is another value of its type, or is missing."""
    function = of.function
    if not function.results:
        return None
    n = rng.randrange(len(function.results))
    if rng.random() < 0.3:
        return replace(of, function=replace(function, results=(*function.results[:n], *function.results[n + 1 :])))
    made = [r for i in function.instructions for r in i.results if r.type.same(function.results[n].type) and r not in function.results]
    if not made:
        return None
    return replace(of, function=replace(function, results=(*function.results[:n], rng.choice(made), *function.results[n + 1 :])))


def other_claim(rng: random.Random, of: RankFunction) -> RankFunction | None:
    """A value claims to be another one, or to lie otherwise."""
    n = rng.randrange(len(of.claims)) if of.claims else None
    if n is None:
        return None
    name, claim = of.claims[n]
    others = [c for _, c in of.claims]
    edited = rng.choice(
        [
            replace(claim, name=rng.choice(others).name),
            replace(claim, form=rng.choice(others).form),
            rng.choice(others),
            replace(claim, form=WHOLE, strip=None),
            replace(claim, strip=rng.choice([None, 0, 1])),
            replace(claim, form=Term(rng.choice([Join.SUM, Join.MAX])), strip=0),
        ]
    )
    return replace(of, claims=(*of.claims[:n], (name, edited), *of.claims[n + 1 :]))


#: What may be edited, the likeliest faults twice.
EDITS: tuple[Edit, ...] = (
    drop,
    twice,
    other_op,
    other_factor,
    other_factor,
    other_attribute,
    other_operand,
    other_operand,
    other_order,
    other_result,
    other_claim,
)


def mutant(rng: random.Random, ranks: RankStep) -> tuple[str, RankStep] | None:
    """What was done, and the step with one function edited or one parameter held otherwise; None where the edit drawn changes nothing."""
    if rng.random() < 0.05:
        return _held_otherwise(rng, ranks)
    units = [n for n, v in enumerate(ranks.variants) if v is not None]
    unit, part, edit = rng.choice(units), rng.randrange(3), rng.choice(EDITS)
    variant = ranks.variants[unit]
    assert variant is not None
    functions = list(variant.functions)
    edited = edit(rng, functions[part])
    if edited is None or edited == functions[part]:
        return None
    functions[part] = edited
    variants = (*ranks.variants[:unit], RankVariant(*functions), *ranks.variants[unit + 1 :])
    return f"{edit.__name__} in {edited.function.name}", replace(ranks, variants=variants)


def _held_otherwise(rng: random.Random, ranks: RankStep) -> tuple[str, RankStep] | None:
    n = rng.randrange(len(ranks.parameters))
    name, form = ranks.parameters[n]
    other = rng.choice([f for _, f in ranks.parameters] + [WHOLE])
    if other == form:
        return None
    return f"{name} held {other}", replace(ranks, parameters=(*ranks.parameters[:n], (name, other), *ranks.parameters[n + 1 :]))


