"""A place in the text where an operation is elaborated: it emits instructions and says what is wrong."""

from __future__ import annotations

import math
from typing import Any

from mlc.diagnostics import Span
from mlc.elaborate.failures import Failure
from mlc.elaborate.trace import Trace
from mlc.elaborate.values import describe, integer, number
from mlc.frozen import frozen
from mlc.ir.builder import Builder
from mlc.ir.dtypes import dtype_of
from mlc.ir.types import TensorType, Value
from mlc.ops.broadcasting import align, broadcast_to, constant_value


@frozen
class Site:
    """`span` carries its callers; `trace` is None where no tensor can be made. `f32`: what that dtype is in the program."""

    span: Span
    trace: Trace | None
    f32: str = "f32"

    @property
    def tracing(self) -> Trace:
        if self.trace is None:
            raise self.fail("E0406", "no tensors here: this is evaluated at compile time")
        return self.trace

    @property
    def builder(self) -> Builder:
        builder = self.tracing.builder
        builder.span = self.span
        return builder

    def fail(self, code: str, message: str, help: str | None = None) -> Failure:
        return Failure(code, message, self.span, help)

    def one(self, op: str, *operands: Value, **attributes: Any) -> Value:
        return self.builder.one(op, *operands, **attributes)

    def align(self, *values: Value, op: str) -> tuple[Value, ...]:
        return align(self.builder, *values, op=op)

    def broadcast(self, value: Value, dims: tuple[Any, ...]) -> Value:
        return broadcast_to(self.builder, value, dims)

    def constant(self, value: float | int | bool, dtype: str) -> Value:
        """A scalar of this dtype."""
        held = dtype_of(self.f32 if dtype == "f32" else dtype)
        if abs(value) >= held.infinite and abs(value) != math.inf:
            article = "an" if dtype[0] == "f" else "a"
            raise self.fail("E0411", f"{describe(value)} does not fit {article} {dtype}", "write inf if that is meant")
        return self.one("constant", dtype=dtype, value=constant_value(value, dtype))

    def tensor(self, value: Any, what: str) -> Value:
        if isinstance(value, Value):
            return value
        raise self.fail("E0403", f"{what}: wants a tensor, got {describe(value)}")

    def float_tensor(self, value: Any, what: str) -> Value:
        tensor = self.tensor(value, what)
        if not tensor.type.is_float:
            raise self.fail("E0202", f"{what}: wants a float tensor, got {tensor.type}", "cast it to a float dtype")
        return tensor

    def integer(self, value: Any, what: str) -> int:
        if integer(value):
            return value
        raise self.fail("E0403", f"{what}: wants a compile-time int, got {describe(value)}")

    def adapt(self, value: Any, type_: TensorType, op: str) -> Value:
        """A compile-time number as a scalar of the dtype of the tensor it meets."""
        kind = type_.dtype
        if isinstance(value, bool):
            fits = kind == "bool"
        elif number(value):
            fits = type_.is_float or (kind == "i32" and isinstance(value, int))
        else:
            raise self.fail("E0406", f"{op}: wants a tensor or a number beside {type_}, got {describe(value)}")
        if not fits:
            raise self.fail("E0202", f"{op}: {describe(value)} does not meet {type_}", "cast the tensor" if number(value) else None)
        return self.constant(self.index(value, op) if kind == "i32" else value, kind)

    def index(self, value: int, op: str) -> int:
        """A number that an element of an i32 tensor may be. raises: E0411"""
        if not -(2**31) <= value < 2**31:
            raise self.fail("E0411", f"{op}: {describe(value)} does not fit an i32")
        return value

    def together(self, op: str, *values: Any) -> tuple[Value, ...]:
        """Tensors and numbers, at least one a tensor: numbers adapted, all broadcast to one shape."""
        first = next(v for v in values if isinstance(v, Value))
        other = next((v for v in values if isinstance(v, Value) and v.type.dtype != first.type.dtype), None)
        if other is not None:
            raise self.fail("E0202", f"{op}: dtypes differ: {first.type} and {other.type}", "cast one of them")
        tensors = [v if isinstance(v, Value) else self.adapt(v, first.type, op) for v in values]
        return self.align(*tensors, op=op)
