"""Which values of a step have one form together, and the forms that each may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mlc.ir.forms import WHOLE, Cut, Form
from mlc.ir.program import Step
from mlc.ir.types import TensorType
from mlc.passes.eliminate import Variable

#: Parameters are held cut; the smallest may be whole, where all of these together add at most so much to what a rank holds.
MOST_WHOLE = 0.05


class Classes:
    """Values that have one form in the whole step, and the forms that each may have.

    Members are ("param" | "state", unit, name of the value in the unit's function).
    """

    def __init__(self, step: Step, strips: int):
        self.step, self.strips = step, strips
        self.rows = _rows(step)
        self._parent: dict[Variable, Variable] = {}
        self.types: dict[Variable, TensorType] = {}
        self._tie()
        whole = self._may_be_whole()
        self.options = {c: self._options(c, whole) for c in dict.fromkeys(map(self.root, list(self._parent))) if c in self.types}
        units: dict[Variable, set[int]] = {}
        for (_, unit, _), c in self.every():
            units.setdefault(c, set()).add(unit)
        self.between = {c for c, of in units.items() if len(of) > 1 or not self._is_param(c)}

    def root(self, member: Variable) -> Variable:
        while self._parent.setdefault(member, member) != member:
            member = self._parent[member]
        return member

    def every(self) -> Iterator[tuple[tuple[str, int, str], Variable]]:
        for member in list(self._parent):
            match member:
                case (str() as kind, int() as unit, str() as name):
                    yield (kind, unit, name), self.root(member)

    def _join(self, a: Variable, b: Variable) -> None:
        first, second = sorted((self.root(a), self.root(b)), key=str)
        self._parent[second] = first
        if second in self.types:
            self.types.setdefault(first, self.types[second])

    def _tie(self) -> None:
        """Arguments and results of calls, by the names in the chain; calls that tie the same are read once."""
        program = self.step.program
        seen: set[object] = set()
        makers: dict[str, tuple[int, str]] = {}
        for call in program.train.calls:
            unit = program.units[call.unit]
            for v, role, name in zip(unit.function.parameters, unit.roles, call.arguments, strict=True):
                if role == "param":
                    self._member(("param", call.unit, v.name), v.type)
                    self._join(("param", call.unit, v.name), ("program", name))
                if role == "state" and (call.unit, v.name, makers[name]) not in seen:
                    seen.add((call.unit, v.name, makers[name]))
                    self._member(("state", call.unit, v.name), v.type)
                    self._join(("state", call.unit, v.name), ("state", *makers[name]))
            for v, name in zip(unit.function.results[: unit.outputs], call.results, strict=True):
                makers[name] = (call.unit, v.name)
                self._member(("state", call.unit, v.name), v.type)

    def _member(self, member: Variable, kind: TensorType) -> None:
        self.types.setdefault(self.root(member), kind)

    def _may_be_whole(self) -> set[Variable]:
        """Classes of parameters that may be held whole: those that cannot be cut, and the smallest."""
        sizes = {c: kind.size for c, kind in self.types.items() if self._is_param(c)}
        many = Counter(self.root(("program", p.name)) for p in self.step.program.parameters)
        total = sum(sizes[c] * many[c] for c in sizes)
        found: set[Variable] = set()
        added = 0.0
        for c in sorted(sizes, key=lambda c: (sizes[c], str(c))):
            added += sizes[c] * many[c] * (self.strips - 1)
            if added > MOST_WHOLE * total:
                break
            found.add(c)
        return found

    def _is_param(self, c: Variable) -> bool:
        return c[0] in ("param", "program")

    def _options(self, c: Variable, whole: set[Variable]) -> tuple[Form, ...]:
        cuts = tuple(cuts_of(self.types[c], self.strips, self.rows))
        return cuts if self._is_param(c) and c not in whole and cuts else (WHOLE, *cuts)


def _rows(step: Step) -> frozenset[str]:
    """Names of the factors that the rows of a microbatch are: these are divided among replicas, not within them."""
    return frozenset(f.label for i in step.program.inputs for d in i.type.dims[:1] for f in d.factors if f.label)


def cuts_of(kind: TensorType, strips: int, rows: frozenset[str]) -> Iterator[Cut]:
    """Every way to cut a value, along the last dims first: a dim along the outermost factor that has as many runs as there are strips,
    and not along rows of a microbatch."""
    for n in reversed(range(len(kind.dims))):
        inner = kind.shape[n]
        for factor in kind.dims[n].factors:
            inner //= factor.size
            if factor.size > 1 and factor.size % strips == 0:
                if factor.label not in rows:
                    yield Cut(n, inner, factor.size)
                break
