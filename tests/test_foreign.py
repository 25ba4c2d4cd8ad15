"""Names from PyTorch and NumPy draw help that is true: each replacement is compiled."""

from __future__ import annotations

import re

import pytest

from mlc.diagnostics import MlcError
from mlc.elaborate import elaborate, file_library
from mlc.elaborate.foreign import ATTRIBUTES, MODULES, NAMES
from mlc.resources import stdlib_folder
from mlc.syntax.parser import parse

MODEL = """from mlc.optim import sgd
from mlc.nn import dropout, layer_norm, linear, rms_norm

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


@pytest.mark.parametrize("help", sorted({*NAMES.values(), *ATTRIBUTES.values()}))
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


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_explained(module: str) -> None:
    with pytest.raises(MlcError) as caught:
        compiled(f"{module}.relu(x)")
    assert "without a module" in str(caught.value.diagnostics[0].help)


@pytest.mark.parametrize(("call", "here"), [("softmax(x, dim=1)", "axis"), ("mean(x, axis=1, keepdim=True)", "keepdims")])
def test_parameters_draw_their_help(call: str, here: str) -> None:
    with pytest.raises(MlcError) as caught:
        compiled(call)
    assert caught.value.diagnostics[0].help == f"here it is `{here}`"


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
