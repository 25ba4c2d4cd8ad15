"""Kernels that are calls of the runtime: contractions with their epilogues, library kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.emit import tree as c
from mlc.emit.body import SIMD, Body
from mlc.emit.dtypes import kernel_name, register, stored
from mlc.emit.expressions import number_text, pointer_type
from mlc.emit.printer import initializer
from mlc.lower.expression import Number
from mlc.lower.library import Constant, Operand
from mlc.lower.loops import Call, Contract
from mlc.lower.uses import kernel_uses, statement_uses


def _epilogue_buffers(kernel: Contract) -> list[str]:
    """What the epilogue reads and writes, by name."""
    reads, writes = statement_uses((*kernel.row_body, *kernel.body))
    return sorted(reads | writes)


def epilogue(buffers: Mapping[str, tuple[str, str]], closure: str, kernel: Contract) -> tuple[c.Node, ...]:
    """What the runtime calls with each block of a contraction: struct `closure` and function `closure`_store."""
    _, writes = kernel_uses(kernel)
    pointers = [(f"{pointer_type(buffers[n][1], n in writes)} *", buffers[n][0]) for n in _epilogue_buffers(kernel)]
    name, element = f"static void {closure}_store(", register(kernel.dtype).type
    head = (
        f"{name}const mlc_env *env, const void *closure, const {element} *c, int64_t pitch, int64_t batch,",
        f"{' ' * len(name)}int64_t m0, int64_t rows, int64_t n0, int64_t columns)",
    )
    body = (
        c.Define(f"const struct {closure} *", "to", "closure"),
        *(c.Define(kind, pointer, f"to->{pointer}") for kind, pointer in pointers),
        c.Do("(void)env, (void)batch, (void)m0, (void)n0"),
        _epilogue_loops(Body(buffers, {0: "batch", 1: "m", 2: "n"}), kernel),
    )
    return (c.Struct(closure, tuple(pointers)), c.Blank(), c.Function(head, body), c.Blank())


def _epilogue_loops(body: Body, kernel: Contract) -> c.Statement:
    _, m, n = kernel.counters
    body.locals["acc"] = kernel.dtype
    element = f"const {register(kernel.dtype).type}"
    row = (
        *([c.Define("const int64_t", "m", "m0 + i")] if m.extent > 1 else []),
        c.Define(f"{element} *", "row", "c + i * pitch"),
        *body.statements(kernel.row_body),
    )
    column = (
        *([c.Define("const int64_t", "n", "n0 + j")] if n.extent > 1 else []),
        c.Define(element, "acc", "row[j]"),
        *body.statements(kernel.body),
    )
    return c.For("i", "0", "rows", (*row, c.For("j", "0", "columns", column, pragma=SIMD)))


def contract(body: Body, closure: str, kernel: Contract) -> c.Block:
    """The call of a contraction whose epilogue is `closure`_store."""
    buffers = body.buffers
    groups = {"batch": kernel.batch, "m": kernel.m, "n": kernel.n, "k": kernel.k}
    a_dtype, b_dtype = (stored(buffers[o.buffer][1]).name for o in (kernel.a, kernel.b))
    shape = (
        ", ".join(f".{key}_rank = {len(group)}" for key, group in groups.items()),
        *(f".{key} = {initializer(map(initializer, group))}" for key, group in groups.items() if group),
        f".a_dtype = {a_dtype}, .b_dtype = {b_dtype}",
    )
    names = [buffers[n][0] for n in _epilogue_buffers(kernel)]
    call = f"{kernel_name('mlc_contract', kernel.dtype)}(env, &shape, {_places(body, [kernel.a, kernel.b])}, {closure}_store, &to)"
    to = c.Define(f"const struct {closure}", "to", initializer(names))
    return c.Block((c.Constant("static const mlc_contraction", "shape", shape), to, c.Do(call)))


def _places(body: Body, operands: Sequence[Operand | None]) -> str:
    """Pointers to the first elements of operands, as arguments."""
    return ", ".join("NULL" if o is None else _place(body.buffers[o.buffer][0], o.offset) for o in operands)


def _place(name: str, offset: int) -> str:
    return f"{name} + {offset}" if offset else name


def call(body: Body, kernel: Call) -> c.Block:
    """The call of a kernel of the runtime."""
    workspace = [body.buffers[kernel.workspace][0]] if kernel.workspace else []
    lines = tuple(", ".join(f".{field} = {_constant(value)}" for field, value in line) for line in kernel.constants)
    arguments = ", ".join(["env", "&shape", _places(body, kernel.operands), *workspace])
    shape = c.Constant(f"static const {kernel.kernel.shape}", "shape", lines)
    return c.Block((shape, c.Do(f"{kernel.function}({arguments})")))


def _constant(value: Constant) -> str:
    """What a field of a kernel's struct holds."""
    match value:
        case str():
            return stored(value).name
        case Number():
            return number_text(value).text
        case int():
            return str(value)
