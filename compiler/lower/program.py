"""Every function of a model lowered once: layer functions and their derivatives, initial values, optimizer rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlc.diagnostics import NO_SPAN, InternalError
from mlc.ir.builder import Builder
from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.ir.program import Input, Program, Step, Unit, Update, Variant
from mlc.ir.types import ONE, TensorType, Value
from mlc.lower.checks import Facts
from mlc.lower.loops import Nest
from mlc.lower.names import routine_name, unique_name
from mlc.lower.routine import Routine, lower_function


@dataclass(frozen=True, slots=True)
class Lowered:
    """Routines by what they are for. `routines` holds each once, in the order they are emitted.

    forward:          per unit
    input_gradient:   per unit, None where there is nothing to do
    weight_gradient:  per unit, None where there is nothing to do
    kept:             per unit: pending value -> the incoming cotangent it is, which stays where it lies
    inits:            per parameter; flat where the initial value is elementwise
    updates:          per Program.updates
    adds:             (dtype, size) of a state -> routine (a, b) -> a + b, for states that several calls read
    zeros:            (dtype, size) -> routine () -> 0
    copies:           (dtype, size) of a state -> routine (a) -> a, for states that pass through a stage, and their gradients
    flat:             names of the routines that run over a range of flat elements
    """

    step: Step
    routines: tuple[Routine, ...]
    forward: tuple[Routine, ...]
    input_gradient: tuple[Routine | None, ...]
    weight_gradient: tuple[Routine | None, ...]
    kept: tuple[Mapping[str, str], ...]
    inits: tuple[Routine, ...]
    updates: tuple[Routine, ...]
    adds: Mapping[tuple[str, int], Routine]
    zeros: Mapping[tuple[str, int], Routine]
    copies: Mapping[tuple[str, int], Routine]
    flat: frozenset[str]


class _Lowerer:
    def __init__(self, step: Step, ops: Mapping[str, Op]):
        self.step = step
        self.program = step.program
        self.ops = ops
        self.routines: list[Routine] = []
        self.names: set[str] = set()
        self.sites = 0
        self.read = _inputs_read(self.program)

    def lower(
        self,
        function: Function,
        name: str,
        folds: frozenset[str] = frozenset(),
        binds: tuple[str, ...] | None = None,
        facts: Facts | None = None,
    ) -> Routine:
        """Lower one function, whose composites are expanded, under a name that no other routine has."""
        name = unique_name(routine_name(name), self.names)
        routine = lower_function(function, self.ops, folds, name, binds, facts, self.sites)
        self.sites += routine.checked
        self.routines.append(routine)
        return routine

    def forward(self, number: int, unit: Unit, variant: Variant | None) -> Routine:
        function = variant.forward if variant else self.step.plain[number]
        if function is None:
            raise InternalError(f"lower: {unit.name} has neither a derivative nor a function")
        results = function.results[unit.outputs : unit.outputs + len(unit.effects)]
        folds = frozenset(r.name for r, e in zip(results, unit.effects, strict=True) if e.kind == "accumulate")
        inputs = self.program.inputs
        facts = Facts(self.read.get(number, {}), inputs[0].type.dims[0] if inputs and inputs[0].type.dims else ONE)
        return self.lower(function, f"{unit.name}_forward", folds, facts=facts)

    def input_gradient(self, unit: Unit, variant: Variant | None) -> Routine | None:
        if variant is None:
            return None
        return self._gradient(unit, variant, _without(variant.input_gradient, kept_cotangents(variant)), "input_gradient")

    def weight_gradient(self, unit: Unit, variant: Variant | None) -> Routine | None:
        if variant is None:
            return None
        return self._gradient(unit, variant, variant.weight_gradient, "weight_gradient")

    def _gradient(self, unit: Unit, variant: Variant, function: Function, which: str) -> Routine | None:
        if not function.instructions:
            return None
        folds = frozenset(result for _, result, where in variant.d_params if where == which)
        return self.lower(function, f"{unit.name}_{which}", folds)

    def run(self) -> Lowered:
        """Lower everything, in the order in which it is emitted."""
        units = list(zip(self.program.units, self.step.variants, strict=True))
        forward = tuple(self.forward(n, u, v) for n, (u, v) in enumerate(units))
        input_gradient = tuple(self.input_gradient(u, v) for u, v in units)
        weight_gradient = tuple(self.weight_gradient(u, v) for u, v in units)
        kept = tuple(kept_cotangents(v) if v else {} for v in self.step.variants)
        inits = self._inits()
        updates = tuple(map(self._update, self.program.updates, self.step.updates))
        adds, zeros = self._sums()
        copies = self._copies()
        flat = frozenset(r.name for r in (*inits, *updates) if self._is_flat(r))
        return Lowered(
            step=self.step,
            routines=tuple(self.routines),
            forward=forward,
            input_gradient=input_gradient,
            weight_gradient=weight_gradient,
            kept=kept,
            inits=inits,
            updates=updates,
            adds=adds,
            zeros=zeros,
            copies=copies,
            flat=flat,
        )

    def _update(self, update: Update, function: Function) -> Routine:
        """Calls pass p, g and states, then the places of the results, then scalars."""
        parameters = [p.name for p in function.parameters]
        tensors = 2 + len(update.states)
        binds = (*parameters[:tensors], *(r.name for r in function.results), *parameters[tensors:])
        return self.lower(function, f"update_{function.name}", binds=binds)

    def _inits(self) -> tuple[Routine, ...]:
        """A routine per parameter; parameters with the same initial value have one function, and share its routine."""
        functions = {id(init): init for init in self.step.inits}
        made = {key: self.lower(init, f"init_{init.name}") for key, init in functions.items()}
        return tuple(made[id(init)] for init in self.step.inits)

    def _is_flat(self, routine: Routine) -> bool:
        """Elementwise over the flat vector of 1024 that stands for any size."""
        (result, *_) = routine.function.results
        one = len(routine.kernels) == 1 and isinstance(routine.kernels[0], Nest) and routine.kernels[0].vector
        return one and [f.label for d in result.type.dims for f in d.factors] == ["n"]

    def _sums(self) -> tuple[dict[tuple[str, int], Routine], dict[tuple[str, int], Routine]]:
        """The routines that add gradients of states, and those that clear them, by dtype and size."""
        adds: dict[tuple[str, int], Routine] = {}
        zeros: dict[tuple[str, int], Routine] = {}
        for unit, variant in zip(self.program.units, self.step.variants, strict=True):
            if variant is None:
                continue
            states = {p.name: p.type for p in unit.function.parameters}
            for name, _ in variant.d_states:
                kind = states[name]
                if (kind.dtype, kind.size) not in adds:
                    adds[kind.dtype, kind.size] = self._add(kind)
            for result, cotangent in zip(unit.function.results, variant.d_results, strict=True):
                key = (result.type.dtype, result.type.size)
                if cotangent is not None and key not in zeros:
                    zeros[key] = self._zero(result.type)
        return adds, zeros

    def _copies(self) -> dict[tuple[str, int], Routine]:
        """The routines that pass states on, by dtype and size."""
        copies: dict[tuple[str, int], Routine] = {}
        for unit in self.program.units:
            for result in unit.function.results[: unit.outputs]:
                kind = result.type
                if (kind.dtype, kind.size) not in copies:
                    copies[kind.dtype, kind.size] = self._copy(kind)
        return copies

    def _copy(self, kind: TensorType) -> Routine:
        a = Value("a", kind)
        builder = Builder(self.ops, "lower", NO_SPAN, ("a",))
        same = builder.one("copy", a, hint="same")
        return self.lower(Function("copy", (a,), tuple(builder.instructions), (same,)), f"copy_{kind.dtype}_{kind.size}")

    def _add(self, kind: TensorType) -> Routine:
        a, b = Value("a", kind), Value("b", kind)
        builder = Builder(self.ops, "lower", NO_SPAN, ("a", "b"))
        total = builder.one("add", a, b, hint="sum")
        return self.lower(Function("add", (a, b), tuple(builder.instructions), (total,)), f"add_{kind.dtype}_{kind.size}")

    def _zero(self, kind: TensorType) -> Routine:
        builder = Builder(self.ops, "lower", NO_SPAN)
        zero = builder.one("constant", dtype=kind.dtype, value=0.0)
        if kind.dims:
            zero = builder.one("broadcast", zero, dims=kind.dims, axes=())
        return self.lower(Function("zero", (), tuple(builder.instructions), (zero,)), f"zero_{kind.dtype}_{kind.size}")


def kept_cotangents(variant: Variant) -> dict[str, str]:
    """Pending values that are copies of an incoming cotangent: nothing need be copied while the cotangent lives."""
    cotangents = {p.name for p in variant.input_gradient.parameters} & {d for d in variant.d_results if d is not None}
    copies = {i.result.name: i.operands[0].name for i in variant.input_gradient.instructions if i.op == "copy"}
    return {name: copies[name] for name in variant.pending if copies.get(name) in cotangents}


def _without(function: Function, names: Mapping[str, str]) -> Function:
    """The function without some of its results and the copies that make them."""
    instructions = tuple(i for i in function.instructions if not (i.op == "copy" and i.result.name in names))
    return Function(function.name, function.parameters, instructions, tuple(r for r in function.results if r.name not in names))


def _inputs_read(program: Program) -> dict[int, dict[str, tuple[Input, ...]]]:
    """Unit -> its parameters that inputs of the model are bound to, in any chain, with these."""
    inputs = {value.name: value for value in program.inputs}
    found: dict[int, dict[str, dict[str, Input]]] = {}
    for chain in (program.train, program.evaluate, program.sample):
        if chain is None:
            continue
        calls = [(call.unit, call.arguments) for call in chain.calls] + ([] if chain.weight is None else [chain.weight])
        for number, arguments in calls:
            unit = program.units[number]
            for parameter, role, name in zip(unit.function.parameters, unit.roles, arguments, strict=True):
                if role == "input":
                    found.setdefault(number, {}).setdefault(parameter.name, {})[name] = inputs[name]
    return {number: {name: tuple(of.values()) for name, of in read.items()} for number, read in found.items()}


def lower(step: Step, ops: Mapping[str, Op]) -> Lowered:
    """Lower a differentiated program."""
    return _Lowerer(step, ops).run()
