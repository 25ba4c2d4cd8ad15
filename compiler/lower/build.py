"""Drafts become kernels of the loop IR: each kind of draft has its builder; then the target lowers the kinds that it has loops for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlc.diagnostics import Diagnostic, InternalError, MlcError
from mlc.ir.function import Instruction
from mlc.ir.op import LibraryKernel, Scan, Scatter
from mlc.lower.dead import drop_dead
from mlc.lower.form import Draft
from mlc.lower.graph import Graph
from mlc.lower.kernels_columns import columns_kernel
from mlc.lower.kernels_contract import contract_kernel
from mlc.lower.kernels_flat import flat_kernel
from mlc.lower.kernels_own import argmax_kernel, call_kernel, cumsum_kernel, put_along_kernel, scatter_add_kernel, top_k_kernel
from mlc.lower.kernels_rows import rows_kernel
from mlc.lower.loops import Buffer, Kernel
from mlc.lower.names import unique_name
from mlc.lower.rules import Reserve
from mlc.lower.sources import Sources
from mlc.lower.storage import Storage

#: Kind of a scatter or scan -> builder of the kernel that one instruction of it is.
_KINDS: dict[str, Callable[[Sources, Instruction], Kernel]] = {
    "scatter_add": scatter_add_kernel,
    "put_along": put_along_kernel,
    "cumsum": cumsum_kernel,
    "top_k": top_k_kernel,
    "argmax": argmax_kernel,
}


def build_kernels(graph: Graph, storage: Storage, drafts: Sequence[Draft]) -> tuple[Kernel, ...]:
    """The kernels of the drafts that have something to do, in their order, without dead locals."""
    sources = Sources(graph, storage)

    def reserve(name: str, dtype: str, elements: int) -> str:
        buffer = unique_name(name, set(storage.buffers), ".")
        storage.buffers[buffer] = Buffer(buffer, dtype, elements, "work")
        return buffer

    kernels = [drop_dead(_kernel(sources, d, reserve)) for d in drafts if d.roots or d.instruction is not None]
    return graph.rules.lower_kinds(kernels, reserve)


def _kernel(sources: Sources, draft: Draft, reserve: Reserve) -> Kernel:
    if draft.kind == "columns":
        return columns_kernel(sources, draft)
    if draft.kind == "nest":
        return flat_kernel(sources, draft) if draft.rows is None else rows_kernel(sources, draft, draft.rows)
    if draft.instruction is None:
        raise InternalError(f"lower: a {draft.kind} draft without an instruction")
    if draft.kind == "contract":
        return contract_kernel(sources, draft, draft.instruction)
    return _own(sources, draft.instruction, reserve)


def _own(sources: Sources, instruction: Instruction, reserve: Reserve) -> Kernel:
    """An instruction that is a kernel of its own. raises: E0808 where the target has no such kernel"""
    rules = sources.graph.rules
    match sources.graph.lowering(instruction):
        case LibraryKernel(name) if name in rules.kernels:
            return call_kernel(sources, instruction, rules.kernels[name], reserve)
        case LibraryKernel(name):
            message = f"--target {rules.target}: it has no kernel `{name}`, which `{instruction.op}` is"
            raise MlcError([Diagnostic("E0808", message, instruction.span)])
        case Scatter(kind) | Scan(kind) if kind in _KINDS:
            return _KINDS[kind](sources, instruction)
    raise InternalError(f"lower: no kernel for {instruction.op}")
