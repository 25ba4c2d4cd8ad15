"""Scratch of a thread inside kernels, in bytes: mlc_kernel.h states the same, and emitted code checks that it fits."""

from __future__ import annotations

from mlc.lower.loops import Attention, Contract
from mlc.lower.routine import Routine

#: As MLC_CONTRACT_SCRATCH_BYTES in mlc_kernel.h.
CONTRACT_SCRATCH_BYTES = 1572864


def scratch_bytes(routine: Routine) -> int:
    """Bytes of scratch a thread needs for a routine: what mlc_kernel.h states for the kernels it calls."""
    need = 0
    for kernel in routine.kernels:
        match kernel:
            case Contract():
                need = max(need, CONTRACT_SCRATCH_BYTES)
            case Attention(vjp=vjp, dims=(_, _, keys, _, _, head, value)):
                need = max(need, attention_vjp_scratch_bytes(keys, head, value) if vjp else attention_forward_scratch_bytes(head, value))
            case _:
                pass
    return need


def _pitch(n: int) -> int:
    return 16 * (-(-n // 16) | 1)


def attention_forward_scratch_bytes(head: int, value: int) -> int:
    """As MLC_ATTENTION_FORWARD_SCRATCH_BYTES in mlc_kernel.h."""
    return 4 * (224 * head + 192 * _pitch(value) + 68 * 144)


def attention_vjp_scratch_bytes(keys: int, head: int, value: int) -> int:
    """As MLC_ATTENTION_VJP_SCRATCH_BYTES in mlc_kernel.h."""
    blocks = 64 * (-(-keys // 64)) * (_pitch(head) + _pitch(value))
    return 4 * (224 * (head + value) + 128 * (2 * _pitch(head) + _pitch(value)) + 64 * _pitch(head) + 20480 + 68 * 144 + blocks)
