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


def test_a_mask_is_counted_by_casting_it() -> None:
    with pytest.raises(MlcError) as caught:
        compiled("sum(mask)")
    assert "sum(cast(mask, f32))" in str(caught.value.diagnostics[0].help)
    compiled("sum(cast(mask, f32))")
