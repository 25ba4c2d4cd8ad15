"""Routines as C functions: one function a routine, one block a kernel, a comment with the line of the model above each."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.emit.expressions import C_TYPES, LOCAL_TYPES, Names, expression_text, float_literal, index_text, stored_text
from mlc.emit.writer import Writer
from mlc.lower.index import Counter
from mlc.lower.loops import (
    Accumulator,
    Attention,
    Columns,
    Contract,
    Expression,
    Fold,
    Kernel,
    Let,
    Loop,
    Nest,
    Operand,
    Select,
    Statement,
    Store,
)
from mlc.lower.routine import Routine, kernel_uses

_COUNTER_NAMES = ("i", "j", "k", "l", "n", "o", "p", "q")

#: Rows summed in one block of a column sum before the block is added to the total.
COLUMN_ROWS = 64

#: Columns of one work item of a column sum.
COLUMN_BLOCK = 64

_INITIAL = {("f32", "sum"): "0.0f", ("i32", "sum"): "0", ("f32", "max"): "-INFINITY", ("i32", "max"): "INT32_MIN"}


def c_name(name: str) -> str:
    """A C identifier for a name of the IR."""
    text = "".join(c if c.isalnum() else "_" for c in name)
    return f"_{text}" if text[0].isdigit() else text


def routine_names(routine: Routine) -> dict[str, tuple[str, str]]:
    """C names and stored dtypes of a routine's buffers."""
    taken: set[str] = set()
    names: dict[str, tuple[str, str]] = {}
    for buffer in routine.buffers.values():
        base = f"{c_name(buffer.name)}_m"
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}{count}"
        taken.add(name)
        names[buffer.name] = (name, buffer.dtype)
    return names


class RoutineWriter:
    """Writes one routine."""

    def __init__(self, writer: Writer, routine: Routine, name: str):
        self.writer = writer
        self.routine = routine
        self.name = name
        self.buffers = routine_names(routine)
        self.locals: dict[str, str] = {}
        self.counters: dict[int, str] = {}

    def write(self) -> None:
        for number, kernel in enumerate(self.routine.kernels):
            if isinstance(kernel, Contract):
                self._epilogue(number, kernel)
        with self.writer.function(f"static void {self.name}(const mlc_env *env, const uint64_t *at)"):
            self._pointers()
            for number, kernel in enumerate(self.routine.kernels):
                if self.routine.barriers[number]:
                    self.writer.line("mlc_barrier(env);")
                self.writer.line()
                self.writer.line(f"/* {kernel.note} */")
                self._kernel(number, kernel)

    def write_flat(self) -> None:
        """An elementwise routine over a range of flat elements."""
        (kernel,) = self.routine.kernels
        assert isinstance(kernel, Nest) and kernel.vector
        with self.writer.function(f"static void {self.name}(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)"):
            self._pointers()
            self._reset()
            self.writer.line(f"/* {kernel.note} */")
            self._lets(kernel.prologue)
            self.writer.line("MLC_SIMD")
            with self.writer.block("for (int64_t i = begin; i < end; i++)"):
                self._statements(kernel.body)

    # Pointers.

    def _pointers(self) -> None:
        used = [kernel_uses(k) for k in self.routine.kernels]
        reads = frozenset().union(*(r for r, _ in used))
        writes = frozenset().union(*(w for _, w in used))
        self.writer.line("(void)env, (void)at;" if not (reads | writes) else "char *arena = env->arena;")
        for slot, name in enumerate(self.routine.binds):
            if name in reads or name in writes:
                self._pointer(name, f"arena + at[{slot}]", name in writes)
        if self.routine.work:
            self.writer.line(f"char *work = arena + at[{len(self.routine.binds)}];")
        for name, offset in sorted(self.routine.work.items(), key=lambda p: (p[1], p[0])):
            self._pointer(name, f"work + {offset}", name in writes)

    def _pointer(self, name: str, place: str, written: bool) -> None:
        c, dtype = self.buffers[name]
        kind = C_TYPES[dtype] if written else f"const {C_TYPES[dtype]}"
        value = next((v for v in self._values() if v.name == name), None)
        note = f" /* {value.type} */" if value else ""
        self.writer.line(f"{kind} *{c} = ({kind} *)({place});{note}")

    def _values(self):
        function = self.routine.function
        yield from function.parameters
        for instruction in function.instructions:
            yield from instruction.results

    # Statements.

    def _reset(self) -> None:
        self.locals = {}
        self.counters = {n: name for n, name in enumerate(_COUNTER_NAMES)}

    @property
    def _names(self) -> Names:
        return Names(self.buffers, self.locals, self.counters)

    def _text(self, node: Expression) -> str:
        return expression_text(node, self._names).text

    def _lets(self, lets: Sequence[Statement]) -> None:
        self._statements(lets)

    def _statements(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Let(name, dtype, value, _):
                text = self._text(value)
                self.locals[name] = dtype
                self.writer.line(f"const {LOCAL_TYPES[dtype]} {name} = {text};")
            case Accumulator(name, dtype, combine):
                self.locals[name] = dtype
                self.writer.line(f"{LOCAL_TYPES[dtype]} {name} = {_INITIAL[dtype, combine]};")
            case Fold(name, combine, value):
                self.writer.line(f"{self._fold_text(name, combine, value)};")
            case Store():
                self._store(statement)
            case Loop(counter, body, parallel, folds):
                if parallel:
                    self._pragma(folds)
                with self.writer.block(self._for(counter)):
                    self._statements(body)

    def _for(self, counter: Counter) -> str:
        c = self.counters[counter.number]
        return f"for (int64_t {c} = 0; {c} < {counter.extent}; {c}++)"

    def _pragma(self, folds: tuple[tuple[str, str], ...]) -> None:
        if not folds:
            self.writer.line("MLC_SIMD")
            return
        clauses = " ".join(f"reduction({'+' if combine == 'sum' else 'max'} : {name})" for name, combine in folds)
        self.writer.line(f"MLC_PRAGMA(omp simd {clauses})")

    def _fold_text(self, name: str, combine: str, value: Expression) -> str:
        text = expression_text(value, self._names)
        if combine == "sum":
            return f"{name} += {text.text}"
        return f"{name} = {text.within(11)} > {name} ? {text.within(11)} : {name}"

    def _store(self, store: Store) -> None:
        c, dtype = self.buffers[store.buffer]
        place = f"{c}[{index_text(store.index, self._names).text}]"
        value = expression_text(store.value, self._names)
        match store.mode:
            case "write":
                self.writer.line(f"{place} = {stored_text(value, dtype)};")
            case "add":
                self.writer.line(f"{place} += {value.text};")
            case "fold":
                self.writer.line(f"{place} = env->fold ? {place} + {value.within(12)} : {value.text};")

    # Kernels.

    def _kernel(self, number: int, kernel: Kernel) -> None:
        self._reset()
        match kernel:
            case Nest():
                self._nest(kernel)
            case Columns():
                self._columns(kernel)
            case Contract():
                self._contract(number, kernel)
            case Attention():
                self._attention(kernel)
            case Select():
                self._select(kernel)

    def _nest(self, kernel: Nest) -> None:
        if kernel.items.extent == 1:
            with self.writer.block("if (env->thread == 0)"):
                self._statements((*kernel.prologue, *kernel.body))
            return
        with self.writer.block(""):
            self._statements(kernel.prologue)
            self.writer.line(f"const mlc_range range = mlc_share(env, {kernel.items.extent});")
            if kernel.vector:
                self.writer.line("MLC_SIMD")
            with self.writer.block("for (int64_t i = range.begin; i < range.end; i++)"):
                self._statements(kernel.body)

    def _columns(self, kernel: Columns) -> None:
        """Sums of columns: COLUMN_BLOCK columns an item, rows in blocks of COLUMN_ROWS."""
        block = min(COLUMN_BLOCK, kernel.column.extent)
        blocks = -(-kernel.column.extent // block)
        count = len(kernel.results)
        start = {"sum": "0.0f", "max": "-INFINITY"}[kernel.combine]
        with self.writer.block(""):
            self.writer.line(f"const mlc_range range = mlc_share(env, {kernel.outer.extent * blocks});")
            with self.writer.block("for (int64_t item = range.begin; item < range.end; item++)"):
                if kernel.outer.extent > 1:
                    self.writer.line(f"const int64_t i = item / {blocks};")
                self.writer.line(f"const int64_t first = item % {blocks} * {block};")
                self.writer.line(
                    f"const int64_t columns = {kernel.column.extent} - first < {block} ? {kernel.column.extent} - first : {block};"
                )
                self.writer.line(f"float total[{count * block}], part[{count * block}];")
                self._fill("total", count, block, start)
                rows = kernel.reduced.extent
                with self.writer.block(f"for (int64_t row = 0; row < {rows}; row += {COLUMN_ROWS})"):
                    self.writer.line(f"const int64_t end = row + {COLUMN_ROWS} < {rows} ? row + {COLUMN_ROWS} : {rows};")
                    self._fill("part", count, block, start)
                    with self.writer.block("for (int64_t j = row; j < end; j++)"):
                        self._column_rows(kernel, block)
                    self._combine(kernel.combine, count, block)
                self._column_stores(kernel, block)

    def _fill(self, array: str, count: int, block: int, value: str) -> None:
        with self.writer.block(f"for (int64_t r = 0; r < {count * block}; r++)"):
            self.writer.line(f"{array}[r] = {value};")

    def _combine(self, combine: str, count: int, block: int) -> None:
        with self.writer.block(f"for (int64_t r = 0; r < {count * block}; r++)"):
            self.writer.line("total[r] += part[r];" if combine == "sum" else "total[r] = mlc_maximum(total[r], part[r]);")

    def _column_rows(self, kernel: Columns, block: int) -> None:
        self.counters[2] = "first + c"
        self._statements([let for let in kernel.body if 2 not in let.needs])
        self.writer.line("MLC_SIMD")
        with self.writer.block("for (int64_t c = 0; c < columns; c++)"):
            self._statements([let for let in kernel.body if 2 in let.needs])
            for n, (_, _, _, value) in enumerate(kernel.results):
                text = self._text(value)
                place = f"part[{n * block} + c]" if n else "part[c]"
                self.writer.line(f"{place} += {text};" if kernel.combine == "sum" else f"{place} = mlc_maximum({place}, {text});")

    def _column_stores(self, kernel: Columns, block: int) -> None:
        self.writer.line("MLC_SIMD")
        with self.writer.block("for (int64_t c = 0; c < columns; c++)"):
            for n, (buffer, index, mode, _) in enumerate(kernel.results):
                c, dtype = self.buffers[buffer]
                place = f"{c}[{index_text(index, self._names).text}]"
                value = f"total[{n * block} + c]" if n else "total[c]"
                if mode == "fold":
                    value = f"env->fold ? {place} + {value} : {value}"
                elif dtype in ("bf16", "f16"):
                    value = f"mlc_{dtype}_of_f32({value})"
                self.writer.line(f"{place} = {value};")

    # Contractions.

    def _closure(self, number: int) -> str:
        return f"{self.name}_{number}"

    def _epilogue_buffers(self, kernel: Contract) -> list[str]:
        reads, writes = kernel_uses(Nest("", (), Counter(0, 1), (*kernel.row_body, *kernel.body), False))
        return [name for name in self.routine.buffers if name in reads or name in writes]

    def _epilogue(self, number: int, kernel: Contract) -> None:
        self._reset()
        _, writes = kernel_uses(kernel)
        names = self._epilogue_buffers(kernel)
        with self.writer.block(f"struct {self._closure(number)}", "};"):
            for name in names:
                self.writer.line(f"{self._pointer_type(name, writes)} *{self.buffers[name][0]};")
        self.writer.line()
        head = f"static void {self._closure(number)}_store("
        head += "const mlc_env *env, const void *closure, const float *c, int64_t pitch, int64_t batch,"
        pad = " " * (head.index("(") + 1)
        self.writer.line(head)
        with self.writer.function(f"{pad}int64_t m0, int64_t rows, int64_t n0, int64_t columns)"):
            self.writer.line(f"const struct {self._closure(number)} *to = closure;")
            for name in names:
                self.writer.line(f"{self._pointer_type(name, writes)} *{self.buffers[name][0]} = to->{self.buffers[name][0]};")
            self.writer.line("(void)env, (void)batch, (void)m0, (void)n0;")
            self._epilogue_loops(kernel)

    def _pointer_type(self, name: str, writes: frozenset[str]) -> str:
        kind = C_TYPES[self.buffers[name][1]]
        return kind if name in writes else f"const {kind}"

    def _epilogue_loops(self, kernel: Contract) -> None:
        self.counters = {0: "batch", 1: "m", 2: "n"}
        self.locals["acc"] = "f32"
        with self.writer.block("for (int64_t i = 0; i < rows; i++)"):
            if kernel.counters[1].extent > 1:
                self.writer.line("const int64_t m = m0 + i;")
            self.writer.line("const float *row = c + i * pitch;")
            self._statements(kernel.row_body)
            self.writer.line("MLC_SIMD")
            with self.writer.block("for (int64_t j = 0; j < columns; j++)"):
                if kernel.counters[2].extent > 1:
                    self.writer.line("const int64_t n = n0 + j;")
                self.writer.line("const float acc = row[j];")
                self._statements(kernel.body)

    def _contract(self, number: int, kernel: Contract) -> None:
        groups = {"batch": kernel.batch, "m": kernel.m, "n": kernel.n, "k": kernel.k}
        with self.writer.block(""):
            with self.writer.block("static const mlc_contraction shape =", "};"):
                self.writer.line(", ".join(f".{k}_rank = {len(g)}" for k, g in groups.items()) + ",")
                for key, group in groups.items():
                    if group:
                        self.writer.line(f".{key} = {{{', '.join(f'{{{e}, {a}, {b}}}' for e, a, b in group)}}},")
                a_dtype, b_dtype = (self.buffers[o.buffer][1].upper() for o in (kernel.a, kernel.b))
                self.writer.line(f".a_dtype = MLC_{a_dtype}, .b_dtype = MLC_{b_dtype},")
            names = [self.buffers[n][0] for n in self._epilogue_buffers(kernel)]
            self.writer.line(f"const struct {self._closure(number)} to = {{{', '.join(names)}}};")
            self.writer.line(
                f"mlc_contract(env, &shape, {self._place(kernel.a)}, {self._place(kernel.b)}, {self._closure(number)}_store, &to);"
            )

    def _place(self, operand: Operand | None) -> str:
        if operand is None:
            return "NULL"
        name = self.buffers[operand.buffer][0]
        return f"{name} + {operand.offset}" if operand.offset else name

    # Library kernels.

    def _attention(self, kernel: Attention) -> None:
        fields = ("batch", "time", "keys", "heads", "groups", "head", "value")
        order = ("q", "k", "v", None, "y", None, "dy", "dq", "dk", "dv")
        with self.writer.block(""):
            with self.writer.block("static const mlc_attention shape =", "};"):
                self.writer.line(", ".join(f".{f} = {d}" for f, d in zip(fields, kernel.dims, strict=True)) + ",")
                for name, operand in zip(order, kernel.operands, strict=False):
                    if name and operand:
                        b, t, h, _ = operand.strides
                        self.writer.line(f".{name}_batch = {b}, .{name}_time = {t}, .{name}_head = {h},")
                self.writer.line(
                    f".scale = {float_literal(kernel.scale)}, .causal = {int(kernel.causal)}, .dtype = MLC_{kernel.dtype.upper()},"
                )
            kind = "vjp" if kernel.vjp else "forward"
            self.writer.line(f"mlc_attention_{kind}(env, &shape, {', '.join(self._place(o) for o in kernel.operands)});")

    def _select(self, kernel: Select) -> None:
        """Chooses the largest again and again: after the last chosen one in the order (value descending, index ascending)."""
        kind = LOCAL_TYPES[kernel.dtype]
        along, rank = self.counters[kernel.along.number], self.counters[kernel.rank.number]
        with self.writer.block(""):
            self.writer.line(f"const mlc_range range = mlc_share(env, {kernel.items.extent});")
            with self.writer.block("for (int64_t i = range.begin; i < range.end; i++)"):
                self.writer.line(f"{kind} last = 0;")
                self.writer.line("int64_t last_index = -1;")
                with self.writer.block(f"for (int64_t {rank} = 0; {rank} < {kernel.k}; {rank}++)"):
                    self.writer.line(f"{kind} best = 0;")
                    self.writer.line("int64_t best_index = -1;")
                    with self.writer.block(self._for(kernel.along)):
                        self._statements(kernel.body)
                        self.writer.line(f"const {kind} value = {self._text(kernel.value)};")
                        self.writer.line(f"const int later = last_index < 0 || value < last || (value == last && {along} > last_index);")
                        with self.writer.block("if (later && (best_index < 0 || value > best))"):
                            self.writer.line(f"best = value, best_index = {along};")
                    self.writer.line("last = best, last_index = best_index < 0 ? 0 : best_index;")
                    if kernel.values:
                        c, dtype = self.buffers[kernel.values[0]]
                        text = f"mlc_{dtype}_of_f32(last)" if dtype in ("bf16", "f16") else "last"
                        self.writer.line(f"{c}[{index_text(kernel.values[1], self._names).text}] = {text};")
                    c, _ = self.buffers[kernel.indices[0]]
                    self.writer.line(f"{c}[{index_text(kernel.indices[1], self._names).text}] = (int32_t)last_index;")
