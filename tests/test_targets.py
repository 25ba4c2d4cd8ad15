"""A target is a record: what is added or changed in one from outside the tree is what lowering, planning and emission do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from routines import Library

from mlc.diagnostics import InternalError, MlcError
from mlc.driver import Options, check_options
from mlc.emit.routines import routine_function
from mlc.ir.function import Function, Instruction
from mlc.ir.interpret import interpret
from mlc.ir.op import Attributes, Keys, LibraryKernel, NoGradient
from mlc.ir.text import parse_function
from mlc.ir.types import TensorType, Value
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Number, Read
from mlc.lower.library import NO_SCRATCH, Constants, Operand, RuntimeKernel, Scratch
from mlc.lower.loops import Accumulator, Columns, Contract, Kernel, Loop, Nest, Scan, Scatter, Select, Statement, Store, Whole
from mlc.lower.routine import lower_function
from mlc.lower.rules import Reserve, Rules
from mlc.lower.scratch import scratch_bytes
from mlc.ops import OPS
from mlc.parallel.roofline import routine_seconds
from mlc.targets import TARGETS
from mlc.targets.c import C

RULES = C.rules


def function(*lines: str, of: str = "%x: f32[6, 40]", gives: str = "%y") -> Function:
    """A function of instructions, each `%name = op operands {attributes} : type`."""
    body = "\n".join(f"  {line}  @<t>:1:1-1:2 via test" for line in lines)
    return parse_function(f"func @f({of}) -> ({gives}) {{\n{body}\n}}")


# A library kernel: one op, one record, one function of C.


def _same_type(types: tuple[TensorType, ...], _attributes: Attributes) -> tuple[TensorType, ...]:
    return types


def _scaled(operands: tuple[np.ndarray, ...], attributes: Attributes, _keys: Keys) -> tuple[np.ndarray, ...]:
    return (operands[0] * np.float32(attributes["by"]),)


def _first(instruction: Instruction) -> tuple[Value | None, ...]:
    return (instruction.operands[0],)


def _fields(instruction: Instruction, operands: tuple[Operand | None, ...]) -> tuple[Constants, ...]:
    (_, column) = operands[0].strides if operands[0] else (0, 0)
    by = Number(instruction.attribute("by"), "f32")
    return ((("count", instruction.results[0].type.size), ("stride", column)), (("by", by),))


def _workspace(_instruction: Instruction) -> int:
    return 100


def _no_scratch(_instruction: Instruction) -> Scratch:
    return NO_SCRATCH


SCALED = replace(
    OPS["exp"],
    name="scaled",
    doc="x times a number",
    attributes=("by",),
    type_rule=_same_type,
    meaning=_scaled,
    vjp=NoGradient("nobody asks"),
    lowering=LibraryKernel("own_scale"),
    samples=(),
)

OWN_SCALE = RuntimeKernel(
    name="own_scale",
    doc="x times a number, which all threads read from the workspace",
    function=lambda _instruction: "own_scale",
    shape="own_scaled",
    dtypes=("f32",),
    dense=False,
    operands=_first,
    plain=lambda instruction: (*instruction.operands, *instruction.results),
    constants=_fields,
    scratch=_no_scratch,
    workspace=_workspace,
    over=None,
)

OWN_SCALE_C = """
#include "mlc_kernel.h"
typedef struct own_scaled { int64_t count, stride; float by; } own_scaled;
static inline void own_scale(const mlc_env *env, const own_scaled *shape, const float *x, float *y, void *workspace)
{
    if (env->thread == 0)
        *(float *)workspace = shape->by;
    mlc_barrier(env);
    const mlc_range range = mlc_share(env, shape->count);
    for (int64_t i = range.begin; i < range.end; i++)
        y[i] = x[i * shape->stride] * *(const float *)workspace;
}
"""

OWN_OPS = {**OPS, "scaled": SCALED}
OWN_RULES = replace(RULES, kernels={**RULES.kernels, "own_scale": OWN_SCALE})

SCALED_TWICE = function(
    "%a = exp %x : f32[6, 40]", "%b = scaled %a {by=2.5} : f32[6, 40]", "%y = sub %b, %x : f32[6, 40]", of="%x: f32[6, 40]"
)


def test_a_library_kernel_is_one_record(tmp_path: Path) -> None:
    header = tmp_path / "own.h"
    header.write_text(OWN_SCALE_C)
    library = Library([SCALED_TWICE], tmp_path, rules=OWN_RULES, ops=OWN_OPS, words=["-include", str(header)])
    x = np.linspace(-1, 1, 240, dtype=np.float32).reshape(6, 40)
    (want,) = interpret(SCALED_TWICE, [x], OWN_OPS, Keys())
    for threads in (1, 3):
        (got,) = library.run(0, [x], threads=threads)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_workspace_is_planned_with_the_values_of_the_routine() -> None:
    routine = lower_function(SCALED_TWICE, OWN_OPS, OWN_RULES)
    without = replace(OWN_SCALE, workspace=lambda _instruction: 0)
    plain = lower_function(SCALED_TWICE, OWN_OPS, replace(RULES, kernels={"own_scale": without}))
    (name,) = (n for n, b in routine.buffers.items() if b.elements == 100)
    others = [(at, at + 4 * routine.buffers[n].elements) for n, at in routine.work.items() if n != name]
    assert all(routine.work[name] + 100 <= start or end <= routine.work[name] for start, end in others)
    assert routine.work_bytes >= plain.work_bytes + 100 and scratch_bytes(routine) == 0


def test_a_kernel_that_a_target_lacks_is_named_with_it() -> None:
    with pytest.raises(MlcError, match=r"E0808.*--target c: it has no kernel `own_scale`, which `scaled` is"):
        lower_function(SCALED_TWICE, OWN_OPS, RULES)


def test_dtypes_that_a_kernel_does_not_know_are_cast() -> None:
    text = SCALED_TWICE
    narrow = function("%y = scaled %x {by=2.5} : bf16[6, 40]", of="%x: bf16[6, 40]")
    ops = [i.op for i in lower_function(narrow, OWN_OPS, OWN_RULES).function.instructions]
    knows = replace(OWN_RULES, kernels={"own_scale": replace(OWN_SCALE, dtypes=("f32", "bf16"))})
    assert ops == ["cast", "scaled", "cast"] and [i.op for i in lower_function(narrow, OWN_OPS, knows).function.instructions] == ["scaled"]
    assert [i.op for i in lower_function(text, OWN_OPS, OWN_RULES).function.instructions] == [i.op for i in text.instructions]


def test_costs_are_those_of_the_record() -> None:
    dense = replace(OWN_RULES, kernels={"own_scale": replace(OWN_SCALE, dense=True)})
    plain, at_rate = (lower_function(SCALED_TWICE, OWN_OPS, rules) for rules in (OWN_RULES, dense))
    assert plain.flops == at_rate.flops and (plain.dense_flops, at_rate.dense_flops) == (0, 240)
    quick = replace(RULES.machine, bytes_per_second=10 * RULES.machine.bytes_per_second)
    assert routine_seconds(plain, quick) < routine_seconds(plain, RULES.machine)


# Kernel kinds: what they are until a target lowers them.

INDEXED = "%x: f32[6, 40], %i: i32[6]"
KINDS = {
    Scatter: function("%y = scatter_add %x, %i {dim=<5>} : f32[5, 40]", of=INDEXED),
    Scan: function("%y = cumsum %x {axis=1, reverse=true} : f32[6, 40]"),
    Select: function("%y, %at = top_k %x {k=3} : f32[6, 3], i32[6, 3]", gives="%y, %at"),
    Whole: function("%y = sum %x {axes=(0, 1), keepdims=false} : f32[]"),
    Columns: function("%y = sum %x {axes=(0,), keepdims=false} : f32[40]"),
}


def as_they_are(kernels: Sequence[Kernel], _reserve: Reserve) -> tuple[Kernel, ...]:
    return tuple(kernels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_stays_until_the_target_lowers_it(kind: type) -> None:
    (kernel,) = lower_function(KINDS[kind], OPS, replace(RULES, lower_kinds=as_they_are)).kernels
    (lowered,) = lower_function(KINDS[kind], OPS, RULES).kernels
    assert type(kernel) is kind and type(lowered) is (Nest if kind in (Scatter, Scan, Whole) else kind)


@pytest.mark.parametrize("kind", [Scatter, Scan, Whole])
def test_c_has_no_text_for_a_kind_that_is_not_lowered(kind: type) -> None:
    routine = lower_function(KINDS[kind], OPS, replace(RULES, lower_kinds=as_they_are))
    with pytest.raises(InternalError, match="not lowered"):
        routine_function(routine, "f")


def loops(statements: tuple[Statement, ...]) -> list[Loop]:
    inner = [s for s in statements if isinstance(s, Loop)]
    return inner + [loop for s in inner for loop in loops(s.body)]


def test_independence_is_known_of_every_loop_of_a_nest() -> None:
    """The sum of a broadcast is two loops; a target may share out the outer one, and joins the partial sums."""
    text = ("%b = broadcast %r {axes=(0,), dims=[6, 40]} : f32[6, 40]", "%p = mul %x, %b : f32[6, 40]")
    made = function(*text, "%y = sum %p {axes=(0, 1), keepdims=false} : f32[]", of="%x: f32[6, 40], %r: f32[6]")
    (kernel,) = lower_function(made, OPS, replace(RULES, lower_kinds=as_they_are)).kernels
    assert isinstance(kernel, Whole)
    found = loops(kernel.body)
    (start,) = (s for s in kernel.body if isinstance(s, Accumulator))
    assert len(found) == 2 and all(loop.independent and loop.folds == ((start.name, "sum"),) for loop in found)


def sums_apart(kernels: Sequence[Kernel], reserve: Reserve) -> tuple[Kernel, ...]:
    """A target that wants sums of columns in two kernels: the first sums into work memory, the second takes them from there."""
    (kernel,) = kernels
    assert isinstance(kernel, Columns)
    ((buffer, _, mode, value),) = kernel.results
    partial, item = reserve("partial", "f32", kernel.column.extent), Counter(0, kernel.column.extent)
    take = Store(buffer, ix.counter(item), Read(partial, ix.counter(item)), mode)
    first = replace(kernel, results=((partial, ix.counter(kernel.column), "write", value),))
    return (first, Nest("taken", (), item, (take,), True))


def test_a_kind_may_become_several_kernels_with_memory_between(tmp_path: Path) -> None:
    library = Library([KINDS[Columns]], tmp_path, rules=replace(RULES, lower_kinds=sums_apart))
    routine = library.routines[0]
    assert [type(k) for k in routine.kernels] == [Columns, Nest] and list(routine.work) == ["partial"] and routine.barriers[1]
    x = np.linspace(0, 1, 240, dtype=np.float32).reshape(6, 40)
    (got,) = library.run(0, [x], threads=3)
    np.testing.assert_allclose(got, x.sum(axis=0), rtol=1e-6)


# What else a record states.


def rules_of(**loops: int) -> Rules:
    return replace(RULES, loops=replace(RULES.loops, **loops))


def test_loops_are_cut_as_the_target_wants(tmp_path: Path) -> None:
    """Blocks of a column sum are part of the order of its additions, so they are in the loop IR."""
    (kernel,) = lower_function(KINDS[Columns], OPS, rules_of(column_rows=2, column_block=8)).kernels
    assert isinstance(kernel, Columns) and (kernel.rows, kernel.block) == (2, 8)
    library = Library([KINDS[Columns]], tmp_path, rules=rules_of(column_rows=2, column_block=8))
    x = np.linspace(0, 1, 240, dtype=np.float32).reshape(6, 40)
    (got,) = library.run(0, [x], threads=3)
    blocks = [x[n] + x[n + 1] for n in (0, 2, 4)]
    np.testing.assert_array_equal(got, (blocks[0] + blocks[1]) + blocks[2])


def test_work_memory_is_aligned_as_the_target_wants() -> None:
    """Three values that live together, of which none is a multiple of the alignment long."""
    lines = [f'%{n} = contract %x, %w {{spec="ij,jk->ik"}} : f32[6, 3]' for n in "abc"]
    lines += [f'%{n}{n} = contract %{n}, %v {{spec="ij,jk->ik"}} : f32[6, 5]' for n in "abc"]
    made = function(*lines, of="%x: f32[6, 40], %w: f32[40, 3], %v: f32[3, 5]", gives="%aa, %bb, %cc")
    wide, narrow = (lower_function(made, OPS, replace(RULES, alignment=n)) for n in (512, 64))
    assert len(wide.work) == 3 and all(at % 512 == 0 for at in wide.work.values())
    assert any(at % 512 for at in narrow.work.values())


def test_scratch_of_contractions_is_what_the_target_says() -> None:
    made = function('%y = contract %x, %w {spec="ij,jk->ik"} : f32[6, 3]', of="%x: f32[6, 40], %w: f32[40, 3]")
    rules = replace(RULES, contractions=replace(RULES.contractions, scratch={"f32": Scratch(4096, "")}))
    routine = lower_function(made, OPS, rules)
    assert isinstance(routine.kernels[0], Contract) and scratch_bytes(routine) == 4096
    assert scratch_bytes(lower_function(made, OPS, RULES)) == 1572864


def test_fusion_follows_the_target() -> None:
    """With few rows a wide store is shared out by elements; a target with threads to spare wants it otherwise."""
    lines = ("%s = sum %x {axes=(1,), keepdims=true} : f32[6, 1]", "%b = broadcast %s {axes=(0, 1), dims=[6, 40]} : f32[6, 40]")
    made = function(*lines, "%y = div %x, %b : f32[6, 40]")
    fused, apart = (lower_function(made, OPS, replace(RULES, fusion=replace(RULES.fusion, few_rows=n, small=1))) for n in (1, 1000))
    assert len(fused.kernels) == 1 and len(apart.kernels) == 2


def test_the_names_of_targets_are_those_of_their_records() -> None:
    assert all(name == target.name and target.doc for name, target in TARGETS.items())


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(MlcError, match=f"E0808.*--target vax: this version compiles for {', '.join(TARGETS)} only"):
        check_options(Options(target="vax"))


def test_a_contraction_of_more_indices_than_its_kernel_walks_reads_copies(tmp_path: Path) -> None:
    """Five sums whose strides join nowhere, of operands that are a parameter and a product."""
    text = ("%d = mul %w, %w : f32[2, 5, 4, 3, 2, 6]", '%y = contract %x, %d {spec="nabcdf,fdcbae->ne"} : f32[3, 6]')
    made = function(*text, of="%x: f32[3, 2, 3, 4, 5, 2], %w: f32[2, 5, 4, 3, 2, 6]")
    library = Library([made], tmp_path)
    (contract,) = (k for k in library.routines[0].kernels if isinstance(k, Contract))
    assert max(map(len, (contract.batch, contract.m, contract.n, contract.k))) == 1
    rng = np.random.default_rng(2)
    values = [rng.standard_normal(p.type.shape).astype(np.float32) for p in made.parameters]
    (want,), (got,) = interpret(made, values, OPS, Keys()), library.run(0, values, threads=2)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
