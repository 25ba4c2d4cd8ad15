"""Attention of bf16 on tensor cores, at sizes of several tiles, against its NumPy meaning, on the execution shim."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from routines import from_stored, to_stored
from shim_kernels import KEYS, Kernels, open_kernels
from shim_library import GPU, SCHEDULES
from tolerances import TOLERANCES

from mlc.diagnostics import NO_SPAN
from mlc.ir.builder import Builder
from mlc.ir.function import Function
from mlc.ir.interpret import interpret
from mlc.ir.op import Attribute
from mlc.ir.text import parse_type
from mlc.ir.types import Value
from mlc.ops import OPS

#: batch, time, keys, heads, groups, head, value; causal; masked
SHAPES = {
    "one tile": ((1, 64, 64, 1, 1, 64, 64), True, False),
    "heads of groups": ((2, 130, 130, 4, 2, 16, 16), True, False),
    "no 16 bytes": ((1, 67, 67, 2, 1, 20, 12), True, False),
    "long heads": ((1, 100, 100, 2, 2, 72, 128), True, False),
    "all keys": ((1, 70, 150, 2, 1, 32, 48), False, False),
    "few queries": ((2, 1, 129, 3, 3, 8, 8), False, True),
    "more queries than keys": ((1, 150, 33, 2, 1, 64, 8), True, False),
    "a mask": ((2, 65, 65, 2, 1, 96, 64), True, True),
    "one": ((1, 1, 1, 1, 1, 1, 1), True, False),
}


#: How products are made, by the define that asks for it. A GPU has one way.
BY = {"as the target": ""} if GPU else {"by warpgroups": "", "by warps": "MLC_SM=103"}


def build(op: str, types: list[str], attributes: dict[str, Attribute]) -> Function:
    parameters = tuple(Value(f"x{i}", parse_type(t)) for i, t in enumerate(types))
    b = Builder(OPS, "test", NO_SPAN, [p.name for p in parameters])
    results = b.emit(op, *parameters, **attributes)
    return Function("sample", parameters, tuple(b.instructions), results)


def functions_of(name: str) -> tuple[Function, Function]:
    """Attention of a shape, and its gradients."""
    (b, t, s, h, g, d, e), causal, masked = SHAPES[name]
    types = [
        f"bf16[{b}, {t}, {h}, {d}]",
        f"bf16[{b}, {s}, {g}, {d}]",
        f"bf16[{b}, {s}, {g}, {e}]",
        *([f"bool[{b}, {s}]"] if masked else []),
    ]
    attributes: dict[str, Attribute] = {"causal": causal, "scale": d**-0.5}
    y, lse = f"bf16[{b}, {t}, {h}, {e}]", f"f32[{b}, {h}, {t}]"
    return build("attention", types, attributes), build("attention_vjp", [*types, y, lse, y], attributes)


@pytest.fixture(scope="module", params=BY.values(), ids=BY)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    defines = [request.param] if request.param else []
    with open_kernels([f for name in SHAPES for f in functions_of(name)], tmp_path_factory.mktemp("tiles"), defines=defines) as kernels:
        yield kernels


def draw(value: Value, rng: np.random.Generator) -> np.ndarray:
    if value.type.dtype == "bool":
        mask = rng.random(value.type.shape) < 0.7
        mask[:, 0] = True
        return mask
    return from_stored(to_stored(rng.standard_normal(value.type.shape), "bf16"), "bf16")


def check(kernels: Kernels, number: int, function: Function, arguments: list[np.ndarray]) -> list[np.ndarray]:
    """What a kernel finds, close to the meaning in proportion to its largest element."""
    want = interpret(function, arguments, OPS, KEYS)
    got = kernels.run(number, arguments)
    for value, a, b in zip(function.results, want, got, strict=True):
        tolerance = TOLERANCES["device.meaning.bf16"] * max(float(np.max(np.abs(a))), 1e-3)
        np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=0, atol=tolerance, err_msg=value.name)
    return got


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_attention_and_its_gradients(kernels: Kernels, name: str) -> None:
    forward, backward = functions_of(name)
    number, rng = 2 * list(SHAPES).index(name), np.random.default_rng(3)
    arguments = [draw(value, rng) for value in forward.parameters]
    results = check(kernels, number, forward, arguments)
    for order, seed in SCHEDULES[1::3]:
        kernels.device.schedule(order, seed)
        for first, again in zip(results, kernels.run(number, arguments), strict=True):
            np.testing.assert_array_equal(first, again)
    _ = check(kernels, number + 1, backward, [*arguments, *results, draw(backward.parameters[-1], rng)])
