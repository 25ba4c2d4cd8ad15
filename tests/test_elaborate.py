"""From syntax trees to Programs: values and dims, names of parameters, effects, the cut into units, recipes. Mistakes: test_errors."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlc.diagnostics import MlcError
from mlc.elaborate import elaborate, file_library
from mlc.ir.interpret import interpret
from mlc.ir.op import Keys
from mlc.ir.program import Call, Chain, Following, Program, path_hash
from mlc.ir.text import print_program
from mlc.ir.verify import verify
from mlc.ops import OPS
from mlc.syntax.parser import parse
from oracles import chain

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.dsl"))

RECIPE = """
@train()
def recipe():
    return sgd(rate=0.1)
"""
IMPORTS = """from mlc.attention import attention, rotary, rotary_frequency
from mlc.losses import cross_entropy, mean_squared_error
from mlc.nn import dropout, embedding, gelu, layer_norm, linear, rms_norm, silu
from mlc.optim import adamw, lion, muon, sgd
from mlc.rates import constant, cosine, linear as straight, ramp, wsd

batch: dim = 4
width: dim = 8
"""


def program(text: str, **defines: object) -> Program:
    """The program of a text, verified."""
    made = elaborate(parse(text, "model.dsl"), {name: str(value) for name, value in defines.items()}, file_library(EXAMPLES))
    functions = [u.function for u in made.units] + [u.function for u in made.updates] + [p.init for p in made.parameters]
    functions.extend(s.curve for s in made.scalars if s.curve is not None)
    for function in functions:
        verify(function, OPS)
    return made


def model(body: str, inputs: str = "x: real[batch, width]", before: str = "", recipe: str = RECIPE, **defines: object) -> Program:
    """The program of a model with this body."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return program(f"{IMPORTS}\n{before}\n\n@model\ndef tested({inputs}):\n{lines}\n{recipe}", **defines)


def small(name: str) -> dict[str, str]:
    """The -D settings of an example's first lines."""
    return dict(re.findall(r"-D (\w+)=(\S+)", (EXAMPLES / f"{name}.dsl").read_text().split('"""')[1]))


def example(name: str, **defines: object) -> Program:
    return program((EXAMPLES / f"{name}.dsl").read_text(), **defines)


def value(expression: str, **inputs: np.ndarray) -> np.ndarray:
    """What an expression over x and y computes."""
    declared = ", ".join(f"{n}: {'i32' if v.dtype == np.int32 else 'f32'}[{', '.join(map(str, v.shape))}]" for n, v in inputs.items())
    made = model(f"probe = {expression}\nreturn sum(cast(probe, f32))", declared)
    unit = made.units[made.train.calls[0].unit]
    probed = next(v for i in reversed(unit.function.instructions) for v in i.results if v.name == "probe" or v.name.startswith("probe."))
    function = type(unit.function)("probe", unit.function.parameters, unit.function.instructions, (probed,))
    return interpret(function, [inputs[n] for n in made.train.calls[0].arguments], OPS, Keys(), True)[0]


def refused(code: str, body: str, **settings: str) -> str:
    """The message of the only diagnostic, of this code."""
    with pytest.raises(MlcError) as caught:
        model(body, **settings)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    return diagnostic.message


def unit_names(made: Program, calls: Chain) -> list[str]:
    return [made.units[c.unit].name for c in calls.calls]


def by_role(made: Program, call: Call, role: str) -> list[str]:
    return [name for r, name in zip(made.units[call.unit].roles, call.arguments, strict=True) if r == role]


def parameters_at_start(made: Program) -> dict[str, np.ndarray]:
    return {p.name: start(made, p.name) for p in made.parameters}


def start(made: Program, name: str) -> np.ndarray:
    """The initial value of a parameter, as the runtime makes it: over the flat tensor where the function is flat."""
    parameter = next(p for p in made.parameters if p.name == name)
    function, shape = parameter.init, parameter.type.shape
    keys = Keys(0, 0, 0, path_hash(name))
    if function.results[0].type.shape == shape:
        return interpret(function, [], OPS, keys)[0]
    size = max(1, math.prod(shape))
    blocks = -(-size // 1024)
    if not any(i.op.startswith("random_") for i in function.instructions):
        return np.resize(interpret(function, [], OPS, keys)[0], shape)
    rng = np.random.default_rng(path_hash(name))
    plain = interpret(function, [], OPS, keys)[0]
    return (rng.standard_normal(blocks * 1024)[:size] * plain.std()).reshape(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("name", NAMES)
def test_examples_start_near_an_even_guess(name: str) -> None:
    """Every example, at the sizes its first lines print: a finite loss, and log(classes) where it predicts classes."""
    made = example(name, **small(name))
    rng = np.random.default_rng(0)
    inputs = {i.name: rng.standard_normal(i.type.shape).astype(np.float32) for i in made.inputs}
    for i in made.inputs:
        if i.type.dtype == "i32":
            inputs[i.name] = rng.integers(0, i.limit or 10, i.type.shape, dtype=np.int32)
    scalars = chain.record(made, 0, 100, {}, OPS, False)
    result, _ = chain.forward(chain.Run(made, OPS, parameters_at_start(made), inputs, scalars, Keys(1), False), made.train)
    assert math.isfinite(result.loss)
    limits = [i.limit for i in made.inputs if i.type.dtype == "i32" and i.limit is not None]
    if name in ("gpt", "gpt2", "muon", "llama3", "deepseek_v3", "gla"):
        assert result.loss == pytest.approx(math.log(limits[0]), rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_runnable_as_printed(name: str) -> None:
    text = (EXAMPLES / f"{name}.dsl").read_text()
    assert f"\n    mlc run examples/{name}.dsl " in text.split('"""')[1]
    assert all(setting in text for setting in (f"\n{key}: " for key in small(name)))


def test_depth_costs_calls_not_units() -> None:
    shallow, deep = example("gpt2", depth=2), example("gpt2", depth=40)
    assert len(deep.train.calls) == len(shallow.train.calls) + 38
    assert len(deep.units) == len(shallow.units)
    assert len(deep.updates) == len(shallow.updates) == 2


def test_units_of_examples() -> None:
    gpt2 = example("gpt2", depth=2)
    assert unit_names(gpt2, gpt2.train) == unit_names(gpt2, gpt2.evaluate) == ["begin", "block", "block", "end"]
    assert gpt2.sample is not None and unit_names(gpt2, gpt2.sample) == ["begin", "block", "block", "end.1"]
    unet = example("unet")
    sizes = {c.unit for c in unet.train.calls if unet.units[c.unit].name.startswith("block")}
    assert len(sizes) == 4
    t5 = example("t5", depth=2)
    assert unit_names(t5, t5.train) == ["begin", "encode", "encode", "between.1", "decode", "decode", "end"]
    assert t5.sample is None


def test_names_and_order_do_not_depend_on_hash_seeds() -> None:
    script = (
        "import sys; from pathlib import Path; from mlc.syntax.parser import parse; from mlc.elaborate import elaborate, file_library\n"
        "from mlc.ir.text import print_program; p = Path(sys.argv[1])\n"
        "print(print_program(elaborate(parse(p.read_text(), p.name), {'depth': '2'}, file_library(p.parent))))"
    )
    path = ":".join(p for p in sys.path if p)
    texts = {
        subprocess.run(
            [sys.executable, "-c", script, str(EXAMPLES / "t5.dsl")],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert print_program(example("t5", depth=2)).count("func @") > 5


# ------------------------------------------------------------------------------------------------- numbers and dims

X = np.arange(1, 13).reshape(3, 4) / 7
INDEX = np.array([[1, 0, 2], [2, 1, 1]], np.int32)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x ** 2 + x ** 3", X**2 + X**3),
        ("x ** 0.5 + x ** -0.5 + x ** 1.7", X**0.5 + X**-0.5 + X**1.7),
        ("2.0 ** x", 2.0**X),
        ("1 / x - x / 3", 1 / X - X / 3),
        ("mean(x, axis=0) + var(x, axis=0)", X.mean(0) + X.var(0)),
        ("max(x, axis=-1, keepdims=True) - min(x)", X.max(-1, keepdims=True) - X.min()),
        ("maximum(x, 1) * minimum(x, max(0.5, 0.25))", np.maximum(X, 1) * np.minimum(X, 0.5)),
        ("x[1]", X[1]),
        ("x[-1, ::2]", X[-1, ::2]),
        ("x[:, None, 1:-1]", X[:, None, 1:-1]),
        ("x[..., 0]", X[..., 0]),
        ("x[None]", X[None]),
        ("transpose(x) @ x", X.T @ X),
        ("x[0] @ transpose(x)", X[0] @ X.T),
        ("x @ x[0]", X @ X[0]),
        ("stack([x, 2.0 * x], axis=1)[:, :, None] @ transpose(x)", np.stack([X, 2 * X], 1)[:, :, None] @ X.T),
        ('einsum("ij,ik,il->jkl", x, x, x)', np.einsum("ij,ik,il->jkl", X, X, X)),
        ('einsum("ij,kj->k", x, x)', np.einsum("ij,kj->k", X, X)),
        ('einsum("ij->ji", x)', X.T),
        ("concat([x, x[:1]], axis=0)", np.concatenate([X, X[:1]])),
        ("split(x, 2, axis=1)[1] - split(x, [1, 2, 1], axis=1)[1]", X[:, 2:] - X[:, 1:3]),
        ("one_hot(i, 3)", np.eye(3)[INDEX]),
        ("gather(x, i)", X[INDEX]),
        ("take_along(x, argmax(x, axis=1)[:, None], axis=1)", X.max(1, keepdims=True)),
        ("scatter_add(x[:2], i[:, 1], 4)", np.stack([X[0], X[1], 0 * X[0], 0 * X[0]])),
        ("cumsum(x, axis=0)", X.cumsum(0)),
        ("cumsum(x, axis=1, reverse=True)", X[:, ::-1].cumsum(1)[:, ::-1]),
        ("top_k(x, 2)[0]", X[:, :1:-1]),
        ("select(x > 1.0, x, 0)", np.where(X > 1, X, 0)),
        ("select(i > 0, 1, 0) + i // 2 - i % 2", np.where(INDEX > 0, 1, 0) + INDEX // 2 - INDEX % 2),
        ("cast((x > 0.5) & ~(x >= 1.0) | (x == 1.0), f32)", ((X > 0.5) & ~(X >= 1.0)) | (X == 1)),
        (
            "softmax(x) + logsumexp(x, keepdims=True)",
            np.exp(X) / np.exp(X).sum(-1, keepdims=True) + np.log(np.exp(X).sum(-1, keepdims=True)),
        ),
        ("x * sqrt(16) + pi - len(x.shape)", X * 4 + np.pi - 2),
        ("broadcast(x[:, None], [3, 2, 4])", np.broadcast_to(X[:, None], (3, 2, 4))),
        ("full([2, 2], 3) + arange(2)", np.full((2, 2), 3) + np.arange(2)),
        ("reshape(x, [2, 6])", X.reshape(2, 6)),
        ("transpose(x[None], [2, 0, 1])", X[None].transpose(2, 0, 1)),
        ("-abs(x - 1.0) * sign(x - 1.0)", -np.abs(X - 1) * np.sign(X - 1)),
    ],
)
def test_expressions_mean_what_numpy_means(expression: str, expected: np.ndarray) -> None:
    names = {"x": X, "i": INDEX}
    used = {name: names[name] for name in names if re.search(rf"\b{name}\b", expression)}
    found = value(expression, **used) if used else value(expression + " + 0 * i[:, :2]", i=INDEX)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_labels_follow_dims() -> None:
    made = model(
        """
        h = linear(x, 3 * width, name="a")
        parts = split(h, 3, axis=-1)
        heads = reshape(parts[0], [batch, 2, width // 2])
        return mean(heads) + mean(transpose(heads, [2, 0, 1]))
        """.replace("\n        ", "\n")
    )
    (unit,) = {made.units[c.unit].name: made.units[c.unit] for c in made.train.calls}.values()
    types = {str(r.type) for i in unit.function.instructions for r in i.results}
    assert "f32[batch=4, 3*width=8]" in types
    assert "f32[batch=4, width=8]" in types
    assert any("batch=4, 2, " in t and "width//2" in t for t in types)


def test_a_named_dim_of_one_does_not_stretch() -> None:
    assert "m=1 and width=8" in refused("E0201", "return mean(linear(x, 1) - x)")
    with pytest.raises(MlcError):
        model("return mean(x + full([batch, width], 1.0) * full([3, width], 1.0))", batch=1)
    model("return mean(x + sum(x, axis=0, keepdims=True) + full([1, width], 1.0) + x[:, :1][:, 0][:, None])")


def test_letters_bind_left_to_right() -> None:
    before = "def f(x: real[b, n], y: real[n, b], *, k: dim) -> real[b, n]:\n    return x * k + transpose(y) * (n // b)\n"
    model("return mean(f(x, transpose(x), k=3))", before=before)
    assert refused("E0402", "return mean(f(x, x, k=3))", before=before) == "f(y): wants real[n=8, b=4], got f32[batch=4, width=8]"


def test_only_the_taken_branch_is_elaborated() -> None:
    made = model("if width > 4:\n    return mean(x)\nreturn mean(linear(x, 3, bad=1))")
    assert made.parameters == ()


def test_real_is_the_precision_of_the_recipe() -> None:
    body = 'h = linear(x, 3)\nreturn mean(cast(layer_norm(h, name="n"), f32) + random_normal(h.shape))'
    made = model(body, recipe=RECIPE.replace("@train()", "@train(precision=bf16)"))
    assert {p.name: p.type.dtype for p in made.parameters} == {"weight": "bf16", "bias": "bf16", "n.weight": "f32", "n.bias": "f32"}
    assert made.inputs[0].type.dtype == "bf16"


# ----------------------------------------------------------------------------------------------- parameters, effects


def test_paths_of_parameters() -> None:
    before = 'def mlp(x: real[..., n]):\n    return linear(linear(x, n, name="up.0"), n, bias=False)\n'
    made = model('h = mlp(x, name="a")\nh = mlp(h, share="b")\nh = mlp(h, share="b")\nreturn mean(h)', before=before)
    assert [p.name for p in made.parameters] == ["a.up.0.weight", "a.up.0.bias", "a.weight", "b.up.0.weight", "b.up.0.bias", "b.weight"]


def test_a_shared_layer_has_one_set_of_parameters_and_paths_of_its_own() -> None:
    before = '@layer\ndef f(x: real[b, n]):\n    report("size", mean(x))\n    return linear(dropout(x, 0.5), n)\n'
    made = model('for _ in range(3):\n    x = f(x, share="f")\nreturn mean(x)', before=before)
    assert [p.name for p in made.parameters] == ["f.weight", "f.bias"]
    assert [c.path for c in made.train.calls] == ["f", "f#1", "f#2"]
    assert [c.effects for c in made.train.calls] == [("f.size",), ("f.size#1",), ("f.size#2",)]
    assert [p.gradient for p in made.parameters] == ["loss", "loss"]


def test_effects_are_results_after_the_states() -> None:
    made = example("state")
    unit = made.units[made.train.calls[0].unit]
    assert [e.kind for e in unit.effects] == ["accumulate", "accumulate"]
    assert made.train.calls[0].effects == ("norm.running_mean", "norm.running_var")
    assert unit.outputs == 1 and len(unit.function.results) == 3
    assert {p.name: p.gradient for p in made.parameters if "running" in p.name} == dict.fromkeys(made.train.calls[0].effects, "accumulate")
    assert made.units[made.evaluate.calls[0].unit].effects == ()


def test_a_parameter_without_gradient_has_no_update() -> None:
    made = model(
        'p = param("p", [width], init=ones())\nq = param("q", [width], init=ones())\nreturn mean(linear(x, 3) * sum(stop_gradient(p)))'
    )
    assert {p.name: (p.gradient, p.update) for p in made.parameters} == {
        "p": ("none", None), "q": ("none", None), "weight": ("loss", 0), "bias": ("loss", 0),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ the cut

BLOCK = """
@layer
def block(x: real[batch, width], seen: bool[batch], bias: real[width]):
    return linear(select(seen[:, None], x, bias), width)
"""


def test_what_needs_no_parameter_or_no_input_is_never_sent() -> None:
    body = """
bias = tanh(param("table", [2 * width], init=ones()))[:width]
seen = t > 1
h = linear(x, width, name="in")
for i in range(2):
    h = block(h, seen, bias, name=f"b.{i}")
return mean(h)
"""
    made = model(body, "x: real[batch, width], t: i32[batch]", BLOCK)
    first, second = made.train.calls[1:3]
    assert by_role(made, first, "state") == list(made.train.calls[0].results)
    assert by_role(made, first, "input") == by_role(made, second, "input") == ["t"]
    assert by_role(made, second, "param") == ["b.1.weight", "b.1.bias", "table"]
    assert made.units[first.unit].function.parameters[0].name == "x"


def test_light_code_joins_the_call_before_it() -> None:
    before = "@layer\ndef f(x: real[b, n]):\n    return linear(x, n)\n"
    joined = model('h = f(x, name="a") * 2.0\nh = f(h, name="b")\nreturn mean(h)', before=before)
    assert unit_names(joined, joined.train) == ["f", "f.1"]
    split = model('h = linear(f(x, name="a"), width, name="m")\nh = f(h, name="b")\nreturn mean(h)', before=before)
    assert unit_names(split, split.train) == ["f", "between.1", "f.1"]
    skipped = model('h = f(x, name="a")\ny = f(h, name="b")\nz = f(y, name="c")\nreturn mean(h @ transpose(z))', before=before)
    assert unit_names(skipped, skipped.train) == ["f", "f.1", "f.1", "end"]  # the first reads an input, the others a state
    assert sorted(by_role(skipped, skipped.train.calls[-1], "state")) == [*skipped.train.calls[0].results, *skipped.train.calls[2].results]


def test_results_are_distinct_and_no_parameters() -> None:
    before = "@layer\ndef f(x: real[b, n]):\n    h = linear(x, n)\n    return h, h, x\n"
    made = model(
        'a, b, c = f(x, name="a")\nadd_loss("l", mean(a))\nreport("r", mean(c))\nloss = mean(b)\nreturn {"loss": loss, "again": loss}',
        before=before,
    )
    assert len(made.train.calls) == 1
    constant = model('return {"loss": mean(linear(x, 3)), "share": mean(x), "one": 1.0}')
    assert [name for name, _ in constant.train.metrics] == ["share", "one"]


def test_sampling_drops_targets_and_inputs_reached_through_dead_code() -> None:
    made = example("llama3", **small("llama3"))
    assert made.sample is not None and made.sample.logits == made.sample.calls[-1].results[0]
    read = {n for c in made.sample.calls for n in by_role(made, c, "input")}
    assert read == {"tokens"}
    unused = model("z = sum(y)\nreturn mean(x)", "x: real[batch, width], y: real[batch]")
    assert [i.name for i in unused.inputs] == ["x"]


def test_inputs_know_their_range() -> None:
    made = example("albert", **small("albert"))
    assert {i.name: i.limit for i in made.inputs} == {"tokens": 256}
    gpt2 = example("gpt2", depth=1)
    assert [(i.name, i.limit, i.default) for i in gpt2.inputs] == [("tokens", 50257, None), ("targets", 50257, Following("tokens", 1))]


def test_the_weight_is_a_unit_of_its_own() -> None:
    made = example("t5", depth=1)
    assert made.train.weight is not None
    unit, arguments = made.train.weight
    assert (made.units[unit].name, made.units[unit].roles, arguments) == ("weight", ("input",), ("target",))


# --------------------------------------------------------------------------------------------------------- the recipe


def test_elementwise_rules_are_one_update_for_all_shapes() -> None:
    made = example("gpt2", depth=2)
    assert [(u.elementwise, [str(t) for _, t in u.states]) for u in made.updates] == [(True, ["f32[n=1024]"] * 2)] * 2
    assert [p.update for p in made.parameters if p.name.endswith("bias")] == [1] * sum(p.name.endswith("bias") for p in made.parameters)
    ones = {id(p.init) for p in made.parameters if ".ln_" in p.name and p.name.endswith("weight")}
    assert len(ones) == 1


def test_muon_is_an_update_for_each_shape() -> None:
    made = example("muon")
    shapes = {p.type.shape: p.update for p in made.parameters if p.name.startswith("blocks.") and len(p.type.shape) == 2}
    assert len(set(shapes.values())) == len(shapes) == 4
    assert not any(made.updates[u].elementwise for u in shapes.values() if u is not None)


def test_scalars_are_options_then_curves() -> None:
    made = example("supervised")
    assert [(s.name, s.value, s.option) for s in made.scalars] == [("rate", 1e-3, True), ("adamw.rate", None, False), ("beta", None, False)]
    assert chain.record(made, 500, 1000, {}, OPS, True)["beta"] == 0.5


def rates(rule: str, steps: int) -> list[float]:
    recipe = f"@train()\ndef recipe():\n    return sgd(rate={rule})\n"
    made = model("return mean(linear(x, 3))", recipe=recipe)
    return [chain.record(made, step, steps, {}, OPS, True)["sgd.rate"] for step in range(steps)]


def test_rates() -> None:
    assert rates("constant(2.0, warmup=1.0)", 4) == [1.0, 2.0, 2.0, 2.0]
    assert rates("straight(4.0, floor=1.0)", 4) == pytest.approx([4.0, 3.0, 2.0, 1.0])
    assert rates("straight(4.0, warmup=1.0)", 6) == pytest.approx([2.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert rates("wsd(2.0, warmup=1.0, decay=0.5)", 8) == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5])
    assert rates("cosine(2.0, floor=1.0)", 5)[0] == 2.0


def test_one_option_reaches_every_use() -> None:
    recipe = "@train()\ndef recipe(p: parameter):\n    return sgd(rate=speed if len(p.shape) > 1 else 0.1 * speed)\n"
    made = model("return mean(linear(x, 3)) * speed", before="speed: f32 = 0.5\n", recipe=recipe)
    assert [(s.name, s.option) for s in made.scalars] == [("speed", True), ("sgd.rate", False)]
    assert by_role(made, made.train.calls[0], "record") == ["speed"]
    assert [made.updates[p.update].scalars for p in made.parameters if p.update is not None] == [("speed",), ("sgd.rate",)]


def test_frozen_parameters() -> None:
    recipe = """
@train(clip=2.0, microbatches=4, groups=2)
def recipe(p: parameter):
    if glob(p.name, "a.*"):
        return None
    return lion(rate=0.1)
"""
    made = model('return mean(linear(linear(x, 3, name="a"), 2, name="b"))', recipe=recipe)
    assert [(p.update, p.gradient) for p in made.parameters] == [(None, "none")] * 2 + [(0, "loss")] * 2
    assert (made.recipe.clip, made.recipe.microbatches, made.recipe.groups) == (2.0, 4, 2)


def test_calls_that_nest_too_deeply() -> None:
    before = "def f0(x: real[...]):\n    return x\n" + "".join(f"def f{i}(x: real[...]):\n    return f{i - 1}(x)\n" for i in range(1, 300))
    assert refused("E0409", "return mean(f299(x))", before=before) == "calls and expressions nest too deeply"


def test_a_recipe_that_reads_names_is_asked_for_each_parameter() -> None:
    recipe = """
@train()
def recipe(p: parameter):
    if len(p.shape) > 1 and glob(p.name, "b.*"):
        return None
    return sgd(rate=0.1)
"""
    made = model('return mean(linear(linear(x, width, name="a"), width, name="b"))', recipe=recipe)
    assert [p.update for p in made.parameters] == [0, 0, None, 0]


LAYER = "@layer\ndef block(x: real[batch, width], rate: float):\n    return linear(dropout(x, rate), width)\n"
WITHIN = "@layer\ndef block(x: real[batch, width], rate: float):\n    return linear(x * (1.0 - rate) if training else x, width)\n"


@pytest.mark.parametrize(
    ("before", "body", "alike"),
    [
        (LAYER, 'return mean(block(x, 0.0, name="a"))', True),
        (LAYER, 'return mean(block(x, 0.5, name="a"))', False),
        (LAYER, 'return mean(block(block(x, 0.0, name="a"), 0.5, name="b"))', False),
        (WITHIN, 'return mean(block(x, 0.5, name="a"))', False),
        ("", 'return mean(linear(dropout(x, 0.5), width, name="a"))', False),
        ("", 'return mean(linear(x, width, name="a")) * (2.0 if training else 1.0)', False),
    ],
)
def test_what_reads_training_is_another_model_when_evaluated(before: str, body: str, alike: bool) -> None:
    made = model(body, before=before)
    units = [[made.units[call.unit] for call in chain.calls] for chain in (made.train, made.evaluate)]
    assert (units[0] == units[1]) is alike
