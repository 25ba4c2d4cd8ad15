"""Lowering: index arithmetic by enumeration, memory layout, and what fusion makes of a layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.elaborate import elaborate, file_library
from mlc.ir.text import parse_function
from mlc.lower import index as ix
from mlc.lower import lower
from mlc.lower.expression import Counter, Index, Quotient, Remainder
from mlc.lower.layout import lay_out
from mlc.lower.loops import Call, Contract, Nest
from mlc.lower.routine import Routine, lower_function
from mlc.lower.uses import kernel_uses
from mlc.ops import OPS
from mlc.passes import prepared
from mlc.passes.expand import expand
from mlc.syntax.parser import parse
from mlc.targets.c import C

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

COUNTERS = (Counter(0, 3), Counter(1, 4), Counter(2, 6))


def value_of(index: Index, at: Mapping[int, int]) -> int:
    total = index.constant
    for atom, coefficient in index.terms:
        match atom:
            case Counter(n, _):
                total += coefficient * at[n]
            case Quotient(inner, divisor):
                total += coefficient * (value_of(inner, at) // divisor)
            case Remainder(inner, divisor):
                total += coefficient * (value_of(inner, at) % divisor)
            case _:
                raise AssertionError(atom)
    return total


def places() -> list[dict[int, int]]:
    return [dict(enumerate(p)) for p in itertools.product(*(range(c.extent) for c in COUNTERS))]


@st.composite
def indices(draw: st.DrawFn) -> tuple[Index, list[int]]:
    """An index built by the module's own operations, with its values by plain arithmetic."""
    everywhere = places()
    choices = [(ix.counter(c), [p[c.number] for p in everywhere]) for c in COUNTERS]
    index, values = draw(st.sampled_from(choices))
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.sampled_from(["add", "scale", "shift", "divide", "modulo"])):
            case "add":
                other, others = draw(st.sampled_from(choices))
                index, values = ix.add(index, other), [a + b for a, b in zip(values, others, strict=True)]
            case "scale":
                factor = draw(st.integers(-4, 12))
                index, values = ix.scale(index, factor), [v * factor for v in values]
            case "shift":
                by = draw(st.integers(-9, 9))
                index, values = ix.add(index, ix.number(by)), [v + by for v in values]
            case "divide":
                divisor = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12]))
                index, values = ix.divide(index, divisor), [v // divisor for v in values]
            case "modulo":
                divisor = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12]))
                index, values = ix.modulo(index, divisor), [v % divisor for v in values]
        choices.append((index, values))
    return index, values


@given(indices())
def test_index_arithmetic_is_arithmetic(drawn: tuple[Index, list[int]]) -> None:
    index, values = drawn
    assert [value_of(index, p) for p in places()] == values
    low, high = ix.bounds(index)
    assert low <= min(values) and max(values) <= high


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_unflatten_undoes_flattening(shape: list[int]) -> None:
    counters = [Counter(n, e) for n, e in enumerate(shape)]
    flat = ix.linear([ix.counter(c) for c in counters], ix.row_major(shape))
    assert ix.unflatten(flat, shape) == tuple(ix.counter(c) for c in counters)


@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=2), st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 4)), max_size=12
    )
)
def test_buffers_alive_together_do_not_overlap(drawn: dict[str, tuple[int, int, int]]) -> None:
    sizes = {name: size for name, (size, _, _) in drawn.items()}
    lives = {name: (first, first + length) for name, (_, first, length) in drawn.items()}
    offsets, total = lay_out(sizes, lives)
    assert set(offsets) == set(sizes)
    for name, offset in offsets.items():
        assert offset % 64 == 0 and offset + sizes[name] <= total
    for a, b in itertools.combinations(sizes, 2):
        together = lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
        apart = offsets[a] + sizes[a] <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
        assert apart or not together
    busiest = max((sum(-(-sizes[n] // 64) * 64 for n, (a, b) in lives.items() if a <= t <= b) for t in range(15)), default=0)
    assert total >= busiest


def routines(example: str, **defines: object) -> dict[str, Routine]:
    path = EXAMPLES / f"{example}.dsl"
    texts = {name: str(value) for name, value in defines.items()}
    program = elaborate(parse(path.read_text(encoding="utf-8"), path.name), texts, file_library(EXAMPLES))
    return {r.name: r for r in lower(prepared(program, OPS), OPS, C.rules).routines}


def kinds(routine: Routine) -> list[type]:
    return [type(k) for k in routine.kernels]


def test_a_transformer_block_forward_is_seven_kernels() -> None:
    """Two norms, four contractions with bias, residual and GELU in their epilogues, attention."""
    block = routines("gpt2", depth=1)["block_forward"]
    assert kinds(block) == [Nest, Contract, Call, Contract, Nest, Contract, Contract]
    assert block.work_bytes == 0


def test_weight_gradients_are_contractions_alone() -> None:
    assert kinds(routines("gpt2", depth=1)["block_weight_gradient"]) == [Contract] * 4


def test_attention_allocates_no_square_of_the_context() -> None:
    context = 512
    for routine in routines("gpt2", depth=1, context=context, batch=1, heads=12, width=48, vocab=64).values():
        assert all(b.elements < context * context for b in routine.buffers.values() if b.kind == "work")


def test_logits_are_held_once() -> None:
    """The gradient of the logits is written over them."""
    assert ("d.logits", "logits") in routines("gpt2", depth=1)["end_input_gradient"].in_place


@pytest.mark.parametrize("example", sorted(p.stem for p in EXAMPLES.glob("*.dsl")))
def test_barriers_stand_between_kernels_that_depend(example: str) -> None:
    for routine in routines(example, **({"depth": 2} if example not in ("state", "deepseek_v3") else {})).values():
        reads: set[str] = set()
        writes: set[str] = set()
        for kernel, barrier in zip(routine.kernels, routine.barriers, strict=True):
            kernel_reads, kernel_writes = kernel_uses(kernel)
            if barrier:
                reads, writes = set(), set()
            assert not kernel_reads & writes and not kernel_writes & (reads | writes)
            reads |= kernel_reads
            writes |= kernel_writes


def test_a_row_that_reads_another_place_of_what_it_writes_waits() -> None:
    """A gather from a value that the same kernel makes is not hoisted above the store."""
    text = """func @f(%x: f32[5], %i: i32[5]) -> (%s, %y) {
      %m = max %x {axes=(0,), keepdims=false} : f32[]  @<t>:1:1-1:2 via test
      %b = broadcast %m {axes=(), dims=[5]} : f32[5]  @<t>:1:1-1:2 via test
      %y = exp %x : f32[5]  @<t>:1:1-1:2 via test
      %g = gather %y, %i {axis=0} : f32[5]  @<t>:1:1-1:2 via test
      %d = sub %g, %b : f32[5]  @<t>:1:1-1:2 via test
      %s = sum %d {axes=(0,), keepdims=false} : f32[]  @<t>:1:1-1:2 via test
    }"""
    routine = lower_function(expand(parse_function(text), OPS), OPS, C.rules)
    home = {name: n for n, k in enumerate(routine.kernels) for name in kernel_uses(k)[1]}
    assert home["y"] < home["s"] and any(routine.barriers[home["y"] + 1 : home["s"] + 1])


def test_results_keep_their_order_and_names() -> None:
    block = routines("gpt2", depth=1)["block_forward"]
    assert block.binds[: len(block.function.parameters)] == tuple(p.name for p in block.function.parameters)
    assert np.all([name in block.buffers for name in block.binds])
