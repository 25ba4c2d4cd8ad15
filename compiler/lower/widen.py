"""Compute in a wider dtype what no kernel computes in a narrow one.

    before:  %y = scatter_add %x, %i : bf16[...]
    after:   %x.f32 = cast %x   %y.f32 = scatter_add %x.f32, %i   %y = cast %y.f32

Which dtypes a kernel knows the target says.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlc.diagnostics import Diagnostic, MlcError
from mlc.ir.builder import Builder
from mlc.ir.dtypes import dtype_of, is_narrow
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Contraction, LibraryKernel, Op, Scatter
from mlc.ir.types import Value
from mlc.lower.rules import Rules


def _narrow(instruction: Instruction, ops: Mapping[str, Op], rules: Rules) -> bool:
    """Whether it has narrow values of a dtype that its kernel does not know. raises: E0815 for one that no cast widens"""
    match ops[instruction.op].lowering:
        case Scatter():
            known = rules.scatters
        case Contraction():
            known = rules.contractions.dtypes
        case LibraryKernel(name) if name in rules.kernels:
            known = rules.kernels[name].dtypes
        case _:
            return False
    unknown = sorted({v.type.dtype for v in (*instruction.operands, *instruction.results) if dtype_of(v.type.dtype).is_float} - {*known})
    for dtype in unknown:
        if not is_narrow(dtype):
            message = f"the kernel of target {rules.target} for {instruction.op} has no dtype {dtype}, which an operand or a result has"
            raise MlcError([Diagnostic("E0815", message, instruction.span, help=f"it has {', '.join(known)}")])
    return bool(unknown)


def widen(function: Function, ops: Mapping[str, Op], rules: Rules) -> Function:
    """The function with scatters, contractions and library kernels in a wider dtype between casts where the target has no narrow one."""
    if not any(_narrow(i, ops, rules) for i in function.instructions):
        return function
    taken = {p.name for p in function.parameters} | {r.name for i in function.instructions for r in i.results}
    out: list[Instruction] = []
    for instruction in function.instructions:
        if not _narrow(instruction, ops, rules):
            out.append(instruction)
            continue
        builder = Builder(ops, "widen", instruction.span, taken)
        operands = tuple(_wide(builder, o) for o in instruction.operands)
        results = builder.emit(instruction.op, *operands, hint=instruction.results[0].name, **dict(instruction.attributes))
        taken |= {r.name for i in builder.instructions for r in i.results}
        out.extend(builder.instructions)
        out.extend(_cast(r, wide, instruction) for r, wide in zip(instruction.results, results, strict=True))
    return Function(function.name, function.parameters, tuple(out), function.results)


def _wide(builder: Builder, value: Value) -> Value:
    if not is_narrow(value.type.dtype):
        return value
    return builder.one("cast", value, hint=value.name, dtype=dtype_of(value.type.dtype).register)


def _cast(result: Value, wide: Value, instruction: Instruction) -> Instruction:
    return Instruction("cast", (wide,), (("dtype", result.type.dtype),), (result,), instruction.span, "widen")
