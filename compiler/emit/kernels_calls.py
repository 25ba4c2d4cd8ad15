"""Kernels that are calls of the runtime: contractions with their epilogues, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.emit.body import Body
from mlc.emit.expressions import float_literal, pointer_type
from mlc.emit.writer import Writer
from mlc.lower.loops import Attention, Contract, Operand
from mlc.lower.uses import kernel_uses, statement_uses


def _epilogue_buffers(kernel: Contract) -> list[str]:
    """What the epilogue reads and writes, by name."""
    reads, writes = statement_uses((*kernel.row_body, *kernel.body))
    return sorted(reads | writes)


def write_epilogue(writer: Writer, buffers: Mapping[str, tuple[str, str]], closure: str, kernel: Contract) -> None:
    """What the runtime calls with each block of a contraction: struct `closure` and function `closure`_store."""
    _, writes = kernel_uses(kernel)
    pointers = [(pointer_type(buffers[n][1], n in writes), buffers[n][0]) for n in _epilogue_buffers(kernel)]
    with writer.block(f"struct {closure}", "};"):
        for kind, name in pointers:
            writer.line(f"{kind} *{name};")
    writer.line()
    head = f"static void {closure}_store("
    writer.line(f"{head}const mlc_env *env, const void *closure, const float *c, int64_t pitch, int64_t batch,")
    with writer.function(f"{' ' * len(head)}int64_t m0, int64_t rows, int64_t n0, int64_t columns)"):
        writer.line(f"const struct {closure} *to = closure;")
        for kind, name in pointers:
            writer.line(f"{kind} *{name} = to->{name};")
        writer.line("(void)env, (void)batch, (void)m0, (void)n0;")
        _epilogue_loops(Body(writer, buffers, {0: "batch", 1: "m", 2: "n"}), kernel)


def _epilogue_loops(body: Body, kernel: Contract) -> None:
    writer = body.writer
    _, m, n = kernel.counters
    body.locals["acc"] = "f32"
    with writer.block("for (int64_t i = 0; i < rows; i++)"):
        if m.extent > 1:
            writer.line("const int64_t m = m0 + i;")
        writer.line("const float *row = c + i * pitch;")
        body.statements(kernel.row_body)
        writer.line("MLC_SIMD")
        with writer.block("for (int64_t j = 0; j < columns; j++)"):
            if n.extent > 1:
                writer.line("const int64_t n = n0 + j;")
            writer.line("const float acc = row[j];")
            body.statements(kernel.body)


def write_contract(body: Body, closure: str, kernel: Contract) -> None:
    """The call of a contraction whose epilogue is `closure`_store."""
    writer, buffers = body.writer, body.buffers
    groups = {"batch": kernel.batch, "m": kernel.m, "n": kernel.n, "k": kernel.k}
    with writer.block(""):
        with writer.block("static const mlc_contraction shape =", "};"):
            writer.line(", ".join(f".{k}_rank = {len(g)}" for k, g in groups.items()) + ",")
            for key, group in groups.items():
                if group:
                    writer.line(f".{key} = {{{', '.join(f'{{{e}, {a}, {b}}}' for e, a, b in group)}}},")
            a_dtype, b_dtype = (buffers[o.buffer][1].upper() for o in (kernel.a, kernel.b))
            writer.line(f".a_dtype = MLC_{a_dtype}, .b_dtype = MLC_{b_dtype},")
        names = ", ".join(buffers[n][0] for n in _epilogue_buffers(kernel))
        writer.line(f"const struct {closure} to = {{{names}}};")
        writer.line(f"mlc_contract(env, &shape, {_places(body, [kernel.a, kernel.b])}, {closure}_store, &to);")


def _places(body: Body, operands: Sequence[Operand | None]) -> str:
    """Pointers to the first elements of operands, as arguments."""
    return ", ".join("NULL" if o is None else _place(body.buffers[o.buffer][0], o.offset) for o in operands)


def _place(name: str, offset: int) -> str:
    return f"{name} + {offset}" if offset else name


#: The fields of mlc_attention in the order of Attention.dims, and the strided ones in the order of Attention.operands.
_ATTENTION_DIMS = ("batch", "time", "keys", "heads", "groups", "head", "value")
_ATTENTION_OPERANDS = ("q", "k", "v", None, "y", None, "dy", "dq", "dk", "dv")


def write_attention(body: Body, kernel: Attention) -> None:
    """The call of an attention kernel."""
    writer = body.writer
    with writer.block(""):
        with writer.block("static const mlc_attention shape =", "};"):
            writer.line(", ".join(f".{f} = {d}" for f, d in zip(_ATTENTION_DIMS, kernel.dims, strict=True)) + ",")
            for name, operand in zip(_ATTENTION_OPERANDS, kernel.operands, strict=False):
                if name and operand:
                    b, t, h, _ = operand.strides
                    writer.line(f".{name}_batch = {b}, .{name}_time = {t}, .{name}_head = {h},")
            writer.line(f".scale = {float_literal(kernel.scale)}, .causal = {int(kernel.causal)}, .dtype = MLC_{kernel.dtype.upper()},")
        kind = "vjp" if kernel.vjp else "forward"
        writer.line(f"mlc_attention_{kind}(env, &shape, {_places(body, kernel.operands)});")
