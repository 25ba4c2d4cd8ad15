"""Every function of a model lowered once: layer functions and their derivatives, initial values, optimizer rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mlc.diagnostics import NO_SPAN, InternalError
from mlc.frozen import frozen
from mlc.ir.builder import Builder
from mlc.ir.flat import is_flat, unflat
from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.ir.program import CALL_CHOICES, CHOICES, Input, Parameter, Program, Step, Unit, Update, Variant
from mlc.ir.types import ONE, TensorType, Value
from mlc.lower.again import Again, remade
from mlc.lower.arrangement import Arrangement, Stored, StoredParameter, canonical, chosen_arrangement
from mlc.lower.boundary import Boundaries, boundaries
from mlc.lower.checks import Facts
from mlc.lower.loops import Nest
from mlc.lower.names import routine_name, unique_name
from mlc.lower.routine import Routine, lower_function
from mlc.lower.rules import Rules

#: Stored.key.
Key = tuple[str, int | tuple[int, ...], Arrangement | None]


@frozen
class Lowered:
    """Routines by what they are for. `routines` holds each once, in the order they are emitted.

    rules:            of the target
    forward:          per unit
    input_gradient:   per unit, None where there is nothing to do
    weight_gradient:  per unit, None where there is nothing to do
    kept:             per unit: pending value -> the incoming cotangent it is, which stays where it lies
    inits:            per parameter; flat where the initial value is elementwise and the master canonical
    updates:          per Program.updates
    boundaries:       how values between functions of a unit, and between units, lie
    adds:             Stored.key of a state -> routine (a, b) -> a + b, for states that several calls read
    zeros:            Stored.key -> routine () -> 0
    copies:           Stored.key of a state -> routine (a) -> a, for states that pass through a stage, and their gradients
    rounded:          Stored.key of a master, and of the copy that rows read of it -> routine (master) -> copy
    parameters:       how each lies, by name
    flat:             names of the routines that run over a range of flat elements
    again:            [unit][choice] -> what makes saved values again, for each choice but "none" that keeps less
    """

    step: Step
    rules: Rules
    routines: tuple[Routine, ...]
    forward: tuple[Routine, ...]
    input_gradient: tuple[Routine | None, ...]
    weight_gradient: tuple[Routine | None, ...]
    kept: tuple[Mapping[str, str], ...]
    boundaries: Boundaries
    inits: tuple[Routine, ...]
    updates: tuple[Routine, ...]
    adds: Mapping[Key, Routine]
    zeros: Mapping[Key, Routine]
    copies: Mapping[Key, Routine]
    rounded: Mapping[tuple[Key, Key], Routine]
    parameters: Mapping[str, StoredParameter]
    flat: frozenset[str]
    again: tuple[Mapping[str, Again], ...]

    def again_of(self, unit: int, choice: str) -> Again | None:
        """What a unit under a choice makes again; None where it keeps everything."""
        found = [again for name, again in self.again[unit].items() if CHOICES.index(name) <= CALL_CHOICES.index(choice)]
        return found[-1] if found else None

    def stored(self, unit: int, value: Value) -> Stored:
        """How a value between the functions of a unit, or between units, lies in memory."""
        return self.boundaries.stored(unit, value)


class _Lowerer:
    def __init__(self, step: Step, ops: Mapping[str, Op], rules: Rules, choices: Sequence[str]):
        self.step = step
        self.choices = choices
        self.rules = rules
        self.program = step.program
        self.ops = ops
        self.routines: list[Routine] = []
        self.names: set[str] = set()
        self.sites = 0
        self.kept = tuple(kept_cotangents(of[0]) if of else {} for of in step.variants)
        self.boundaries = boundaries(step, rules, self.kept)
        self.arranged = self.boundaries.arranged
        self.read = _inputs_read(self.program)

    def lower(
        self,
        function: Function,
        name: str,
        folds: frozenset[str] = frozenset(),
        binds: tuple[str, ...] | None = None,
        facts: Facts | None = None,
        arranged: Mapping[str, Arrangement] | None = None,
    ) -> Routine:
        """Lower one function, whose composites are expanded, under a name that no other routine has.

        arranged: its parameters and results that are not canonical
        """
        name = unique_name(routine_name(name), self.names)
        routine = lower_function(function, self.ops, self.rules, folds, name, binds, facts, self.sites, arranged)
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
        return self.lower(function, f"{unit.name}_forward", folds, facts=facts, arranged=self.arranged[number])

    def input_gradient(self, number: int, unit: Unit, variant: Variant | None) -> Routine | None:
        if variant is None:
            return None
        return self._gradient(number, unit, variant, _without(variant.input_gradient, self.kept[number]), "input_gradient")

    def weight_gradient(self, number: int, unit: Unit, variant: Variant | None) -> Routine | None:
        if variant is None:
            return None
        return self._gradient(number, unit, variant, variant.weight_gradient, "weight_gradient")

    def _gradient(self, number: int, unit: Unit, variant: Variant, function: Function, which: str) -> Routine | None:
        if not function.instructions:
            return None
        folds = frozenset(result for _, result, where in variant.d_params if where == which)
        return self.lower(function, f"{unit.name}_{which}", folds, arranged=self.arranged[number])

    def run(self) -> Lowered:
        """Lower everything, in the order in which it is emitted."""
        variants = [of[0] if of else None for of in self.step.variants]
        units = list(zip(self.program.units, variants, strict=True))
        forward = tuple(self.forward(n, u, v) for n, (u, v) in enumerate(units))
        input_gradient = tuple(self.input_gradient(n, u, v) for n, (u, v) in enumerate(units))
        weight_gradient = tuple(self.weight_gradient(n, u, v) for n, (u, v) in enumerate(units))
        parameters = self._parameters()
        inits = self._inits([parameters[parameter.name] for parameter in self.program.parameters])
        updates = tuple(map(self._update, self.program.updates, self.step.updates))
        adds, zeros = self._sums()
        copies = self._copies()
        rounded = self._rounded(parameters.values())
        canonical = {id(stored): stored.master.is_canonical for stored in parameters.values()}
        ranges = {id(init): init for init, stored in zip(inits, parameters.values(), strict=True) if canonical[id(stored)]}
        flat = frozenset(r.name for r in (*ranges.values(), *updates) if self._is_flat(r))
        again = tuple(self._again(n, f, of) for n, (f, of) in enumerate(zip(forward, self.step.variants, strict=True)))
        return Lowered(
            step=self.step,
            rules=self.rules,
            routines=tuple(self.routines),
            forward=forward,
            input_gradient=input_gradient,
            weight_gradient=weight_gradient,
            kept=self.kept,
            boundaries=self.boundaries,
            inits=inits,
            updates=updates,
            adds=adds,
            zeros=zeros,
            copies=copies,
            rounded=rounded,
            parameters=parameters,
            flat=flat,
            again=again,
        )

    def _again(self, number: int, forward: Routine, variants: tuple[Variant, ...]) -> dict[str, Again]:
        """By choice, what makes values again that it does not keep."""
        found: dict[str, Again] = {}
        for variant in variants[1:]:
            if variant.choice not in self.choices:
                continue
            again = remade(forward, variant, self.ops, self.rules, self.arranged[number])
            if again is not None and (not found or len(again.remade) > len([*found.values()][-1].remade)):
                name = unique_name(again.routine.name, self.names)
                found[variant.choice] = replace(again, routine=replace(again.routine, name=name))
                self.routines.append(found[variant.choice].routine)
        return found

    def _parameter(self, parameter: Parameter) -> StoredParameter:
        kind, wide = parameter.type, self.program.wide
        copy = None if kind.dtype == wide else self._stored(kind)
        rule = None if parameter.update is None else self.program.updates[parameter.update]
        states = () if rule is None else tuple(self._state(parameter, rule, state) for _, state in rule.states)
        return StoredParameter(self._stored(TensorType(wide, kind.dims)), copy, states)

    def _state(self, parameter: Parameter, rule: Update, state: TensorType) -> Stored:
        if rule.elementwise:
            return Stored(TensorType(self.program.wide, parameter.type.dims), canonical(parameter.type.shape))
        return self._stored(state)

    def _stored(self, kind: TensorType) -> Stored:
        """As the target keeps it."""
        return Stored(kind, chosen_arrangement(self.rules.keep, kind.dtype, kind.shape) or canonical(kind.shape))

    def _update(self, update: Update, function: Function) -> Routine:
        """Calls pass p, g and states, then the places of the results, then scalars. A rule over elements takes them in canonical order."""
        parameters = [p.name for p in function.parameters]
        tensors = 2 + len(update.states)
        binds = (*parameters[:tensors], *(r.name for r in function.results), *parameters[tensors:])
        lasting = () if update.elementwise else (*function.parameters[:tensors], *function.results)
        arranged = {value.name: self._stored(value.type).arrangement for value in lasting}
        return self.lower(function, f"update_{function.name}", binds=binds, arranged=arranged)

    def _parameters(self) -> dict[str, StoredParameter]:
        """Each parameter as it is stored: those of one type and one rule are one object. Calls of a layer share their types themselves."""
        kinds: dict[tuple[TensorType, int | None], StoredParameter] = {}
        alike: dict[tuple[int, int | None], StoredParameter] = {}
        found: dict[str, StoredParameter] = {}
        for parameter in self.program.parameters:
            key = id(parameter.type), parameter.update
            if key not in alike:
                kind = parameter.type, parameter.update
                alike[key] = kinds.get(kind) or kinds.setdefault(kind, self._parameter(parameter))
            found[parameter.name] = alike[key]
        return found

    def _inits(self, parameters: Sequence[StoredParameter]) -> tuple[Routine, ...]:
        """A routine per parameter. Those with the same initial value have one function, and share its routine where they are canonical."""
        made: dict[tuple[int, Key | None], Routine] = {}
        alike: dict[tuple[int, int], Routine] = {}
        pairs = [(id(init), id(stored)) for init, stored in zip(self.step.inits, parameters, strict=True)]
        for pair, init, stored in zip(pairs, self.step.inits, parameters, strict=True):
            if pair in alike:
                continue
            key = id(init), None if stored.master.is_canonical else stored.master.key
            if key not in made:
                made[key] = self._init(init, stored.master)
            alike[pair] = made[key]
        return tuple(map(alike.__getitem__, pairs))

    def _init(self, init: Function, master: Stored) -> Routine:
        if master.is_canonical:
            return self.lower(init, f"init_{init.name}")
        function = unflat(init, master.type.dims)
        return self.lower(function, f"init_{init.name}", arranged={function.results[0].name: master.arrangement})

    def _is_flat(self, routine: Routine) -> bool:
        """Elementwise over the flat vector of 1024 that stands for any size."""
        (result, *_) = routine.function.results
        one = len(routine.kernels) == 1 and isinstance(routine.kernels[0], Nest) and routine.kernels[0].vector
        return one and is_flat(result.type.dims)

    def _sums(self) -> tuple[dict[Key, Routine], dict[Key, Routine]]:
        """The routines that add gradients of states, and those that clear them."""
        adds: dict[Key, Routine] = {}
        zeros: dict[Key, Routine] = {}
        for number, (unit, variants) in enumerate(zip(self.program.units, self.step.variants, strict=True)):
            if not variants:
                continue
            variant = variants[0]
            states = {p.name: self.boundaries.stored(number, p) for p in unit.function.parameters}
            for name, _ in variant.d_states:
                if states[name].key not in adds:
                    adds[states[name].key] = self._add(states[name])
            for result, cotangent in zip(unit.function.results, variant.d_results, strict=True):
                stored = self.boundaries.stored(number, result)
                if cotangent is not None and stored.key not in zeros:
                    zeros[stored.key] = self._zero(stored)
        return adds, zeros

    def _copies(self) -> dict[Key, Routine]:
        """The routines that pass states on."""
        copies: dict[Key, Routine] = {}
        for number, unit in enumerate(self.program.units):
            for result in unit.function.results[: unit.outputs]:
                stored = self.boundaries.stored(number, result)
                if stored.key not in copies:
                    copies[stored.key] = self._copy(stored)
        return copies

    def _elementwise(self, what: str, stored: Stored, parameters: tuple[Value, ...], builder: Builder, result: Value) -> Routine:
        """A routine on states that are stored alike."""
        function = Function(what, parameters, tuple(builder.instructions), (result,))
        arranged = {value.name: stored.arrangement for value in (*parameters, result)}
        return self.lower(function, f"{what}_{stored.type.dtype}_{stored.type.size}", arranged=arranged)

    def _rounded(self, parameters: Iterable[StoredParameter]) -> dict[tuple[Key, Key], Routine]:
        """The routines that round masters, by how these and their copies are stored."""
        rounded: dict[tuple[Key, Key], Routine] = {}
        for stored in parameters:
            if stored.copy is None or (stored.master.key, stored.copy.key) in rounded:
                continue
            master, kind = Value("master", stored.master.type), stored.copy.type
            builder = Builder(self.ops, "lower", NO_SPAN, ("master",))
            copy = builder.one("cast", master, dtype=kind.dtype, hint="copy")
            function = Function("round", (master,), tuple(builder.instructions), (copy,))
            arranged = {master.name: stored.master.arrangement, copy.name: stored.copy.arrangement}
            routine = self.lower(function, f"round_{kind.dtype}_{kind.size}", arranged=arranged)
            rounded[stored.master.key, stored.copy.key] = routine
        return rounded

    def _copy(self, stored: Stored) -> Routine:
        a = Value("a", stored.type)
        builder = Builder(self.ops, "lower", NO_SPAN, ("a",))
        return self._elementwise("copy", stored, (a,), builder, builder.one("copy", a, hint="same"))

    def _add(self, stored: Stored) -> Routine:
        a, b = Value("a", stored.type), Value("b", stored.type)
        builder = Builder(self.ops, "lower", NO_SPAN, ("a", "b"))
        return self._elementwise("add", stored, (a, b), builder, builder.one("add", a, b, hint="sum"))

    def _zero(self, stored: Stored) -> Routine:
        builder = Builder(self.ops, "lower", NO_SPAN)
        zero = builder.one("constant", dtype=stored.type.dtype, value=0.0)
        if stored.type.dims:
            zero = builder.one("broadcast", zero, dims=stored.type.dims, axes=())
        return self._elementwise("zero", stored, (), builder, zero)


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
    for _, chain in program.chains:
        calls = [(call.unit, call.arguments) for call in chain.calls] + ([] if chain.weight is None else [chain.weight])
        for number, arguments in calls:
            unit = program.units[number]
            if "input" not in unit.roles:
                continue
            for parameter, role, name in zip(unit.function.parameters, unit.roles, arguments, strict=True):
                if role == "input":
                    found.setdefault(number, {}).setdefault(parameter.name, {})[name] = inputs[name]
    return {number: {name: tuple(of.values()) for name, of in read.items()} for number, read in found.items()}


def lower(step: Step, ops: Mapping[str, Op], rules: Rules, choices: Sequence[str] = CHOICES) -> Lowered:
    """Lower a differentiated program by the rules of a target.

    choices: what may be asked to be made again, the least first; nothing is lowered for others
    """
    return _Lowerer(step, ops, rules, choices).run()
