"""The execution shim: every primitive of mlc_cuda.h against NumPy, in every schedule, and no report from kernels without a fault."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shim_library import SCHEDULES, SUM_ERROR, Array, Device, bf16_of, f32_of, of_shim

LANES = np.arange(32)


@pytest.fixture(scope="module")
def primitives() -> Iterator[Device]:
    with Device("primitives.cu") as device:
        yield device


@pytest.fixture(params=SCHEDULES, ids=lambda schedule: f"{schedule[0]}{schedule[1]}")
def device(primitives: Device, request: pytest.FixtureRequest) -> Iterator[Device]:
    """In one schedule; no kernel here has a fault."""
    primitives.schedule(*request.param)
    yield primitives
    assert primitives.reports() == []


def shuffle_sources(kind: str, operand: Array, width: int) -> Array:
    """CUDA C++ Programming Guide, "Warp Shuffle Functions"."""
    first = LANES // width * width
    match kind:
        case "index":
            return first + operand % width
        case "up":
            return np.where(LANES - operand[0] < first, LANES, LANES - operand[0])
        case "down":
            return np.where(LANES + operand[0] >= first + width, LANES, LANES + operand[0])
        case _:
            return np.where(LANES ^ operand[0] >= first + width, LANES, LANES ^ operand[0])


@pytest.mark.parametrize("width", [1, 2, 8, 32])
def test_shuffles(device: Device, width: int) -> None:
    operand = np.random.default_rng(width).integers(0, min(width + 3, 32), 32).astype(np.int32)
    out, wide = device.empty(4 * 32 * 4), device.empty(32 * 8)
    device.call("run_shuffles", device.put(operand), width, out, wide)
    expected = [100 + shuffle_sources(kind, operand, width) for kind in ("index", "up", "down", "xor")]
    np.testing.assert_array_equal(device.get(out, (4, 32), np.int32), expected)
    np.testing.assert_array_equal(device.get(wide, (32,), np.float64), 0.5 + (LANES ^ 1))


@pytest.mark.parametrize("seed", range(3))
def test_votes(device: Device, seed: int) -> None:
    truth = np.random.default_rng(seed).integers(0, 2, 32).astype(np.int32) if seed else np.ones(32, np.int32)
    out = device.empty(96 * 4)
    device.call("run_votes", device.put(truth), out)
    ballot, halves, swapped = device.get(out, (3, 32), np.uint32)
    assert set(ballot) == {int(sum(int(t) << i for i, t in enumerate(truth)))}
    assert set(halves[:16]) == {int(truth[:16].any())}
    assert set(halves[16:]) == {int(truth[16:].all())}
    np.testing.assert_array_equal(swapped, LANES ^ 3)


@pytest.mark.parametrize("threads", [1, 31, 33, 256])
def test_gathering_barriers(device: Device, threads: int) -> None:
    truth = np.random.default_rng(threads).integers(0, 3, (2, threads)).astype(np.int32)
    out = device.empty(6 * threads * 4)
    device.call("run_gathers", threads, device.put(truth), out)
    got = device.get(out, (2, 3, threads), np.int32)
    for turn in range(2):
        expected = [truth[turn].any(), truth[turn].all(), np.count_nonzero(truth[turn])]
        np.testing.assert_array_equal(got[turn], np.repeat(np.array(expected, np.int32)[:, None], threads, 1))


def test_indices(device: Device) -> None:
    out = device.empty(12 * 60 * 8 * 4)
    device.call("run_indices", out)
    got = device.get(out, (2, 2, 3, 5, 3, 4, 8), np.uint32)
    bz, by, bx, tz, ty, tx = np.indices(got.shape[:-1])
    thread = tx + 4 * (ty + 3 * tz)
    np.testing.assert_array_equal(got, np.stack([tx, ty, tz, bx, by, bz, thread % 32, thread // 32], -1))


def test_atomics(device: Device) -> None:
    counters, wide = device.put(np.zeros(6, np.int32)), device.put(np.zeros(1, np.uint64))
    device.call("run_atomics", counters, wide)
    np.testing.assert_array_equal(device.get(counters, (6,), np.int32), [479 * 480 // 2, -479, 479, -1, 7, 9])
    assert device.get(wide, (1,), np.uint64)[0] == 480 << 40


@pytest.mark.parametrize("size", [0, 3, 16])
def test_async_copies(device: Device, size: int) -> None:
    data = np.random.default_rng(size).integers(1, 256, 1024).astype(np.uint8)
    out = device.empty(256 + 512 + 1024)
    device.call("run_async_copies", device.put(data), out, size)
    expected: list[Array] = []
    for each, filled in ((4, size % 5), (8, size % 9), (16, size)):
        chunk = data[: 64 * each].copy()
        chunk[63 * each + filled :] = 0
        expected.append(chunk)
    np.testing.assert_array_equal(device.get(out, (1792,), np.uint8), np.concatenate(expected))


def test_ldmatrix(device: Device) -> None:
    """PTX ISA, "Warp-level matrix load instruction: ldmatrix": lane holds row lane / 4, columns 2 (lane % 4) and the next."""
    rows = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    out = device.empty(32 * 14 * 4)
    device.call("run_load_matrices", device.put(rows), out)
    got = device.get(out, (32, 14, 2), np.uint16)

    def lanes(matrix: Array) -> Array:
        return matrix.reshape(32, 2)

    expected = [lanes(rows[i]) for i in (0, 0, 1, 0, 1, 2, 3)] + [lanes(rows[i].T) for i in (0, 0, 1, 0, 1, 2, 3)]
    np.testing.assert_array_equal(got, np.stack(expected, 1))


def fragment_places_bf16() -> tuple[Array, Array, Array]:
    """PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": (row, column) of each element of each lane."""
    g, t = LANES[:, None] // 4, LANES[:, None] % 4
    i = np.arange(8)[None]
    a = np.stack(np.broadcast_arrays(np.where((i < 2) | ((i >= 4) & (i < 6)), g, g + 8), t * 2 + (i & 1) + np.where(i >= 4, 8, 0)), -1)
    i = i[:, :4]
    b = np.stack(np.broadcast_arrays(t * 2 + (i & 1) + np.where(i >= 2, 8, 0), g), -1)
    c = np.stack(np.broadcast_arrays(np.where(i < 2, g, g + 8), t * 2 + (i & 1)), -1)
    return a, b, c


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_mma_bf16(primitives: Device, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = bf16_of(rng.standard_normal((16, 16))), bf16_of(rng.standard_normal((16, 8))), rng.standard_normal((16, 8)).astype(np.float32)
    in_a, in_b, in_c = fragment_places_bf16()
    sums = primitives.put(c[in_c[..., 0], in_c[..., 1]])
    primitives.call("run_multiply_bf16", primitives.put(a[in_a[..., 0], in_a[..., 1]]), primitives.put(b[in_b[..., 0], in_b[..., 1]]), sums)
    got = np.empty((16, 8))
    got[in_c[..., 0], in_c[..., 1]] = primitives.get(sums, (32, 4))
    np.testing.assert_allclose(got, c + f32_of(a).astype(np.float64) @ f32_of(b), rtol=0, atol=2e-6 * 16)
    assert primitives.reports() == []


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_mma_tf32(primitives: Device, seed: int) -> None:
    """PTX ISA, "Matrix Fragments for mma.m16n8k8"."""
    rng = np.random.default_rng(seed)
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8)))
    g, t = LANES // 4, LANES % 4
    fragments_a = np.stack([a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4]], 1)
    fragments_b = np.stack([b[t, g], b[t + 4, g]], 1)
    _, _, in_c = fragment_places_bf16()
    sums = primitives.put(c[in_c[..., 0], in_c[..., 1]])
    primitives.call("run_multiply_tf32", primitives.put(fragments_a), primitives.put(fragments_b), sums)
    got = np.empty((16, 8))
    got[in_c[..., 0], in_c[..., 1]] = primitives.get(sums, (32, 4))
    np.testing.assert_allclose(got, c + tf32(a).astype(np.float64) @ tf32(b), rtol=0, atol=2e-6 * 8)
    assert primitives.reports() == []


def tf32(x: Array) -> Array:
    """Ten bits of mantissa, to nearest, ties away from zero."""
    bits = x.view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def test_rounding_to_tf32(device: Device) -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1.0, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 1e-40, 3.4e38], np.float32)
    out = device.empty(4 * special.size)
    device.call("run_round_tf32", device.put(special), out, special.size)
    finite = np.where(np.isinf(special), special, tf32(special))
    np.testing.assert_array_equal(device.get(out, special.shape), finite)


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_named_barriers(device: Device, rounds: int) -> None:
    data = np.arange(rounds * 64, dtype=np.int32).reshape(rounds, 64)
    out = device.empty(data.nbytes)
    device.call("run_named_barriers", device.put(data), out, rounds)
    np.testing.assert_array_equal(device.get(out, data.shape, np.int32), data[:, ::-1] + 1)


def tree_sum(x: Array) -> Array:
    """Lanes paired at 16, 8, 4, 2, 1."""
    for distance in (16, 8, 4, 2, 1):
        x = x + x[..., LANES ^ distance]
    return x


def test_reductions(device: Device) -> None:
    x = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    out = device.empty(4 * 256 * 4)
    device.call("run_reductions", device.put(x), out)
    total, most, warp_total, warp_most = device.get(out, (4, 256))
    warps = tree_sum(x.reshape(8, 32))
    expected = warps[0, 0]
    for warp in warps[1:]:
        expected = np.float32(expected + warp[0])
    assert set(total) == {expected}
    assert set(most) == {x.max()}
    np.testing.assert_array_equal(warp_total.reshape(8, 32), warps)
    np.testing.assert_array_equal(warp_most.reshape(8, 32), np.repeat(x.reshape(8, 32).max(1, keepdims=True), 32, 1))


@pytest.mark.parametrize("threads", [1, 37, 1024])
def test_vectors(device: Device, threads: int) -> None:
    rng = np.random.default_rng(threads)
    x, h = rng.standard_normal((threads, 4)).astype(np.float32), bf16_of(rng.standard_normal((threads, 8)))
    y, g = device.empty(x.nbytes), device.empty(h.nbytes)
    device.call("run_vectors", threads, device.put(x), device.put(h), y, g)
    np.testing.assert_array_equal(device.get(y, x.shape), 2 * x[::-1])
    np.testing.assert_array_equal(device.get(g, h.shape, np.uint16), bf16_of(f32_of(h) + np.float32(1)))


def test_templates(device: Device) -> None:
    x = np.arange(120, dtype=np.float32)
    y = device.put(x)
    device.call("run_add_to", device.put(x), y)
    np.testing.assert_array_equal(device.get(y, x.shape), 2 * x)


def layer_norm(device: Device, rows: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(rows)
    x = (rng.standard_normal((rows, 768)) * 3 + 1).astype(np.float32)
    weight, bias = rng.standard_normal((2, 768)).astype(np.float32)
    mean, rstd, y = device.empty(rows * 4), device.empty(rows * 4), device.empty(x.nbytes)
    device.call("run_layer_norm", rows, device.put(x), device.put(weight), device.put(bias), mean, rstd, y)
    exact = x.astype(np.float64)
    centered = exact - exact.mean(1, keepdims=True)
    return device.get(y, x.shape), centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-5) * weight + bias


def matmul(device: Device, m: int, n: int, k: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(m + n + k)
    a, b = bf16_of(rng.standard_normal((m, k))), bf16_of(rng.standard_normal((n, k)))
    c = device.empty(m * n * 4)
    device.call("run_matmul", m, n, k, device.put(a), device.put(b), c)
    return device.get(c, (m, n)), f32_of(a).astype(np.float64) @ f32_of(b).astype(np.float64).T


def relative_error(got: Array, expected: Array) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("kernel", ["layer_norm", "matmul"])
def test_real_kernels(kernel: str, checked: bool) -> None:
    """Right, the same bits in every schedule, nothing reported."""
    seen: set[bytes] = set()
    with Device(f"{kernel}.cu", checked) as device:
        for order, seed in SCHEDULES:
            device.schedule(order, seed)
            got, expected = layer_norm(device, 5) if kernel == "layer_norm" else matmul(device, 128, 64, 96)
            assert relative_error(got, expected) < SUM_ERROR
            assert device.reports() == []
            seen.add(got.tobytes())
    assert len(seen) == 1


@of_shim
@pytest.mark.parametrize(
    ("kernel", "plant", "fault"),
    [("layer_norm", "PLANT_BARRIER", "race"), ("matmul", "PLANT_BARRIER", "race"), ("matmul", "PLANT_WAIT", "missing wait")],
)
def test_real_kernels_with_a_fault(kernel: str, plant: str, fault: str) -> None:
    """Reported in every schedule, with the kernel, the thread, the array and the line."""
    with Device(f"{kernel}.cu", True, [plant]) as device:
        for order, seed in SCHEDULES:
            device.schedule(order, seed)
            _ = layer_norm(device, 2) if kernel == "layer_norm" else matmul(device, 64, 64, 96)
            texts = device.reports()
            assert any(text.startswith(f"{fault}: kernel {kernel}") for text in texts), texts
            assert all(f"{kernel}.cu:" in text and "[shared `" in text and ", thread " in text for text in texts)
