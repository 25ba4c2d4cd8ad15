"""The precision of a recipe: what `real` is, and, with f64, what f32 is.

    f32, bf16   `real` is that dtype; f32 is f32
    f64         the program of f32 with every f32 in it as f64, which leaves no rounding to f32 anywhere: 16-bit floats stay.
                The two are one dtype then, so the name f64 stands for f32 too while the file is elaborated

before:  %m = div %s, %n : f32[batch=4]      after, with f64:  %m = div %s, %n : f64[batch=4]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from mlc.diagnostics import Span
from mlc.elaborate.failures import Failure
from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.ir.function import Function, Instruction
from mlc.ir.program import Input, Parameter, Program, Scalar, Unit, Update
from mlc.ir.types import TensorType, Value


@frozen
class Precision:
    """real, f64: the dtypes that these names are while a file is elaborated. f32: what f32 is in the program."""

    real: str = "f32"
    f64: str = "f64"
    f32: str = "f32"

    def named(self, name: str) -> str:
        """The dtype that a name of one stands for while a file is elaborated."""
        return {"real": self.real, "f64": self.f64}.get(name, name)


#: What a recipe may ask for.
PRECISIONS = {"f32": Precision(), "bf16": Precision(real="bf16"), "f64": Precision(f64="f32", f32="f64")}


def in_range(value: float, dtype: str, code: str, what: str, span: Span) -> None:
    """Whether a number is still one in a dtype that f32 is in the program, and 0 only if it is."""
    held = dtype_of(dtype)
    if abs(value) >= held.infinite and abs(value) != math.inf:
        raise Failure(code, f"{what}: does not fit an f32: the largest is 3.40282e+38", span)
    if 0 < abs(value) <= held.vanishing:
        raise Failure(code, f"{what}: would be 0 as an f32: the smallest is 1.4013e-45", span)


def in_precision(program: Program) -> Program:
    """The program in the precision of its recipe."""
    f32 = PRECISIONS[program.recipe.precision].f32
    return program if f32 == "f32" else _Reading({"f32": f32}).program(program)


def read_as(function: Function, dtypes: Mapping[str, str]) -> Function:
    """The function with some dtypes as others."""
    return _Reading(dtypes).function(function)


class _Reading:
    """Reads some dtypes as others, everywhere in a program. Each function is read once."""

    def __init__(self, read_as: Mapping[str, str]):
        self.read_as = read_as
        self.functions: dict[int, Function] = {}

    def program(self, program: Program) -> Program:
        return replace(
            program,
            units=tuple(self.unit(u) for u in program.units),
            parameters=tuple(self.parameter(p) for p in program.parameters),
            inputs=tuple(self.input(i) for i in program.inputs),
            scalars=tuple(self.scalar(s) for s in program.scalars),
            updates=tuple(self.update(u) for u in program.updates),
        )

    def unit(self, unit: Unit) -> Unit:
        return replace(unit, function=self.function(unit.function))

    def parameter(self, parameter: Parameter) -> Parameter:
        return replace(parameter, type=self.type(parameter.type), init=self.function(parameter.init))

    def input(self, value: Input) -> Input:
        return replace(value, type=self.type(value.type))

    def scalar(self, scalar: Scalar) -> Scalar:
        return scalar if scalar.curve is None else replace(scalar, curve=self.function(scalar.curve))

    def update(self, update: Update) -> Update:
        states = tuple((name, self.type(kind)) for name, kind in update.states)
        return replace(update, function=self.function(update.function), states=states)

    def function(self, function: Function) -> Function:
        if id(function) not in self.functions:
            instructions = tuple(self.instruction(i) for i in function.instructions)
            parameters, results = self.values(function.parameters), self.values(function.results)
            self.functions[id(function)] = Function(function.name, parameters, instructions, results)
        return self.functions[id(function)]

    def instruction(self, i: Instruction) -> Instruction:
        attributes = tuple((key, self.read_as.get(str(value), value) if key == "dtype" else value) for key, value in i.attributes)
        return Instruction(i.op, self.values(i.operands), attributes, self.values(i.results), i.span, i.via)

    def values(self, values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(Value(v.name, self.type(v.type)) for v in values)

    def type(self, kind: TensorType) -> TensorType:
        return TensorType(self.read_as.get(kind.dtype, kind.dtype), kind.dims)
