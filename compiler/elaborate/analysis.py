"""What the units of a chain say of parameters and inputs: where gradients arrive, which dims an input indexes."""

from __future__ import annotations

from mlc.ir.function import Function, Instruction
from mlc.ir.op import NoGradient
from mlc.ir.program import Chain, Unit
from mlc.ir.types import Value
from mlc.ops import OPS

#: Ops through which an index keeps its values: op -> places of the operands it may come from.
CARRIES = {
    "reshape": (0,), "transpose": (0,), "slice": (0,), "broadcast": (0,), "copy": (0,), "split": (0,), "stop_gradient": (0,),
    "gather": (0,), "take_along": (0,), "select": (1, 2),
}  # fmt: skip


def differentiable(instruction: Instruction) -> bool:
    """Does a gradient pass through?"""
    return instruction.op != "stop_gradient" and not isinstance(OPS[instruction.op].vjp, NoGradient)


def reaches(function: Function) -> tuple[int, ...]:
    """Per result: the parameters its gradient reaches, as a set of bits."""
    masks = {p.name: 1 << at if p.type.is_float else 0 for at, p in enumerate(function.parameters)}
    for instruction in function.instructions:
        mask = 0
        if differentiable(instruction):
            for operand in instruction.operands:
                mask |= masks[operand.name]
        for result in instruction.results:
            masks[result.name] = mask if result.type.is_float else 0
    return tuple(masks[r.name] for r in function.results)


def trained_parameters(chain: Chain, units: list[Unit]) -> set[str]:
    """Parameters that get a gradient of the loss."""
    table = {number: reaches(units[number].function) for number in {call.unit for call in chain.calls}}
    active = {chain.loss}
    trained: set[str] = set()
    for call in reversed(chain.calls):
        unit = units[call.unit]
        wanted = [name in active for name in call.results] + [e.kind == "add_loss" for e in unit.effects]
        mask = 0
        for bits, live in zip(table[call.unit], wanted, strict=True):
            mask |= bits if live else 0
        for at, (role, name) in enumerate(zip(unit.roles, call.arguments, strict=True)):
            if mask >> at & 1:
                {"state": active, "param": trained}.get(role, set()).add(name)
    return trained


def read_parameters(chain: Chain, units: list[Unit]) -> set[str]:
    """Parameters that anything depends on which leaves the chain: its loss, metrics, logits and effects."""
    table = {number: _depends(units[number].function) for number in {call.unit for call in chain.calls}}
    active = {chain.loss, chain.logits, *(state for _, state in chain.metrics)}
    read: set[str] = set()
    for call in reversed(chain.calls):
        unit = units[call.unit]
        wanted = [name in active for name in call.results] + [True for _ in unit.effects]
        names = set().union(*(of for of, live in zip(table[call.unit], wanted, strict=True) if live))
        for parameter, role, name in zip(unit.function.parameters, unit.roles, call.arguments, strict=True):
            if parameter.name in names:
                {"state": active, "param": read}.get(role, set()).add(name)
        read.update(name for effect, name in zip(unit.effects, call.effects, strict=True) if effect.kind == "accumulate")
    return read


def _depends(function: Function) -> list[frozenset[str]]:
    """Per result: the parameters it is computed from."""
    sources = {p.name: frozenset([p.name]) for p in function.parameters}
    for instruction in function.instructions:
        of = frozenset[str]().union(*(sources[operand.name] for operand in instruction.operands))
        sources.update((result.name, of) for result in instruction.results)
    return [sources[result.name] for result in function.results]


def accumulated_parameters(chain: Chain, units: list[Unit]) -> list[str]:
    """Parameters fed by accumulate, once for each call that does."""
    return [
        name
        for call in chain.calls
        for effect, name in zip(units[call.unit].effects, call.effects, strict=True)
        if effect.kind == "accumulate"
    ]


def limits(function: Function) -> dict[str, int]:
    """Parameter -> the smallest dim it indexes, directly or through moves and selects."""
    sources: dict[str, frozenset[str]] = {p.name: frozenset([p.name]) for p in function.parameters if p.type.dtype == "i32"}
    found: dict[str, int] = {}
    for instruction in function.instructions:
        indexed = _indexed(instruction)
        if indexed is not None:
            value, size = indexed
            for name in sources.get(value.name, ()):
                found[name] = min(size, found.get(name, size))
        places = range(len(instruction.operands)) if instruction.op == "concat" else CARRIES.get(instruction.op, ())
        carried = frozenset().union(*(sources.get(instruction.operands[p].name, frozenset()) for p in places))
        sources.update((r.name, carried) for r in instruction.results)
    return found


def _indexed(instruction: Instruction) -> tuple[Value, int] | None:
    """The operand that indexes, with the size of the dim."""
    match instruction.op:
        case "gather" | "take_along":
            x, index = instruction.operands
            axis = instruction.attribute("axis")
            assert isinstance(axis, int)
            return index, x.type.dims[axis].size
        case "scatter_add" | "put_along":
            return instruction.operands[1], _scattered(instruction)
        case "cross_entropy":
            logits, targets = instruction.operands
            ignore = instruction.attribute("ignore")
            size = logits.type.dims[-1].size
            return (targets, size) if ignore is None or (isinstance(ignore, int) and 0 <= ignore < size) else None
        case _:
            return None


def input_limits(chains: list[Chain], units: list[Unit]) -> dict[str, int]:
    """Input -> the smallest dim it indexes in any chain."""
    table: dict[int, dict[str, int]] = {}
    found: dict[str, int] = {}
    calls = {(c.unit, c.arguments) for chain in chains for c in chain.calls if "input" in units[c.unit].roles}
    for number, arguments in sorted(calls):
        unit = units[number]
        if number not in table:
            table[number] = limits(unit.function)
        for parameter, role, name in zip(unit.function.parameters, unit.roles, arguments, strict=True):
            size = table[number].get(parameter.name)
            if role == "input" and size is not None:
                found[name] = min(size, found.get(name, size))
    return found


def _scattered(instruction: Instruction) -> int:
    """The size of the dim that rows are added into."""
    axis = dict(instruction.attributes).get("axis", 0)
    assert isinstance(axis, int)
    return instruction.results[0].type.dims[axis].size
