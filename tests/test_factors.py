"""Factors: every op's correspondence against its meaning on parts, and what programs infer from them."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from op_samples import case_id, draw_argument, draw_arguments, every_case, sample_function
from parts import KEYS, TOLERANCE, check_instruction, check_sites, check_way, meaning, of_factor
from programs import RandomProgram, programs

from mlc.diagnostics import NO_SPAN, InternalError, OpError
from mlc.driver import Options, differentiated, load_program, passed
from mlc.ir.builder import Builder
from mlc.ir.factors import Join, Letter, Offset, Site, chain, closed, divisions, is_chain, values_of
from mlc.ir.function import Function, Instruction
from mlc.ir.interpret import interpret
from mlc.ir.op import Op, Sample
from mlc.ir.program import Step
from mlc.ir.text import parse_function, parse_program, print_function, print_program
from mlc.ir.types import Dim, Factor, TensorType, Value
from mlc.ir.verify import verify
from mlc.ops import OPS
from mlc.passes.factor import check_factors, factored, factored_step

SAMPLES = every_case()
CASES = pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=case_id)


def drawn(op: Op, sample: Sample, seed: int = 1) -> tuple[Instruction, list[np.ndarray]]:
    """The instruction of a sample with arguments, floats in f64."""
    (instruction,) = sample_function(op, sample).instructions
    arrays = draw_arguments(sample, np.random.default_rng(seed))
    return instruction, [np.asarray(a, _kept(v)) for a, v in zip(arrays, instruction.operands, strict=True)]


def _kept(value: Value) -> type:
    return {"i32": np.int32, "bool": np.bool_}.get(value.type.dtype, np.float64)


def counts(instruction: Instruction) -> bool:
    return any(letter.offset is Offset.POSITION for letter in OPS[instruction.op].factors.letters(instruction))


def explicit(instruction: Instruction, arrays: list[np.ndarray]) -> tuple[Instruction, list[np.ndarray]] | None:
    """The positioned form of an instruction, and its arguments; None: it counts nothing, or is an iota."""
    form = OPS[instruction.op].factors.positioned
    if form is None or instruction.op == "iota" or not counts(instruction):
        return None
    b = Builder(OPS, "test", NO_SPAN, [v.name for v in instruction.operands])
    results = form(b, instruction)
    *before, last = b.instructions
    assert last.results == results
    function = Function("explicit", instruction.operands, tuple(before), tuple(v for i in before for v in i.results))
    verify(function, OPS)
    made = dict(zip((v.name for v in function.results), interpret(function, arrays, OPS, KEYS, True), strict=True))
    made.update((v.name, a) for v, a in zip(instruction.operands, arrays, strict=True))
    return last, [made[v.name] for v in last.operands]


@CASES
def test_parts_make_the_whole(op: Op, sample: Sample) -> None:
    instruction, arrays = drawn(op, sample)
    check_instruction(instruction, arrays, op.factors.letters(instruction))
    form = explicit(instruction, arrays)
    if form is None:
        return
    other, given_arrays = form
    for a, b in zip(meaning(instruction, arrays), meaning(other, given_arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)
    letters = op.factors.letters(other)
    assert {(letter.name, letter.size, letter.join) for letter in letters} == {
        (letter.name, letter.size, letter.join) for letter in op.factors.letters(instruction)
    }
    assert all(letter.offset is Offset.NONE for letter in letters)
    check_instruction(other, given_arrays, letters)


COUNTING = {
    "iota": ("%y = iota {dim=<2*a=3*5>} : i32[2*a=3*5]", ()),
    "iota from a number": ("%y = iota %n {dim=<7*2>} : i32[14]", ("%n: i32[]",)),
    "numbers": ("%y = random_uniform {dims=[2*3, 1, b=4*2], dtype=\"f32\", ordinal=1, stream=\"call\"} : f32[6, 1, 8]", ()),
    "times": (
        "%y, %l = attention %q, %k, %k {causal=true, scale=0.5} : f32[1, 2*3, 2, 4], f32[1, 2, 2*3]",
        ("%q: f32[1, 2*3, 2, 4]", "%k: f32[1, 4*2, 1, 4]"),
    ),
}


@pytest.mark.parametrize("name", COUNTING)
def test_only_iotas_of_one_factor_count(name: str) -> None:
    line, parameters = COUNTING[name]
    plain = parse_function(f"func @f({', '.join(parameters)}) -> (%y) {{\n  {line}  @a:1:1-1:1 via t\n}}")
    verify(plain, OPS)
    (instruction,) = plain.instructions
    form = OPS[instruction.op].factors.positioned
    assert form is not None
    assert counts(instruction)
    b = Builder(OPS, "test", NO_SPAN, [v.name for v in plain.parameters])
    results = form(b, instruction)
    written = replace(plain, instructions=tuple(b.instructions), results=results[:1])
    verify(written, OPS)
    for i in written.instructions:
        assert not counts(i) or (i.op == "iota" and len(i.result.type.dims[0].factors) == 1)
    arguments = [draw_argument("normal", p.type, np.random.default_rng(1)) for p in plain.parameters]
    (expected,), (got,) = (interpret(f, arguments, OPS, KEYS, True) for f in (plain, written))
    assert got.tobytes() == expected.tobytes()


#: How a wrong division shows: the parts do not fit, or make something else.
REFUSALS = (AssertionError, OpError, InternalError, IndexError, ValueError, TypeError)


def test_an_op_without_factors_is_an_error() -> None:
    record = {field.name: getattr(OPS["neg"], field.name) for field in fields(Op)}
    Op(**record)
    del record["factors"]
    with pytest.raises(TypeError, match="factors"):
        Op(**record)


# What no rule divides: either it breaks, or there is a reason.

#: Divisions that hold, but that no rule offers.
LEFT_OUT = {
    "attention": "over elements of v: every part would compute all scores, to share out the smaller role of the work",
    "attention_vjp": "the same",
    "attention_next": "the same",
}


def candidates(instruction: Instruction, letters: tuple[Letter, ...]) -> Iterator[Letter]:
    """Whole dims that no letter divides, alone or with dims of the same size in other slots, under every join."""
    values = values_of(instruction)
    divided = {(s.slot, s.dim) for letter in letters if letter.join is not Join.WHOLE for s in letter.sites}
    free = [(slot, d, n) for slot, v in enumerate(values) for d, n in enumerate(v.type.shape) if n > 1 and (slot, d) not in divided]
    for size in sorted({n for *_, n in free}):
        choices = [[None, *(d for at, d, n in free if (at, n) == (slot, size))] for slot in range(len(values))]
        for dims in itertools.product(*choices):
            sites = tuple(Site(slot, d, 1) for slot, d in enumerate(dims) if d is not None)
            for join in (Join.KEPT, Join.SUM, Join.MAX) if any(s.slot < len(instruction.operands) for s in sites) else ():
                yield Letter("?", size, sites, join, Offset.NONE)


def holds(instruction: Instruction, arrays: list[np.ndarray], letter: Letter) -> bool:
    try:
        check_sites(instruction, letter)
        check_way(instruction, arrays, letter, (1, letter.size, letter.size))
    except REFUSALS:
        return False
    return True


def missed(op: Op) -> set[tuple[tuple[Site, ...], Join]]:
    """Divisions that no rule of the op offers and that hold in every sample where the dims are there."""
    found: dict[tuple[tuple[Site, ...], Join], bool] = {}
    for other, sample in SAMPLES:
        if other is op:
            instruction, arrays = drawn(op, sample)
            for letter in candidates(instruction, op.factors.letters(instruction)):
                key = (letter.sites, letter.join)
                found[key] = found.get(key, True) and holds(instruction, arrays, letter)
    return {key for key, held in found.items() if held}


@pytest.mark.parametrize("name", OPS)
def test_what_is_whole_breaks_when_divided(name: str) -> None:
    assert bool(missed(OPS[name])) == (name in LEFT_OUT)


# Every rule can be seen to be wrong.

Mutation = Callable[[Letter], Letter]


def without_site(number: int) -> Mutation:
    return lambda letter: letter._replace(sites=letter.sites[:number] + letter.sites[number + 1 :]) if len(letter.sites) > 1 else letter


def joined_by(join: Join) -> Mutation:
    return lambda letter: letter._replace(join=join)


MUTATIONS: dict[str, Mutation] = {
    "the first site is lost": without_site(0),
    "the last site is lost": lambda letter: without_site(len(letter.sites) - 1)(letter),
    "a sum": joined_by(Join.SUM),
    "a maximum": joined_by(Join.MAX),
    "no sum": joined_by(Join.KEPT),
    "no offset": lambda letter: letter._replace(offset=Offset.NONE),
    "the other end of the dim": lambda letter: letter._replace(sites=tuple(s._replace(inner=1) for s in letter.sites)),
}


#: Elements of v, of which LEFT_OUT says why they are whole: every part gives the same log-sum-exp.
HARMLESS = {("attention", "e", "a maximum"), ("attention_next", "e", "no sum")}


def changed(instruction: Instruction) -> Iterator[tuple[str, str]]:
    """(letter, mutation) of every letter that a mutation changes, unless it stays whole."""
    for letter in OPS[instruction.op].factors.letters(instruction):
        for mutation, change in MUTATIONS.items():
            if change(letter) not in (letter, change(letter)._replace(join=Join.WHOLE)):
                yield letter.name, mutation


def is_seen(op: Op, letter: str, mutation: str) -> bool:
    """Does a sample of the op break where this letter is changed?"""
    for other, sample in SAMPLES:
        if other is not op:
            continue
        instruction, arrays = drawn(op, sample)
        letters = [MUTATIONS[mutation](x) if x.name == letter else x for x in op.factors.letters(instruction)]
        try:
            check_instruction(instruction, arrays, letters)
        except REFUSALS:
            return True
    return False


@pytest.mark.parametrize("name", OPS)
def test_a_wrong_rule_is_seen(name: str) -> None:
    op = OPS[name]
    tried = dict.fromkeys(pair for other, sample in SAMPLES if other is op for pair in changed(drawn(op, sample)[0]))
    unseen = {(name, *pair) for pair in tried if not is_seen(op, *pair)}
    assert unseen == {key for key in HARMLESS if key[0] == name}
    assert tried or name == "constant"


# Linearity.


def float_sets(instruction: Instruction) -> list[frozenset[int]]:
    """Each float operand, and all of them."""
    floats = [n for n, v in enumerate(instruction.operands) if v.type.is_float]
    return list(dict.fromkeys([*(frozenset([n]) for n in floats), frozenset(floats)])) if floats else []


def is_linear(instruction: Instruction, terms: list[list[np.ndarray]], operands: frozenset[int]) -> bool:
    """Are the results of a sum of two terms the sums of their results?"""
    if not all(v.type.is_float for v in instruction.results):
        return False
    first, second = terms
    total = [a + b if n in operands else a for n, (a, b) in enumerate(zip(first, second, strict=True))]
    other = [b if n in operands else a for n, (a, b) in enumerate(zip(first, second, strict=True))]
    whole, *others = (meaning(instruction, arrays) for arrays in (total, first, other))
    scale = 1e3 * TOLERANCE
    return all(np.allclose(t, a + b, rtol=scale, atol=scale) for t, a, b in zip(whole, *others, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_ops_are_linear_where_they_say_so_and_nowhere_else(name: str) -> None:
    op = OPS[name]
    stated: set[frozenset[int]] = set()
    held: dict[frozenset[int], bool] = {}
    for other, sample in SAMPLES:
        if other is not op:
            continue
        instruction, arrays = drawn(op, sample)
        terms = [arrays, drawn(op, sample, 2)[1]]
        sets = op.factors.linear(instruction)
        assert all(is_linear(instruction, terms, operands) for operands in sets)
        stated.update(sets)
        for operands in float_sets(instruction):
            held[operands] = held.get(operands, True) and is_linear(instruction, terms, operands)
    assert {operands for operands, right in held.items() if right} <= stated


# What programs infer.

RANDOM = settings(max_examples=60, deadline=None, derandomize=True)


def spans_within(site: Site, letter: Letter, d: Dim) -> set[int]:
    """The ends of factors inside a letter, in its steps."""
    ends, end = set[int](), 1
    for factor in d.factors[::-1]:
        end *= factor.size
        if end % site.inner == 0 and site.inner * letter.size % end == 0 and site.inner < end < site.inner * letter.size:
            ends.add(end // site.inner)
    return ends


def check_function(function: Function, plain: Function) -> None:
    """Factors are products of sizes, alike wherever a letter stands; nothing else has changed."""
    verify(function, OPS)
    assert factored(function, OPS) == function
    assert parse_function(print_function(function)) == function
    assert [(i.op, i.span, [v.name for v in values_of(i)]) for i in function.instructions] == [
        (i.op, i.span, [v.name for v in values_of(i)]) for i in plain.instructions
    ]
    for instruction in function.instructions:
        for letter in OPS[instruction.op].factors.letters(instruction):
            types = [values_of(instruction)[site.slot].type for site in letter.sites]
            inside = [spans_within(s, letter, t.dims[s.dim]) for s, t in zip(letter.sites, types, strict=True)]
            assert all(ends == inside[0] for ends in inside)


def reordered(function: Function, rng: random.Random) -> Function:
    """The instructions in another order that defines before it uses."""
    known, waiting, order = {p.name for p in function.parameters}, list(function.instructions), []
    while waiting:
        ready = [i for i in waiting if all(v.name in known for v in i.operands)]
        order.append(rng.choice(ready))
        waiting.remove(order[-1])
        known.update(v.name for v in order[-1].results)
    return replace(function, instructions=tuple(order))


def sizes(function: Function) -> dict[str, list[list[int]]]:
    values = [*function.parameters, *(v for i in function.instructions for v in i.results)]
    return {v.name: [[f.size for f in d.factors if f.size > 1] for d in v.type.dims] for v in values}


def check_parts(function: Function, arguments: list[np.ndarray]) -> None:
    """Every factor that an instruction can divide, on what the instruction reads."""
    every = replace(function, results=tuple(v for i in function.instructions for v in i.results))
    arrays = dict(zip((v.name for v in every.results), interpret(every, arguments, OPS, KEYS, True), strict=True))
    arrays.update((p.name, np.asarray(a, _kept(p))) for p, a in zip(function.parameters, arguments, strict=True))
    for instruction in function.instructions:
        given_arrays = [arrays[v.name] for v in instruction.operands]
        for division in divisions(instruction, OPS[instruction.op].factors.letters(instruction)):
            check_division(instruction, given_arrays, division.letter, of_factor(division))


def check_division(instruction: Instruction, arrays: list[np.ndarray], letter: Letter, ways_of: Iterable[tuple[int, int, int]]) -> None:
    if letter.offset is Offset.POSITION and instruction.op != "iota":
        form = explicit(instruction, arrays)
        assert form is not None
        instruction, arrays = form
        letter = next(x for x in OPS[instruction.op].factors.letters(instruction) if x.name == letter.name)
    for way in ways_of:
        if letter.offset is not Offset.POSITION or way[0] * way[1] == letter.size:
            check_way(instruction, arrays, letter, way)


@RANDOM
@given(program=programs(random=True), seed=st.integers(0, 100))
def test_random_programs(program: RandomProgram, seed: int) -> None:
    function = factored(program.function, OPS)
    check_function(function, program.function)
    assert sizes(factored(reordered(program.function, random.Random(seed)), OPS)) == sizes(function)
    check_parts(function, program.arguments(seed))


@st.composite
def movers(draw: Callable) -> Function:
    """Functions that mostly cut and merge dims, in ways that do not always agree."""
    x = Value("x", TensorType("f32", _factors(draw, draw(st.sampled_from([12, 24, 36, 56, 72, 120])))))
    b = Builder(OPS, "test", NO_SPAN, ["x"])
    pool = [x]
    for _ in range(draw(st.integers(1, 8))):
        value = draw(st.sampled_from(pool))
        rank = len(value.type.dims)
        match draw(st.sampled_from(["reshape", "reshape", "transpose", "split", "concat", "add", "slice"])):
            case "reshape":
                pool.append(b.one("reshape", value, dims=_factors(draw, value.type.size)))
            case "transpose":
                pool.append(b.one("transpose", value, permutation=tuple(draw(st.permutations(range(rank))))))
            case "split":
                axis = draw(st.integers(0, rank - 1))
                n = value.type.shape[axis]
                count = draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0]))
                pool += b.emit("split", value, axis=axis, sizes=(Dim((Factor("", n // count),)),) * count)
            case "concat":
                pool.append(b.one("concat", value, value, axis=draw(st.integers(0, rank - 1))))
            case "slice":
                stops = tuple(draw(st.integers(1, n)) for n in value.type.shape)
                pool.append(b.one("slice", value, starts=(0,) * rank, stops=stops, steps=(1,) * rank))
            case _:
                others = [v for v in pool if v.type.shape == value.type.shape]
                pool.append(b.one("add", value, draw(st.sampled_from(others))))
    return Function("moves", (x,), tuple(b.instructions), b.instructions[-1].results)


def _factors(draw: Callable, size: int) -> tuple[Dim, ...]:
    """Dims of which `size` is the product, named now and then."""
    dims = []
    while size > 1:
        n = draw(st.sampled_from([k for k in range(2, size + 1) if size % k == 0]))
        dims.append(Dim((Factor(draw(st.sampled_from(["", "a", "b"])), n),)))
        size //= n
    return tuple(dims) or (Dim((Factor("", 1),)),)


@settings(RANDOM, max_examples=200)
@given(function=movers(), seed=st.integers(0, 100))
def test_moves_that_do_not_agree(function: Function, seed: int) -> None:
    made = factored(function, OPS)
    check_function(made, function)
    assert sizes(factored(reordered(function, random.Random(seed)), OPS)) == sizes(made)
    check_parts(made, [np.arange(function.parameters[0].type.size, dtype=float).reshape(function.parameters[0].type.shape)])


@given(ends=st.sets(st.sampled_from([n for n in range(2, 361) if 360 % n == 0])))
def test_common_ends_are_a_chain(ends: set[int]) -> None:
    """Nothing is lost where the ends are one; what is found divides, or is divided by, each."""
    found = chain(closed(ends))
    assert is_chain(found)
    assert set(found) == ends or not is_chain(ends)
    assert all(a % b == 0 or b % a == 0 for a in found for b in ends)


def test_what_reshapes_agree_upon_is_kept() -> None:
    function = factored(parse_function(WINDOWS), OPS)
    assert str(function.parameters[0].type) == "f32[4*14, wide=3]"
    assert [str(v.type) for i in function.instructions for v in i.results] == ["f32[4*7, 2, wide=3]", "f32[4*2, 7, wide=3]"]
    assert [[(d.size, d.at) for d in divisions(i, OPS[i.op].factors.letters(i))] for i in function.instructions] == [
        [(4, ((0, 0, 0), (1, 0, 0))), (3, ((0, 1, 0), (1, 2, 0)))]
    ] * 2


#: 56 as 28 patches of 2 and as 8 windows of 7.
WINDOWS = """func @windows(%x: f32[56, wide=3]) -> (%p, %w) {
  %p = reshape %x {dims=[28, 2, wide=3]} : f32[28, 2, wide=3]  @a:1:1-1:1 via t
  %w = reshape %x {dims=[8, 7, wide=3]} : f32[8, 7, wide=3]  @a:1:1-1:1 via t
}"""

#: A block's attention: fused weights, of which each role is heads of heads.
HEADS = """func @heads(%x: f32[batch=2, width=12], %w: f32[width=12, 36], %o: f32[width=12, width=12]) -> (%z) {
  %y = contract %x, %w {spec="ab,bc->ac"} : f32[batch=2, 36]  @a:1:1-1:1 via t
  %q, %k, %v = split %y {axis=1, sizes=[12, 12, 12]} : f32[batch=2, 12], f32[batch=2, 12], f32[batch=2, 12]  @a:1:1-1:1 via t
  %h = reshape %q {dims=[batch=2, heads=3, head=4]} : f32[batch=2, heads=3, head=4]  @a:1:1-1:1 via t
  %m = reshape %h {dims=[batch=2, width=12]} : f32[batch=2, width=12]  @a:1:1-1:1 via t
  %z = contract %m, %o {spec="ab,bc->ac"} : f32[batch=2, width=12]  @a:1:1-1:1 via t
}"""


def test_names_fit_and_mislead_nowhere() -> None:
    """Both dims of %o are called width in the file: one is heads, the other a width that is not that of %x."""
    function = factored(parse_function(HEADS), OPS)
    assert [str(p.type) for p in function.parameters] == [
        "f32[batch=2, width=12]",
        "f32[width=12, 3*heads=3*head=4]",
        "f32[heads=3*head=4, width.1=12]",
    ]
    assert str(function.results[0].type) == "f32[batch=2, width.1=12]"


@cache
def example(name: str, **defines: int) -> Step:
    program, _ = load_program(ROOT / "examples" / f"{name}.dsl", defines, Options())
    return differentiated(program)


EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.dsl"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    plain = example(name)
    step = factored_step(plain, OPS)
    check_factors(step, OPS)
    assert parse_program(print_program(step)) == step
    for made, untouched in zip(step.variants, plain.variants, strict=True):
        for variant, before in zip(made, untouched, strict=True):
            for role in ("forward", "input_gradient", "weight_gradient"):
                verify(getattr(variant, role), OPS)
                assert sizes(getattr(variant, role)).keys() == sizes(getattr(before, role)).keys()


def test_a_block_shares_its_factors_with_its_gradients_and_parameters() -> None:
    step = factored_step(example("gpt2"), OPS)
    weight = next(p for p in step.program.parameters if p.name == "h.3.attn.c_attn.weight")
    assert [[f.size for f in d.factors] for d in weight.type.dims] == [[768], [3, 12, 64]]
    block = next(v for of in step.variants for v in of if step.program.units[v.unit].name == "block")
    made = {p: result for p, result, where in block.d_params if where == "weight_gradient"}
    gradient = next(v for v in block.weight_gradient.results if v.name == made["attn.c_attn.weight"])
    assert gradient.type.dims == weight.type.dims


def test_other_factors_are_refused() -> None:
    """In any type or attribute: another product, or another name."""
    text = print_program(factored_step(example("gpt2", depth=1), OPS))
    places = [match.start() for match in re.finditer(r"heads=12", text)]
    assert len(places) > 50
    for at in random.Random(5).sample(places, 10):
        for other in ("heads=3*4", "others=12"):
            broken = parse_program(text[:at] + other + text[at + len("heads=12") :])
            assert isinstance(broken, Step)
            with pytest.raises(InternalError, match="factors"):
                check_factors(broken, OPS)


def test_a_step_is_factored_after_all_passes_too() -> None:
    """Passes write out ops within the functions of units that have no derivative."""
    program, _ = load_program(ROOT / "examples" / "supervised.dsl", {}, Options())
    step = factored_step(passed(differentiated(program)), OPS)
    check_factors(step, OPS)
