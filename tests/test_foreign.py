"""Names from PyTorch and NumPy draw help that is true: each replacement is compiled."""

from __future__ import annotations

import re

import pytest

from mlc.diagnostics import MlcError
from mlc.elaborate import elaborate, file_library
from mlc.elaborate.foreign import ABSENT, ATTRIBUTES, FILLS, MODULES, NAMES, NOTHING
from mlc.resources import stdlib_folder
from mlc.syntax.parser import parse

MODEL = """from mlc.losses import cross_entropy, mean_squared_error
from mlc.optim import sgd
from mlc.nn import dropout, gelu, layer_norm, linear, rms_norm, silu

batch: dim = 4


@model
def m(x: real[batch, 8], y: real[batch, 8], mask: bool[batch, 8], i: i32[batch]):
    value = {}
    return mean(x * param("w", [8], init=ones()))


@train()
def recipe():
    return sgd(rate=0.1)
"""


def compiled(expression: str) -> None:
    elaborate(parse(MODEL.format(expression), "m.dsl"), {}, file_library(stdlib_folder()))


@pytest.mark.parametrize("help", sorted({*NAMES.values(), *ATTRIBUTES.values(), *FILLS.values()}))
def test_replacements_compile(help: str) -> None:
    compiled(re.findall("`([^`]*)`", help)[0])


@pytest.mark.parametrize("name", sorted(NAMES))
def test_names_draw_their_help(name: str) -> None:
    with pytest.raises(MlcError) as caught:
        compiled(f"{name}(x)")
    (found,) = caught.value.diagnostics
    assert found.code == "E0301" and found.help == NAMES[name]


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_attributes_draw_their_help(name: str) -> None:
    with pytest.raises(MlcError) as caught:
        compiled(f"x.{name}")
    (found,) = caught.value.diagnostics
    assert found.code == "E0308" and found.help == ATTRIBUTES[name]


def help_for(expression: str) -> str | None:
    """The help of the one diagnostic that it draws."""
    with pytest.raises(MlcError) as caught:
        compiled(expression)
    (found,) = caught.value.diagnostics
    return found.help


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_explained(module: str) -> None:
    assert "without a module" in str(help_for(f"{module}.something(x)"))


@pytest.mark.parametrize(
    ("expression", "help"),
    [
        ("F.relu(x)", NAMES["relu"]),
        ("torch.nn.functional.gelu(x)", "write `gelu` alone, without a module"),
        ("np.sqrt(x)", "write `sqrt` alone, without a module"),
        ("nn.Linear(8, 8)(x)", NAMES["Linear"]),
        ("F.swiglu(x)", "write `from mlc.nn import swiglu`"),
        ("math.asin(0.5)", NOTHING),
    ],
)
def test_members_of_modules_draw_their_own_help(expression: str, help: str) -> None:
    assert help_for(expression) == help


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_what_is_not_here_is_not_taken_for_something_else(name: str) -> None:
    assert help_for(f"{name}(x)") == NOTHING


@pytest.mark.parametrize("name", ["log3", "exp1", "sin2", "moo"])
def test_a_name_of_its_own_is_no_misspelling(name: str) -> None:
    assert help_for(f"{name}(x)") is None


@pytest.mark.parametrize(
    ("call", "help"),
    [
        ("softmax(x, dim=1)", "here it is `axis`"),
        ("mean(x, axis=1, keepdim=True)", "here it is `keepdims`"),
        ("cross_entropy(x, i, ignore_index=0)", "here it is `ignore`"),
        ("dropout(x, p=0.1)", "here it is `rate`"),
        ("linear(x, out_features=8)", "here it is `m`"),
        ("cross_entropy(x, i, label_smoothing=0.1)", None),
        ("cross_entropy(x, i, reduction='mean')", None),
        ("max(x, 0.0)", "write maximum(a, b) for the larger of two, element by element"),
        ("min(x, y)", "write minimum(a, b) for the smaller of two, element by element"),
        ("max(0.0, x)", "write maximum(a, b) for tensors elementwise"),
        ("zeros([batch, 8])", FILLS["zeros"]),
        ("ones(batch, 8)", FILLS["ones"]),
        ("reshape(x, -1)", "every dim of a shape is written: the product of those it is made of, 32 here"),
        ("reshape(x, [2, -1])", "every dim of a shape is written: the product of those it is made of, 16 here"),
        ("reshape(x, [-1, 3])", "every dim of a shape is written: the product of those it is made of"),
        ("reshape(x, [-1, -1])", "every dim of a shape is written: the product of those it is made of"),
        ("full([-1], 0.0)", "every dim of a shape is written: the product of those it is made of"),
        ("reshape(x, batch, 8)", "a shape is one list: [batch, width]"),
        ("random_uniform(batch, 8)", "a shape is one list: [batch, width]"),
    ],
)
def test_arguments_draw_their_help(call: str, help: str | None) -> None:
    assert help_for(call) == help


def test_a_mask_is_counted_by_casting_it() -> None:
    with pytest.raises(MlcError) as caught:
        compiled("sum(mask)")
    assert "sum(cast(mask, f32))" in str(caught.value.diagnostics[0].help)
    compiled("sum(cast(mask, f32))")


@pytest.mark.parametrize(
    ("whole", "with_it", "without"),
    [
        ("sigmoid(linear(x, 1)) * x", "sigmoid({}) * x", "{} * x[:, 0]"),
        ("x * sigmoid(linear(x, 1))", "x * sigmoid({})", "x[:, 0] * {}"),
        ("x[:, 0] - linear(x, 1)", "x[:, 0] - {}", "x[:, 0] - {}"),
    ],
)
def test_a_one_with_a_name_is_made_to_stretch(whole: str, with_it: str, without: str) -> None:
    """Both ways on that E0201 shows compile."""
    with pytest.raises(MlcError) as caught:
        compiled(whole)
    (found,) = caught.value.diagnostics
    assert found.code == "E0201"
    stretched, dropped = re.findall("`v([^`]*)`", str(found.help))
    compiled(with_it.format(f"linear(x, 1){stretched}"))
    compiled(without.format(f"linear(x, 1){dropped}"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_place_of_a_one_is_that_of_its_dim(axis: int) -> None:
    """y has the shape of z but for a 1 with a name at `axis`."""
    sizes = ["2", "3", "5"]
    named = ["k" if i == axis else size for i, size in enumerate(sizes)]
    made = f"\n    y = full([{', '.join(named)}], 1.0)\n    z = full([{', '.join(sizes)}], 1.0)\n    w = "
    model = MODEL.replace("batch: dim = 4", "batch: dim = 4\nk: dim = 1")

    def elaborated(expression: str) -> None:
        elaborate(parse(model.format("x" + made + expression), "m.dsl"), {}, file_library(stdlib_folder()))

    with pytest.raises(MlcError) as caught:
        elaborated("y * z")
    stretched, dropped = re.findall("`v([^`]*)`", str(caught.value.diagnostics[0].help))
    elaborated(f"y{stretched} * z")
    elaborated(f"y{dropped} * z[{':, ' * axis}0]")
