"""elaborate: syntax tree -> Program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlc.diagnostics import Span
from mlc.elaborate import effects, names
from mlc.elaborate.analysis import accumulated_parameters, read_parameters, trained_parameters
from mlc.elaborate.calls import Frame
from mlc.elaborate.cut import Cutter, ModelTrace
from mlc.elaborate.demands import input_bounds
from mlc.elaborate.failures import Exhausted, Failure, Poisoned, Reports, hint
from mlc.elaborate.interpreter import Interpreter
from mlc.elaborate.masked import masked_losses
from mlc.elaborate.modules import INITS, Library, Loader
from mlc.elaborate.precision import PRECISIONS, in_precision
from mlc.elaborate.recipe import Recipes, RecipeTrace, settings
from mlc.elaborate.scopes import Scope
from mlc.elaborate.signatures import TENSOR_NAMES
from mlc.elaborate.site import Site
from mlc.elaborate.trace import ParameterSpec, Trace
from mlc.elaborate.units import UnitTable
from mlc.elaborate.values import SCALAR, FunctionValue, ModuleScope, Option, Poison, describe, integer
from mlc.frozen import frozen
from mlc.ir.program import Bound, Chain, Following, Input, Parameter, Program, Recipe, Scalar
from mlc.ir.types import MOST_ELEMENTS, Dim, TensorType, Value, too_large
from mlc.syntax import tree

#: So many parameters are named in a warning.
MOST_NAMED = 4


#: What the lines of a program's log hold beside the model's own metrics.
LOGGED = frozenset(("step", "loss", "grad_norm", "rate", "tokens", "records", "step_ms", "tokens_per_s", "records_per_s", "mfu"))


@frozen
class DeclaredInput:
    """An input of the model as its annotation says. `default`: Following, a scalar of the recipe's trace, or None."""

    name: str
    type: TensorType
    default: Following | Value | None
    span: Span


def elaborate(module: tree.Module, defines: Mapping[str, str], library: Library) -> Program:
    """The program of the one @model and the one @train function of a file.

    defines:  -D name=value, as texts
    library:  dotted name -> syntax tree of that file; raises LookupError where there is none
    raises:   MlcError with every mistake that could be found
    """
    library_files: set[str] = set()
    reports = Reports(library_files)
    try:
        return _elaborate(module, defines, library, reports, library_files)
    except Failure as failure:
        reports.add(failure)
    except Exhausted as exhausted:
        reports.add(exhausted.failure)
    except RecursionError:
        reports.add(Failure("E0409", "calls and expressions nest too deeply", Span(module.file, 1, 1, 1, 1)))
    except Poisoned:
        pass
    reports.check()
    raise AssertionError("elaboration stopped without a report")


def _elaborate(module: tree.Module, defines: Mapping[str, str], library: Library, reports: Reports, library_files: set[str]) -> Program:
    it = Interpreter(reports, {})
    loader = Loader(library, lambda scope, node: it.evaluate(node, Frame(scope)), reports, library_files)
    it.globals = {k: v for k, v in loader.library_scope(INITS).names.items() if isinstance(v, FunctionValue)}
    root = loader.load("", module, defines)
    for file, scope in loader.trees:
        if not scope.library:
            names.check(file, it.known_names(Frame(scope)), loader.importable, reports)
    reports.check()
    return in_precision(Elaboration(it, root).program())


class Elaboration:
    """The elaborations of one model: for training and for evaluation, over one table of units."""

    def __init__(self, it: Interpreter, root: ModuleScope):
        self.it = it
        self.root = root
        self.model = _only(root, "model")
        self.train = _only(root, "train")
        self.recipe: Recipe = settings(it, self.train)
        it.precision = PRECISIONS[self.recipe.precision]
        for option in [v for v in root.names.values() if isinstance(v, Option)]:
            self._note(option)
        self.recipes = Recipes(it, RecipeTrace("recipe"))
        self.inputs = self._inputs()
        self.units = UnitTable()

    def _note(self, option: Option) -> None:
        try:
            self.it.option(option, option.span)
        except Failure as failure:
            self.it.report(failure)

    def program(self) -> Program:
        training = self._trace(True)
        self.it.registry = dict(training.trace.specs)
        evaluation = self._trace(False) if self._reads_training(training) else training
        self.it.reports.check()
        trainer = Cutter(training, self.units)
        train = trainer.chain("train")
        cutter = trainer if evaluation is training else Cutter(evaluation, self.units)
        evaluate = cutter.chain("evaluate")
        sample = cutter.chain("sample") if self._samples(evaluation) else None
        sample = sample if sample is not None and self._reads_tokens_only(sample) else None
        chains = [train, evaluate, *([sample] if sample is not None else [])]
        self._check_columns(train, evaluate)
        parameters = self._parameters(train, training.trace.specs)
        inputs = self._used_inputs(chains)
        self._warn_of_no_input(inputs)
        self._warn_of_unread(chains, training.trace.specs)
        for warning in masked_losses(train, self.units.units):
            self.it.reports.warn(warning)
        self.it.reports.check()
        return Program(
            name=self.model.name,
            units=tuple(self.units.units),
            train=train,
            evaluate=evaluate,
            sample=sample,
            parameters=parameters,
            inputs=inputs,
            scalars=self._scalars(chains),
            updates=tuple(self.recipes.updates),
            recipe=self.recipe,
            warnings=self.it.reports.warnings(),
            constants=(*self._constants(), *self.it.settings),
        )

    def _check_columns(self, *chains: Chain) -> None:
        """Every line of a log holds each name once."""
        for chain in chains:
            units = self.units.units
            effects = [pair for call in chain.calls for pair in zip(units[call.unit].effects, call.effects, strict=True)]
            reports = {name for effect, name in effects if effect.kind == "report"}
            records = {name for name, _ in chain.metrics}
            for name in sorted((reports | records) & LOGGED):
                what = f'report "{name}"' if name in reports else f'{self.model.name}: "{name}"'
                message = f"{what} has the name of a number that every line of the log holds"
                self.it.report(Failure("E0504" if name in reports else "E0507", message, self._return_span(), "give it another name"))
            for name in sorted(reports & records):
                message = f'{self.model.name}: "{name}" is reported by a layer too'
                self.it.report(Failure("E0507", message, self._return_span(), "give one of them another name"))

    def _constants(self) -> list[tuple[str, float]]:
        """Numbers of the file; what has no value as a float is none of a model's."""
        numbers = [(name, value) for name, value in self.root.names.items() if isinstance(value, (int, float))]
        return [(name, float(value)) for name, value in numbers if abs(value) < 2**53]

    # ----------------------------------------------------------------------------------------- inputs

    def _inputs(self) -> list[DeclaredInput]:
        frame = Frame(self.root)
        self.it.trace = self.recipes.trace
        made = [self._input(p, frame) for p in self.model.node.parameters]
        self.it.trace = None
        known = [d.name for d in made]
        for declared in made:
            if isinstance(declared.default, Following):
                self._check_following(declared, made, known)
        return made

    def _check_following(self, declared: DeclaredInput, made: list[DeclaredInput], known: list[str]) -> None:
        assert isinstance(declared.default, Following)
        of = declared.default.of
        if of not in known or of == declared.name:
            raise Failure("E0512", f'following("{of}"): there is no other input `{of}`', declared.span, hint(of, known))
        source = made[known.index(of)]
        if not source.type.same(declared.type) or len(source.type.dims) != 2 or source.type.dtype != "i32":
            got = f"got {declared.type} and {source.type}"
            raise Failure("E0512", f"`{declared.name}` follows `{of}`: both are i32[batch, context], {got}", declared.span)

    def _input(self, parameter: tree.Parameter, frame: Frame) -> DeclaredInput:
        type_ = self._input_type(parameter, frame)
        default = None if parameter.default is None else self.it.evaluate(parameter.default, frame)
        scalar = isinstance(default, Value) and default.type.dims == ()
        if not type_.dims and not scalar:
            help = "a scalar input has a curve as default: beta: f32 = ramp(1.0, over=1000.0)"
            raise Failure("E0512", f"`{parameter.name}` has no dim for the records", parameter.span, help)
        if scalar and (parameter.name in self.it.options or parameter.name in ("step", "steps")):
            message = f"`{parameter.name}` follows a curve and cannot have the name of a run-time constant"
            raise Failure("E0309", message, parameter.span, "give one of them another name")
        if (type_.dims and isinstance(default, Value)) or not (default is None or isinstance(default, (Following, Value))):
            message = f"`{parameter.name}`: the default of an input is following(...) or a curve, got {describe(default)}"
            raise Failure("E0512", message, parameter.span)
        return DeclaredInput(parameter.name, type_, default, parameter.span)

    def _input_type(self, parameter: tree.Parameter, frame: Frame) -> TensorType:
        match parameter.annotation:
            case tree.Subscript(value=tree.Name(name=kind), items=items) if kind in TENSOR_NAMES:
                dims = tuple(d for item in items for d in self._input_dims(item, frame))
                type_ = TensorType(self.it.precision.named(kind), dims)
                if type_.size > MOST_ELEMENTS:
                    raise Failure("E0211", too_large(f"input `{parameter.name}`", type_.size).message, parameter.annotation.span)
                return type_
            case tree.Name(name="f32"):
                return SCALAR
            case node:
                help = "write i32[batch, context], real[batch, width] or f32[batch]"
                raise Failure("E0410", f"`{parameter.name}`: an input is a tensor", node.span, help)

    def _input_dims(self, item: Any, frame: Frame) -> tuple[Dim, ...]:
        if isinstance(item, (tree.Dots, tree.Slice)):
            raise Failure("E0410", "every dim of an input is written out", item.span)
        value = self.it.evaluate(item, frame)
        values = value if isinstance(value, tuple) else (value,)
        if any(not integer(v) or v < 1 for v in values):
            raise Failure("E0410", f"a dim is an int from 1, not {describe(value)}", item.span)
        return tuple(effects.as_shape(Site(item.span, None), values, "input"))

    def _used_inputs(self, chains: list[Chain]) -> tuple[Input, ...]:
        """Inputs that a chain reads, and those they follow."""
        used = {name for chain in chains for name in self._read(chain, "input")}
        for declared in self.inputs:
            if declared.name in used and isinstance(declared.default, Following):
                used.add(declared.default.of)
        found = input_bounds(chains, self.units.units, {d.name: d.type for d in self.inputs})
        return tuple(self._used_input(d, found.get(d.name, ())) for d in self.inputs if d.name in used)

    def _warn_of_no_input(self, used: tuple[Input, ...]) -> None:
        """What reads nothing of a record computes the same for all of them: most likely a name was assigned again."""
        if used:
            return
        declared = ", ".join(f"`{d.name}`" for d in self.inputs if not isinstance(d.default, Value)) or "none is declared"
        message = f"{self.model.name}: no input is used ({declared}), so the data make no difference"
        help = "the loss, the logits or a metric reads one where data should matter"
        self.it.reports.warn(Failure("W0503", message, self.model.node.span, help))

    def _used_input(self, declared: DeclaredInput, bounds: tuple[Bound, ...]) -> Input:
        """One bound from 0 on is a limit."""
        default = declared.default if isinstance(declared.default, Following) else None
        if len(bounds) == 1 and bounds[0].low == 0 and bounds[0].passed is None:
            return Input(declared.name, declared.type, default, bounds[0].high + 1, declared.span)
        return Input(declared.name, declared.type, default, None, declared.span, bounds)

    def _read(self, chain: Chain, wanted: str) -> list[str]:
        """Names that the calls of a chain bind to parameters of this role."""
        calls = [(c.unit, c.arguments) for c in chain.calls] + ([chain.weight] if chain.weight is not None else [])
        units = self.units.units
        return [name for unit, names in calls for name in units[unit].bound(wanted, names)]

    def _samples(self, model: ModelTrace) -> bool:
        """Do the logits go with the first input, tokens of [batch, context]?"""
        first = self.inputs[0].type if self.inputs else None
        if model.logits is None or first is None or first.dtype != "i32" or len(first.dims) != 2:
            return False
        logits = model.logits.type
        return logits.is_float and len(logits.dims) == 3 and logits.shape[:2] == first.shape

    def _reads_tokens_only(self, chain: Chain) -> bool:
        return set(self._read(chain, "input")) == {self.inputs[0].name}

    # ----------------------------------------------------------------------------------------- the model

    def _reads_training(self, model: ModelTrace) -> bool:
        """Is the model another one where it is evaluated?"""
        return model.trace.reads_training or any(variant is not None for _, variant in self.it.bodies)

    def _trace(self, training: bool) -> ModelTrace:
        it = self.it
        trace = Trace("model", "model")
        trace.builder.span = self.model.node.span
        it.trace, it.scope, it.training, it.paths = trace, Scope(), training, {}
        frame = Frame(self.root, self.model)
        for declared in self.inputs:
            role = "record" if isinstance(declared.default, Value) else "input"
            frame.names[declared.name] = trace.leaf(role, declared.name, declared.type)
        it.active.append(self.model)
        returned = it.run(self.model.node.body, frame)
        it.active.pop()
        if isinstance(returned, Poison):
            raise Poisoned
        made = self._returned(returned, trace)
        it.trace = None
        return made

    def _returned(self, returned: Any, trace: Trace) -> ModelTrace:
        site = Site(self._return_span(), trace)
        record = returned if isinstance(returned, dict) else {"loss": returned}
        if "loss" not in record:
            raise site.fail("E0507", f'{self.model.name}: the record has no "loss"', hint("loss", record))
        values = {k: self._result(site, k, v) for k, v in record.items()}
        for name, value in values.items():
            trace.give_name(value, name)
        metrics = tuple((k, v) for k, v in values.items() if k not in ("loss", "weight", "logits"))
        return ModelTrace(trace, values["loss"], values.get("weight"), values.get("logits"), metrics)

    def _result(self, site: Site, name: str, value: Any) -> Value:
        if name == "logits":
            return site.float_tensor(value, "logits")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return site.constant(float(value), "f32")
        if not isinstance(value, Value) or value.type.dims or value.type.dtype != "f32":
            help = "take the mean, and cast to f32"
            raise site.fail("E0507", f'{self.model.name}: "{name}" is an f32 scalar, got {describe(value)}', help)
        return value

    def _return_span(self) -> Span:
        last = self.model.node.body[-1] if self.model.node.body else self.model.node
        return last.span

    # ----------------------------------------------------------------------------------------- parameters and scalars

    def _parameters(self, train: Chain, specs: dict[str, ParameterSpec]) -> tuple[Parameter, ...]:
        trained = trained_parameters(train, self.units.units)
        fed = set(accumulated_parameters(train, self.units.units))
        made: list[Parameter] = []
        for spec in specs.values():
            try:
                made.append(self._parameter(spec, trained, fed))
            except Failure as failure:
                self.it.report(failure)
            except Poisoned:
                pass
        return tuple(made)

    def _parameter(self, spec: ParameterSpec, trained: set[str], fed: set[str]) -> Parameter:
        if spec.name in trained and spec.name in fed:
            message = f'parameter "{spec.name}" gets a gradient of the loss and one of accumulate'
            raise Failure("E0505", message, spec.span, "write stop_gradient(p) where the loss reads it")
        rule = self.recipes.rule(self.train, spec)
        gradient = "accumulate" if spec.name in fed else "loss" if spec.name in trained else "none"
        if rule is None or gradient == "none":
            return Parameter(spec.name, spec.type, self.recipes.init(spec), None, "none", spec.span)
        return Parameter(spec.name, spec.type, self.recipes.init(spec), self.recipes.update(rule, spec), gradient, spec.span)

    def _warn_of_unread(self, chains: list[Chain], specs: dict[str, ParameterSpec]) -> None:
        """A parameter that nothing reads is made, stored and never trained: most likely its layer's result was forgotten."""
        read = set().union(*(read_parameters(chain, self.units.units) for chain in chains))
        unread: dict[Span, list[str]] = {}
        for spec in specs.values():
            if spec.name not in read:
                unread.setdefault(self.it.reports.place(spec.span), []).append(f'"{spec.name}"')
        for span, found in unread.items():
            named = ", ".join(found[:MOST_NAMED]) + (f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else "")
            message = f"parameters that reach no loss, metric or logits, and are not trained: {named}"
            self.it.reports.warn(Failure("W0501", message, span, "use what is computed from them, or leave them out"))

    def _scalars(self, chains: list[Chain]) -> tuple[Scalar, ...]:
        """The options of the file, those of imported files that are read, then curves."""
        read = {name for chain in chains for name in self._read(chain, "record")}
        curves = self._input_curves(read)
        return (*(Scalar(o.name, o.value, True, None, o.span) for o in self.it.options.values()), *self.recipes.scalars, *curves)

    def _input_curves(self, read: set[str]) -> list[Scalar]:
        made: list[Scalar] = []
        for declared in self.inputs:
            if isinstance(declared.default, Value) and declared.name in read:
                curve = self.recipes.curve(declared.default, declared.name, declared.span)
                made.append(Scalar(declared.name, None, False, curve, declared.span))
        return made


def _only(root: ModuleScope, kind: str) -> FunctionValue:
    """The one function of the file that is decorated @kind."""
    found = [v for v in root.names.values() if isinstance(v, FunctionValue) and v.kind == kind and v.module is root]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Failure("E0506", f"the file has no @{kind} function", Span(root.file, 1, 1, 1, 1))
    raise Failure("E0506", f"the file has two @{kind} functions, {found[0].name} and {found[1].name}", found[1].node.span)
