"""Simplification: equal values are computed once, and in the simplest known way; what nothing reads is dropped.

before:  %a = broadcast %one {axes=(), dims=(3)} : f32[3]       after:  %c = exp %x : f32[3]
         %b = mul %x, %a : f32[3]
         %c = exp %b : f32[3]
         %d = exp %x : f32[3]          (%d is read as %c)
"""

from __future__ import annotations

from collections.abc import Mapping

from mlc.diagnostics import NO_SPAN
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Op, Pointwise
from mlc.ir.types import Value
from mlc.passes import algebra, places
from mlc.passes.rewrite import Call, Rewriter, Rule, live, renamed, rewriter


def simplify(function: Function, ops: Mapping[str, Op]) -> Function:
    """An equal function with the same parameters and the same names of results, in one forward walk and one back.

    Results are distinct and none is a parameter: `copy` is inserted where two would be one value. No rule changes a bit
    (algebra.py, places.py), but a contraction may read its operands through other strides.
    """
    if not function.instructions:
        return _with_results(function, [], {v.name: v for v in function.parameters})
    s = rewriter(function, ops, _rules(ops))
    values = {v.name: v for v in function.parameters}
    for instruction in function.instructions:
        s.builder.span, s.builder.via = instruction.span, instruction.via
        operands = tuple(values[v.name] for v in instruction.operands)
        made = s.make(Call(instruction.op, operands, instruction.attributes), instruction)
        values.update({v.name: _stretching(s, m, v) for v, m in zip(instruction.results, made, strict=True)})
    return _with_results(function, s.builder.instructions, values)


def _stretching(s: Rewriter, value: Value, source: Value) -> Value:
    """`value` in place of `source`: where that has a literal 1, which stretches, so has the result."""
    if all(a.factors or not b.factors for a, b in zip(source.type.dims, value.type.dims, strict=True)):
        return value
    return s.value("reshape", value, dims=source.type.dims)


def _rules(ops: Mapping[str, Op]) -> dict[str, tuple[Rule, ...]]:
    """The rules of each op, in the order they are tried."""
    return {
        name: (*places.RULES.get(name, ()), *algebra.RULES.get(name, ()), *((algebra.hoist,) if isinstance(op.lowering, Pointwise) else ()))
        for name, op in ops.items()
    }


def _with_results(function: Function, instructions: list[Instruction], values: Mapping[str, Value]) -> Function:
    """The function that returns values[r] under the name of each result r, and computes nothing else."""
    parameters = {v.name for v in function.parameters}
    results = {r.name: values[r.name] for r in function.results}
    names = {name: name for name, value in results.items() if name == value.name and name not in parameters}
    for name, value in results.items():
        if value.name not in parameters:
            names.setdefault(value.name, name)
    made = [renamed(i, names) for i in instructions]
    span = function.instructions[-1].span if function.instructions else NO_SPAN
    for name, value in results.items():
        if names.get(value.name) != name:
            source = Value(names.get(value.name, value.name), value.type)
            made.append(Instruction("copy", (source,), (), (Value(name, value.type),), span, "simplify"))
    typed = tuple(Value(name, value.type) for name, value in results.items())
    return Function(function.name, function.parameters, tuple(live(made, set(results))), typed)
