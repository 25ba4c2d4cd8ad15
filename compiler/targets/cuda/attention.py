"""The attention kernels of runtime/cuda: the calls of the C target, whose threads need no scratch of their own."""

from __future__ import annotations

from dataclasses import replace

from mlc.ir.function import Instruction
from mlc.lower.library import NO_SCRATCH, Scratch
from mlc.targets.c.attention import ATTENTION_FORWARD as FORWARD
from mlc.targets.c.attention import ATTENTION_VJP as VJP


def _no_scratch(_instruction: Instruction) -> Scratch:
    return NO_SCRATCH


ATTENTION_FORWARD = replace(FORWARD, dtypes=("f32", "bf16"), scratch=_no_scratch)
ATTENTION_VJP = replace(VJP, dtypes=("f32", "bf16"), scratch=_no_scratch)
