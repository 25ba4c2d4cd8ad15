"""Indices: what inputs must hold is stated by column and by path, and what a model computes is checked where it is looked up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlc.api import compile
from mlc.diagnostics import MlcError
from mlc.driver import Build
from mlc.elaborate import elaborate, file_library
from mlc.ir.program import Bound, Input
from mlc.lower import lower
from mlc.lower.expression import Checked, nodes_of
from mlc.lower.loops import Let, Loop, Nest, Statement
from mlc.ops import OPS
from mlc.passes import prepared
from mlc.syntax.parser import parse
from mlc.targets.c import C

HEAD = """from mlc.losses import cross_entropy
from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4


@model
def model({parameters}):
    w = param("w", [5], init=ones())
    v = param("v", [9], init=ones())
{body}


@train(microbatches=4)
def recipe():
    return sgd(rate=0.1)
"""


def model(parameters: str, *lines: str) -> str:
    return HEAD.format(parameters=parameters, body="\n".join(f"    {line}" for line in lines))


def inputs(text: str) -> dict[str, Input]:
    made = elaborate(parse(text, "model.dsl"), {}, file_library(Path()))
    return {value.name: value for value in made.inputs}


def free(*bounds: tuple[int, int, int, int | None]) -> tuple[Bound, ...]:
    return tuple(Bound(*bound) for bound in bounds)


ANY = (-(2**31), 2**31 - 1)


@pytest.mark.parametrize(
    ("parameters", "expression", "limit", "bounds"),
    [
        ("t: i32[batch]", "gather(w, t)", 5, ()),
        ("t: i32[batch]", "gather(w, t) + gather(v, t)", 5, ()),
        ("t: i32[batch]", "gather(w, t + 3)", None, free((1, -3, 1, None))),
        ("t: i32[batch]", "gather(w, 4 + t - 1)", None, free((1, -3, 1, None))),
        ("t: i32[batch]", "gather(w, t - 2)", None, free((1, 2, 6, None))),
        ("t: i32[batch]", "gather(w, 4 - t)", None, ()),
        ("t: i32[batch]", "gather(w, t * 2)", None, ()),
        ("t: i32[batch]", "gather(w, minimum(maximum(t, 0), 4))", None, ()),
        ("t: i32[batch, 2]", "gather(w, t[:, 0]) + gather(v, t[:, 1])", None, free((1, 0, 4, None), (2, 0, 8, None))),
        ("t: i32[batch, 2]", "gather(w, t[:, 1])", None, free((1, *ANY, None), (2, 0, 4, None))),
        ("t: i32[batch, 3, 2]", "mean(gather(w, t[:, :, 0]))", None, free((1, 0, 4, None), (2, *ANY, None))),
        ("t: i32[batch, 2]", "gather(w, stack([t[:, 1], t[:, 1]], axis=1))[:, 0]", None, free((1, *ANY, None), (2, 0, 4, None))),
        ("t: i32[batch, 2]", "mean(gather(w, transpose(t)))", 5, ()),
        ("t: i32[batch]", "gather(w, select(t != -100, t, 0))", None, free((1, 0, 4, -100))),
        ("t: i32[batch]", "gather(w, select(t == 7, 0, t))", None, free((1, 0, 4, 7))),
        ("t: i32[batch, 2]", "gather(w, select(t[:, 1] != -1, t[:, 1], 0))", None, free((1, *ANY, None), (2, 0, 4, -1))),
        ("t: i32[batch, 2]", "gather(w, select(t[:, 0] != -1, t[:, 1], 0))", None, ()),
        ("t: i32[batch]", "gather(w, select(t + 1 != 0, t + 1, 2))", None, free((1, -1, 3, -1))),
        ("t: i32[batch]", "gather(w, select(t > 0, t, 0))", None, ()),
        ("t: i32[batch]", "gather(w, select(t != -1, t, 0)) + gather(v, select(t != -1, t, 0))", None, free((1, 0, 4, -1))),
        ("t: i32[batch]", "gather(w, select(t != -1, t, 0)) + gather(v, t)", 5, ()),
        ("t: i32[batch], m: bool[batch]", "gather(w, select(m, t, 0))", None, ()),
        ("t: i32[batch]", "gather(w, select(random_uniform([batch]) < 0.5, t, 0))", 5, ()),
        ("t: i32[batch, 6]", "mean(gather(w, select(arange(6) < 4, t, 0)), axis=1)", None, free((4, 0, 4, None), (6, *ANY, None))),
        ("t: i32[batch, 6]", "mean(gather(w, select(arange(6) > 9, t, 0)), axis=1)", None, ()),
        ("t: i32[batch, 2]", "mean(gather(w, select(arange(2) == 0, t, t + 1)), axis=1)", None, ()),
        ("t: i32[batch]", "cast(gather(t, t), f32)", 4, ()),
        ("t: i32[batch]", "gather(w, t[0]) + zeros([batch])", None, ()),
        ("t: i32[batch]", "cross_entropy(linear(gather(w, arange(batch))[:, None], 6), t) + w[0]", 6, ()),
        ("t: i32[batch]", "cross_entropy(linear(gather(w, arange(batch))[:, None], 6), t, ignore=3) + w[0]", 6, ()),
        ("t: i32[batch]", "cross_entropy(linear(gather(w, arange(batch))[:, None], 6), t, ignore=-7) + w[0]", None, free((1, 0, 5, -7))),
    ],
)
def test_inputs_must_hold(parameters: str, expression: str, limit: int | None, bounds: tuple[Bound, ...]) -> None:
    expression = expression.replace("zeros([batch])", "w[:batch]")
    found = inputs(model(parameters, f"e = {expression}", "return mean(e * e)"))["t"]
    assert (found.limit, found.bounds) == (limit, bounds)


COMPUTED = model(
    "t: i32[batch, 3], y: real[batch, 3]",
    "names = arange(9)",
    "a = gather(w, t * t)",
    "b = select(t > 2, 0.0, gather(v, t * 2))",
    "c = cast(gather(names, t * t + 0 * t), f32) * w[0]",
    "lp = linear(y, 5, name='five')[:, None, :] + w",
    "d = take_along(lp, (t * t)[:, None, :], axis=2)[:, 0, :]",
    "l = cross_entropy(linear(y, 6, name='six')[:, None, :] + w[:3, None], t * t * t - 1, ignore=-1)",
    "e = a + b + c + d - y",
    "return mean(e * e) + l",
)


@pytest.fixture(scope="module", params=[{}, {"pp": 2, "dp": 2}], ids=["one", "four"])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("computed")
    (folder / "computed.dsl").write_text(COMPUTED)
    return compile(folder / "computed.dsl", out=folder / "out", **request.param)


def refusal(build: Build, **given: np.ndarray) -> str:
    """What the runtime says of a step that it refuses; parameters stay as they are."""
    with build.open(threads=2) as opened:
        before = {name: array.copy() for name, array in opened.parameters.items()}
        with pytest.raises(MlcError) as caught:
            opened.step(**given)
        assert all(np.array_equal(before[name], array) for name, array in opened.parameters.items())
        whole = {"t": np.ones((16, 3), np.int32), "y": np.ones((16, 3), np.float32)}
        assert np.isfinite(opened.step(**whole))
    return caught.value.diagnostics[0].message


def test_a_computed_index_is_named_alike_in_every_layout(build: Build) -> None:
    t, y = np.ones((16, 3), np.int32), np.ones((16, 3), np.float32)
    t[9, 1], t[14, 0], t[14, 2] = 3, -1, 40
    said = refusal(build, t=t, y=y)
    assert "step 0, microbatch 2, record 9: computed.dsl:13:9: gather (index from input t): 9 is not in 0 to 4 (element 1)" in said


def test_an_index_whose_element_is_masked_is_named(build: Build) -> None:
    t = np.ones((16, 3), np.int32)
    t[5, 0] = 2
    said = refusal(build, t=t, y=np.ones((16, 3), np.float32))
    assert "record 5: computed.dsl:18:9: cross_entropy (index from input t): 7 is not in 0 to 5 (element 0)" in said


@pytest.mark.parametrize(
    ("index", "each"),
    [("t * t", 3), ("reshape(t * t, [batch * 3])", 3), ("transpose(t * t)", 0), ("(t * t)[:, None, :]", 3), ("reshape(t * t, [12])", 0)],
)
def test_a_record_is_named_only_where_records_lead(index: str, each: int) -> None:
    text = model("t: i32[batch, 3]", f"return mean(gather(w, {index}))")
    lowered = lower(prepared(elaborate(parse(text, "model.dsl"), {}, file_library(Path())), OPS), OPS, C.rules)
    lets = [s for r in lowered.routines for k in r.kernels if isinstance(k, Nest) for s in _statements((*k.prologue, *k.body))]
    found = {node.each for s in lets if isinstance(s, Let) for node in nodes_of(s.value) if isinstance(node, Checked)}
    assert found == {each}


def _statements(body: tuple[Statement, ...]) -> list[Statement]:
    """Statements and those of their loops."""
    return [inner for s in body for inner in ((s, *_statements(s.body)) if isinstance(s, Loop) else (s,))]


def test_an_input_that_is_no_number_is_named(build: Build) -> None:
    y = np.ones((16, 3), np.float32)
    y[7, 2], y[6, 0] = np.nan, np.inf
    said = refusal(build, t=np.ones((16, 3), np.int32), y=y)
    assert "the loss is not finite; input y is nan in record 7 (element 2)" in said


def test_a_column_is_checked_where_it_is_fed(tmp_path: Path) -> None:
    path = tmp_path / "columns.dsl"
    lines = ("a = gather(w, t[:, 0])", "b = gather(v, select(t[:, 1] != -1, t[:, 1], 0))", "return mean(a * b)")
    path.write_text(model("t: i32[batch, 2]", *lines))
    with compile(path, out=tmp_path / "out").open(threads=1) as opened:
        t = np.tile(np.array([[4, -1], [0, 8]], np.int32), (8, 1))
        assert np.isfinite(opened.step(t=t))
        for column, value, range_ in ((0, 5, "0 to 4"), (1, 9, "0 to 8, nor -1"), (1, -2, "0 to 8, nor -1")):
            wrong = t.copy()
            wrong[3, column] = value
            with pytest.raises(MlcError, match=f"input t: element {6 + column} is {value}, not in {range_}"):
                opened.step(t=wrong)


def test_integers_wrap_and_are_checked_all_the_same(tmp_path: Path) -> None:
    """What overflows is undefined in C, whose compiler took the checks of such indices out: memory before the table was read."""
    path = tmp_path / "model.dsl"
    u = "u = maximum(t, 0)"
    hashed = "(u * u + u * 31 - abs(t * 65536)) % 5"
    path.write_text(model("t: i32[batch]", u, 'report("hash", sum(cast(t + 1 > t, f32)))', f"return mean(gather(w, {hashed}))"))
    t = np.array([46349, 2**31 - 1, -(2**31), 7], np.int32)
    with compile(path, out=tmp_path / "hashed").open(threads=1) as opened:
        opened.step(t=np.tile(t, 4))
        assert opened.metrics["hash"] == 3.0
    wrong = ("u * u", "abs(t)", "cast(cast(t, f32) * 1e9, i32)", "sum(broadcast(u[:, None], [batch, 2]), axis=1)")
    for n, index in enumerate(wrong):
        path.write_text(model("t: i32[batch]", u, f"return mean(gather(w, minimum({index}, 4)))"))
        with compile(path, out=tmp_path / str(n)).open(threads=1) as opened, pytest.raises(MlcError) as caught:
            opened.step(t=np.tile(t, 4))
        assert "is not in 0 to 4" in str(caught.value) and "record" in str(caught.value)
