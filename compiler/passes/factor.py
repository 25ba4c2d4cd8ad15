"""Factors: every dim as the product that reshapes, splits and the heads of attention make of it, wherever the value goes.

before:  %w = param : f32[width=128, 384]              after:  f32[width=128, 3*heads=4*head=32]
         %y = contract %x, %w : f32[batch=2, 384]              f32[batch=2, 3*heads=4*head=32]
         %q, %k, %v = split %y : f32[batch=2, 128], ...        f32[batch=2, heads=4*head=32], ...
         %h = reshape %q : f32[batch=2, heads=4, head=32]      f32[batch=2, heads=4, head=32]

Sizes alone decide. Letters (ir/factors.py) tie dims: two dims that one letter is all of are one; of others each must have the ends of
factors that the other has within the letter. The least solution is found by a worklist, so it does not depend on the order of anything.
Where reshapes want what has no common factors (28 * 2 and 8 * 7), the dim keeps what they have in common (4 * 14), and so does all it
is tied to. A program is solved as one: its chains tie states, parameters and gradients of units.

Names are those of the file's dims, where one of them is exactly a factor: it goes to all that is the same index, and to nothing else;
another index that has the same name in the file gets name.1, and so on. No factor is called what only its neighbour, or a product, is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from mlc.diagnostics import InternalError
from mlc.frozen import frozen
from mlc.ir.factors import Letter, chain, closed, is_chain, with_results
from mlc.ir.function import Function, Instruction
from mlc.ir.op import Op
from mlc.ir.program import Chain, Program, Step, Unit, Variant
from mlc.ir.text import print_function
from mlc.ir.types import Dim, Factor, TensorType, Value

#: A value by the function, or whatever else, that it belongs to, and its name there.
Key = tuple[object, str]


def factored(function: Function, ops: Mapping[str, Op]) -> Function:
    """The function with all dims as products of their factors. Does nothing to what is factored."""
    solver = _Solver(ops)
    solver.read(function, "function")
    return _Writer(solver).function(function, "function")


def factored_step(step: Step, ops: Mapping[str, Op]) -> Step:
    """The step with all dims of units, their derivatives, parameters and inputs as products of their factors.

    Updates and initial values stay as they are: they are of flat tensors, or of whole ones.
    """
    solver = _Solver(ops)
    _read_step(solver, step)
    writer = _Writer(solver)
    program = step.program
    units = tuple(replace(u, function=writer.function(u.function, _unit(n))) for n, u in enumerate(program.units))
    parameters = tuple(replace(p, type=writer.type_of(("program", p.name), p.type)) for p in program.parameters)
    inputs = tuple(replace(i, type=writer.type_of(("program", i.name), i.type)) for i in program.inputs)
    variants = tuple(tuple(_written_variant(writer, v) for v in of) for of in step.variants)
    plain = tuple(None if f is None else writer.function(f, _plain(n)) for n, f in enumerate(step.plain))
    return replace(step, program=replace(program, units=units, parameters=parameters, inputs=inputs), variants=variants, plain=plain)


def check_factors(step: Step, ops: Mapping[str, Op]) -> None:
    """raises: InternalError when the factors that the types of a step state are not those that follow from its sizes"""
    again = factored_step(step, ops)
    if again == step:
        return
    for function, other in zip(_functions(step), _functions(again), strict=True):
        for line, wanted in zip(print_function(function).split("\n"), print_function(other).split("\n"), strict=True):
            if line != wanted:
                raise InternalError(f"{function.name}: the factors of\n{line}\nare\n{wanted}")
    raise InternalError(f"{step.program.name}: the factors of parameters or inputs are not those of the units that read them")


def _functions(step: Step) -> list[Function]:
    variants = [f for of in step.variants for v in of for f in _parts(v)]
    return [*(u.function for u in step.program.units), *variants]


def _parts(variant: Variant) -> tuple[Function, ...]:
    parts = variant.forward, variant.input_gradient, variant.weight_gradient
    return parts if variant.again is None else (*parts, variant.again)


def _written_variant(writer: _Writer, variant: Variant) -> Variant:
    forward, early, late, *again = (writer.function(f, _part(variant, n)) for n, f in enumerate(_parts(variant)))
    return replace(variant, forward=forward, input_gradient=early, weight_gradient=late, again=again[0] if again else None)


# What belongs to what: keys of scopes.


def _unit(number: int) -> object:
    return ("unit", number)


def _plain(number: int) -> object:
    return ("plain", number)


def _part(variant: Variant, number: int) -> object:
    return ("part", variant.unit, variant.choice, number)


def _read_step(solver: _Solver, step: Step) -> None:
    """All functions, then what is the same value in several of them."""
    program = step.program
    for value in (*program.inputs, *program.parameters):
        solver.add(("program", value.name), value.type)
    for number, unit in enumerate(program.units):
        solver.read(unit.function, _unit(number))
    for number, function in enumerate(step.plain):
        if function is not None:
            _read_plain(solver, function, number)
    for variant in (v for of in step.variants for v in of):
        _read_variant(solver, program.units[variant.unit], variant)
    for number, (_, one) in enumerate(program.chains):
        _read_chain(solver, program, one, ("chain", number))


def _read_plain(solver: _Solver, function: Function, number: int) -> None:
    """The function of a unit without variants, which passes may have changed within."""
    solver.read(function, _plain(number))
    for v in (*function.parameters, *function.results):
        solver.same((_plain(number), v.name), (_unit(number), v.name))


def _read_variant(solver: _Solver, unit: Unit, variant: Variant) -> None:
    """The functions of a variant name alike what they hand to each other; a gradient has the factors of its value."""
    known: dict[str, Key] = {}
    for v in (*unit.function.parameters, *unit.function.results):
        known[v.name] = (_unit(variant.unit), v.name)
    gradients = {result: of for of, result, *_ in (*variant.d_states, *variant.d_params)}
    seeds = zip(variant.d_results, unit.function.results, strict=True)
    gradients |= {seed: result.name for seed, result in seeds if seed is not None}
    for number, function in enumerate(_parts(variant)):
        scope = _part(variant, number)
        solver.read(function, scope)
        for v in (*function.parameters, *function.results):
            key = (scope, v.name)
            solver.same(key, known.setdefault(v.name, key))
            if v.name in gradients:
                solver.same(key, known[gradients[v.name]])


def _read_chain(solver: _Solver, program: Program, one: Chain, scope: object) -> None:
    """Calls tie what they are given and make to the values of their units. Calls that tie the same are read once."""
    made: dict[str, Key] = {value.name: ("program", value.name) for value in (*program.inputs, *program.parameters)}
    for call in one.calls:
        function = program.units[call.unit].function
        for v, name in zip(function.parameters, call.arguments, strict=True):
            if name in made:
                solver.same((_unit(call.unit), v.name), made[name])
        for v, name in zip(function.results, call.results, strict=False):
            made[name] = (_unit(call.unit), v.name)


@frozen
class _Tie:
    """A letter that is not all of each dim it stands in. sites: (dim, inner)."""

    sites: tuple[tuple[int, int], ...]
    size: int


class _Solver:
    """Dims as numbers, joined where one letter is all of both; and what letters say of the factors of others.

    first:    by value, the number of its first dim
    kinds:    by value, its type
    parent:   of a dim, a dim that it is the same as; itself: it stands for all that are
    sizes:    of a dim
    """

    def __init__(self, ops: Mapping[str, Op]):
        self.ops = ops
        self.first: dict[Key, int] = {}
        self.kinds: dict[Key, TensorType] = {}
        self.parent: list[int] = []
        self.sizes: list[int] = []
        self._ties: list[_Tie] = []
        self._joined: set[tuple[int, int]] = set()

    def add(self, key: Key, kind: TensorType) -> None:
        self.first[key] = len(self.parent)
        self.kinds[key] = kind
        self.parent.extend(range(len(self.parent), len(self.parent) + len(kind.dims)))
        self.sizes.extend(kind.shape)

    def read(self, function: Function, scope: object) -> None:
        """The values and instructions of a function, whose values belong to `scope`."""
        for p in function.parameters:
            self.add((scope, p.name), p.type)
        for instruction in function.instructions:
            for v in instruction.results:
                self.add((scope, v.name), v.type)
            letters = self.ops[instruction.op].factors.letters(instruction)
            self._tie(letters, [self.first[scope, v.name] for v in (*instruction.operands, *instruction.results)])

    def same(self, a: Key, b: Key) -> None:
        """Two values that are one."""
        first, second = self.first[a], self.first[b]
        if first == second or (first, second) in self._joined:
            return
        if self.kinds[a].shape != self.kinds[b].shape:
            raise InternalError(f"factors: {a[1]}: {self.kinds[a]} is {b[1]}: {self.kinds[b]} elsewhere")
        self._joined.add((first, second))
        for d in range(len(self.kinds[a].dims)):
            self._join(first + d, second + d)

    def _tie(self, letters: Iterable[Letter], firsts: list[int]) -> None:
        for _, size, sites, _, _ in letters:
            dims = [(firsts[slot] + dim, inner) for slot, dim, inner in sites]
            if all(self.sizes[d] == size for d, _ in dims):
                for d, _ in dims[1:]:
                    self._join(dims[0][0], d)
            else:
                self._ties.append(_Tie(tuple(dims), size))

    def root(self, dim: int) -> int:
        parent = self.parent
        while parent[dim] != dim:
            parent[dim] = parent[parent[dim]]
            dim = parent[dim]
        return dim

    def _join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        self.parent[max(a, b)] = min(a, b)

    def ties(self) -> list[_Tie]:
        """Between the dims that stand for others, each once."""
        rooted = (_Tie(tuple(sorted({(self.root(d), inner) for d, inner in tie.sites})), tie.size) for tie in self._ties)
        return list(dict.fromkeys(rooted))

    def solve(self) -> dict[int, list[int]]:
        """By dim that stands for others: the ends of its factors, ascending."""
        ends = {d: {n} - {1} for d, n in enumerate(self.sizes) if self.parent[d] == d}
        ties = self.ties()
        _spread(ends, ties)
        solved = {d: chain(of) for d, of in ends.items()}
        if any(len(solved[d]) < len(of) for d, of in ends.items()):
            _agree(solved, ties)
        return solved


def _by_dim(ties: Iterable[_Tie]) -> dict[int, list[_Tie]]:
    found: dict[int, list[_Tie]] = {}
    for tie in ties:
        for d, _ in tie.sites:
            found.setdefault(d, []).append(tie)
    return found


def _spread(ends: dict[int, set[int]], ties: list[_Tie]) -> None:
    """Give each dim of a tie the ends that the others have within the letter, until all have them."""
    readers = _by_dim(ties)
    waiting = dict.fromkeys(ties)
    while waiting:
        tie = next(iter(waiting))
        del waiting[tie]
        common = {e // inner for d, inner in tie.sites for e in (1, *ends[d]) if e % inner == 0 and inner * tie.size % e == 0}
        for d, inner in tie.sites:
            wanted = ends[d].union(e * inner for e in common if e * inner > 1)
            if len(wanted) > len(ends[d]):
                ends[d] = wanted if is_chain(wanted) else closed(wanted)
                waiting.update(dict.fromkeys(readers[d]))


def _agree(solved: dict[int, list[int]], ties: list[_Tie]) -> None:
    """Take from each dim of a tie the ends within the letter that another has not kept, until all have the same."""
    readers = _by_dim(ties)
    waiting = dict.fromkeys(ties)
    while waiting:
        tie = next(iter(waiting))
        del waiting[tie]
        inside = [{e // i for e in solved[d] if e % i == 0 and i * tie.size % e == 0 and i < e < i * tie.size} for d, i in tie.sites]
        common = set.intersection(*inside)
        for (d, inner), have in zip(tie.sites, inside, strict=True):
            if have - common:
                solved[d] = [e for e in solved[d] if e % inner or e // inner not in have - common]
                waiting.update(dict.fromkeys(readers[d]))


class _Writer:
    """Types with factors, from what was solved."""

    def __init__(self, solver: _Solver):
        self.solver = solver
        self.ends = solver.solve()
        self.names = _names(solver, self.ends)
        self._dims: dict[int, Dim] = {}
        self._types: dict[tuple[str, tuple[Dim, ...]], TensorType] = {}

    def type_of(self, key: Key, kind: TensorType) -> TensorType:
        """The type of a value; a dim of 1 stays as it is, for the literal 1 stretches."""
        first = self.solver.first[key]
        dims = tuple(d if d.size == 1 else self._dim(self.solver.root(first + n)) for n, d in enumerate(kind.dims))
        if (kind.dtype, dims) not in self._types:
            self._types[kind.dtype, dims] = TensorType(kind.dtype, dims)
        return self._types[kind.dtype, dims]

    def _dim(self, root: int) -> Dim:
        if root not in self._dims:
            lows = (1, *self.ends[root])
            factors = [Factor(self.names.get((root, e), ""), e // low) for low, e in zip(lows, self.ends[root], strict=False)]
            self._dims[root] = Dim(tuple(factors[::-1]))
        return self._dims[root]

    def function(self, function: Function, scope: object) -> Function:
        values: dict[str, Value] = {}

        def written(v: Value) -> Value:
            if v.name not in values:
                values[v.name] = Value(v.name, self.type_of((scope, v.name), v.type))
            return values[v.name]

        parameters = tuple(map(written, function.parameters))
        instructions: list[Instruction] = []
        for i in function.instructions:
            results = tuple(map(written, i.results))
            attributes = with_results(i, tuple(v.type for v in results))
            instructions.append(Instruction(i.op, tuple(map(written, i.operands)), attributes, results, i.span, i.via))
        return Function(function.name, parameters, tuple(instructions), tuple(map(written, function.results)))


def _names(solver: _Solver, ends: dict[int, list[int]]) -> dict[tuple[int, int], str]:
    """By dim that stands for others, and end of a factor: its name."""
    same = _Indices(ends, solver.ties())
    labels: dict[tuple[int, int], str] = {}
    for key, kind in solver.kinds.items():
        for n, d in enumerate(kind.dims):
            for label, low, high in _labelled(d):
                root = solver.root(solver.first[key] + n)
                if _is_factor(ends[root], low, high):
                    labels.setdefault(same.root((root, high)), label)
    names = _unlike(labels)
    return {at: names[same.root(at)] for at in same.parent if same.root(at) in names}


def _labelled(d: Dim) -> Iterator[tuple[str, int, int]]:
    """The labels of a dim, each with the end below its factor and its own."""
    high = d.size
    for factor in d.factors:
        low = high // factor.size
        if factor.label and factor.size > 1:
            yield factor.label, low, high
        high = low


def _is_factor(ends: list[int], low: int, high: int) -> bool:
    if high not in ends:
        return False
    at = ends.index(high)
    return (ends[at - 1] if at else 1) == low


def _unlike(labels: Mapping[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    """The labels, made different by numbers behind them; the first keeps it as it is."""
    taken: set[str] = set(labels.values())
    given: set[str] = set()
    names: dict[tuple[int, int], str] = {}
    for at, label in labels.items():
        name, number = label, 0
        while name in given or (name != label and name in taken):
            number += 1
            name = f"{label}.{number}"
        given.add(name)
        names[at] = name
    return names


class _Indices:
    """Factors of dims, as (dim, end), joined where a letter makes them one index."""

    def __init__(self, ends: dict[int, list[int]], ties: Iterable[_Tie]):
        self.parent = {(d, e): (d, e) for d, of in ends.items() for e in of}
        for tie in ties:
            spans = [self._spans(ends[d], d, inner, tie.size) for d, inner in tie.sites]
            for span, at in spans[0].items():
                for other in spans[1:]:
                    if span in other:
                        self._join(at, other[span])

    def _spans(self, ends: list[int], d: int, inner: int, size: int) -> dict[tuple[int, int], tuple[int, int]]:
        """The factors within a letter: from which step of it to which."""
        pairs = zip((1, *ends), ends, strict=False)
        return {(low // inner, high // inner): (d, high) for low, high in pairs if low % inner == 0 and high <= inner * size}

    def root(self, at: tuple[int, int]) -> tuple[int, int]:
        while self.parent[at] != at:
            self.parent[at] = self.parent[self.parent[at]]
            at = self.parent[at]
        return at

    def _join(self, a: tuple[int, int], b: tuple[int, int]) -> None:
        a, b = self.root(a), self.root(b)
        self.parent[max(a, b)] = min(a, b)
