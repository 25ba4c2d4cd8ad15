"""The text form, the verifier and the interpreter of the IR."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.diagnostics import NO_SPAN, InternalError, MlcError, Span
from mlc.ir.builder import Builder
from mlc.ir.function import Function, Instruction
from mlc.ir.interpret import interpret, round_bf16, round_f16
from mlc.ir.op import Keys
from mlc.ir.program import (
    Call,
    Chain,
    Effect,
    Following,
    Input,
    Parameter,
    Program,
    Recipe,
    Scalar,
    Step,
    Unit,
    Update,
    Variant,
)
from mlc.ir.text import parse_function, parse_program, parse_type, print_function, print_instruction, print_program, print_type
from mlc.ir.types import ONE, Dim, Factor, TensorType, Value, dim
from mlc.ir.verify import verify
from mlc.ops import OPS

BLOCK = """\
func @block(%x: f32[batch=2, width=3], %ln_1.weight: f32[width=3]) -> (%y, %total) {
  %broadcast = broadcast %ln_1.weight {axes=(1,), dims=[batch=2, width=3]} : f32[batch=2, width=3]  @gpt.dsl:3:7-3:12 via elaborate
  %y = mul %x, %broadcast : f32[batch=2, width=3]  @gpt.dsl:3:7-3:12 from @gpt.dsl:20:9-21:14 via elaborate
  %total = sum %y {axes=(0, 1), keepdims=false} : f32[]  @gpt.dsl:4:1-4:8 via differentiate
}"""


def test_text_is_printed_as_it_was_read():
    function = parse_function(BLOCK)
    verify(function, OPS)
    assert print_function(function) == BLOCK
    assert function.instructions[1].span.caller == Span("gpt.dsl", 20, 9, 21, 14)


def test_a_function_runs_from_its_text():
    y, total = interpret(parse_function(BLOCK), [np.ones((2, 3)), np.array([1.0, 2, 3])], OPS, Keys())
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [[1, 2, 3], [1, 2, 3]])
    assert total == 12


NAMES = st.text(min_size=1, max_size=6)
SIZES = st.integers(1, 10**6)
FACTORS = st.builds(Factor, st.one_of(st.just(""), NAMES), SIZES)
DIMS = st.one_of(st.just(ONE), st.builds(Dim, st.lists(FACTORS, min_size=1, max_size=3).map(tuple)))
TYPES = st.builds(TensorType, st.sampled_from(["f32", "bf16", "f16", "i32", "bool"]), st.lists(DIMS, max_size=3).map(tuple))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), DIMS)
ATTRIBUTES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
PLACES = (NAMES, SIZES, SIZES, SIZES, SIZES)
SPANS = st.recursive(st.builds(Span, *PLACES, st.none()), lambda inner: st.builds(Span, *PLACES, inner), max_leaves=3)


@settings(max_examples=300, deadline=None)
@given(name=NAMES, names=st.lists(NAMES, min_size=2, max_size=4, unique=True), kind=TYPES, value=ATTRIBUTES, span=SPANS, via=NAMES)
def test_any_function_round_trips(name: str, names: list[str], kind: TensorType, value: object, span: Span, via: str):
    """Whatever stands in names, labels, attributes and spans."""
    x, *results = (Value(n, kind) for n in names)
    instruction = Instruction("op", (x, x), (("first", value), ("second", (value, value))), tuple(results), span, via)  # type: ignore[arg-type]
    function = Function(name, (x,), (instruction,), tuple(results))
    text = print_function(function)
    assert parse_function(text) == function
    assert len(text.split("\n")) == 3


@given(kind=TYPES)
def test_any_type_round_trips(kind: TensorType):
    assert parse_type(print_type(kind)) == kind


def program() -> Program:
    span = Span("gpt.dsl", 1, 1, 1, 9)
    block = parse_function(BLOCK)
    weight = TensorType("f32", (dim(3, "width"),))
    scalar = TensorType("f32")
    b = Builder(OPS, "elaborate", span)
    init = b.one("random_normal", dims=weight.dims, dtype="f32", ordinal=0, stream="model")
    p, g, rate = Value("p", weight), Value("g", weight), Value("rate", scalar)
    update = Builder(OPS, "elaborate", span, ["p", "g", "rate"])
    step = update.one("broadcast", rate, dims=weight.dims, axes=())
    moved = update.one("sub", p, update.one("mul", step, g))
    rule = Function("sgd", (p, g, rate), tuple(update.instructions), (moved,))
    curve = Function("warmup", (Value("step", scalar),), (), ())
    unit = Unit("block", block, ("state", "param"), 1, (Effect("add_loss", "aux"),))
    call = Call(0, "h.0", ("x", "h.0.ln_1.weight"), ("x.1",), ("h.0.aux",))
    chain = Chain((call, replace(call, path="h.1")), "x.1", None, (("accuracy", "x.1"),), None)
    return Program(
        name="gpt",
        units=(unit,),
        train=chain,
        evaluate=replace(chain, weight=(0, ("x",)), calls=()),
        sample=None,
        parameters=(
            Parameter("h.0.ln_1.weight", weight, Function("init", (), tuple(b.instructions), (init,)), 0, "loss", span),
            Parameter("experts.*.weight", weight, Function("init", (), tuple(b.instructions), (init,)), None, "none", span),
        ),
        inputs=(
            Input("tokens", parse_type("i32[batch=2, context=4]"), None, 256, span),
            Input("targets", parse_type("i32[batch=2, context=4]"), Following("tokens", 1), None, span),
        ),
        scalars=(Scalar("rate", 3e-4, True, None, span), Scalar("warm", None, False, curve, NO_SPAN)),
        updates=(Update(rule, (("momentum", weight),), ("rate",), True),),
        recipe=Recipe(1.0, "f32", 4, None),
    )


def test_programs_round_trip():
    whole = program()
    assert parse_program(print_program(whole)) == whole


def test_steps_round_trip():
    block = parse_function(BLOCK)
    d_params = (("ln_1.weight", "dw", "input_gradient"),)
    one = Variant(0, block, block, block, ("y",), (), ("y",), ("dy", None), (("x", "dx"),), d_params, "none", None)
    step = Step(program(), ((one, replace(one, choice="full", again=block)), ()), (None, block), (block, block), (block,))
    assert parse_program(print_program(step)) == step


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("func @f(%x: f32[2]) -> (%y) {\n}", "1:25"),
        ("func @f(%x: f33[2]) -> () {\n}", "1:13"),
        ("func @f(%x: f32[2]) -> (%y) {\n  %y = neg %z : f32[2]  @a:1:1-1:1 via t\n}", "2:12"),
        ("func @f() -> () {\n  %y = neg ? ", "2:12"),
        ("func @f() -> () {\n", "2:1"),
        ("", "1:1"),
    ],
)
def test_text_errors_have_a_place(text: str, place: str):
    with pytest.raises(MlcError) as caught:
        parse_function(text, "f.ir")
    assert str(caught.value.diagnostics[0].span) == f"f.ir:{place}"


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(BLOCK) - 1), text=st.text(max_size=3))
def test_damaged_text_is_an_error_or_a_function(at: int, text: str):
    with contextlib.suppress(MlcError):
        parse_function(BLOCK[:at] + text + BLOCK[at + 1 :])


X = Value("x", parse_type("f32[2, 3]"))


def chain_of(*instructions: Instruction, results: tuple[Value, ...] | None = None) -> Function:
    return Function("f", (X,), instructions, results if results is not None else instructions[-1].results)


def neg(source: Value, name: str, kind: TensorType = X.type) -> Instruction:
    return Instruction("neg", (source,), (), (Value(name, kind),), NO_SPAN, "test")


A = neg(X, "a")
REDUCE = Instruction("sum", (X,), (("axes", (0,)), ("keepdims", False)), (Value("s", parse_type("f32[3]")),), NO_SPAN, "test")

FAULTS = {
    "not defined before": chain_of(neg(A.result, "b"), A),
    "defined twice": chain_of(A, A),
    "%x is defined twice": chain_of(neg(X, "x")),
    "rule of the op gives f32[2, 3]": chain_of(neg(X, "a", parse_type("f32[3, 2]"))),
    "rule of the op gives": chain_of(neg(X, "a", parse_type("bf16[2, 3]"))),
    "is read as": chain_of(A, neg(Value("a", parse_type("f32[6]")), "b", parse_type("f32[6]"))),
    "there is no op": chain_of(replace(A, op="negate")),
    "attributes": chain_of(replace(A, attributes=(("axis", 0),))),
    "sorted": chain_of(replace(REDUCE, attributes=REDUCE.attributes[::-1])),
    "E0204": chain_of(replace(REDUCE, attributes=(("axes", (2,)), ("keepdims", False)))),
    "insert a copy": chain_of(A, results=(X,)),
    "given twice": chain_of(A, results=(A.result, A.result)),
    "is not defined so": chain_of(A, results=(Value("b", X.type),)),
}


@pytest.mark.parametrize("message", FAULTS)
def test_the_verifier_refuses(message: str):
    with pytest.raises(InternalError) as caught:
        verify(FAULTS[message], OPS)
    assert message in str(caught.value)


def test_the_verifier_shows_the_neighbours():
    function = chain_of(A, neg(Value("z", X.type), "b"), neg(A.result, "c"))
    with pytest.raises(InternalError) as caught:
        verify(function, OPS)
    report = str(caught.value)
    assert f"> {print_instruction(function.instructions[1])}" in report
    assert all(print_instruction(i) in report for i in function.instructions)


def test_labels_are_free():
    verify(chain_of(neg(X, "a", parse_type("f32[batch=2, width=3]"))), OPS)


def test_bf16_rounds_to_nearest_even():
    ulp = 2.0**-7
    x = np.array([1, 1 + ulp / 2, 1 + 3 * ulp / 2, 1 + 0.51 * ulp, -1 - ulp / 2, np.inf, -np.inf, np.nan, 3.4e38, 1e-40])
    expected = np.array([1, 1, 1 + 2 * ulp, 1 + ulp, -1, np.inf, -np.inf, np.nan, np.inf, round(1e-40 / 2**-133) * 2.0**-133])
    np.testing.assert_array_equal(round_bf16(x), expected.astype(np.float32))
    np.testing.assert_array_equal(round_f16(np.array([1 + 2.0**-11, 65520.0])), np.array([1, np.inf], np.float32))


def test_16_bit_results_are_rounded_after_each_instruction():
    x = Value("x", parse_type("bf16[1]"))
    b = Builder(OPS, "test", NO_SPAN, ["x"])
    y = b.one("add", x, x)
    z = b.one("sub", y, b.one("mul", x, x))
    (result,) = interpret(Function("f", (x,), tuple(b.instructions), (z,)), [np.array([1.01])], OPS, Keys())
    one = round_bf16(np.array([1.01]))
    assert result[0] == round_bf16(round_bf16(one + one) - round_bf16(one * one))
    assert result.dtype == np.float32


def test_arguments_of_a_wrong_shape_are_refused():
    with pytest.raises(InternalError, match=r"parameter %x"):
        interpret(chain_of(A), [np.zeros(3)], OPS, Keys())
