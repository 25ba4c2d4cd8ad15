"""Drafts become kernels of the loop IR: each kind of draft has its builder."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.diagnostics import InternalError
from mlc.lower.dead import drop_dead
from mlc.lower.form import Draft
from mlc.lower.graph import Graph
from mlc.lower.kernels_columns import columns_kernel
from mlc.lower.kernels_contract import contract_kernel
from mlc.lower.kernels_flat import flat_kernel
from mlc.lower.kernels_own import attention_kernel, cumsum_kernel, put_along_kernel, scatter_add_kernel, select_kernel
from mlc.lower.kernels_rows import rows_kernel
from mlc.lower.loops import Kernel
from mlc.lower.sources import Sources
from mlc.lower.storage import Storage

#: op -> builder of the kernel that one instruction of it is
_OWN = {
    "attention": attention_kernel,
    "attention_vjp": attention_kernel,
    "scatter_add": scatter_add_kernel,
    "put_along": put_along_kernel,
    "cumsum": cumsum_kernel,
    "top_k": select_kernel,
    "argmax": select_kernel,
}


def build_kernels(graph: Graph, storage: Storage, drafts: Sequence[Draft]) -> tuple[Kernel, ...]:
    """The kernels of the drafts that have something to do, in their order, without dead locals."""
    sources = Sources(graph, storage)
    return tuple(drop_dead(_kernel(sources, d)) for d in drafts if d.roots or d.instruction is not None)


def _kernel(sources: Sources, draft: Draft) -> Kernel:
    if draft.kind == "columns":
        return columns_kernel(sources, draft)
    if draft.kind == "nest":
        return flat_kernel(sources, draft) if draft.rows is None else rows_kernel(sources, draft, draft.rows)
    if draft.instruction is None:
        raise InternalError(f"lower: a {draft.kind} draft without an instruction")
    if draft.kind == "contract":
        return contract_kernel(sources, draft, draft.instruction)
    if draft.instruction.op not in _OWN:
        raise InternalError(f"lower: no kernel for {draft.instruction.op}")
    return _OWN[draft.instruction.op](sources, draft.instruction)
