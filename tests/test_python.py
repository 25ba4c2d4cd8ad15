"""Models written as Python functions are read by the same parser."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlc.diagnostics import MlcError
from mlc.syntax.parser import parse
from mlc.syntax.python import install, parse_function

MODEL = """from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlc.language import dim, f32, following, i32, normal, param, real
from mlc.nn import linear
from mlc.syntax import python as mlc

if TYPE_CHECKING:
    from mlc.losses import cross_entropy

width: dim = 8
rate: f32 = 1e-3
home: os.PathLike = None
count = 3


def unseen(x):
    return [y for y in x]


@mlc.function
def dense(x: real[..., n], m: dim, *, std: float = 0.02):
    return linear(x, m, init=normal(std))


@mlc.layer
def block(x: real[batch, width]):
    return dense(x, width, name="dense")


def build():
    @mlc.model
    def small(tokens: i32[4, 4], targets: i32[4, 4] = following("tokens")):
        x = param("w", [width])

        return x

    return small


@mlc.train(clip=1.0)
def recipe():
    return adamw(rate=rate)
"""

WRITTEN = """from mlc.nn import linear
from mlc.losses import cross_entropy

width: dim = 8
rate: f32 = 1e-3


def dense(x: real[..., n], m: dim, *, std: float = 0.02):
    return linear(x, m, init=normal(std))


@layer
def block(x: real[batch, width]):
    return dense(x, width, name="dense")


@model
def small(tokens: i32[4, 4], targets: i32[4, 4] = following("tokens")):
    x = param("w", [width])
    return x


@train(clip=1.0)
def recipe():
    return adamw(rate=rate)
"""


def loaded(folder: Path, text: str) -> dict[str, object]:
    """The names of a Python file that was run."""
    install()
    path = folder / "some_model.py"
    path.write_text(text)
    scope: dict[str, object] = {"__name__": "some_model"}
    exec(compile(text, str(path), "exec"), scope)
    return scope


def test_function_is_read_like_a_file(tmp_path: Path) -> None:
    build = loaded(tmp_path, MODEL)["build"]
    module = parse_function(build())  # type: ignore[operator]
    assert module == parse(WRITTEN, "a.dsl")
    model = module.functions[2]
    assert str(model.span) == f"{tmp_path / 'some_model.py'}:35:9"
    assert module.lines[model.span.line - 1] == MODEL.split("\n")[34]


def test_errors_point_into_the_python_file(tmp_path: Path) -> None:
    build = loaded(tmp_path, MODEL.replace('x = param("w", [width])', "x = [y for y in tokens]"))["build"]
    with pytest.raises(MlcError) as caught:
        parse_function(build())  # type: ignore[operator]
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.span.line, diagnostic.span.column) == ("E0108", 36, 16)


def test_function_without_source() -> None:
    scope: dict[str, object] = {}
    exec("def model(): return 1", scope)
    for function in (scope["model"], len, 3):
        with pytest.raises(MlcError) as caught:
            parse_function(function)  # type: ignore[arg-type]
        assert [d.code for d in caught.value.diagnostics] == ["E0120"]


def test_library_is_installed_once() -> None:
    install()
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before
