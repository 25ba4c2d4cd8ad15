"""The op table: every record against itself, driven by its samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from op_samples import case_id, draw_arguments, every_case, sample_cases, sample_function
from tolerances import TOLERANCES

from mlc.diagnostics import NO_SPAN, InternalError, OpError
from mlc.ir.builder import Builder
from mlc.ir.dtypes import DTYPES
from mlc.ir.function import Function, Instruction
from mlc.ir.interpret import interpret, round_bf16
from mlc.ir.op import Apply, Arg, Composite, Const, Keys, NoGradient, Op, Pointwise, Sample, Scalar, View, resolve
from mlc.ir.text import parse_function, parse_type, print_function
from mlc.ir.types import ONE, Value, dim
from mlc.ir.verify import verify
from mlc.lower.routine import lower_function
from mlc.ops import ALL, OPS
from mlc.ops.broadcasting import align, broadcast_to, sum_back
from mlc.ops.generators import philox
from mlc.ops.page import ops_page
from mlc.passes.reverse import derivative
from mlc.targets.c import C

CASES = pytest.mark.parametrize(("op", "sample"), every_case(), ids=case_id)

#: Results through which no gradient is taken: the log-sum-exp beside what it normalizes.
SIDE_RESULTS = {"cross_entropy": 1}

#: By dtype, relative to the largest number of the result or 1.
TOLERANCE = {name: TOLERANCES[f"meaning.{name}"] if dtype.is_float else 0.0 for name, dtype in DTYPES.items()}


def assert_near(got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    scale = np.max(np.abs(expected), initial=1.0, where=np.isfinite(expected))
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(expected, np.float64), rtol=0, atol=tolerance * float(scale))


def test_names_are_unique():
    assert len(OPS) == len(ALL)


@CASES
def test_type_rule_is_the_shape_of_the_meaning(op: Op, sample: Sample):
    function = sample_function(op, sample)
    verify(function, OPS)
    for float64 in (False, True):
        interpret(function, draw_arguments(sample, np.random.default_rng(1)), OPS, Keys(), float64)


@CASES
def test_text_round_trip(op: Op, sample: Sample):
    function = sample_function(op, sample)
    assert parse_function(print_function(function)) == function


@CASES
def test_float32_is_near_float64(op: Op, sample: Sample):
    function = sample_function(op, sample)
    arguments = interpret(identity(function), draw_arguments(sample, np.random.default_rng(2)), OPS, Keys())
    narrow = interpret(function, arguments, OPS, Keys())
    wide = interpret(function, arguments, OPS, Keys(), float64=True)
    for value, a, b in zip(function.results, narrow, wide, strict=True):
        assert_near(a, b, TOLERANCE[value.type.dtype])


def identity(function: Function) -> Function:
    """Its arguments, rounded to their dtypes."""
    return Function("identity", function.parameters, (), function.parameters)


@CASES
def test_flops_are_counted(op: Op, sample: Sample):
    (instruction,) = sample_function(op, sample).instructions
    flops = op.flops(instruction)
    assert isinstance(flops, int)
    assert flops >= 0


def differentiable(op: Op, sample: Sample) -> bool:
    (instruction,) = sample_function(op, sample).instructions
    floats = [any(v.type.is_float for v in values) for values in (instruction.operands, instruction.results)]
    return not isinstance(op.vjp, NoGradient) and all(floats)


DIFFERENTIABLE = [(op, sample) for op, sample in every_case() if differentiable(op, sample)]


def gradient_function(op: Op, sample: Sample) -> tuple[Function, list[int]]:
    """(operands, cotangents of the float results) -> gradients; and which operands they belong to."""
    forward = sample_function(op, sample)
    (instruction,) = forward.instructions
    count = len(instruction.results) - SIDE_RESULTS.get(op.name, 0)
    cotangents = tuple(Value(f"d{i}", v.type) if i < count and v.type.is_float else None for i, v in enumerate(instruction.results))
    parameters = (*forward.parameters, *(d for d in cotangents if d is not None))
    b = Builder(OPS, "test", NO_SPAN, [v.name for v in (*parameters, *instruction.results)])
    assert not isinstance(op.vjp, NoGradient)
    gradients = op.vjp(b, instruction, cotangents)
    assert len(gradients) == len(instruction.operands)
    wanted = [i for i, g in enumerate(gradients) if g is not None]
    results = tuple(b.one("copy", g) for g in gradients if g is not None)
    return Function("gradient", parameters, (instruction, *b.instructions), results), wanted


def check_derivative(op: Op, sample: Sample) -> None:
    """In float64: the vjp along random directions is the central difference of the meaning."""
    rng = np.random.default_rng(3)
    forward = sample_function(op, sample)
    function, wanted = gradient_function(op, sample)
    verify(function, OPS)
    arguments = draw_arguments(sample, rng)
    assert wanted == [i for i, p in enumerate(forward.parameters) if p.type.is_float]
    weights = [rng.normal(size=p.type.shape) for p in function.parameters[len(arguments) :]]
    gradients = interpret(function, [*arguments, *weights], OPS, Keys(), float64=True)
    for at, gradient in zip(wanted, gradients, strict=True):
        assert gradient.shape == forward.parameters[at].type.shape
        for _ in range(2):
            direction = rng.normal(size=gradient.shape)
            expected = slope(forward, arguments, at, direction, weights)
            assert_near(np.sum(gradient * direction), np.asarray(expected), TOLERANCES["differences.f64"])


def slope(forward: Function, arguments: list[np.ndarray], at: int, direction: np.ndarray, weights: list[np.ndarray]) -> float:
    def total(step: float) -> float:
        moved = [a + step * direction if i == at else a for i, a in enumerate(arguments)]
        results = interpret(forward, moved, OPS, Keys(), float64=True)
        floats = [r for r, v in zip(results, forward.results, strict=True) if v.type.is_float]
        return float(sum(np.sum(w * r) for w, r in zip(weights, floats, strict=False)))

    step = 1e-5
    return (total(step) - total(-step)) / (2 * step)


@pytest.mark.parametrize(("op", "sample"), DIFFERENTIABLE, ids=case_id)
def test_derivative_is_the_central_difference(op: Op, sample: Sample):
    check_derivative(op, sample)


@pytest.mark.parametrize("name", sorted({op.name for op, _ in DIFFERENTIABLE}))
def test_a_wrong_derivative_is_seen(name: str):
    op = OPS[name]
    assert not isinstance(op.vjp, NoGradient)
    right = op.vjp

    def wrong(b: Builder, instruction: Instruction, cotangents: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
        return tuple(None if g is None else b.one("add", g, g) for g in right(b, instruction, cotangents))

    sample = next(s for o, s in DIFFERENTIABLE if o is op)
    with pytest.raises(AssertionError):
        check_derivative(replace(op, vjp=wrong), sample)


def test_no_cotangent_gives_no_gradient():
    for op, sample in DIFFERENTIABLE:
        (instruction,) = sample_function(op, sample).instructions
        b = Builder(OPS, "test", NO_SPAN, [v.name for v in (*instruction.operands, *instruction.results)])
        assert not isinstance(op.vjp, NoGradient)
        assert op.vjp(b, instruction, (None,) * len(instruction.results)) == (None,) * len(instruction.operands), op.name
        assert not b.instructions, op.name


COMPOSITES = [(op, sample) for op, sample in sample_cases() if isinstance(op.lowering, Composite)]


@pytest.mark.parametrize(("op", "sample"), COMPOSITES, ids=case_id)
def test_expansion_is_the_meaning(op: Op, sample: Sample):
    function = sample_function(op, sample)
    (instruction,) = function.instructions
    assert isinstance(op.lowering, Composite)
    b = Builder(OPS, "test", NO_SPAN, [p.name for p in function.parameters])
    results = op.lowering.expand(b, instruction)
    expanded = Function("expanded", function.parameters, tuple(b.instructions), results)
    verify(expanded, OPS)
    assert all(not isinstance(OPS[i.op].lowering, Composite) for i in b.instructions)
    assert all(a.type.same(v.type) for a, v in zip(results, instruction.results, strict=True))
    arguments = draw_arguments(sample, np.random.default_rng(4))
    for a, v in zip(run(expanded, arguments), run(function, arguments), strict=True):
        np.testing.assert_allclose(a, v, rtol=1e-12, atol=1e-12)


def run(function: Function, arguments: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    return interpret(function, arguments, OPS, Keys(), float64=True)


#: The scalar functions a target prints, in NumPy.
FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "floordiv": np.floor_divide, "mod": np.mod,
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "minimum": np.minimum, "maximum": np.maximum, "sqrt": np.sqrt, "exp": np.exp,
    "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "sin": np.sin, "cos": np.cos,
    "erf": lambda x: OPS["erf"].meaning((x,), {}, Keys())[0], "floor": np.floor, "pow": np.power, "less": np.less,
    "less_equal": np.less_equal, "equal": np.equal, "not_equal": np.not_equal, "and": np.logical_and, "or": np.logical_or,
    "not": np.logical_not, "select": np.where, "to_f32": lambda x: x.astype(np.float32), "to_i32": lambda x: np.trunc(x).astype(np.int32),
    "to_f64": lambda x: x.astype(np.float64),
    "to_bool": lambda x: x != 0, "round_bf16": round_bf16, "round_f16": lambda x: x.astype(np.float16).astype(np.float32),
}  # fmt: skip


def evaluate(scalar: Scalar, operands: tuple[np.ndarray, ...]) -> np.ndarray:
    match scalar:
        case Arg(index):
            return operands[index]
        case Const(value, None):
            return np.float32(value) if isinstance(value, float) else np.asarray(value)
        case Apply(fn, args):
            return FUNCTIONS[fn](*(evaluate(a, operands) for a in args))
        case _:
            raise AssertionError(scalar)


POINTWISE = [(op, sample) for op, sample in sample_cases() if isinstance(op.lowering, Pointwise)]


@pytest.mark.parametrize(("op", "sample"), POINTWISE, ids=case_id)
def test_scalar_expression_is_the_meaning(op: Op, sample: Sample):
    function = sample_function(op, sample)
    (instruction,) = function.instructions
    assert isinstance(op.lowering, Pointwise)
    operands = interpret(identity(function), draw_arguments(sample, np.random.default_rng(5)), OPS, Keys())
    (expected,) = interpret(function, operands, OPS, Keys())
    got = evaluate(resolve(op.lowering.scalar, instruction), operands)
    assert_near(got, expected, TOLERANCE[function.results[0].type.dtype])


def one(op: str, *types: str, **attributes: object) -> Function:
    return sample_function(OPS[op], Sample(types, tuple(sorted(attributes.items()))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "text", "op", "types", "attributes"),
    [
        ("E0201", "f32[batch=4, 8] and f32[4]", "add", ("f32[batch=4, 8]", "f32[4]"), {}),
        ("E0202", "f32[4] and bf16[4]", "mul", ("f32[4]", "bf16[4]"), {}),
        ("E0208", "exp: wants a float tensor, got i32[4]", "exp", ("i32[4]",), {}),
        ("E0203", "f32[8, width=384] and f32[width=512, 7]", "contract", ("f32[8, width=384]", "f32[width=512, 7]"), {"spec": "ik,kj->ij"}),
        ("E0209", "occurs twice", "contract", ("f32[3, 3]", "f32[3]"), {"spec": "ii,i->i"}),
        ("E0209", "one operand only", "contract", ("f32[3, 4]", "f32[3]"), {"spec": "ij,i->i"}),
        ("E0204", "axis 2 is out of range for f32[3, 4]", "sum", ("f32[3, 4]",), {"axes": (2,), "keepdims": False}),
        ("E0205", "f32[3, 4] has 12 elements", "reshape", ("f32[3, 4]",), {"dims": (dim(5),)}),
        ("E0206", "0:5:1", "slice", ("f32[4]",), {"starts": (0,), "stops": (5,), "steps": (1,)}),
        ("E0207", "only axis 0 may differ", "concat", ("f32[4, 2]", "f32[4, 3]"), {"axis": 0}),
        ("E0207", "do not add up", "split", ("f32[4]",), {"axis": 0, "sizes": (dim(3), dim(2))}),
        ("E0210", "does not broadcast", "broadcast", ("f32[batch=1]",), {"axes": (0,), "dims": (dim(4),)}),
    ],
)
def test_type_errors_name_op_and_types(code: str, text: str, op: str, types: tuple[str, ...], attributes: dict[str, object]):
    with pytest.raises(OpError) as caught:
        one(op, *types, **attributes)
    assert caught.value.code == code
    assert text in caught.value.message
    assert caught.value.message.startswith(op)


def test_attention_takes_no_other_operands():
    q, times, mask = "f32[1, 2, 1, 3]", "i32[2]", "bool[1, 2]"
    for others, causal in (((times,), True), ((times, times), False), ((times,) * 3, True), ((mask, mask), True)):
        with pytest.raises((InternalError, OpError)):
            one("attention", q, q, q, *others, causal=causal, scale=1.0)
    with pytest.raises(OpError, match=r"attention: wants bool"):
        one("attention", q, q, q, "f32[1, 2]", causal=True, scale=1.0)


@pytest.mark.parametrize(("op", "sample"), [case for case in every_case() if case not in sample_cases()], ids=case_id)
def test_kernels_refuse_the_forms_they_do_not_take(op: Op, sample: Sample):
    with pytest.raises(InternalError, match="takes no times and no gradient"):
        lower_function(sample_function(op, sample), OPS, C.rules)


def test_attention_over_parts_of_the_context_is_attention():
    """Keys in two parts, the later queries alone: joined by their log-sum-exps, as ops that have gradients; so do all gradients."""
    names = ("q", "k", "v")
    q, k, v = (Value(n, parse_type(t)) for n, t in zip(names, ("f32[2, 3, 4, 5]", "f32[2, 6, 2, 5]", "f32[2, 6, 2, 5]"), strict=True))
    whole, pieces = (builder_of(q, k, v) for _ in range(2))
    begins = [b.one("constant", dtype="i32", value=3) for b in (whole, pieces)]
    times = whole.one("iota", begins[0], dim=dim(3)), whole.one("iota", dim=dim(6))
    attributes = {"causal": True, "scale": 0.5}
    y, _ = whole.emit("attention", q, k, v, *times, **attributes)
    parts = [pieces.emit("split", x, axis=1, sizes=(dim(3), dim(3))) for x in (k, v)]
    query = pieces.one("iota", begins[1], dim=dim(3))
    key = [pieces.one("iota", dim=dim(3)), query]
    made = [pieces.emit("attention", q, *kv, query, at, **attributes) for *kv, at in zip(*parts, key, strict=True)]
    peak = pieces.one("maximum", made[0][1], made[1][1])
    weights = [pieces.one("exp", pieces.one("sub", lse, peak)) for _, lse in made]

    def spread(row: Value) -> Value:
        return pieces.one("broadcast", pieces.one("transpose", row, permutation=(0, 2, 1)), dims=y.type.dims, axes=(0, 1, 2))

    terms = [pieces.one("mul", part, spread(weight)) for (part, _), weight in zip(made, weights, strict=True)]
    joined = pieces.one("div", pieces.one("add", *terms), spread(pieces.one("add", *weights)))
    rng = np.random.default_rng(1)
    arguments = [rng.normal(size=x.type.shape) for x in (q, k, v, y)]
    first, second = (with_gradients((q, k, v), b, result) for b, result in ((whole, y), (pieces, joined)))
    for a, c in zip(run(first, arguments), run(second, arguments), strict=True):
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-12)


def with_gradients(parameters: tuple[Value, ...], b: Builder, result: Value) -> Function:
    """The result and the gradients of all parameters, of parameters and the gradient of the result."""
    function = Function("f", parameters, tuple(b.instructions), (result,))
    names = frozenset(p.name for p in parameters)
    made = derivative(function, names, frozenset([result.name]), frozenset(), OPS)
    results = (result, *(made.cotangents[p.name] for p in parameters))
    whole = Function("f", (*parameters, *made.seeds.values()), (*function.instructions, *made.instructions), results)
    verify(whole, OPS)
    return whole


def test_a_query_that_sees_no_key_is_nan():
    q, mask = np.ones((1, 2, 1, 3)), np.array([[False, True]])
    function = one("attention", *("f32[1, 2, 1, 3]",) * 3, "bool[1, 2]", causal=True, scale=1.0)
    y, lse = run(function, [q, q, q, mask])
    assert np.isnan(y[0, 0]).all()
    np.testing.assert_array_equal(y[0, 1], 1)
    np.testing.assert_array_equal(lse, [[[-np.inf, 3]]])


def test_ties_share_the_gradient():
    for op in ("maximum", "minimum"):
        function, _ = gradient_function(OPS[op], Sample(("f32[3]", "f32[3]")))
        dx, dy = run(function, [np.array([1.0, 2, 3]), np.array([1.0, 3, 2]), np.ones(3)])
        assert dx[0] == dy[0] == 0.5
        np.testing.assert_array_equal(dx + dy, 1)
    function, _ = gradient_function(OPS["max"], Sample(("f32[4]",), (("axes", (0,)), ("keepdims", False))))
    (dx,) = run(function, [np.array([5.0, 1, 5, 0]), np.array(1.0)])
    np.testing.assert_array_equal(dx, [0.5, 0, 0.5, 0])


def test_ties_take_the_lowest_index():
    x = np.array([[1.0, 3, 3, 2, 3]])
    _, indices = run(one("top_k", "f32[1, 5]", k=dim(4)), [x])
    np.testing.assert_array_equal(indices, [[1, 2, 4, 3]])
    np.testing.assert_array_equal(run(one("argmax", "f32[1, 5]", axis=1), [x])[0], [1])


def test_log_sum_exp_of_infinities():
    x = np.array([[-np.inf, -np.inf], [0.0, -np.inf], [np.inf, 0.0]])
    (y,) = run(one("logsumexp", "f32[3, 2]", axis=1, keepdims=False), [x])
    np.testing.assert_array_equal(y, [-np.inf, 0.0, np.inf])


@pytest.mark.parametrize(
    ("word", "expected"),
    [(0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]), (0xFFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD])],
)
def test_philox_gives_its_published_answers(word: int, expected: list[int]):
    """From kat_vectors of Random123: counter and key of equal words."""
    counter = [np.full(1, word, np.uint64) for _ in range(4)]
    assert [int(w[0]) for w in philox(counter, (word, word))] == expected


def test_random_numbers_are_keyed():
    attributes = {"dims": (dim(100_000),), "ordinal": 1, "stream": "call"}
    keys = Keys(seed=5, step=2, microbatch=1, path=77)
    (u,) = OPS["random_uniform"].meaning((), attributes, keys)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    (n,) = OPS["random_normal"].meaning((), attributes, keys)
    assert abs(n.mean()) < 0.02
    assert abs(n.std() - 1) < 0.02
    for other in (replace(keys, seed=6), replace(keys, step=3), replace(keys, microbatch=0), replace(keys, path=78)):
        assert not np.array_equal(u, OPS["random_uniform"].meaning((), attributes, other)[0])
    model = {**attributes, "stream": "model"}
    np.testing.assert_array_equal(
        OPS["random_uniform"].meaning((), model, keys)[0], OPS["random_uniform"].meaning((), model, replace(keys, path=1))[0]
    )


def builder_of(*values: Value) -> Builder:
    return Builder(OPS, "test", NO_SPAN, [v.name for v in values])


def test_align_stretches_only_a_literal_1():
    x, y = Value("x", parse_type("f32[batch=2, 1]")), Value("y", parse_type("f32[5]"))
    b = builder_of(x, y)
    a, c = align(b, x, y)
    assert a.type.shape == c.type.shape == (2, 5)
    named = Value("z", parse_type("f32[batch=1, 5]"))
    with pytest.raises(OpError, match=r"f32\[batch=1, 5\] and f32\[3, 5\]"):
        align(b, named, Value("w", parse_type("f32[3, 5]")))


def test_align_leaves_equal_shapes_alone():
    x, y = Value("x", parse_type("f32[2, 3]")), Value("y", parse_type("f32[a=2, 3]"))
    b = builder_of(x, y)
    assert align(b, x, y) == (x, y)
    assert not b.instructions
    assert b.one("add", x, y).type == parse_type("f32[a=2, 3]")


@pytest.mark.parametrize(
    ("small", "large"), [("f32[]", "f32[2, 3]"), ("f32[3]", "f32[2, 3]"), ("f32[2, 1]", "f32[2, 3]"), ("f32[1, 1]", "f32[4, 2, 3]")]
)
def test_sum_back_is_the_derivative_of_broadcast_to(small: str, large: str):
    x, dy = Value("x", parse_type(small)), Value("dy", parse_type(large))
    b = builder_of(x, dy)
    axes = range(len(dy.type.dims) - len(x.type.dims), len(dy.type.dims))
    wide, dx = broadcast_to(b, x, dy.type.dims), sum_back(b, dy, x.type, tuple(axes))
    assert wide.type == dy.type
    assert dx.type.same(x.type)
    function = Function("f", (x, dy), tuple(b.instructions), (wide, dx))
    verify(function, OPS)
    rng = np.random.default_rng(6)
    p, q = rng.normal(size=x.type.shape), rng.normal(size=dy.type.shape)
    broadcast, reduced = run(function, [p, q])
    np.testing.assert_allclose(np.sum(broadcast * q), np.sum(p * reduced))


def test_labels_flow():
    x = parse_type("f32[batch=2, 3*heads=4]")
    (split,) = OPS["reshape"].type_rule((x,), {"dims": (dim(2, "batch"), dim(3), dim(4, "heads"))})
    assert str(split) == "f32[batch=2, 3, heads=4]"
    (joined,) = OPS["concat"].type_rule((parse_type("f32[nope=3]"), parse_type("f32[rope=4]")), {"axis": 0})
    assert str(joined) == "f32[nope+rope=7]"
    (kept,) = OPS["sum"].type_rule((x,), {"axes": (1,), "keepdims": True})
    assert kept.dims[1] == ONE
    (cut,) = OPS["slice"].type_rule((x,), {"starts": (0, 0), "stops": (1, 12), "steps": (1, 1)})
    assert not cut.dims[0].stretches
    assert cut.dims[1] == x.dims[1]


def test_page_names_every_op():
    page = ops_page()
    assert all(f"`{name}`" in page for name in OPS)


VIEWS = [(op, sample) for op, sample in sample_cases() if isinstance(op.lowering, View)]


@pytest.mark.parametrize(("op", "sample"), VIEWS, ids=case_id)
def test_a_view_says_where_its_elements_lie(op: Op, sample: Sample):
    """The places of the record on arrays of coordinates: each element of a result is the operand's at its place, and the way back."""
    assert isinstance(op.lowering, View)
    (instruction,) = sample_function(op, sample).instructions
    (x,) = draw_arguments(sample, np.random.default_rng(3))
    for number, y in enumerate(op.meaning((x,), dict(instruction.attributes), Keys())):
        places = op.lowering.operand(instruction, number, tuple(np.indices(y.shape)))
        np.testing.assert_array_equal(np.broadcast_to(x[places], y.shape), y)
        if op.lowering.result is not None:
            np.testing.assert_array_equal(y[op.lowering.result(instruction, number, tuple(np.indices(x.shape)))], x)
