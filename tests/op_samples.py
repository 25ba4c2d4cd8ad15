"""The samples of the op table as functions and arrays, for every test that is driven by the table."""

from __future__ import annotations

import numpy as np

from mlc.diagnostics import NO_SPAN
from mlc.ir.builder import Builder
from mlc.ir.function import Function
from mlc.ir.op import Op, Sample
from mlc.ir.text import parse_type
from mlc.ir.types import TensorType, Value
from mlc.ops import OPS
from mlc.ops.attention import TIMED, VJP_TIMED


def sample_cases() -> list[tuple[Op, Sample]]:
    return [(op, sample) for op in OPS.values() for sample in op.samples]


def every_case() -> list[tuple[Op, Sample]]:
    """With those of forms that no kernel takes."""
    return [*sample_cases(), *((OPS["attention"], s) for s in TIMED), *((OPS["attention_vjp"], s) for s in VJP_TIMED)]


def case_id(case: object) -> str:
    match case:
        case Op():
            return case.name
        case Sample():
            return "-".join(case.operands) or "-".join(str(value) for _, value in case.attributes)
        case _:
            return str(case)


def sample_parameters(sample: Sample) -> tuple[Value, ...]:
    return tuple(Value(f"x{i}", parse_type(t)) for i, t in enumerate(sample.operands))


def sample_function(op: Op, sample: Sample) -> Function:
    """The function of one instruction."""
    parameters = sample_parameters(sample)
    b = Builder(OPS, "test", NO_SPAN, [p.name for p in parameters])
    results = b.emit(op.name, *parameters, **dict(sample.attributes))
    return Function(f"sample_{op.name}", parameters, tuple(b.instructions), results)


def draw_arguments(sample: Sample, rng: np.random.Generator) -> list[np.ndarray]:
    types = [parse_type(t) for t in sample.operands]
    return [draw_argument(how, t, rng) for how, t in zip(sample.draw, types, strict=True)]


def draw_argument(how: str, t: TensorType, rng: np.random.Generator) -> np.ndarray:
    """An array as `Sample.draw` says; a mask keeps the first element of each row, rising numbers begin at 0."""
    shape = t.shape
    match how.partition(":"):
        case ("normal", _, _):
            return np.asarray(rng.normal(size=shape) * (4.0 if t.dtype == "i32" else 1.0))
        case ("positive", _, _):
            return np.asarray(rng.uniform(0.1, 2.0, shape))
        case ("unit", _, _):
            return np.asarray(rng.uniform(-0.9, 0.9, shape))
        case ("distinct", _, _):
            return np.asarray(rng.permutation(t.size).reshape(shape) * 0.25 - 1.0)
        case ("index", _, limit):
            return np.asarray(rng.integers(0, int(limit), shape))
        case ("rising", _, _):
            return np.asarray(np.cumsum(rng.integers(0, 3, shape)) * (np.arange(t.size) > 0))
        case ("nonzero", _, _):
            return np.asarray(rng.integers(1, 9, shape) * rng.choice([-1, 1], shape))
        case ("mask", _, _):
            mask = np.asarray(rng.uniform(size=shape) < 0.6)
            if mask.ndim > 1:
                mask[..., 0] = True
            return mask
        case _:
            raise ValueError(how)
