"""Run a function in NumPy: the op's own meaning, one instruction after the other. The oracle of the tests.

    f32, f64, i32, bool   arrays of these dtypes
    bf16, f16        float32 arrays whose values were rounded to nearest even after each instruction that makes one
    float64=True     every float is computed and kept in float64, whatever its dtype
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlc.diagnostics import InternalError
from mlc.ir.dtypes import row
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Keys, Op
from mlc.ir.types import TensorType, Value


def round_bf16(x: np.ndarray) -> np.ndarray:
    """float32 values rounded to the nearest bfloat16, ties to even; NaN stays NaN."""
    x = np.asarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32))


def round_f16(x: np.ndarray) -> np.ndarray:
    """float32 values rounded to the nearest IEEE half, ties to even; beyond its range, infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


#: By dtype: the array that holds the values of another one, rounded.
HELD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f32": lambda x: np.asarray(x, np.float32),
    "bf16": round_bf16,
    "f16": round_f16,
    "f64": lambda x: np.asarray(x, np.float64),
    "i32": lambda x: np.asarray(x, np.int32),
    "bool": lambda x: np.asarray(x, np.bool_),
}


def stored(array: np.ndarray, kind: TensorType, float64: bool = False) -> np.ndarray:
    """The array as a tensor of this type holds it: rounded to its dtype."""
    if float64 and kind.is_float:
        return np.asarray(array, np.float64)
    return row(HELD, kind.dtype, "the interpreter")(array)


def interpret(
    function: Function, arguments: Sequence[np.ndarray], ops: Mapping[str, Op], keys: Keys, float64: bool = False
) -> tuple[np.ndarray, ...]:
    """The results of `function`. Arguments are taken to the dtypes of the parameters; their shapes must agree."""
    values: dict[str, np.ndarray] = {}
    for parameter, argument in zip(function.parameters, arguments, strict=True):
        values[parameter.name] = _argument(function, parameter, argument, float64)
    last_use = _last_uses(function)
    for at, instruction in enumerate(function.instructions):
        operands = tuple(values[v.name] for v in instruction.operands)
        for value, array in zip(instruction.results, _run(instruction, operands, ops, keys), strict=True):
            values[value.name] = _checked(instruction, value, array, float64)
        for name in last_use.get(at, ()):
            del values[name]
    return tuple(values[v.name] for v in function.results)


def _argument(function: Function, parameter: Value, argument: np.ndarray, float64: bool) -> np.ndarray:
    array = np.asarray(argument)
    if array.shape != parameter.type.shape:
        raise InternalError(f"{function.name}: parameter {parameter} is {parameter.type}, got an array of shape {array.shape}")
    return stored(array, parameter.type, float64)


def _run(instruction: Instruction, operands: tuple[np.ndarray, ...], ops: Mapping[str, Op], keys: Keys) -> tuple[np.ndarray, ...]:
    """Infinities and NaN are values, as on every target."""
    with np.errstate(all="ignore"):
        return ops[instruction.op].meaning(operands, dict(instruction.attributes), keys)


def _checked(instruction: Instruction, value: Value, array: np.ndarray, float64: bool) -> np.ndarray:
    with np.errstate(all="ignore"):
        kept = stored(array, value.type, float64)
    if kept.shape != value.type.shape:
        raise InternalError(f"{instruction.op}: the meaning of {value} has shape {kept.shape}, its type is {value.type}")
    return kept


def _last_uses(function: Function) -> dict[int, tuple[str, ...]]:
    """By instruction: the values that no later instruction and no result reads, so that memory is given back."""
    last: dict[str, int] = {}
    for at, instruction in enumerate(function.instructions):
        for value in (*instruction.results, *instruction.operands):
            last[value.name] = at
    for value in function.results:
        last.pop(value.name, None)
    ends: dict[int, tuple[str, ...]] = {}
    for name, at in last.items():
        ends[at] = (*ends.get(at, ()), name)
    return ends
