"""The target `c`: C11 for a few threads of a CPU, with the kernels of runtime/kernels."""

from __future__ import annotations

from mlc.emit.dtypes import STORED
from mlc.emit.model import emit
from mlc.emit.project import add_project
from mlc.lower.arrangement import Arrangement, canonical
from mlc.lower.library import Scratch
from mlc.lower.rules import Contractions, Fusion, Loops, Machine, Rules
from mlc.lower.serial import serial_kinds
from mlc.targets.c.attention import ATTENTION_FORWARD, ATTENTION_VJP, stated
from mlc.targets.c.decoding import APPEND, ATTENTION_NEXT
from mlc.targets.target import SWEPT, Target

#: The kernels of the runtime that ops name, one record each.
KERNELS = (ATTENTION_FORWARD, ATTENTION_VJP, APPEND, ATTENTION_NEXT)


def _contraction(times: int) -> Scratch:
    """Scratch of the kernel of contractions whose elements are so many times as large as those of f32."""
    return Scratch(times * 1572864, stated(times, "MLC_CONTRACT_SCRATCH_BYTES"))


def _canonical(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    """Vectors of any element are loaded at one speed, so nothing is gained by gaps."""
    return canonical(shape)


C = Target(
    doc="C for a few threads of a CPU",
    rules=Rules(
        target="c",
        dtypes=frozenset(STORED),
        fusion=Fusion(
            few_rows=16,
            small=32768,
            expensive=frozenset({"exp", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow"}),
            most_work=3.5,
            most_work_kept=2.5,
            most_code=4,
            free_code=64,
            limits=(32, 8, 4, 3, 2, 1),
            most_pieces=4,
            most_choices=8,
        ),
        loops=Loops(least_inner=8, column_rows=64, column_block=64),
        lower_kinds=serial_kinds,
        contractions=Contractions(("f32", "bf16", "f64"), 4, {"f32": _contraction(1), "f64": _contraction(2)}),
        kernels={kernel.name: kernel for kernel in KERNELS},
        sweeps=SWEPT,
        scatters=("f32", "f64"),
        arrange=_canonical,
        keep=_canonical,
        alignment=64,
        scratch=0,
        rounds=True,
        # A core of a server of this decade with vectors of 512 bits; only the proportion matters to a cut.
        machine=Machine(flops_per_second=1e11, bytes_per_second=1e10),
    ),
    emit=emit,
    project=add_project,
    check=lambda: None,
)
