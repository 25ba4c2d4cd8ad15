"""Lowering: functions of the tensor IR become routines of the loop IR."""

from mlc.lower.program import Lowered, lower

__all__ = ["Lowered", "lower"]
