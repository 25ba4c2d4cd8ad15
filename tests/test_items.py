"""What a checkpoint must match: the items change with what is computed, and with nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlc.driver import Options, differentiated, load_program
from mlc.emit.items import model_items
from mlc.lower import lower
from mlc.ops import OPS
from mlc.plan import plan
from mlc.plan.choose import choose_layout

ROOT = Path(__file__).parent.parent
GPT = (ROOT / "examples" / "gpt.dsl").read_text()
SMALL = {"depth": 2, "width": 32, "heads": 2, "context": 32, "batch": 2}


def items(folder: Path, text: str, options: Options | None = None, name: str = "gpt") -> dict[str, str]:
    path = folder / f"{name}.dsl"
    path.write_text(text)
    chosen = options or Options(microbatches=8)
    step = differentiated(load_program(path, SMALL, chosen)[0])
    lowered = lower(step, OPS)
    lines = model_items(plan(lowered, choose_layout(lowered, chosen, None))).splitlines()
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
