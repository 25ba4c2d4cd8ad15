"""The precision of a recipe: what `real` is, and, with f64, what f32 is.

    f32, bf16   `real` is that dtype; f32 is f32
    f64         the program of f32 with every f32 in it as f64, which leaves no rounding to f32 anywhere: 16-bit floats stay

before:  %m = div %s, %n : f32[batch=4]      after, with f64:  %m = div %s, %n : f64[batch=4]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlc.ir.function import Function, Instruction
from mlc.ir.program import Input, Parameter, Program, Scalar, Unit, Update
from mlc.ir.types import TensorType, Value

#: What a recipe may ask for, with the dtype that `real` is while the file is elaborated.
PRECISIONS = {"f32": "f32", "bf16": "bf16", "f64": "f32"}

#: By precision, the dtypes that are another one in the program.
_READ_AS: Mapping[str, Mapping[str, str]] = {"f32": {}, "bf16": {}, "f64": {"f32": "f64"}}


def in_precision(program: Program) -> Program:
    """The program in the precision of its recipe."""
    read_as = _READ_AS[program.recipe.precision]
    return _Reading(read_as).program(program) if read_as else program


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
