"""Routines as C functions: one function a routine, one block a kernel, a comment with the line of the model above each."""

from __future__ import annotations

from mlc.diagnostics import InternalError
from mlc.emit.body import Body
from mlc.emit.expressions import pointer_type
from mlc.emit.kernels_calls import write_attention, write_contract, write_epilogue
from mlc.emit.kernels_loops import write_columns, write_flat_nest, write_nest, write_select
from mlc.emit.writer import Writer
from mlc.lower.loops import Attention, Columns, Contract, Kernel, Nest, Select
from mlc.lower.names import memory_name, unique_name
from mlc.lower.routine import Routine
from mlc.lower.uses import kernel_uses


def _buffer_names(routine: Routine) -> dict[str, tuple[str, str]]:
    """C names and stored dtypes of a routine's buffers."""
    taken: set[str] = set()
    return {b.name: (unique_name(memory_name(b.name), taken), b.dtype) for b in routine.buffers.values()}


def write_routine(writer: Writer, routine: Routine, name: str) -> None:
    """A routine as the function `name`, after the epilogues of its contractions."""
    buffers = _buffer_names(routine)
    for number, kernel in enumerate(routine.kernels):
        if isinstance(kernel, Contract):
            write_epilogue(writer, buffers, f"{name}_{number}", kernel)
    with writer.function(f"static void {name}(const mlc_env *env, const uint64_t *at)"):
        _write_pointers(writer, routine, buffers)
        for number, kernel in enumerate(routine.kernels):
            if routine.barriers[number]:
                writer.line("mlc_barrier(env);")
            writer.line()
            writer.line(f"/* {kernel.note} */")
            _write_kernel(Body(writer, buffers), f"{name}_{number}", kernel)


def write_flat_routine(writer: Writer, routine: Routine, name: str) -> None:
    """An elementwise routine as a function over a range of flat elements."""
    (kernel,) = routine.kernels
    if not isinstance(kernel, Nest) or not kernel.vector:
        raise InternalError(f"emit: {routine.name} is not one elementwise loop")
    buffers = _buffer_names(routine)
    with writer.function(f"static void {name}(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)"):
        _write_pointers(writer, routine, buffers)
        writer.line(f"/* {kernel.note} */")
        write_flat_nest(Body(writer, buffers), kernel)


def _write_kernel(body: Body, closure: str, kernel: Kernel) -> None:
    match kernel:
        case Nest():
            write_nest(body, kernel)
        case Columns():
            if kernel.column.extent > 1:
                body = Body(body.writer, body.buffers, {**body.counters, kernel.column.number: "first + c"})
            write_columns(body, kernel)
        case Contract():
            write_contract(body, closure, kernel)
        case Attention():
            write_attention(body, kernel)
        case Select():
            write_select(body, kernel)


def _write_pointers(writer: Writer, routine: Routine, buffers: dict[str, tuple[str, str]]) -> None:
    """A pointer to each buffer that some kernel uses: of parameters and results by `at`, then of work memory."""
    uses = [kernel_uses(k) for k in routine.kernels]
    reads = frozenset().union(*(r for r, _ in uses))
    writes = frozenset().union(*(w for _, w in uses))
    instructions = routine.function.instructions
    values = [*routine.function.parameters, *(r for i in instructions for r in i.results)]
    types = {v.name: v.type for v in values}

    def pointer(name: str, place: str) -> None:
        c, dtype = buffers[name]
        kind = pointer_type(dtype, name in writes)
        note = f" /* {types[name]} */" if name in types else ""
        writer.line(f"{kind} *{c} = ({kind} *)({place});{note}")

    writer.line("char *arena = env->arena;" if reads | writes else "(void)env, (void)at;")
    for slot, name in enumerate(routine.binds):
        if name in reads or name in writes:
            pointer(name, f"arena + at[{slot}]")
    if routine.work:
        writer.line(f"char *work = arena + at[{len(routine.binds)}];")
    for name, offset in sorted(routine.work.items(), key=lambda p: (p[1], p[0])):
        pointer(name, f"work + {offset}")
