"""What each rank of an axis holds and does of a divided step, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mlc.diagnostics import Span
from mlc.ir.forms import WHOLE, Claim, Cut, Form, RankFunction, RankStep
from mlc.ir.function import Instruction
from mlc.ir.types import TensorType
from mlc.ops.mesh import COLLECTIVES
from mlc.parallel.quantities import size_text
from mlc.parallel.shard_proof import Owed


def explain_ranks(ranks: RankStep, owed: Sequence[Owed]) -> str:
    """A text of several lines: parameters, then unit by unit what is done together in a microbatch."""
    return "\n".join([*_head(ranks), *(line for unit in _called(ranks) for line in _unit(ranks, unit, owed))])


def sent_bytes(instruction: Instruction, parts: int) -> int:
    """What a rank sends in a collective."""
    value = (instruction.results if instruction.op == "all_gather" else instruction.operands)[0].type
    share = value.bytes * (parts - 1) // parts
    return 2 * share if instruction.op == "all_reduce" else share


def along(kind: TensorType, form: Form) -> str:
    """A form, by the name of the factor that is cut where it has one."""
    if not isinstance(form, Cut):
        return str(form)
    inner = kind.shape[form.dim]
    for factor in kind.dims[form.dim].factors:
        inner //= factor.size
        if inner == form.inner and factor.size > 1:
            return f"cut along {factor.label}" if factor.label else f"cut along dim {form.dim}, a factor of {factor.size}"
    return f"cut along dim {form.dim}"


def _called(ranks: RankStep) -> Iterator[int]:
    yield from dict.fromkeys(call.unit for call in ranks.whole.program.train.calls)


def _head(ranks: RankStep) -> Iterator[str]:
    axis, program = ranks.axis, ranks.whole.program
    forms = dict(ranks.parameters)
    total = sum(p.type.size for p in program.parameters)
    held = sum(p.type.size // (axis.parts if isinstance(forms[p.name], Cut) else 1) for p in program.parameters)
    yield f"{program.name} on {axis.parts} ranks of {axis.name}, sums over {axis.strips} strips; proved: together they compute the model"
    yield f"a rank holds {held:,} of {total:,} elements of parameters: {held / max(total, 1):.2%}, 1/{axis.parts} is {1 / axis.parts:.2%}"


def _unit(ranks: RankStep, number: int, owed: Sequence[Owed]) -> Iterator[str]:
    unit, variant = ranks.whole.program.units[number], ranks.variants[number]
    assert variant is not None
    calls = Counter(call.unit for call in ranks.whole.program.train.calls)[number]
    yield ""
    yield f"{unit.name}, {calls} call{'s' if calls > 1 else ''} a microbatch"
    claims = dict(variant.forward.claims)
    given, made = ([claims[v.name] for v in of] for of in (variant.forward.function.parameters, variant.forward.function.results))
    kinds = {v.name: v.type for v in (*unit.function.parameters, *unit.function.results)}
    for v, role in zip(unit.function.parameters, unit.roles, strict=True):
        if role in ("param", "state"):
            late = "; its gradient is summed over ranks at the end of a step" if Owed(number, v.name) in owed else ""
            yield f"  {role + ' ' + v.name:<44} {along(v.type, _form(given, v.name))}{late}"
    for v in unit.function.results[: unit.outputs]:
        yield f"  {'makes ' + v.name:<44} {along(kinds[v.name], _form(made, v.name))}"
    for stage, of in zip(("forward", "input gradient", "weight gradient"), variant.functions, strict=True):
        yield from _stage(ranks, stage, of)


def _form(claims: Iterable[Claim], name: str) -> Form:
    """How a value is given or made: what is kept in other forms comes behind."""
    return next((c.form for c in claims if c.name == name), WHOLE)


def _stage(ranks: RankStep, stage: str, of: RankFunction) -> Iterator[str]:
    together = [i for i in of.function.instructions if i.op in COLLECTIVES]
    if not together:
        return
    total = sum(sent_bytes(i, ranks.axis.parts) for i in together)
    yield f"  {stage}: a rank sends {size_text(total)} in {len(together)} collective{'s' if len(together) > 1 else ''}"
    claims = dict(of.claims)
    for i in together:
        sent = sent_bytes(i, ranks.axis.parts)
        yield f"    {i.op:<15} {claims[i.results[0].name].name:<28} {size_text(sent):>12}   {_place(i.span)}"


def _place(span: Span) -> str:
    while span.caller is not None:
        span = span.caller
    return f"{span.file}:{span.line}"
