"""Routines as C functions: one function a routine, one block a kernel, above each what it is, with the line of the model."""

from __future__ import annotations

import math

from mlc.diagnostics import InternalError
from mlc.emit import tree as c
from mlc.emit.body import Body
from mlc.emit.expressions import pointer_type
from mlc.emit.kernels_calls import call, contract, epilogue
from mlc.emit.kernels_loops import columns, flat_nest, nest, select
from mlc.emit.literals import c_string
from mlc.lower.loops import Call, Columns, Contract, Kernel, Nest, Scan, Scatter, Select, Whole
from mlc.lower.names import memory_name, unique_name
from mlc.lower.routine import Routine
from mlc.lower.uses import kernel_uses


def buffer_names(routine: Routine) -> dict[str, tuple[str, str]]:
    """C names and stored dtypes of a routine's buffers."""
    taken: set[str] = set()
    return {b.name: (unique_name(memory_name(b.name), taken), b.dtype) for b in routine.buffers.values()}


def routine_function(routine: Routine, name: str) -> tuple[c.Node, ...]:
    """A routine as the function `name`, after the epilogues of its contractions."""
    buffers = buffer_names(routine)
    nodes: list[c.Node] = []
    body: list[c.Node] = pointers(routine, buffers)
    for number, kernel in enumerate(routine.kernels):
        closure = f"{name}_{number}"
        nodes += epilogue(buffers, closure, kernel) if isinstance(kernel, Contract) else ()
        body += [c.Do("mlc_barrier(env)")] if routine.barriers[number] else []
        body += [c.Blank(), _begin(name, kernel), _kernel(buffers, closure, kernel)]
    head = f"static void {name}(const mlc_env *env, const uint64_t *at)"
    return (*nodes, c.Function((head,), tuple(body)), c.Blank())


def flat_routine_function(routine: Routine, name: str) -> tuple[c.Node, ...]:
    """An elementwise routine as a function over a range of flat elements."""
    (kernel,) = routine.kernels
    if not isinstance(kernel, Nest) or not kernel.vector:
        raise InternalError(f"emit: {routine.name} is not one elementwise loop")
    buffers = buffer_names(routine)
    head = f"static void {name}(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)"
    body = (*pointers(routine, buffers), c.note(kernel.note), *flat_nest(Body(buffers), kernel))
    return (c.Function((head,), body), c.Blank())


def _begin(routine: str, kernel: Kernel) -> c.Do:
    """What is said to who times kernels."""
    return c.Do(f"mlc_begin(env, {c_string(routine)}, {_flops(kernel)}, {c_string(kernel.note)})")


def _flops(kernel: Kernel) -> str:
    """Those of dense work, in C; 0 of kernels that do little with each number they read."""
    match kernel:
        case Contract(batch=batch, m=m, n=n, k=k):
            return repr(2.0 * math.prod(extent for group in (batch, m, n, k) for extent, *_ in group))
        case Call(flops=flops):
            return repr(float(flops))
    return "0"


def _kernel(buffers: dict[str, tuple[str, str]], closure: str, kernel: Kernel) -> c.Statement:
    body = Body(buffers)
    match kernel:
        case Nest():
            return nest(body, kernel)
        case Columns() if kernel.column.extent > 1:
            return columns(Body(buffers, {**body.counters, kernel.column.number: "first + c"}), kernel)
        case Columns():
            return columns(body, kernel)
        case Contract():
            return contract(body, closure, kernel)
        case Call():
            return call(body, kernel)
        case Select():
            return select(body, kernel)
        case Whole() | Scatter() | Scan():
            raise InternalError(f"emit: a {type(kernel).__name__} is not lowered to loops: {kernel.note}")


def pointers(routine: Routine, buffers: dict[str, tuple[str, str]]) -> list[c.Node]:
    """A pointer to each buffer that some kernel uses: of parameters and results by `at`, then of work memory."""
    uses = [kernel_uses(k) for k in routine.kernels]
    reads = frozenset().union(*(r for r, _ in uses))
    writes = frozenset().union(*(w for _, w in uses))
    instructions = routine.function.instructions
    values = [*routine.function.parameters, *(r for i in instructions for r in i.results)]
    types = {v.name: str(v.type) for v in values}

    def pointer(name: str, place: str) -> c.Define:
        text, dtype = buffers[name]
        kind = f"{pointer_type(dtype, name in writes)} *"
        return c.Define(kind, text, f"({kind})({place})", types.get(name, ""))

    arena = c.Define("char *", "arena", "env->arena") if reads | writes else c.Do("(void)env, (void)at")
    bound = [pointer(name, f"arena + at[{slot}]") for slot, name in enumerate(routine.binds) if name in reads or name in writes]
    work = [c.Define("char *", "work", f"arena + at[{len(routine.binds)}]")] if routine.work else []
    inside = [pointer(name, f"work + {offset}") for name, offset in sorted(routine.work.items(), key=lambda p: (p[1], p[0]))]
    return [arena, *bound, *work, *inside]
