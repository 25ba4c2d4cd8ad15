"""Layers divided among ranks: what is found, that it is the model, that bits do not depend on how many ranks there are, that the proof
refuses what is not the model."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_mutants import mutant
from rank_step import Arrays, drawn, rank_gradients, whole_gradients

from mlc.cli import run_command
from mlc.driver import Options, differentiated, load_module, load_program, passed, with_factors
from mlc.ir.factors import Join
from mlc.ir.forms import WHOLE, Axis, Claim, Cut, RankFunction, RankStep, RankVariant, Term
from mlc.ir.function import Instruction
from mlc.ir.program import Step
from mlc.ir.text import parse_function, print_function
from mlc.ops import OPS
from mlc.ops.mesh import COLLECTIVES
from mlc.parallel.shard_proof import Refused, check_function, check_ranks
from mlc.passes.eliminate import Table, Variable, eliminate
from mlc.passes.shard import shard, written
from mlc.passes.shard_costs import Figures
from mlc.passes.shard_search import Found, search
from mlc.syntax.parser import parse

#: Messages cost nothing but their bytes: forms are cut wherever they can be.
BY_BYTES = Figures(message_seconds=0.0, link_bytes=1e12)

SMALL = {"depth": 1, "width": 16, "heads": 4, "context": 4, "batch": 1, "vocab": 8}


def prepared(name: str, **defines: int) -> Step:
    program, _ = load_program(EXAMPLES / f"{name}.dsl", defines, Options())
    return with_factors(passed(differentiated(program)))


@cache
def searched() -> tuple[Step, Found]:
    step = prepared("gpt", **SMALL)
    found = search(step, OPS, 4, BY_BYTES)
    assert found is not None
    return step, found


def small(parts: int) -> RankStep:
    """A block whose states, norms, heads and hidden features are cut, in 4 strips."""
    return written(*searched(), Axis("tp", parts, 4), OPS)


def collectives(of: RankFunction) -> Counter[str]:
    return Counter(i.op for i in of.function.instructions if i.op in COLLECTIVES)


# The search.


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_elimination_finds_the_least_sum(data: st.DataObject) -> None:
    sizes: dict[Variable, int] = {(n,): data.draw(st.integers(1, 4)) for n in range(data.draw(st.integers(2, 5)))}
    scopes = data.draw(st.lists(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=2, unique=True), max_size=9))
    cost = st.one_of(st.integers(0, 4).map(float), st.just(math.inf))
    tables = [
        Table(tuple(scope), np.array([data.draw(cost) for _ in range(math.prod(shape))]).reshape(shape))
        for scope in scopes
        for shape in [[sizes[v] for v in scope]]
    ]

    def total(options: Mapping[Variable, int]) -> float:
        return sum(float(t.costs[tuple(options[v] for v in t.variables)]) for t in tables)

    least = eliminate(sizes, tables)
    assert least.costs == min(total(dict(zip(sizes, of, strict=True))) for of in itertools.product(*map(range, sizes.values())))
    if math.isfinite(least.costs):
        assert total(least.options) == least.costs


@cache
def llama() -> RankStep:
    """Llama 3 8B on 8 ranks."""
    ranks = shard(prepared("llama3"), Axis("tp", 8, 8), OPS)
    assert ranks is not None
    return ranks


def test_megatron_comes_out_by_itself() -> None:
    """Columns, then rows, of each pair of products; tokens cut between; two gathers and two scatters a direction; vocabularies cut."""
    ranks = llama()
    forms = dict(ranks.parameters)
    block = "model.layers.0"
    columns = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
    dims = {name: form.dim for name, form in ranks.parameters if isinstance(form, Cut)}
    assert [dims[f"{block}.{name}.weight"] for name in columns] == [0] * 5
    assert [dims[f"{block}.{name}.weight"] for name in ("self_attn.o_proj", "mlp.down_proj")] == [1, 1]
    assert forms[f"{block}.input_layernorm.weight"] == WHOLE
    assert forms["lm_head.weight"] == Cut(0, 1, 128256)
    variant = ranks.variants[1]
    assert variant is not None
    assert [dict(collectives(f)) for f in variant.functions[:2]] == [{"all_gather": 2, "reduce_scatter": 2}] * 2
    head = ranks.variants[2]
    assert head is not None
    assert [i.attribute("join") for i in head.forward.function.instructions if i.op == "all_reduce"] == ["max", "sum", "sum"]
    owed = {o.parameter for o in check_ranks(ranks, OPS)}
    assert owed == {"input_layernorm.weight", "post_attention_layernorm.weight", "norm.weight"}


def test_messages_that_cost_more_than_bytes_are_few() -> None:
    """Tensor parallelism alone: states whole, one sum after each pair of products."""
    ranks = shard(prepared("gpt", **SMALL), Axis("tp", 4, 4), OPS)
    assert ranks is not None
    variant = ranks.variants[1]
    assert variant is not None
    assert [dict(collectives(f)) for f in variant.functions] == [{"all_reduce": 2}, {"all_reduce": 2}, {}]


def test_forms_depend_on_strips_alone() -> None:
    one, two, four = (small(parts) for parts in (1, 2, 4))
    assert one.parameters == two.parameters == four.parameters

    def lines(ranks: RankStep) -> int:
        return sum(len(f.function.instructions) for v in ranks.variants if v is not None for f in v.functions)

    assert lines(four) < lines(two) < lines(one)  # a rank does its own strips


def test_text_of_divided_functions_is_read_back() -> None:
    for variant in small(2).variants:
        for of in () if variant is None else variant.functions:
            assert parse_function(print_function(of.function)) == of.function


# Meaning.


NORMS = {"layer": "layer_norm({}, name={})", "rms": "rms_norm({}, name={})", "none": "{}"}


@st.composite
def models(draw: st.DrawFn) -> tuple[str, int, Figures]:
    """A model of blocks, the number of strips, and what the search takes machines for."""
    strips = draw(st.sampled_from([2, 3, 4, 6]))
    heads = strips * draw(st.sampled_from([1, 2]))
    groups = draw(st.sampled_from([n for n in (1, heads // 2, heads) if n and heads % n == 0]))
    width, head = heads * 2, 2
    norm = NORMS[draw(st.sampled_from(sorted(NORMS)))]
    bias = draw(st.booleans())
    lines = ["@layer", f"def block(x: real[batch, context, {width}]):"]
    if draw(st.booleans()):
        lines += [
            f"    h = {norm.format('x', repr('n1').replace(chr(39), chr(34)))}",
            *(f'    {n} = linear(h, {m}, bias={bias}, name="{n}")' for n, m in (("q", width), ("k", groups * head), ("v", groups * head))),
            f'    x = x + linear(causal_attention(q, k, v, heads={heads}), {width}, bias={bias}, name="o")',
        ]
    hidden = strips * draw(st.sampled_from([2, 3]))
    act = draw(st.sampled_from(["gelu", "silu"]))
    lines += [
        f"    h = {norm.format('x', chr(34) + 'n2' + chr(34))}",
        f'    return x + linear({act}(linear(h, {hidden}, bias={bias}, name="up")), {width}, bias={bias}, name="down")',
    ]
    vocab = draw(st.sampled_from([strips * 2, 7]))
    table = "table" if draw(st.booleans()) else f'param("head", [vocab, {width}], init=normal(0.5))'
    text = "\n".join(
        [
            "from mlc.attention import causal_attention",
            "from mlc.losses import cross_entropy",
            "from mlc.nn import gelu, layer_norm, linear, rms_norm, silu",
            "from mlc.optim import sgd",
            f"vocab: dim = {vocab}",
            f"context: dim = {draw(st.sampled_from([strips, 3]))}",
            f"batch: dim = {draw(st.sampled_from([1, 2]))}",
            "",
            *lines,
            "",
            "@model",
            'def m(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):',
            f'    table = param("table", [vocab, {width}], init=normal(0.5))',
            "    x = gather(table, tokens)",
            *(f'    x = block(x, name="b{n}")' for n in range(draw(st.sampled_from([1, 2])))),
            f"    return cross_entropy(x @ transpose({table}), targets)",
            "",
            "@train",
            "def recipe():",
            "    return sgd(rate=0.1)",
        ]
    )
    figures = Figures(
        link_bytes=draw(st.sampled_from([1e8, 3e11, 1e14])),
        message_seconds=draw(st.sampled_from([0.0, 8e-6])),
        memory_bytes=draw(st.sampled_from([1e8, 2.5e12])),
        flops=draw(st.sampled_from([1e8, 4.5e14])),
        saved_bytes=draw(st.sampled_from([1e8, 1e11])),
    )
    return text, strips, figures


def of_text(text: str) -> Step:
    program, _ = load_module(parse(text, "m.dsl"), Path("m.dsl"), {}, Options())
    return with_factors(passed(differentiated(program)))


def in_f32(arrays: Arrays) -> Arrays:
    return {name: np.asarray(a, np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}


@given(models())
@settings(max_examples=5, deadline=None)
def test_ranks_compute_the_model_and_no_number_of_them_changes_a_bit(model: tuple[str, int, Figures]) -> None:
    text, strips, figures = model
    step = of_text(text)
    found = search(step, OPS, strips, figures)
    assert found is not None
    arrays = drawn(step)
    whole = whole_gradients(step, arrays)
    bits: list[Arrays] = []
    for parts in (n for n in range(1, strips + 1) if strips % n == 0):
        ranks = written(step, found, Axis("tp", parts, strips), OPS)
        check_ranks(ranks, OPS)
        for name, made in rank_gradients(ranks, arrays).items():
            np.testing.assert_allclose(made, whole[name], rtol=0, atol=1e-12 * max(1.0, float(np.abs(whole[name]).max())))
        bits.append(rank_gradients(ranks, in_f32(arrays), False))
    for other in bits[1:]:
        assert {name: a.tobytes() for name, a in other.items()} == {name: a.tobytes() for name, a in bits[0].items()}


# The proof.


@pytest.mark.parametrize("parts", [2, 4])
def test_no_mutant_slips(parts: int) -> None:
    """What is accepted computes the same bits."""
    ranks = small(parts)
    arrays = in_f32(drawn(ranks.whole))
    expected = {name: a.tobytes() for name, a in rank_gradients(ranks, arrays, False).items()}
    rng = random.Random(parts)
    verdicts: Counter[bool] = Counter()
    for made in (mutant(rng, ranks) for _ in range(300)):
        if made is None:
            continue
        what, edited = made
        try:
            check_ranks(edited, OPS)
        except Refused:
            verdicts[False] += 1
            continue
        verdicts[True] += 1
        assert {name: a.tobytes() for name, a in rank_gradients(edited, arrays, False).items()} == expected, what
    assert verdicts[False] > 100


def edited(ranks: RankStep, unit: int, part: int, edit: Callable[[RankFunction], RankFunction]) -> RankStep:
    variant = ranks.variants[unit]
    assert variant is not None
    functions = list(variant.functions)
    functions[part] = edit(functions[part])
    return replace(ranks, variants=(*ranks.variants[:unit], RankVariant(*functions), *ranks.variants[unit + 1 :]))


def at(of: RankFunction, fits: Callable[[Instruction], bool], change: Callable[[Instruction], Instruction]) -> RankFunction:
    """The first instruction that fits, changed."""
    body = list(of.function.instructions)
    n = next(n for n, i in enumerate(body) if fits(i))
    body[n] = change(body[n])
    return replace(of, function=replace(of.function, instructions=tuple(body)))


def with_attribute(i: Instruction, key: str, value: int | str) -> Instruction:
    return replace(i, attributes=tuple((k, value if k == key else v) for k, v in i.attributes))


def claimed(of: RankFunction, name: str, claim: Callable[[Claim], Claim]) -> RankFunction:
    """The claims of the values of a whole one, changed; with their names, as results and operands."""
    return replace(of, claims=tuple((local, claim(c) if c.name == name else c) for local, c in of.claims))


def is_sum(i: Instruction) -> bool:
    return i.op in ("reduce_scatter", "all_reduce")


def test_faults_that_others_had_are_refused() -> None:
    """Each by its reason: names of function and line stand in it."""
    ranks = small(2)
    head, block = 2, 1

    def refused(unit: int, part: int, edit: Callable[[RankFunction], RankFunction], why: str, of: RankStep = ranks) -> None:
        with pytest.raises(Refused, match=why):
            check_ranks(edited(of, unit, part, edit), OPS)

    check_ranks(ranks, OPS)
    refused(block, 0, lambda f: at(f, lambda i: i.op == "strips", lambda i: with_attribute(i, "strips", 2)), "strips")
    refused(block, 0, lambda f: at(f, is_sum, lambda i: replace(i, operands=i.operands[::-1])), "wants")
    refused(block, 0, lambda f: at(f, is_sum, lambda i: replace(i, operands=i.operands[:1])), "wants")
    refused(head, 0, lambda f: at(f, is_sum, lambda i: with_attribute(i, "join", "max")), "wants")
    refused(block, 1, lambda f: at(f, lambda i: i.op == "all_gather", lambda i: with_attribute(i, "axis", "cp")), r"is of 2 ranks of cp")
    refused(
        block,
        0,
        lambda f: at(
            f,
            lambda i: i.op == "attention",
            lambda i: replace(i, operands=(i.operands[0], i.operands[2], i.operands[1], *i.operands[3:])),
        ),
        r"block.forward, instruction \d+ \(.*gpt.dsl:29\): attention: reads",
    )


def norm_gradient(step: RankStep) -> tuple[str, RankFunction]:
    variant = step.variants[1]
    assert variant is not None
    return "d.input_layernorm.weight", variant.input_gradient


def test_the_gradient_of_a_norm_is_owed_under_sequence_parallelism() -> None:
    ranks = llama()
    assert {o.parameter for o in check_ranks(ranks, OPS)} >= {"input_layernorm.weight"}
    name, _ = norm_gradient(ranks)
    said = edited(ranks, 1, 1, lambda f: claimed(f, name, lambda c: Claim(name, WHOLE, None)))
    with pytest.raises(Refused, match=r"makes term of sum of %d.input_layernorm.weight, which claims to be whole"):
        check_ranks(said, OPS)


def test_a_part_is_told_where_it_lies() -> None:
    ranks = llama()
    unit, part = next((u, p) for u in (0, 2) for p in range(3) if counts(ranks, u, p))
    moved = edited(ranks, unit, part, lambda f: at(f, lambda i: i.op == "position", lambda i: with_attribute(i, "start", 1)))
    with pytest.raises(Refused, match="is told that it lies at 1"):
        check_ranks(moved, OPS)


def counts(ranks: RankStep, unit: int, part: int) -> bool:
    variant = ranks.variants[unit]
    assert variant is not None
    return any(i.op == "position" for i in variant.functions[part].function.instructions)


def test_what_nothing_divides_stays_whole() -> None:
    """Prime sizes: there is no cut, and the one form that is left is refused by nobody."""
    ranks = shard(prepared("gpt", depth=1, width=14, heads=7, context=3, batch=1, vocab=7), Axis("tp", 5, 5), OPS)
    assert ranks is not None
    assert {form for _, form in ranks.parameters} == {WHOLE}


def test_a_sum_over_a_run_at_once_is_refused() -> None:
    """It is right, but its bits would depend on the number of ranks."""
    head = 'func @f(%x: f32[8, 3]) -> (%y) {\n  %y = sum %x {axes=(0,), keepdims=false} : f32[3]  @a.dsl:1:1-1:2 via t\n}'
    whole = parse_function(head)
    local = parse_function(head.replace("f32[8, 3]", "f32[4, 3]").replace("%x", '%"x#0.1.8"').replace("%y", '%"y#term.0"'))
    claims = (("x#0.1.8", Claim("x", Cut(0, 1, 8), None)), ("y#term.0", Claim("y", Term(Join.SUM), 0)))
    of = RankFunction(local, claims)
    check_function(whole, of, Axis("tp", 2, 2), OPS)
    with pytest.raises(Refused, match="strip"):
        check_function(whole, of, Axis("tp", 2, 4), OPS)


# The command.


def mlc_ir(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    defines = [word for name, value in SMALL.items() for word in ("-D", f"{name}={value}")]
    code = run_command(["ir", str(EXAMPLES / "gpt.dsl"), *defines, *arguments])
    return code, *capsys.readouterr()


def test_the_command_says_how_layers_divide(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = mlc_ir(capsys, "--tp", "2", "--splits", "4")
    assert code == 0
    assert said.startswith("gpt on 2 ranks of tp, sums over 4 strips; proved: together they compute the model\n")
    assert re.search(r"^block, 1 call a microbatch$.*param qkv.weight +cut along heads$", said, re.MULTILINE | re.DOTALL)
    code, said, _ = mlc_ir(capsys, "--tp", "4", "--unit", "block", "--stage", "weight_gradient")
    assert code == 0
    assert parse_function(said).name == "block.weight_gradient"


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--tp", "4", "--splits", "6"), 1, "E0808.*4 ranks do not divide it"),
        (("--tp", "5"), 1, "E1005.*2, 3, 4, 8"),
        (("--splits", "2"), 2, "those of --tp ranks"),
    ],
)
def test_what_does_not_divide_is_said(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, why: str) -> None:
    found, _, said = mlc_ir(capsys, *arguments)
    assert found == code
    assert re.search(why, said, re.DOTALL)
