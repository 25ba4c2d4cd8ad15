"""What the units of a chain say of parameters: where gradients arrive, what is read."""

from __future__ import annotations

from mlc.ir.function import Function, Instruction
from mlc.ir.op import NoGradient
from mlc.ir.program import Chain, Unit
from mlc.ops import OPS


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
    positions: dict[tuple[int, tuple[bool, ...]], dict[str, list[int]]] = {}
    for call in reversed(chain.calls):
        unit, wanted = units[call.unit], tuple([name in active for name in call.results])
        if (call.unit, wanted) not in positions:
            positions[call.unit, wanted] = _read_positions(unit, table[call.unit], wanted)
        at = positions[call.unit, wanted]
        active.update([call.arguments[n] for n in at["state"]])
        read.update([call.arguments[n] for n in at["param"]])
        read.update(name for effect, name in zip(unit.effects, call.effects, strict=True) if effect.kind == "accumulate")
    return read


def _read_positions(unit: Unit, depends: list[frozenset[str]], wanted: tuple[bool, ...]) -> dict[str, list[int]]:
    """Which arguments of a call its wanted results and its effects depend on, by role. depends: of each result"""
    live = (*wanted, *(True for _ in unit.effects))
    names = set().union(*(of for of, is_live in zip(depends, live, strict=True) if is_live))
    found: dict[str, list[int]] = {"state": [], "param": []}
    for n, (parameter, role) in enumerate(zip(unit.function.parameters, unit.roles, strict=True)):
        if parameter.name in names and role in found:
            found[role].append(n)
    return found


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
