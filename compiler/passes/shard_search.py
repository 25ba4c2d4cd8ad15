"""The forms of all values of a step, such that a microbatch takes a rank the least modelled time: exact, by elimination.

A unit is searched once, its forward and both gradients together. Variables are

    Place("value", ...)      the form in which a value is made, and one more that it is taken to, if any; of the first result of an
                             instruction also the way in which it is done
    Place("argument", ...)   the same of what a part is given: a state, a cotangent, or what another part keeps for it
    a class                  the form of a state and of its gradient, wherever in the chain it is; of a parameter, in all its uses

Each unit is searched once for every combination of forms of the classes that units have in common; these are chosen last, each unit
counted as often as it is called. So states between equal layers have one form, and units that share a parameter are searched together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError
from mlc.frozen import frozen_object
from mlc.ir.forms import WHOLE, Cut, Form, Term
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Op
from mlc.ir.program import Step, Variant
from mlc.ir.types import Value
from mlc.passes.eliminate import Endless, Least, Table, Variable, eliminate
from mlc.passes.shard_classes import Classes, cuts_of
from mlc.passes.shard_costs import FIGURES, Figures, conversion_seconds, saved_seconds, work_seconds
from mlc.passes.shard_ways import SUM, Way, ways

PARTS = range(3)


class Made(NamedTuple):
    """A form that is at hand, and another one that it is taken to, if any. What is whole is at hand in every cut."""

    form: Form
    other: Form | None

    def has(self, form: Form) -> bool:
        whole = self.form == WHOLE or self.other == WHOLE
        return form == self.form or form == self.other or (whole and isinstance(form, Cut))


class Done(NamedTuple):
    """A way to do an instruction, and what becomes of its first result."""

    way: Way
    made: Made


class Place(NamedTuple):
    """The variable of a value: kind is "value" or "argument"."""

    kind: str
    part: int
    name: str


Option = Done | Made | Form


def at_hand(option: Option) -> Made:
    """Of an option of a variable; a parameter is at hand as it is held."""
    match option:
        case Done(_, made):
            return made
        case Made():
            return option
        case _:
            return Made(option, None)


@frozen_object
class Chosen:
    """What the search decided for a unit. ways: [part][instruction]; values, arguments: by (part, name)."""

    ways: tuple[tuple[Way, ...], ...]
    values: Mapping[tuple[int, str], Made]
    arguments: Mapping[tuple[int, str], Made]


@frozen_object
class Found:
    """classes: the form of each, by (kind, unit, name) of a member; units: what was decided, by unit; seconds: of a microbatch."""

    classes: Mapping[tuple[str, int, str], Form]
    units: Mapping[int, Chosen]
    seconds: float


def functions_of(variant: Variant) -> tuple[Function, Function, Function]:
    return variant.forward, variant.input_gradient, variant.weight_gradient


def search(step: Step, ops: Mapping[str, Op], strips: int, figures: Figures = FIGURES) -> Found | None:
    """The forms of least time; None where there are none. step: factored, as differentiation and all passes left it."""
    classes = Classes(step, strips)
    calls = Counter(call.unit for call in step.program.train.calls)
    searches = {unit: _UnitSearch(step, unit, ops, strips, classes, figures) for unit in calls}
    solved = {unit: one.solved() for unit, one in searches.items()}
    tables = [Table(one.classes_read, _costs(solved[unit], one) * calls[unit]) for unit, one in searches.items() if one.classes_read]
    joint = _over_classes({c: len(of) for c, of in classes.options.items()}, tables)
    best = joint.options
    least = {unit: solved[unit][tuple(best[c] for c in one.classes_read)] for unit, one in searches.items()}
    seconds = sum(of.costs * calls[unit] for unit, of in least.items())
    if not math.isfinite(seconds):
        return None
    chosen = {unit: one.chosen(least[unit].options) for unit, one in searches.items()}
    decided = {c: n for of in least.values() for c, n in of.options.items() if c in classes.options}
    forms = {member: classes.options[c][decided.get(c, 0)] for member, c in classes.every() if c in classes.options}
    return Found(forms, chosen, seconds)


def _costs(solved: Mapping[tuple[int, ...], Least], one: _UnitSearch) -> np.ndarray:
    """The least costs of a unit, by the options of its classes."""
    shape = [len(one.options[c]) for c in one.classes_read]
    return np.array([solved[key].costs for key in product(*map(range, shape))]).reshape(shape)


def _over_classes(sizes: Mapping[Variable, int], tables: Sequence[Table]) -> Least:
    """The options of classes of least costs in all units: those that units have in common are tried one after the other."""
    shared = [v for v, many in Counter(v for t in tables for v in t.variables).items() if many > 1]
    least = Least(math.inf, dict.fromkeys(sizes, 0))
    for key in product(*(range(sizes[v]) for v in shared)):
        chosen = dict(zip(shared, key, strict=True))
        costs = 0.0
        for table in tables:
            part = table.costs[tuple(chosen.get(v, slice(None)) if v in shared else slice(None) for v in table.variables)]
            own = [v for v in table.variables if v not in shared]
            at = np.unravel_index(part.argmin(), part.shape)
            costs += float(part.min())
            chosen.update({v: int(n) for v, n in zip(own, at, strict=True)})
        if costs < least.costs:
            least = Least(costs, {**least.options, **chosen})
    return least


class _UnitSearch:
    """The tables of one unit."""

    def __init__(self, step: Step, unit: int, ops: Mapping[str, Op], strips: int, classes: Classes, figures: Figures):
        variant = step.variant(unit)
        assert variant is not None
        self.number, self.unit, self.variant = unit, step.program.units[unit], variant
        self.ops, self.strips, self.classes, self.figures = ops, strips, classes, figures
        self.functions = functions_of(variant)
        self.options: dict[Variable, Sequence[Option]] = {}
        self.tables: list[Table] = []
        self.ways = [[self._ways(i) for i in f.instructions] for f in self.functions]
        self.needed = [self._needed(part) for part in PARTS]
        self.made = [{r.name: n for n, i in enumerate(f.instructions) for r in i.results} for f in self.functions]
        for part in PARTS:
            self._arguments(part)
            self._instructions(part)
        for part in PARTS:
            self._results(part)
        self.classes_read = tuple(c for c in self.options if c in classes.options and c in classes.between)

    def solved(self) -> dict[tuple[int, ...], Least]:
        """The least time of a call by the options of the classes that other units read too, or parts of it more than once."""
        found: dict[tuple[int, ...], Least] = {}
        for key in product(*(range(len(self.options[c])) for c in self.classes_read)):
            fixed = dict(zip(self.classes_read, key, strict=True))
            sizes = {v: 1 if v in fixed else len(of) for v, of in self.options.items()}
            tables = [Table(t.variables, t.costs[_at(t.variables, fixed)]) for t in self.tables]
            try:
                least = eliminate(sizes, tables)
            except Endless as problem:
                message = f"{self.unit.name} has too many forms to search them all: a table of {problem.args[0]:,} entries"
                raise MlcError([Diagnostic("E1006", message, NO_SPAN, (), "layer functions of fewer instructions")]) from problem
            found[key] = Least(least.costs, {**least.options, **fixed})
        return found

    def chosen(self, best: Mapping[Variable, int]) -> Chosen:
        found = {v: self.options[v][n] for v, n in best.items() if isinstance(v, Place)}
        done = [[found[Place("value", part, i.results[0].name)] for i in f.instructions] for part, f in enumerate(self.functions)]
        ways_of = tuple(tuple(one.way for one in of if isinstance(one, Done)) for of in done)
        hands = {v: at_hand(option) for v, option in found.items()}
        values = {(v.part, v.name): made for v, made in hands.items() if v.kind == "value"}
        arguments = {(v.part, v.name): made for v, made in hands.items() if v.kind == "argument"}
        return Chosen(ways_of, values, arguments)

    def _ways(self, instruction: Instruction) -> tuple[Way, ...]:
        """Those that cut values as they may be."""
        values = (*instruction.operands, *instruction.results)
        cuts = [set(cuts_of(v.type, self.strips, self.classes.rows)) for v in values]

        def fits(way: Way) -> bool:
            return all(not isinstance(f, Cut) or f in of for f, of in zip((*way.needs, *way.makes), cuts, strict=True))

        return tuple(filter(fits, ways(instruction, self.ops, self.strips)))

    def _needed(self, part: int) -> dict[str, dict[Form, None]]:
        """By value of a part: the forms in which something reads it."""
        found: dict[str, dict[Form, None]] = {}
        for i, of in zip(self.functions[part].instructions, self.ways[part], strict=True):
            for way in of:
                for v, form in zip(i.operands, way.needs, strict=True):
                    found.setdefault(v.name, {})[form] = None
        for v in self.functions[part].results:
            cuts = cuts_of(v.type, self.strips, self.classes.rows)
            found.setdefault(v.name, {}).update(dict.fromkeys((WHOLE, *cuts)))
        return found

    def _add(self, variable: Variable, options: Sequence[Option], costs: Iterable[float]) -> None:
        self.options[variable] = options
        self.tables.append(Table((variable,), np.array(list(costs), np.float64)))

    def _relate(self, a: Variable, b: Variable, allowed: Callable[..., bool]) -> None:
        """Nothing where two options go together, else infinity."""
        costs = np.array([[0.0 if allowed(x, y) else math.inf for y in self.options[b]] for x in self.options[a]])
        self.tables.append(Table((a, b), costs))

    def _class(self, kind: str, name: str) -> Variable:
        c = self.classes.root((kind, self.number, name))
        self.options.setdefault(c, self.classes.options[c])
        return c

    def _made(self, value: Value, part: int, form: Form) -> Iterator[tuple[Made, float]]:
        """A value that comes in a form: as it is, or taken to another one that something reads; and the seconds of that."""
        yield Made(form, None), 0.0
        for want in () if form == WHOLE else self.needed[part].get(value.name, ()):
            seconds = conversion_seconds(form, want, value.type, self.strips, self.figures)
            if want != form and math.isfinite(seconds):
                yield Made(form, want), seconds

    def _available(self, variable: Variable, value: Value, part: int, forms: Iterable[Form], price: Callable[[Form], float]) -> None:
        """A variable for a value that comes in one of these forms."""
        every = [(made, seconds + price(form)) for form in forms for made, seconds in self._made(value, part, form)]
        self._add(variable, [made for made, _ in every], [cost for _, cost in every])

    def _arguments(self, part: int) -> None:
        roles = dict(zip((v.name for v in self.unit.function.parameters), self.unit.roles, strict=True))
        for v in self.functions[part].parameters:
            variable = Place("argument", part, v.name)
            if roles.get(v.name) in ("param", "input", "record"):
                continue
            if roles.get(v.name) == "state":
                self._of_class(variable, v, part, self._class("state", v.name))
            elif v.name in self.variant.d_results:
                result = self.unit.function.results[self.variant.d_results.index(v.name)]
                self._of_cotangent(variable, v, part, result.name)
            else:
                self._of_part(variable, v, part)

    def _of_class(self, variable: Variable, v: Value, part: int, c: Variable) -> None:
        self._available(variable, v, part, self.classes.options[c], lambda _: 0.0)
        self._relate(variable, c, lambda option, form: at_hand(option).form == form)

    def _of_cotangent(self, variable: Variable, v: Value, part: int, result: str) -> None:
        """Of a state it has the form of the class; of an effect it is whole."""
        if ("state", self.number, result) in dict(self.classes.every()):
            self._of_class(variable, v, part, self._class("state", result))
        else:
            self._available(variable, v, part, (WHOLE,), lambda _: 0.0)

    def _of_part(self, variable: Variable, v: Value, part: int) -> None:
        """What another part made, in a form that is at hand there."""
        maker = next(p for p in reversed(range(part)) if v.name in self.made[p])
        source = Place("value", maker, v.name)
        there = [at_hand(option) for option in self.options[source]]
        forms = {f: None for made in there for f in made if f is not None and not isinstance(f, Term)}
        if any(made.has(WHOLE) for made in there):
            forms |= dict.fromkeys(cuts_of(v.type, self.strips, self.classes.rows))
        self._available(variable, v, part, forms, lambda form: saved_seconds(form, v.type, self.strips, self.figures))
        self._relate(variable, source, lambda mine, option: at_hand(option).has(mine.form))

    def _instructions(self, part: int) -> None:
        for i, of in zip(self.functions[part].instructions, self.ways[part], strict=True):
            seconds = work_seconds(i, self.ops, self.figures)
            first = Place("value", part, i.results[0].name)
            every = [
                (Done(way, made), cost + seconds / (1 if way.letter is None else self.strips))
                for way in of
                for made, cost in self._made(i.results[0], part, way.makes[0])
            ]
            self._add(first, [done for done, _ in every], [cost for _, cost in every])
            for slot, v in enumerate(i.results[1:], 1):
                variable = Place("value", part, v.name)
                self._available(variable, v, part, dict.fromkeys(way.makes[slot] for way in of), lambda _: 0.0)
                self._relate(first, variable, lambda done, made, slot=slot: done.way.makes[slot] == made.form)
            for name in dict.fromkeys(v.name for v in i.operands):
                slots = [slot for slot, v in enumerate(i.operands) if v.name == name]
                self._read(first, part, name, slots)

    def _read(self, first: Variable, part: int, name: str, slots: Sequence[int]) -> None:
        """An instruction reads its operands in forms that are at hand; of a parameter, as it is held, or a cut of it."""
        source = self._source(part, name)
        if source is None:
            needs = [done.way.needs for done in self.options[first] if isinstance(done, Done)]
            fits = [all(not isinstance(of[slot], Term) for slot in slots) for of in needs]
            self.tables.append(Table((first,), np.where(fits, 0.0, math.inf)))
            return
        self._relate(first, source, lambda done, option: all(at_hand(option).has(done.way.needs[slot]) for slot in slots))

    def _source(self, part: int, name: str) -> Variable | None:
        """The variable that says in which forms a value is at hand; None: it is whole."""
        if name in self.made[part]:
            return Place("value", part, name)
        if Place("argument", part, name) in self.options:
            return Place("argument", part, name)
        roles = dict(zip((v.name for v in self.unit.function.parameters), self.unit.roles, strict=True))
        return self._class("param", name) if roles[name] == "param" else None

    def _results(self, part: int) -> None:
        params = {result: name for name, result, _ in self.variant.d_params}
        states = {result: name for name, result in self.variant.d_states}
        outputs = [v.name for v in self.unit.function.results[: self.unit.outputs]] if part == 0 else []
        effects = [v.name for v in self.unit.function.results[self.unit.outputs :]] if part == 0 else []
        for v in self.functions[part].results:
            variable = Place("value", part, v.name)
            if v.name in outputs:
                self._relate(variable, self._class("state", v.name), lambda option, form: at_hand(option).has(form))
            elif v.name in states:
                self._relate(variable, self._class("state", states[v.name]), lambda option, form: at_hand(option).has(form))
            elif v.name in params:
                c = self._class("param", params[v.name])
                self._relate(variable, c, lambda option, held: is_gradient(at_hand(option), held))
                late = conversion_seconds(SUM, WHOLE, v.type, self.strips, self.figures) / self.figures.microbatches
                self.tables.append(Table((variable,), np.array([late if left_to_sum(at_hand(o)) else 0.0 for o in self.options[variable]])))
            elif v.name in effects:
                fits = [at_hand(option).has(WHOLE) for option in self.options[variable]]
                self.tables.append(Table((variable,), np.where(fits, 0.0, math.inf)))


def _at(variables: Sequence[Variable], fixed: Mapping[Variable, int]) -> tuple[slice, ...]:
    """Of a table: the options that are fixed, and all of others."""
    return tuple(slice(fixed[v], fixed[v] + 1) if v in fixed else slice(None) for v in variables)


def left_to_sum(made: Made) -> bool:
    """A gradient of a parameter that is held whole may stay a term, summed once a step."""
    return made == Made(SUM, None)


def is_gradient(made: Made, held: Form) -> bool:
    """Does a gradient fit a parameter that is held so?"""
    return made.has(held) or (held == WHOLE and left_to_sum(made))
