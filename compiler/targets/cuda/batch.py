"""Elementwise routines over ranges of elements, as the own jobs of batches (mlc_batch.h)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlc.diagnostics import InternalError
from mlc.emit import tree as c
from mlc.emit.expressions import pointer_type
from mlc.lower import index as ix
from mlc.lower.loops import Nest
from mlc.lower.uses import kernel_uses, touched_indices
from mlc.targets.cuda.launch import THREADS, Launched, Named
from mlc.targets.cuda.thread import DeviceBody

#: Operands of a routine over ranges of elements: as many as a batch has words for, beside those of its other jobs.
MOST_OPERANDS = 320


def flat(named: Named, name: str, kernel: Nest, operands: Sequence[str]) -> Launched:
    """An elementwise kernel as the own job of batches (mlc_batch.h), 4 elements a thread at a time; and the function that launches one,
    which the routine gives to mlc_calls_own. operands: the buffers of the routine in their order."""
    if len(operands) > MOST_OPERANDS:
        raise InternalError(f"emit: {name} has more operands than a launch takes")
    reads, writes = kernel_uses(kernel)
    moved = {n for n in reads | writes if touched_indices((*kernel.prologue, *kernel.body), n) == {ix.counter(kernel.items)}}
    texts = {n: named.buffers[n][0] for n in reads | writes}
    kinds = {n: pointer_type(named.buffers[n][1], True) for n in reads | writes}

    def place(buffer: str, word: str = "place.word") -> str:
        """Where a buffer lies for the item whose words begin there. What does not move with elements is the same for all items."""
        return f"mlc_batch_operand<{kinds[buffer]}>(batch, env, {word}, batch.own, {operands.index(buffer)})"

    def quads(buffers: set[str], arguments: Callable[[str], str]) -> list[c.Statement]:
        return [c.Define(f"mlc_quad<{kinds[n]}>", f"{texts[n]}({arguments(n)})") for n in sorted(buffers)]

    body = DeviceBody(named, "int64_t")
    scalars = sorted((reads | writes) - moved)
    fixed = [c.Define(f"{pointer_type(named.buffers[n][1], n in writes)} *", texts[n], place(n, "0")) for n in scalars]
    prologue = body.statements(kernel.prologue)
    load = quads(moved & reads, lambda n: f"{place(n)}, place.i, place.some")
    clear = quads(moved - reads, lambda _: "place.i")
    element = (c.Define("const int64_t", "i", "place.i + e"), *body.statements(kernel.body))
    each = c.For("e", "0", "4", element, kind="int", pragma="MLC_UNROLL")
    put = [c.Do(f"{texts[n]}.put({place(n)}, place.some)") for n in sorted(moved & writes)]
    inner = (
        c.Define("const mlc_batch_place", "place", "mlc_batch_find(batch, block, threadIdx.x)"),
        c.If("!place.some", (c.Do("continue"),)),
        c.Assign("own.path", "batch.words[place.word + 2]"),
        c.Do("mlc_batch_jobs(batch, env, place, 0, batch.own)"),
        *load,
        *clear,
        each,
        *put,
        c.Do("mlc_batch_jobs(batch, env, place, batch.own + 1, batch.jobs)"),
    )
    made = (
        c.Define("mlc_env", "own", "env_"),
        c.Define("const mlc_env *", "env", "&own"),
        c.If("mlc_batch_is_shut(env)", (c.Do("return"),)),
        *fixed,
        *prologue,
        c.For("block", "blockIdx.x", "batch.first[batch.items]", inner, "gridDim.x", kind="int"),
    )
    head = f"MLC_KERNEL void __launch_bounds__({THREADS}, 1) {name}(const mlc_env env_, MLC_GIVEN mlc_batch batch)"
    launch = c.Do(f"MLC_LAUNCH({name}, mlc_batch_blocks(batch), {THREADS}, 0, mlc_stream(env), *env, *batch)")
    launcher = c.Function((f"static void {name}_launch(const mlc_env *env, const mlc_batch *batch)",), (launch,))
    call = c.Do(f"mlc_calls_own(env, {name}_launch, at, {len(operands)}, begin, end)")
    return Launched((c.Function((head,), made), c.Blank(), launcher, c.Blank()), (call,))
