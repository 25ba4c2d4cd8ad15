"""Contractions by warpgroups, with edges of tiles, however their operands lie; and as they are emitted."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from routines import from_stored, to_stored
from shim_kernels import KEYS, few_processors, open_kernels
from shim_library import GPU, SCHEDULES, SUM_ERROR, Array, Device, bf16_of, f32_of, of_shim
from tolerances import TOLERANCES

from mlc.ir.interpret import interpret
from mlc.ir.text import parse_function
from mlc.lower.expression import Counter
from mlc.lower.library import NO_SCRATCH, Operand
from mlc.lower.loops import Contract
from mlc.ops import OPS
from mlc.targets.cuda import split
from mlc.targets.cuda.contraction import COPIES
from mlc.targets.cuda.tensors import Matrix, matrix_of

#: cudaDevAttrMultiProcessorCount.
MULTIPROCESSORS = 16


def pitched(x: Array) -> Array:
    """With rows of a multiple of 8, and no numbers between them."""
    return np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % 8)), constant_values=0x7FC0)


#: Runner: its extents.
EXTENTS = {"run_contract": (130, 67, 201), "run_even": (256, 128, 64), "run_across": (130, 456, 72)}

#: Runner, columns of a tile (0: no tensor copies; less: by tensor memory), whether neighbours in k lie side by side in a and in b.
CASES = [
    *(("run_contract", columns, along) for columns in (0, 128, -128) for along in ((0, 0), (0, 1), (1, 0), (1, 1))),
    *(("run_even", columns, along) for columns in (0, 128) for along in ((0, 0), (1, 1))),
    *((runner, *case) for runner in ("run_contract", "run_across") for case in ((192, (1, 0)), (256, (0, 1)))),
    *(("run_across", columns, along) for columns, along in ((-192, (1, 0)), (-256, (0, 1)))),
]
HAVE = {"": CASES, "90a": [case for case in CASES if case[1] >= 0], "103a": [case for case in CASES if case[1] < 0]}


@pytest.mark.parametrize(("runner", "columns", "along"), HAVE.get(GPU, []))
def test_sums_of_products(runner: str, columns: int, along: tuple[int, int]) -> None:
    """Right, the same bits in every schedule, nothing reported."""
    m, n, k = EXTENTS[runner]
    rng = np.random.default_rng(m)
    a, b = bf16_of(rng.standard_normal((2, m, k))), bf16_of(rng.standard_normal((2, k, n)))
    expected = f32_of(a).astype(np.float64) @ f32_of(b).astype(np.float64)
    a_laid, b_laid = (pitched(a if along[0] else a.transpose(0, 2, 1)), pitched(b.transpose(0, 2, 1) if along[1] else b))
    seen: set[bytes] = set()
    with Device("contract.cu") as device:
        for order, seed in SCHEDULES[::2]:
            device.schedule(order, seed)
            c = device.empty(2 * m * n * 4)
            device.call(runner, columns, *along, device.put(a_laid), device.put(b_laid), c)
            got = device.get(c, (2, m, n))
            assert np.linalg.norm(got - expected) <= SUM_ERROR * np.linalg.norm(expected)
            assert device.reports() == []
            seen.add(got.tobytes())
    assert len(seen) == 1


def sums_of_rows(x: Array) -> Array:
    """Of each 64, in their order, in f32."""
    blocks = []
    for first in range(0, len(x), 64):
        total = np.zeros(x.shape[1], np.float32)
        for row in x[first : first + 64]:
            total = total + row
        blocks.append(total)
    return np.stack(blocks)


@pytest.mark.parametrize("columns", [c for c in (128, 192, 256, -128, -192) if GPU in ("", "90a" if c > 0 else "103a")])
def test_sums_on_the_way(columns: int) -> None:
    """Each tile of the first column of tiles sums its rows: the bits of a loop, whatever the schedule; the products are as without."""
    m, n, k = 300, 264, 333
    rng = np.random.default_rng(m)
    a, b = bf16_of(rng.standard_normal((1, m, k))), bf16_of(rng.standard_normal((1, n, k)))
    expected = f32_of(a[0]).astype(np.float64) @ f32_of(b[0]).astype(np.float64).T
    sums = sums_of_rows(f32_of(a[0]))
    with Device("contract.cu") as device:
        for order, seed in SCHEDULES[::2]:
            device.schedule(order, seed)
            c, beside = device.empty(m * n * 4), device.empty(sums.nbytes)
            device.call("run_sums", columns, device.put(pitched(a)), device.put(pitched(b)), c, beside)
            got = device.get(c, (m, n))
            assert np.linalg.norm(got - expected) <= SUM_ERROR * np.linalg.norm(expected)
            np.testing.assert_array_equal(device.get(beside, sums.shape), sums)
            assert device.reports() == []


def test_blocks_that_stay_are_as_few_as_are_done_as_soon() -> None:
    with Device("contract.cu") as device:
        found = ctypes.c_int()
        assert device.library.cudaDeviceGetAttribute(ctypes.byref(found), MULTIPROCESSORS, 0) == 0
        for tiles in (1, found.value, found.value + 1, 3 * found.value // 2, 5 * found.value - 1, 10_000):
            blocks, turns = device.library.run_blocks(ctypes.c_int64(tiles)), -(-tiles // found.value)
            assert blocks <= found.value and -(-tiles // blocks) == turns
            assert blocks == 1 or -(-tiles // (blocks - 1)) > turns


def test_what_copies_cannot_take_is_no_launch() -> None:
    """The error stands until the end of a capture asks for it."""
    with Device("contract.cu") as device:
        assert device.library.run_refused(device.empty(64 * 67 * 2)) != 0
        assert GPU or any("cudaFuncSetAttribute" in text for text in device.reports())


def line(text: str) -> str:
    return f"  {text}  @<t>:1:1-1:2 via test\n"


def layer(m: int, n: int, k: int, along_k: bool) -> str:
    """A contraction whose epilogue has a row, an operand of its own shape and two results. along_k: how its weights lie."""
    kind, weights, spec = f"bf16[{m}, {n}]", f"[{n}, {k}]" if along_k else f"[{k}, {n}]", "ab,cb->ac" if along_k else "ab,bc->ac"
    return (
        f"func @f(%x: bf16[{m}, {k}], %w: bf16{weights}, %b: bf16[{n}], %r: bf16[{m}, {n}]) -> (%y, %z) {{\n"
        + line(f'%c = contract %x, %w {{spec="{spec}"}} : {kind}')
        + line(f"%t = broadcast %b {{axes=(1,), dims=[{m}, {n}]}} : {kind}")
        + line(f"%y = add %c, %t : {kind}")
        + line(f"%h = tanh %y {{}} : {kind}")
        + line(f"%z = add %h, %r : {kind}")
        + "}"
    )


def gradient(m: int, n: int, k: int) -> str:
    """Of weights: neighbours in k are far apart, results f32."""
    return (
        f"func @f(%x: bf16[{k}, {m}], %d: bf16[{k}, {n}]) -> (%g) {{\n"
        + line(f'%g.narrow = contract %x, %d {{spec="ba,bc->ac"}} : bf16[{m}, {n}]')
        + line(f'%g = cast %g.narrow {{dtype="f32"}} : f32[{m}, {n}]')
        + "}"
    )


@pytest.mark.parametrize("target", [t for t in COPIES if GPU in ("", f"{t[3:]}a")])
def test_emitted_contractions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """As where tiles fill a device: epilogues of 8 neighbours at once, and, where rows are no multiple of them, one by one."""
    few_processors(monkeypatch, 1)
    monkeypatch.setattr(split, "LEAST_K", 1 << 40)
    functions = [parse_function(text) for text in (layer(40, 136, 72, False), layer(130, 67, 40, True), gradient(72, 264, 40))]
    rng = np.random.default_rng(3)
    with open_kernels(functions, tmp_path, frozenset({"g"}), target) as kernels:
        for number, function in enumerate(functions):
            types = [value.type for value in function.parameters]
            arguments = [from_stored(to_stored(rng.normal(size=t.shape), t.dtype), t.dtype) for t in types]
            want = interpret(function, arguments, OPS, KEYS)
            for a, b in zip(want, kernels.run(number, arguments), strict=True):
                tolerance = TOLERANCES["device.meaning.bf16"]
                np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * np.abs(a).max())
        (once,) = kernels.run(2, arguments)
        (twice,) = kernels.run(2, arguments, fold=[once])
        np.testing.assert_array_equal(twice, once + once)
    text = (tmp_path / "samples.cu").read_text()
    assert text.count(f"{COPIES[target].function}<") == 3
    assert re.search(r"mlc_store8\(&\w+\[136 \* m \+ first\]", text) and re.search(r"= mlc_load8\(&\w+\[first\]\)", text)
    assert re.search(r"env->fold \? mlc_load8\(&\w+\[264 \* m \+ first\]\)", text)


def with_bias(m: int, n: int, k: int) -> str:
    """The gradients of a layer's input and of its bias; and of another's, whose rows the contraction has not whole."""
    return (
        f"func @f(%d: bf16[2, {m // 2}, {k}], %w: bf16[{n}, {k}]) -> (%x, %b, %c) {{\n"
        + line(f'%x = contract %d, %w {{spec="abc,dc->abd"}} : bf16[2, {m // 2}, {n}]')
        + line(f'%d.wide = cast %d {{dtype="f32"}} : f32[2, {m // 2}, {k}]')
        + line(f"%b = sum %d.wide {{axes=(0, 1), keepdims=false}} : f32[{k}]")
        + line(f"%c = sum %d.wide {{axes=(1,), keepdims=false}} : f32[2, {k}]")
        + "}"
    )


@pytest.mark.parametrize("target", [t for t in COPIES if GPU in ("", f"{t[3:]}a")])
def test_emitted_sums_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """To the bit as sums of columns are without a contraction that has them."""
    function = parse_function(with_bias(200, 136, 72))
    rng = np.random.default_rng(5)
    arguments = [from_stored(to_stored(rng.normal(size=v.type.shape), "bf16"), "bf16") for v in function.parameters]
    with open_kernels([function], tmp_path, frozenset({"b"}), target) as kernels:
        apart = kernels.run(0, arguments)
    few_processors(monkeypatch, 1)
    monkeypatch.setattr(split, "LEAST_K", 1 << 40)
    (folder := tmp_path / "together").mkdir()
    with open_kernels([function], folder, frozenset({"b"}), target) as kernels:
        together = kernels.run(0, arguments)
        folded = kernels.run(0, arguments, fold=together)
        assert [len(r.kernels) for r in kernels.routines] == [5]  # the contraction, its sums of blocks together, three for %c
    assert "mlc_tensor_sums<" in (folder / "samples.cu").read_text() and "mlc_tensor_sums" not in (tmp_path / "samples.cu").read_text()
    np.testing.assert_array_equal(together[1], apart[1])
    np.testing.assert_array_equal(together[2], apart[2])
    np.testing.assert_array_equal(folded[1], 2 * apart[1])
    tolerance = TOLERANCES["device.meaning.bf16"]
    np.testing.assert_allclose(together[0], apart[0], rtol=tolerance, atol=tolerance * np.abs(apart[0]).max())


def beside(m: int) -> str:
    """Its epilogue reads one of two operands, by the column: what lies before the second one, which comes first in memory, is nobody's."""
    kind = f"bf16[{m}, 136]"
    return (
        f"func @f(%q: bf16[{m}, 72], %p: bf16[{m}, 64], %x: bf16[{m}, 72], %w: bf16[72, 136]) -> (%y) {{\n"
        + line(f'%c = contract %x, %w {{spec="ab,bc->ac"}} : {kind}')
        + line(f"%j = concat %p, %q {{axis=1}} : {kind}")
        + line(f"%y = add %c, %j : {kind}")
        + "}"
    )


@of_shim
def test_an_epilogue_reads_nothing_that_it_does_not_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_processors(monkeypatch, 1)
    function = parse_function(beside(40))
    rng = np.random.default_rng(4)
    arguments = [from_stored(to_stored(rng.normal(size=v.type.shape), "bf16"), "bf16") for v in function.parameters]
    with open_kernels([function], tmp_path) as kernels:
        (found,) = kernels.run(0, arguments)
    (want,) = interpret(function, arguments, OPS, KEYS)
    tolerance = TOLERANCES["device.meaning.bf16"]
    np.testing.assert_allclose(found, want, rtol=tolerance, atol=tolerance * np.abs(want).max())
    text = (tmp_path / "samples.cu").read_text()
    assert "mlc_contract_tensor<" in text and " < 64 ? " in text


@given(st.data())
def test_a_matrix_lies_where_its_operand_does(data: st.DataObject) -> None:
    """Whatever the groups of indices; and as tensor copies ask for it."""
    strides, extents = st.sampled_from([0, 1, 4, 8, 16, 64, 72, 80, 576, 640]), st.integers(1, 10)
    groups = [tuple(data.draw(st.lists(st.tuples(extents, strides, strides), max_size=2))) for _ in range(4)]
    batch, m, n, k = ((*group, *([(8, 1, 1)] if number == 3 else [])) for number, group in enumerate(groups))
    counters = (Counter(0, 1), Counter(1, 1), Counter(2, 1))
    operand = Operand("x", data.draw(st.sampled_from([0, 8, 24, 4])), ())
    kernel = Contract("", operand, operand, batch, m, n, k, counters, "f32", split.BF16, (), (), NO_SCRATCH)
    for which, side in ((1, m), (2, n)):
        found = matrix_of(kernel, which, True)
        if found is None:
            continue
        assert not any(number % 8 for number in (found.offset, found.batch_pitch, found.pitch)) and found.pitch and found.batch_pitch
        assert [found.batches, found.rows, found.along] == [split.extent_of(group) for group in (batch, side, k)]
        for b, s, e in np.ndindex(found.batches, min(found.rows, 12), min(found.along, 12)):
            place = operand.offset + sum(address(group, which, flat) for group, flat in ((batch, b), (side, s), (k, e)))
            assert place == found.offset + b * found.batch_pitch + s * found.pitch + e


def address(group: split.Group, which: int, flat: int) -> int:
    place = 0
    for dim in reversed(group):
        place += flat % dim[0] * dim[which]
        flat //= dim[0]
    return place


def test_matrices_that_copies_take() -> None:
    """A layer's operands are; a side of two strides, a row of odd length, rows that overlap and a step in a row are none."""
    counters = (Counter(0, 1), Counter(1, 1), Counter(2, 1))
    m, n, k = ((16, 1024 * 768, 0), (1024, 768, 0)), ((2304, 0, 1),), ((768, 1, 2304),)
    a, b = Operand("x", 0, ()), Operand("w", 0, ())
    plain = Contract("", a, b, (), m, n, k, counters, "f32", split.BF16, (), (), NO_SCRATCH)
    assert matrix_of(plain, 1, True) == Matrix(0, 1, 16384 * 768, 16384, 768, 768)
    assert matrix_of(plain, 2, False) == Matrix(0, 1, 768 * 2304, 768, 2304, 2304)
    for m in (((16, 1024 * 800, 0), (1024, 768, 0)), ((16, 67, 0),), ((16, 0, 0),), ((16, 64, 0),)):
        assert matrix_of(replace(plain, m=m), 1, True) is None
    assert matrix_of(replace(plain, k=((768, 2, 2304),)), 1, True) is None
    assert matrix_of(replace(plain, a=Operand("x", 4, ())), 1, True) is None
