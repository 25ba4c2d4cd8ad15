"""Build kernels against the execution shim and call them with NumPy arrays.

MLC_GPU=90a (an architecture of nvcc): a GPU runs them instead, and what only a shim can do is skipped.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest

from mlc.nvcc import find_nvcc

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "runtime/cuda/shim"
KERNELS = Path(__file__).parent / "kernels"
INCLUDES = [f"-I{ROOT / path}" for path in ("runtime/include", "runtime/cuda/include", "runtime/cuda/shim")]
FLAGS = ["-std=c++17", "-g", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-DMLC_SM=90", *INCLUDES]
GPU = os.environ.get("MLC_GPU", "")
SCHEDULES = [("gpu", 0)] if GPU else [("forward", 1), ("reverse", 1), ("random", 1), ("random", 2), ("ahead", 1), ("ahead", 2)]
#: Of sums of some hundred products, relative: tensor cores cut off at each instruction what the shim rounds.
SUM_ERROR = 2e-6 if GPU else 3e-7

Array = npt.NDArray[Any]

of_shim = pytest.mark.skipif(bool(GPU), reason="a GPU has one schedule, and reports nothing")


@functools.cache
def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="mlc_shim_"))


def lack(what: str) -> NoReturn:
    """Skips the test, for something that a machine need not have; CI has it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@functools.cache
def compiler() -> list[str]:
    """That of the shim, which is C++."""
    if not shutil.which("g++"):
        lack("no g++")
    ccache = shutil.which("ccache")
    return [ccache, "g++"] if ccache else ["g++"]


@functools.cache
def shim_objects() -> list[str]:
    """The shim itself, never instrumented."""
    objects: list[str] = []
    jobs: list[subprocess.Popen[bytes]] = []
    for source in sorted(SHIM.glob("*.cpp")):
        objects.append(str(scratch() / f"{source.stem}.o"))
        jobs.append(subprocess.Popen([*compiler(), *FLAGS, "-O2", "-c", str(source), "-o", objects[-1]]))
    assert all(job.wait() == 0 for job in jobs)
    return objects


@functools.cache
def build(source: Path, checked: bool, defines: tuple[str, ...] = ()) -> Path:
    """A library of the kernels in `source` and the shim."""
    name = hashlib.sha256(f"{source} {checked and not GPU} {defines}".encode()).hexdigest()[:16]
    kernels, library = scratch() / f"{name}.o", scratch() / f"{name}.so"
    if GPU:
        return build_for_gpu(source, defines, library)
    mode = ["-O1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"] if checked else ["-O2"]
    instead = [option for define in defines for option in (f"-U{define.partition('=')[0]}", f"-D{define}")]
    options = [*FLAGS, *mode, "-DMLC_SHIM", *instead]
    subprocess.run([*compiler(), *options, "-x", "c++", "-c", str(source), "-o", str(kernels)], check=True)
    subprocess.run(["g++", "-shared", "-Wl,-Bsymbolic", "-o", str(library), str(kernels), *shim_objects()], check=True)
    return library


def build_for_gpu(source: Path, defines: tuple[str, ...], library: Path) -> Path:
    if library.exists():
        return library
    found = find_nvcc()
    command = [found.compiler, "-std=c++17", "-O1", "-fmad=false", f"-DMLC_SM={GPU.rstrip('a')}", *(f"-D{define}" for define in defines)]
    command += ["-gencode", f"arch=compute_{GPU},code=sm_{GPU}", "-Xcompiler", "-fPIC", *INCLUDES[:2], "-x", "cu", str(source)]
    # Tests call the runtime API by name: the static library hides it.
    shared = min(Path(found.libraries).glob("libcudart.so*"))
    command += ["-shared", "-cudart", "none", "-cudadevrt", "none", "-Xlinker", str(shared), "-Xlinker", f"-rpath={found.libraries}"]
    command += ["-o", str(library)]
    subprocess.run(command, check=True, env=os.environ | {"PATH": f"{Path(found.compiler).parent}:{os.environ['PATH']}"})
    return library


class Device:
    """The shim in one library: device memory as NumPy arrays go in and out, and what it reported."""

    def __init__(self, source: str, checked: bool = True, defines: Sequence[str] = ()) -> None:
        self.open(build(KERNELS / source, checked, tuple(defines)))

    @classmethod
    def of_library(cls, path: str) -> "Device":
        """Of a library that is built already."""
        device = cls.__new__(cls)
        device.open(Path(path))
        return device

    def open(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.allocations: list[ctypes.c_void_p] = []
        if GPU:
            return
        self.library.mlc_shim_report_text.restype = ctypes.c_char_p
        self.library.mlc_shim_switches.restype = ctypes.c_uint64
        self.library.mlc_shim_print(0)

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for pointer in self.allocations:
            self.library.cudaFree(pointer)
        self.allocations.clear()
        self.reports()

    def schedule(self, order: str, seed: int) -> None:
        assert GPU or self.library.mlc_shim_options(order.encode(), ctypes.c_uint64(seed)) == 0

    def empty(self, size: int) -> ctypes.c_void_p:
        """`size` bytes that nothing wrote."""
        pointer = ctypes.c_void_p()
        assert self.library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)) == 0
        self.allocations.append(pointer)
        return pointer

    def put(self, array: Array) -> ctypes.c_void_p:
        array = np.ascontiguousarray(array)
        pointer = self.empty(array.nbytes)
        assert self.library.cudaMemcpy(pointer, array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes), 1) == 0
        return pointer

    def get(self, pointer: ctypes.c_void_p, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Array:
        array = np.zeros(shape, dtype)
        assert self.library.cudaMemcpy(array.ctypes.data_as(ctypes.c_void_p), pointer, ctypes.c_size_t(array.nbytes), 2) == 0
        return array

    def call(self, name: str, *arguments: object) -> None:
        getattr(self.library, name)(*arguments)
        error = self.library.cudaDeviceSynchronize()
        assert not (GPU and error), f"{name}: CUDA error {error}"

    def reports(self) -> list[str]:
        if GPU:
            return []
        texts: list[str] = [self.library.mlc_shim_report_text(i).decode() for i in range(self.library.mlc_shim_report_count())]
        self.library.mlc_shim_reports_clear()
        return texts


def bf16_of(x: Array) -> Array:
    """Bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def f32_of(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)
