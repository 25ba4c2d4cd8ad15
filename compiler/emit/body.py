"""Statements of the loop IR as C, inside one kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.emit.expressions import ADD, LOCAL_TYPES, MULTIPLY, Names, Text, expression_text, index_text, stored_text
from mlc.emit.writer import Writer
from mlc.lower.expression import Counter, Expression, Index
from mlc.lower.loops import Accumulator, Fold, Let, Loop, Statement, Store

#: C names of loop counters by number: the items of a kernel are i.
_COUNTERS = ("i", "j", "k", "l", "n", "o", "p", "q")

_INITIAL = {("f32", "sum"): "0.0f", ("i32", "sum"): "0", ("f32", "max"): "-INFINITY", ("i32", "max"): "INT32_MIN"}


class Body:
    """Writes the statements of one kernel.

    buffers:  C name and stored dtype of each buffer
    counters: C text of each loop counter; i, j, k ... when not given
    locals:   dtypes of the locals so far
    """

    def __init__(self, writer: Writer, buffers: Mapping[str, tuple[str, str]], counters: Mapping[int, str] | None = None):
        self.writer = writer
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

    def head(self, counter: Counter) -> str:
        """The head of the loop over a counter."""
        c = self.counters[counter.number]
        return f"for (int64_t {c} = 0; {c} < {counter.extent}; {c}++)"

    def statements(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Let(name, dtype, value, _):
                text = self.text(value)
                self.locals[name] = dtype
                self.writer.line(f"const {LOCAL_TYPES[dtype]} {name} = {text};")
            case Accumulator(name, dtype, combine):
                self.locals[name] = dtype
                self.writer.line(f"{LOCAL_TYPES[dtype]} {name} = {_INITIAL[dtype, combine]};")
            case Fold(name, combine, value):
                self.writer.line(f"{_fold_text(name, self.locals[name], combine, expression_text(value, self.names))};")
            case Store(buffer, index, value, mode):
                self.store(buffer, index, expression_text(value, self.names), mode)
            case Loop(counter, body, parallel, folds):
                if parallel:
                    self._pragma(folds)
                with self.writer.block(self.head(counter)):
                    self.statements(body)

    def _pragma(self, folds: tuple[tuple[str, str], ...]) -> None:
        if not folds:
            self.writer.line("MLC_SIMD")
            return
        clauses = " ".join(f"reduction({'+' if combine == 'sum' else 'max'} : {name})" for name, combine in folds)
        self.writer.line(f"MLC_PRAGMA(omp simd {clauses})")

    def store(self, buffer: str, index: Index, value: Text, mode: str) -> None:
        """Store a value at an index of a buffer; mode as in loops.Store."""
        place = self.element(buffer, index)
        sums = self.buffers[buffer][1] == "i32"
        match mode:
            case "add" if sums:
                self.writer.line(f"{place} = mlc_add_i32({place}, {value.text});")
            case "fold" if sums:
                self.writer.line(f"{place} = env->fold ? mlc_add_i32({place}, {value.text}) : {value.text};")
            case "write":
                self.writer.line(f"{place} = {stored_text(value, self.buffers[buffer][1])};")
            case "add":
                self.writer.line(f"{place} += {value.text};")
            case "fold":
                self.writer.line(f"{place} = env->fold ? {place} + {value.within(MULTIPLY)} : {value.text};")


def _fold_text(name: str, dtype: str, combine: str, value: Text) -> str:
    if combine == "sum" and dtype == "i32":
        return f"{name} = mlc_add_i32({name}, {value.text})"
    if combine == "sum":
        return f"{name} += {value.text}"
    return f"{name} = {value.within(ADD)} > {name} ? {value.within(ADD)} : {name}"
