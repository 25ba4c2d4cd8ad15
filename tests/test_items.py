"""What a checkpoint must match: the items change with what is computed, and with nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlc.driver import Options, load_program
from mlc.emit.items import model_items
from mlc.lower import lower
from mlc.ops import OPS
from mlc.passes import prepared
from mlc.plan import plan
from mlc.plan.choose import choose_layout
from mlc.targets.c import C

ROOT = Path(__file__).parent.parent
GPT = (ROOT / "examples" / "gpt.dsl").read_text()
SMALL = {"depth": 2, "width": 32, "heads": 2, "context": 32, "batch": 2}


def items(folder: Path, text: str, options: Options | None = None, name: str = "gpt") -> dict[str, str]:
    path = folder / f"{name}.dsl"
    path.write_text(text)
    chosen = options or Options(microbatches=8)
    lowered = lower(prepared(load_program(path, SMALL, chosen)[0], OPS), OPS, C.rules)
    lines = model_items(lowered, plan(lowered, choose_layout(lowered, chosen, None))).splitlines()
    return dict(line.split("=", 1) for line in lines)


def changed(folder: Path, text: str) -> set[str]:
    """Items in which a model differs from gpt.dsl."""
    one, other = items(folder, GPT), items(folder, text)
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def edited(old: str, new: str) -> str:
    assert old in GPT
    return GPT.replace(old, new)


def test_names_comments_and_layout_do_not_count(tmp_path: Path) -> None:
    whole = items(tmp_path, GPT)
    assert items(tmp_path, "# a comment\n\n" + GPT.replace("    return x", "    # another\n    return x"), name="other") == whole
    assert items(tmp_path, re.sub(r"\bq\b", "query", GPT)) == whole
    assert items(tmp_path, GPT, Options(microbatches=8, pp=2, dp=2)) == whole


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("(0.9, 0.95)", "(0.9, 0.96)", {"rule.adamw", "rule.adamw.1"}),
        ("decay = 0.1", "decay = 0.2", {"rule.adamw"}),
        ("0.1 * rate", "0.2 * rate", {"curve.adamw.rate"}),
        ("return x + ", "return 0.5 * x + ", {"layer.block"}),
        ("clip=1.0", "clip=2.0", {"clip"}),
    ],
)
def test_what_is_computed_counts(tmp_path: Path, old: str, new: str, expected: set[str]) -> None:
    assert changed(tmp_path, edited(old, new)) == expected


def test_the_wiring_counts(tmp_path: Path) -> None:
    """The same layer functions on other states."""
    loop = next(line for line in GPT.splitlines() if "block(x" in line and "def" not in line)
    assert "chain" in changed(tmp_path, edited(loop, f"{loop} + x"))


OTHER = """
from mlc.optim import sgd
batch: dim = 2
depth: int = 1
width: dim = 8
heads: dim = 2
context: dim = 4


@layer
def noisy(x: real[batch, width]):
    return x * random_uniform([batch, width])


@model
def other(x: real[batch, width], t: i32[batch], u: i32[batch]):
    w = param("w", [width], init=ones())
    h = noisy(x * w, name="first")
    a, b = mean(h * h), mean(abs(h))
    return {"loss": a, "weight": sum(cast(t > 0, f32)), "error": b}


@train()
def recipe():
    return sgd(rate=0.1)
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name="first"', 'name="second"', {"chain"}),
        ("cast(t > 0", "cast(u > 0", {"chain", "input.t", "input.u"}),
        ('{"loss": a,', '{"loss": b,', {"layer.noisy"}),
        ('"error": b', '"fault": b', set()),
    ],
    ids=["random numbers", "weight", "loss", "metric"],
)
def test_what_the_chain_says_counts(tmp_path: Path, old: str, new: str, expected: set[str]) -> None:
    """Keys of random numbers, which input weighs a microbatch, which state is the loss; not what metrics are called."""
    assert old in OTHER
    one, other = (items(tmp_path, text) for text in (OTHER, OTHER.replace(old, new)))
    assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} == expected


def test_microbatches_and_groups_count(tmp_path: Path) -> None:
    one = items(tmp_path, GPT)
    for options, item in ((Options(microbatches=4), "microbatches"), (Options(microbatches=8, groups=2), "groups")):
        other = items(tmp_path, GPT, options)
        assert item in {key for key in one if one[key] != other[key]}
