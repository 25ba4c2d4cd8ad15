"""Statements of the loop IR as statements of C, inside one kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.emit import tree as c
from mlc.emit.dtypes import register
from mlc.emit.expressions import ADD, MULTIPLY, Names, Text, expression_text, index_text, stored_text
from mlc.ir.dtypes import dtype_of
from mlc.lower.expression import Counter, Expression, Index
from mlc.lower.loops import Accumulator, Fold, Let, Loop, Statement, Store

#: C names of loop counters by number: the items of a kernel are i.
_COUNTERS = ("i", "j", "k", "l", "n", "o", "p", "q")


#: Above a loop whose iterations are independent.
SIMD = "MLC_SIMD"


def initial_text(dtype: str, combine: str) -> str:
    """What a fold starts from."""
    return {"sum": register(dtype).literal(0), "max": register(dtype).least}[combine]


class Body:
    """Makes the statements of one kernel.

    buffers:  C name and stored dtype of each buffer
    counters: C text of each loop counter; i, j, k ... when not given
    locals:   dtypes of the locals so far
    """

    def __init__(self, buffers: Mapping[str, tuple[str, str]], counters: Mapping[int, str] | None = None):
        self.buffers = buffers
        self.counters = dict(enumerate(_COUNTERS)) if counters is None else counters
        self.locals: dict[str, str] = {}
        self.names = Names(buffers, self.locals, self.counters)

    def text(self, node: Expression) -> str:
        """An expression as C."""
        return expression_text(node, self.names).text

    def element(self, buffer: str, index: Index) -> str:
        """An element of a buffer, as an lvalue of C."""
        return f"{self.buffers[buffer][0]}[{index_text(index, self.names).text}]"

    def loop(self, counter: Counter, body: Sequence[c.Statement], pragma: str = "") -> c.For:
        """The loop over a counter."""
        return c.For(self.counters[counter.number], "0", str(counter.extent), tuple(body), pragma=pragma)

    def statements(self, statements: Sequence[Statement]) -> tuple[c.Statement, ...]:
        return tuple(self.statement(s) for s in statements)

    def statement(self, statement: Statement) -> c.Statement:
        """One statement as C."""
        match statement:
            case Let(name, dtype, value, _):
                text = self.text(value)
                self.locals[name] = dtype
                return c.Define(f"const {register(dtype).type}", name, text)
            case Accumulator(name, dtype, combine):
                self.locals[name] = dtype
                return c.Define(register(dtype).type, name, initial_text(dtype, combine))
            case Fold(name, combine, value):
                return _fold(name, self.locals[name], combine, expression_text(value, self.names))
            case Store(buffer, index, value, mode):
                return self.store(buffer, index, expression_text(value, self.names), mode)
            case Loop(counter, body, independent, folds):
                innermost = not any(isinstance(s, Loop) for s in body)
                return self.loop(counter, self.statements(body), _pragma(folds) if independent and innermost else "")

    def store(self, buffer: str, index: Index, value: Text, mode: str) -> c.Statement:
        """Store a value at an index of a buffer; mode as in loops.Store."""
        place = self.element(buffer, index)
        added = register(dtype_of(self.buffers[buffer][1]).register).functions.get("add")
        match mode:
            case "add" if added:
                return c.Assign(place, f"{added}({place}, {value.text})")
            case "fold" if added:
                return c.Assign(place, f"env->fold ? {added}({place}, {value.text}) : {value.text}")
            case "add":
                return c.Assign(place, value.text, "+=")
            case "fold":
                return c.Assign(place, f"env->fold ? {place} + {value.within(MULTIPLY)} : {value.text}")
            case _:
                return c.Assign(place, stored_text(value, self.buffers[buffer][1]))


def _pragma(folds: tuple[tuple[str, str], ...]) -> str:
    """What says that iterations are independent but for the folds."""
    if not folds:
        return SIMD
    clauses = " ".join(f"reduction({'+' if combine == 'sum' else 'max'} : {name})" for name, combine in folds)
    return f"MLC_PRAGMA(omp simd {clauses})"


def _fold(name: str, dtype: str, combine: str, value: Text) -> c.Statement:
    added = register(dtype).functions.get("add")
    if combine == "sum" and added:
        return c.Assign(name, f"{added}({name}, {value.text})")
    if combine == "sum":
        return c.Assign(name, value.text, "+=")
    return c.Assign(name, f"{value.within(ADD)} > {name} ? {value.within(ADD)} : {name}")
