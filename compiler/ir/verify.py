"""The invariants of a function, checked after every pass.

Single definition; defined before use; every use is the value that was defined; attributes exactly those declared, sorted;
result types equal the op's own rule in dtype and sizes (labels are free); results of the function distinct and none a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlc.diagnostics import InternalError, OpError
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Rule
from mlc.ir.text import print_instruction
from mlc.ir.types import Value


def verify(function: Function, ops: Mapping[str, Rule]) -> None:
    """Raises InternalError with the instruction at fault and its neighbours."""
    defined: dict[str, Value] = {}
    for parameter in function.parameters:
        if parameter.name in defined:
            raise InternalError(f"{function.name}: parameter {parameter} is given twice")
        defined[parameter.name] = parameter
    for at, instruction in enumerate(function.instructions):
        fault = _fault(instruction, defined, ops)
        if fault:
            raise InternalError(_report(function, at, fault))
        defined.update((v.name, v) for v in instruction.results)
    _check_results(function, defined)


def _fault(instruction: Instruction, defined: Mapping[str, Value], ops: Mapping[str, Rule]) -> str | None:
    """What is wrong with one instruction, given the values defined before it."""
    record = ops.get(instruction.op)
    if record is None:
        return f"there is no op {instruction.op!r}"
    for operand in instruction.operands:
        source = defined.get(operand.name)
        if source is None:
            return f"operand {operand} is not defined before its use"
        if source is not operand and source != operand:
            return f"operand {operand} is read as {operand.type} and defined as {source.type}"
    names: set[str] = set()
    for result in instruction.results:
        if result.name in defined or result.name in names:
            return f"%{result.name} is defined twice"
        names.add(result.name)
    return _attribute_fault(instruction, record) or _type_fault(instruction, record)


def _attribute_fault(instruction: Instruction, record: Rule) -> str | None:
    keys = [key for key, _ in instruction.attributes]
    if keys != sorted(record.attributes):
        return f"attributes {keys} are not the declared {sorted(record.attributes)} in sorted order"
    return None


def _type_fault(instruction: Instruction, record: Rule) -> str | None:
    try:
        expected = record.type_rule(tuple(v.type for v in instruction.operands), dict(instruction.attributes))
    except OpError as error:
        return f"[{error.code}] {error.message}"
    except InternalError as error:
        return str(error)
    have = tuple([v.type for v in instruction.results])
    if expected != have and (len(expected) != len(have) or not all(a.same(b) for a, b in zip(expected, have, strict=True))):
        return f"result types are {_listed(have)}, the rule of the op gives {_listed(expected)}"
    return None


def _listed(types: tuple[object, ...]) -> str:
    return ", ".join(map(str, types)) or "none"


def _report(function: Function, at: int, fault: str) -> str:
    instruction = function.instructions[at]
    lines = [f"{function.name}, instruction {at} ({instruction.op}, via {instruction.via}): {fault}"]
    for near in range(max(at - 2, 0), min(at + 3, len(function.instructions))):
        lines.append(f"{'>' if near == at else ' '} {print_instruction(function.instructions[near])}")
    return "\n".join(lines)


def _check_results(function: Function, defined: Mapping[str, Value]) -> None:
    seen = {p.name for p in function.parameters}
    for result in function.results:
        if defined.get(result.name) != result:
            raise InternalError(f"{function.name}: result {result}: {result.type} is not defined so")
        if result.name in seen:
            raise InternalError(f"{function.name}: result {result} is a parameter or given twice: insert a copy")
        seen.add(result.name)
