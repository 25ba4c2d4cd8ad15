"""The attention kernels of the runtime: mlc_attention_forward and mlc_attention_vjp of mlc_kernel.h."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mlc.diagnostics import InternalError
from mlc.emit.dtypes import kernel_name
from mlc.ir.dtypes import dtype_of
from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower.expression import Number
from mlc.lower.library import Constants, Operand, RuntimeKernel, Scratch

#: The strided fields of mlc_attention in the order of the operands.
_STRIDED = ("q", "k", "v", None, "y", None, "dy", "dq", "dk", "dv")


def _forward_operands(instruction: Instruction) -> tuple[Value | None, ...]:
    """q, k, v and the mask, which may be missing."""
    return (*instruction.operands[:3], _mask(instruction, 0))


def _vjp_operands(instruction: Instruction) -> tuple[Value | None, ...]:
    """The same with y, its log-sum-exp and dy."""
    return (*instruction.operands[:3], _mask(instruction, 3), *instruction.operands[-3:])


def _mask(instruction: Instruction, others: int) -> Value | None:
    """The mask of an instruction with so many operands behind it."""
    behind = instruction.operands[3:]
    masks = [value for value in behind[:1] if value.type.dtype == "bool"]
    if len(behind) != len(masks) + others:
        raise InternalError(f"lower: the kernel of {instruction.op} takes no times and no gradient of the log-sum-exp")
    return masks[0] if masks else None


def sizes_of(instruction: Instruction) -> dict[str, int]:
    """The sizes of mlc_attention."""
    q, k, v = (o.type.shape for o in instruction.operands[:3])
    return {"batch": q[0], "time": q[1], "keys": k[1], "heads": q[2], "groups": k[2], "head": q[3], "value": v[3]}


def _constants(instruction: Instruction, operands: tuple[Operand | None, ...]) -> tuple[Constants, ...]:
    """The fields of mlc_attention."""

    dtype, scale = instruction.operands[0].type.dtype, Number(instruction.attribute("scale"), wide_of(instruction))
    last = (("scale", scale), ("causal", int(instruction.attribute("causal"))), ("dtype", dtype))
    return (tuple(sizes_of(instruction).items()), *strides_of(operands), last)


def strides_of(operands: tuple[Operand | None, ...]) -> Iterator[Constants]:
    """The fields that say how q, k, v, y and their gradients lie."""
    for name, operand in zip(_STRIDED, operands, strict=False):
        if name and operand:
            yield tuple(zip((f"{name}_batch", f"{name}_time", f"{name}_head"), operand.strides, strict=False))


def wide_of(instruction: Instruction) -> str:
    """The dtype that is computed in."""
    return dtype_of(instruction.operands[0].type.dtype).wide


def times_of(instruction: Instruction) -> int:
    """How many times as large as those of f32 the elements are."""
    return dtype_of(wide_of(instruction)).bytes // dtype_of("f32").bytes


def stated(times: int, need: str) -> str:
    """What a header says a kernel of f32 needs, for one whose elements are so many times as large."""
    return need if times == 1 else f"{times} * {need}"


def _function(name: str) -> Callable[[Instruction], str]:
    return lambda instruction: kernel_name(name, wide_of(instruction))


def _plain(mask: Value | None, lse: Value) -> tuple[Value, ...]:
    """What mlc_attention states no strides of."""
    return (lse,) if mask is None else (mask, lse)


def pitch(n: int) -> int:
    """MLC_PITCH of mlc_kernel.h."""
    return 16 * (-(-n // 16) | 1)


def _forward_scratch(instruction: Instruction) -> Scratch:
    sizes = sizes_of(instruction)
    head, value, times = sizes["head"], sizes["value"], times_of(instruction)
    elements = 224 * head + 192 * pitch(value) + 68 * 144
    return Scratch(4 * times * elements, stated(times, f"MLC_ATTENTION_FORWARD_SCRATCH_BYTES({head}, {value})"))


def _vjp_scratch(instruction: Instruction) -> Scratch:
    sizes = sizes_of(instruction)
    keys, head, value, times = sizes["keys"], sizes["head"], sizes["value"], times_of(instruction)
    blocks = 64 * (-(-keys // 64)) * (pitch(head) + pitch(value))
    elements = 224 * (head + value) + 128 * (2 * pitch(head) + pitch(value)) + 64 * pitch(head) + 20480 + 4 * 144 + blocks
    return Scratch(4 * times * elements, stated(times, f"MLC_ATTENTION_VJP_SCRATCH_BYTES({keys}, {head}, {value})"))


def _no_workspace(_instruction: Instruction) -> int:
    return 0


ATTENTION_FORWARD = RuntimeKernel(
    name="attention_forward",
    doc="softmax attention without a time x keys buffer, and the log-sum-exp of its scores",
    function=_function("mlc_attention_forward"),
    shape="mlc_attention",
    dtypes=("f32", "bf16", "f64"),
    dense=True,
    operands=_forward_operands,
    plain=lambda instruction: _plain(_forward_operands(instruction)[3], instruction.results[1]),
    constants=_constants,
    scratch=_forward_scratch,
    workspace=_no_workspace,
    over=None,
)

ATTENTION_VJP = RuntimeKernel(
    name="attention_vjp",
    doc="the gradients of attention's q, k and v",
    function=_function("mlc_attention_vjp"),
    shape="mlc_attention",
    dtypes=("f32", "bf16", "f64"),
    dense=True,
    operands=_vjp_operands,
    plain=lambda instruction: _plain(_vjp_operands(instruction)[3], instruction.operands[-2]),
    constants=_constants,
    scratch=_vjp_scratch,
    workspace=_no_workspace,
    over=None,
)
