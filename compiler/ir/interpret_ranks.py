"""Run a function on all ranks of an axis in one process: the op's own meaning on every rank, and what ranks do together between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mlc.diagnostics import InternalError
from mlc.ir.forms import Axis
from mlc.ir.function import Function, Instruction
from mlc.ir.interpret import stored
from mlc.ir.op import Keys, Op

#: By rank.
Ranks = Sequence[np.ndarray]


class Together(Protocol):
    """What ranks do together: ops/mesh.py."""

    @property
    def meaning(self) -> Callable[..., Sequence[tuple[np.ndarray, ...]]]: ...


def interpret_ranks(
    function: Function,
    arguments: Sequence[Ranks],
    ops: Mapping[str, Op],
    together: Mapping[str, Together],
    axis: Axis,
    keys: Keys,
    float64: bool = False,
) -> tuple[Ranks, ...]:
    """The results of a function on every rank, from its arguments there."""
    values: dict[str, Ranks] = {}
    for parameter, of in zip(function.parameters, arguments, strict=True):
        values[parameter.name] = [stored(a, parameter.type, float64) for a in of]
    for instruction in function.instructions:
        operands = [tuple(values[v.name][rank] for v in instruction.operands) for rank in range(axis.parts)]
        made = _run(instruction, operands, ops, together, keys, float64)
        for slot, v in enumerate(instruction.results):
            values[v.name] = [stored(of[slot], v.type, float64) for of in made]
            if any(a.shape != v.type.shape for a in values[v.name]):
                raise InternalError(f"{instruction.op}: the meaning of {v} has shape {values[v.name][0].shape}, its type is {v.type}")
    return tuple(values[v.name] for v in function.results)


def _run(
    instruction: Instruction,
    operands: Sequence[tuple[np.ndarray, ...]],
    ops: Mapping[str, Op],
    together: Mapping[str, Together],
    keys: Keys,
    float64: bool,
) -> Sequence[tuple[np.ndarray, ...]]:
    attributes: dict[str, Any] = dict(instruction.attributes)
    with np.errstate(all="ignore"):
        if instruction.op in together:
            kind = instruction.results[0].type
            return together[instruction.op].meaning(operands, attributes, lambda a: stored(a, kind, float64))
        return [ops[instruction.op].meaning(of, attributes, keys) for of in operands]
