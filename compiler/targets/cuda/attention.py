"""The attention kernels of runtime/cuda: the calls of the C target, whose threads need no scratch of their own."""

from __future__ import annotations

from dataclasses import replace

from mlc.ir.function import Instruction
from mlc.lower.library import NO_SCRATCH, Scratch
from mlc.targets.c.attention import ATTENTION_FORWARD as FORWARD
from mlc.targets.c.attention import ATTENTION_VJP as VJP


def _no_scratch(_instruction: Instruction) -> Scratch:
    return NO_SCRATCH


def _workspace(instruction: Instruction) -> int:
    """Bytes of a number in f32 for each query of each head."""
    batch, time, heads, _ = instruction.operands[0].type.shape
    return 4 * batch * time * heads


def _vjp(_instruction: Instruction) -> str:
    return "mlc_attention_vjp_by"


ATTENTION_FORWARD = replace(FORWARD, dtypes=("f32", "bf16"), scratch=_no_scratch)
ATTENTION_VJP = replace(VJP, dtypes=("f32", "bf16"), scratch=_no_scratch, function=_vjp, workspace=_workspace)
