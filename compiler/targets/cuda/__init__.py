"""The targets `sm_90` and `sm_103`: CUDA C++ for one GPU a rank, Hopper (H100, H200) and Blackwell Ultra (GB300)."""

from __future__ import annotations

from functools import partial

from mlc.lower.arrangement import Arrangement, canonical, pitched
from mlc.lower.library import NO_SCRATCH
from mlc.lower.rules import Contractions, Fusion, Loops, Machine, Rules
from mlc.nvcc import find_nvcc
from mlc.targets.cuda.attention import ATTENTION_FORWARD, ATTENTION_VJP
from mlc.targets.cuda.kinds import device_kinds
from mlc.targets.cuda.model import FOUND_BYTES, emit
from mlc.targets.cuda.project import add_cuda_project
from mlc.targets.cuda.split import DEVICES
from mlc.targets.target import SWEPT, Target

#: The kernels of runtime/cuda that ops name, one record each.
KERNELS = (ATTENTION_FORWARD, ATTENTION_VJP)

#: A loop is not split for the sake of a division: its iterations are threads, which share nothing that could be kept outside.
_NEVER = 1 << 62


#: Elements of a row of bf16 from which on it begins at a multiple of 16 bytes, for copies of as many to shared memory.
_LONG_ROW = 64


def _arranged(dtype: str, shape: tuple[int, ...]) -> Arrangement:
    return pitched(shape, 8) if dtype == "bf16" and len(shape) > 1 and shape[-1] >= _LONG_ROW else canonical(shape)


def _kept(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    return canonical(shape)


def _target(name: str, doc: str, flops_per_second: float) -> Target:
    return Target(
        doc=doc,
        rules=Rules(
            target=name,
            dtypes=frozenset({"f32", "bf16", "f16", "i32", "bool"}),
            # A store of fewer rows than warps that a GPU holds is shared out by elements.
            fusion=Fusion(
                few_rows=256,
                small=1024,
                expensive=frozenset({"exp", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow"}),
                most_work=3.5,
                most_work_kept=2.5,
                most_code=4,
                free_code=64,
                limits=(32, 8, 4, 3, 2, 1),
                most_pieces=4,
                most_choices=8,
            ),
            loops=Loops(least_inner=_NEVER, column_rows=64, column_block=64),
            lower_kinds=partial(device_kinds, name),
            contractions=Contractions(("f32", "bf16"), 4, {"f32": NO_SCRATCH}),
            kernels={kernel.name: kernel for kernel in KERNELS},
            sweeps=SWEPT,
            scatters=("f32",),
            arrange=_arranged,
            keep=_kept,
            alignment=256,
            scratch=FOUND_BYTES,
            rounds=False,
            machine=Machine(flops_per_second, DEVICES[name].memory),
        ),
        emit=emit,
        project=partial(add_cuda_project, name),
        check=find_nvcc,
    )


#: Rates that kernels reach, not peaks: contractions in bf16.
SM_90 = _target("sm_90", "CUDA for Hopper: H100, H200", 7.5e14)
SM_103 = _target("sm_103", "CUDA for Blackwell Ultra: GB300, B300", 1.84e15)
