"""What the execution shim costs: a fiber switch, and two kernels plain and checked, in each schedule.

python benchmarks/cuda_shim.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/cuda"))

from shim_library import SCHEDULES, Device, bf16_of  # noqa: E402

ROWS, WIDTH = 256, 768
M, N, K = 256, 256, 256


def layer_norm(device: Device) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    x, weight, bias = (device.put(rng.standard_normal(shape).astype(np.float32)) for shape in ((ROWS, WIDTH), WIDTH, WIDTH))
    mean, rstd, y = device.empty(ROWS * 4), device.empty(ROWS * 4), device.empty(ROWS * WIDTH * 4)
    return lambda: device.call("run_layer_norm", ROWS, x, weight, bias, mean, rstd, y)


def matmul(device: Device) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    a, b = device.put(bf16_of(rng.standard_normal((M, K)))), device.put(bf16_of(rng.standard_normal((N, K))))
    c = device.empty(M * N * 4)
    return lambda: device.call("run_matmul", M, N, K, a, b, c)


def best(run: Callable[[], None], repeat: int = 3) -> float:
    """Seconds of the fastest of some runs, after one that does not count."""
    run()
    times: list[float] = []
    for _ in range(repeat):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    work = {
        "layer_norm": (layer_norm, f"{ROWS} x {WIDTH}, a block a row"),
        "matmul": (matmul, f"{M} x {N} x {K}, mma.sync and cp.async"),
    }
    print(f"{'kernel':12}{'schedule':12}{'plain ms':>10}{'checked ms':>12}{'ratio':>8}{'switches':>10}{'ns a switch, all work in it':>30}")
    for name, (prepare, what) in work.items():
        print(f"{name}: {what}")
        with Device(f"{name}.cu", False) as plain, Device(f"{name}.cu", True) as checked:
            runs = prepare(plain), prepare(checked)
            for order, seed in SCHEDULES[:3] + SCHEDULES[4:5]:
                plain.schedule(order, seed)
                checked.schedule(order, seed)
                before = plain.library.mlc_shim_switches()
                runs[0]()
                switches = plain.library.mlc_shim_switches() - before
                seconds = best(runs[0]), best(runs[1])
                ratio, each = seconds[1] / seconds[0], seconds[0] / switches * 1e9
                print(f"{'':12}{order:12}{seconds[0] * 1e3:10.1f}{seconds[1] * 1e3:12.1f}{ratio:8.1f}{switches:10}{each:30.0f}")


if __name__ == "__main__":
    main()
