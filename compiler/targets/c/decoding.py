"""The kernels of the decode chain: mlc_append and mlc_attention_next of mlc_kernel.h."""

from __future__ import annotations

import math

from mlc.emit.dtypes import kernel_name
from mlc.ir.dtypes import dtype_of
from mlc.ir.function import Instruction
from mlc.lower.expression import Number
from mlc.lower.library import NO_SCRATCH, Constants, Operand, RuntimeKernel, Scratch
from mlc.targets.c.attention import pitch, sizes_of, stated, strides_of, times_of, wide_of


def _no_workspace(_instruction: Instruction) -> int:
    return 0


def _appending(instruction: Instruction, _operands: tuple[Operand | None, ...]) -> tuple[Constants, ...]:
    """The fields of mlc_appending."""
    kept, axis = instruction.operands[0].type, instruction.attribute("axis")
    outer, inner = math.prod(kept.shape[:axis]), math.prod(kept.shape[axis + 1 :])
    return ((("outer", outer), ("times", kept.shape[axis]), ("bytes", inner * dtype_of(kept.dtype).bytes)),)


APPEND = RuntimeKernel(
    name="append",
    doc="what is kept of other times, with what is new at one",
    function=lambda instruction: "mlc_append",
    shape="mlc_appending",
    dtypes=("f32", "bf16", "f16", "f64"),
    dense=False,
    operands=lambda instruction: instruction.operands,
    plain=lambda instruction: (*instruction.operands, *instruction.results),
    constants=_appending,
    scratch=lambda instruction: NO_SCRATCH,
    workspace=_no_workspace,
    over=0,
)


def _attention(instruction: Instruction, operands: tuple[Operand | None, ...]) -> tuple[Constants, ...]:
    """The fields of mlc_attention."""
    last = (("scale", Number(instruction.attribute("scale"), wide_of(instruction))), ("dtype", instruction.operands[0].type.dtype))
    return (tuple(sizes_of(instruction).items()), *strides_of(operands), last)


def _scratch(instruction: Instruction) -> Scratch:
    head, value, times = (*(sizes_of(instruction)[name] for name in ("head", "value")), times_of(instruction))
    elements = 81 * pitch(head) + 65 * pitch(value) + 80
    return Scratch(4 * times * elements, stated(times, f"MLC_ATTENTION_NEXT_SCRATCH_BYTES({head}, {value})"))


ATTENTION_NEXT = RuntimeKernel(
    name="attention_next",
    doc="attention of the query of one time to the keys of times up to it",
    function=lambda instruction: kernel_name("mlc_attention_next", wide_of(instruction)),
    shape="mlc_attention",
    dtypes=("f32", "bf16", "f64"),
    dense=True,
    operands=lambda instruction: instruction.operands,
    plain=lambda instruction: instruction.operands[3:],
    constants=_attention,
    scratch=_scratch,
    workspace=_no_workspace,
    over=None,
)
