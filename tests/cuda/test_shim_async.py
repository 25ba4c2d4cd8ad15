"""Asynchronous units in the shim: wgmma with every layout, tensor copies and mbarriers, tensor memory; and faults planted in them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from shim_library import GPU, SCHEDULES, SUM_ERROR, Array, Device, bf16_of, f32_of, of_shim

NONE, B128, B64, B32 = range(4)
NO_FAULT, NO_PROXY_FENCE, NO_WAIT, NO_WGMMA_FENCE, NO_TMEM_FENCE, FEW_BYTES, REFILL_TOO_EARLY, NO_BARRIER = range(8)
FEW_WAITS, WRONG_PHASE, MANY_BYTES, NO_FENCE_BEFORE = range(8, 12)


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with Device("tensor.cu") as device:
        yield device


#: Of Hopper, and of Blackwell: the shim has both.
has_wgmma = pytest.mark.skipif(GPU not in ("", "90a"), reason="no wgmma")
has_tmem = pytest.mark.skipif(GPU == "90a", reason="no tensor memory")


def operands(m: int, n: int, k: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(m * n + k)
    a, b = bf16_of(rng.standard_normal((m, k))), bf16_of(rng.standard_normal((n, k)))
    return a, b, f32_of(a).astype(np.float64) @ f32_of(b).astype(np.float64).T


def close(got: Array, expected: Array) -> bool:
    return bool(np.linalg.norm(got - expected) <= SUM_ERROR * np.linalg.norm(expected))


#: PTX ISA, "Canonical Layouts" of wgmma, examples for bf16 (figures 168 to 170): swizzle, leading and stride bytes, bits of the swizzle,
#: and the layout as shapes and strides of (row, column) in elements, innermost first.
DOCUMENTED = {
    "MN-major, none": (NONE, 128 * 2, 64 * 2, 0, [(8, 1), (1, 8), (2, 64)], [(8, 8), (2, 128)]),
    "MN-major, 32B": (B32, 128 * 2, 256 * 2, 1, [(8, 1), (2, 8), (2, 128)], [(8, 16), (2, 256)]),
    "MN-major, 64B": (B64, 256 * 2, 512 * 2, 2, [(8, 1), (4, 8), (2, 256)], [(8, 32), (2, 512)]),
}


def place_in(layout: list[tuple[int, int]], index: int) -> int:
    place = 0
    for extent, stride in layout:
        place += index % extent * stride
        index //= extent
    return place


@of_shim
@pytest.mark.parametrize("name", DOCUMENTED)
@pytest.mark.parametrize("kind", [0, 1])
def test_documented_layouts(device: Device, name: str, kind: int) -> None:
    """Swizzle<B, 4, 3>: bits 4 and up of the byte address, B of them, by exclusive or with those from bit 7 on."""
    swizzle, leading, stride, bits, rows, columns = DOCUMENTED[name]
    descriptor = (leading >> 4) << 16 | (stride >> 4) << 32
    descriptor |= 1 << 46 | (swizzle * 2) << 61 if kind else swizzle << 62
    for i in range(np.prod([extent for extent, _ in rows])):
        for k in range(16):
            byte = 2 * (place_in(rows, int(i)) + place_in(columns, k))
            expected = byte ^ ((byte >> 7 & ((1 << bits) - 1)) << 4)
            assert device.library.mlc_shim_matrix_place(ctypes.c_uint64(descriptor), 1, kind, int(i), k) == expected


def run_wgmma(
    device: Device, n: int, k: int, trans: tuple[int, int], swizzles: tuple[int, int], fault: int = NO_FAULT
) -> tuple[Array, Array]:
    a, b, expected = operands(64, n, k)
    c = device.empty(64 * n * 4)
    device.call("run_wgmma", n, *trans, device.put(a), device.put(b), c, k, *swizzles, fault)
    return device.get(c, (64, n)), expected


@has_wgmma
@pytest.mark.parametrize("trans", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("swizzle", [NONE, B128, B64, B32])
def test_wgmma_layouts(device: Device, trans: tuple[int, int], swizzle: int) -> None:
    for order, seed in SCHEDULES[:5:2]:
        device.schedule(order, seed)
        assert close(*run_wgmma(device, 64, 64, trans, (swizzle, (swizzle + 1) % 4)))
        assert device.reports() == []


def run_tensor(device: Device, k: int, rows_b: int, fault: int = NO_FAULT) -> tuple[Array, Array]:
    """c as bf16 of 50 x 120 of 64 x 128; rows of b past rows_b are zero."""
    a, b, _ = operands(64, rows_b, k)
    c = device.put(np.full((64, 128), 0x7FC0, np.uint16))
    assert device.library.run_wgmma_tensor(device.put(a), device.put(b), c, k, rows_b, 50, 120, fault) == 0
    device.library.cudaDeviceSynchronize()
    expected = np.zeros((64, 128))
    expected[:, :rows_b] = f32_of(a).astype(np.float64) @ f32_of(b).astype(np.float64).T
    got = f32_of(device.get(c, (64, 128), np.uint16))
    if fault == NO_FAULT:
        assert np.isnan(got[50:]).all()
        assert np.isnan(got[:, 120:]).all()
    return got[:50, :120], expected[:50, :120]


def run_tmem(device: Device, k: int, fault: int = NO_FAULT) -> tuple[Array, Array]:
    a, b, expected = operands(128, 64, k)
    c = device.empty(128 * 64 * 4)
    device.call("run_tensor_memory", device.put(a), device.put(b), c, k, fault)
    return device.get(c, (128, 64)), expected


def check_clean(checked: bool, run: Callable[[Device], tuple[Array, Array]], tolerance: float) -> None:
    """Right, the same bits in every schedule, nothing reported."""
    seen: set[bytes] = set()
    with Device("tensor.cu", checked) as device:
        for order, seed in SCHEDULES:
            device.schedule(order, seed)
            got, expected = run(device)
            assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)
            assert device.reports() == []
            seen.add(got.tobytes())
    assert len(seen) == 1


@has_wgmma
@pytest.mark.parametrize("checked", [False, True])
def test_clean_wgmma(checked: bool) -> None:
    check_clean(checked, lambda device: run_wgmma(device, 256, 128, (0, 0), (B128, B128)), SUM_ERROR)


@has_wgmma
@pytest.mark.parametrize("checked", [False, True])
def test_clean_tensor_copies(checked: bool) -> None:
    """Results are bf16."""
    check_clean(checked, lambda device: run_tensor(device, 320, 100), 2**-8)


@has_tmem
@pytest.mark.parametrize("checked", [False, True])
def test_clean_tensor_memory(checked: bool) -> None:
    check_clean(checked, lambda device: run_tmem(device, 192), SUM_ERROR)


@has_wgmma
@pytest.mark.parametrize(
    ("many", "fault", "expected"), [(0, NO_FAULT, ""), (0, NO_BARRIER, "divergent warp: kernel"), (1, NO_FAULT, "limit: kernel")]
)
def test_registers_move_between_warpgroups(device: Device, many: int, fault: int, expected: str) -> None:
    if GPU and (many or fault):
        pytest.skip("a GPU reports nothing")
    c = device.empty(128 * 4)
    device.call("run_registers", c, many, fault)
    assert (device.get(c, (128,)) == 1).all()
    texts = device.reports()
    assert any(text.startswith(expected) for text in texts) if expected else not texts


#: runner, fault: what some report begins with
FAULTS = {
    ("wgmma", NO_PROXY_FENCE): "missing fence: kernel",
    ("wgmma", NO_WGMMA_FENCE): "missing fence: kernel",
    ("wgmma", NO_WAIT): "missing wait: kernel",
    ("wgmma", REFILL_TOO_EARLY): "race: kernel",
    ("wgmma", NO_BARRIER): "race: kernel|uninitialised read: kernel",
    ("tensor", NO_WAIT): "missing wait: kernel|race: kernel",
    ("tensor", REFILL_TOO_EARLY): "race: kernel|missing wait: kernel",
    ("tensor", FEW_BYTES): "deadlock: kernel",
    ("tensor", MANY_BYTES): "deadlock: kernel",
    ("tensor", FEW_WAITS): "race: kernel",
    ("tensor", WRONG_PHASE): "missing wait: kernel|race: kernel|uninitialised read: kernel",
    ("tensor", NO_PROXY_FENCE): "missing fence: kernel",
    ("tmem", NO_PROXY_FENCE): "missing fence: kernel",
    ("tmem", NO_WAIT): "race: kernel|missing wait: kernel",
    ("tmem", NO_TMEM_FENCE): "missing fence: kernel",
    ("tmem", NO_FENCE_BEFORE): "missing fence: kernel",
    ("tmem", REFILL_TOO_EARLY): "race: kernel",
}


@of_shim
@pytest.mark.parametrize(("runner", "fault"), FAULTS)
def test_faults(device: Device, runner: str, fault: int) -> None:
    for order, seed in SCHEDULES:
        device.schedule(order, seed)
        if runner == "wgmma":
            _ = run_wgmma(device, 64, 192, (0, 0), (B128, B64), fault)
        elif runner == "tensor":
            _ = run_tensor(device, 256, 100, fault)
        else:
            _ = run_tmem(device, 192, fault)
        texts = device.reports()
        assert any(text.startswith(tuple(FAULTS[runner, fault].split("|"))) for text in texts), (order, texts)
