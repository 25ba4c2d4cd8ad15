"""A sample of random edits of two plans: each is refused for a reason that fits it, or runs to the same digest."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from mutants import EDITS, mutate
from mutations import DEFINES, MICROBATCHES, MODEL, Original, judge, run

from mlc.driver import Options, compile_file

#: Mutants of each plan.
COUNT = 30

PLANS = (
    Options(pp=2, dp=2, schedule="zb-h1", microbatches=MICROBATCHES, emit="c"),
    Options(pp=2, schedule="interleaved", chunks=2, microbatches=MICROBATCHES, emit="c"),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(Path(__file__).read_bytes())
    return path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, text: Path) -> list[Original]:
    """The plans, compiled. Each begins with the objects of the one before: the runtime is compiled once."""
    folder = tmp_path_factory.mktemp("originals")
    found = []
    for number, options in enumerate(PLANS):
        out = folder / str(number)
        if found:
            shutil.copytree(found[-1].folder, out)
        compile_file(MODEL, out, {**DEFINES, "tied": options.dp > 1}, options)
        subprocess.run(["make", "-s", "-j2", "-C", str(out / "src"), "OPTIMIZE=-O1", "../skips"], check=True, capture_output=True)
        code, said, error = run(out / "skips", text)
        assert code == 0, error
        plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
        found.append(Original(out, plan, options.pp * options.dp, said))
    return found


@pytest.mark.parametrize("number", range(len(PLANS)))
def test_mutants_are_refused_or_harmless(number: int, originals: list[Original], text: Path, tmp_path: Path) -> None:
    rng = random.Random(number)
    wrong = []
    outcomes = set()
    for _ in range(COUNT):
        mutant = mutate(originals[number].plan, rng)
        outcome, problem = judge(originals[number], mutant, text, tmp_path / "mutant")
        outcomes.add(outcome)
        if problem:
            wrong.append(f"{mutant.edit}: {problem}")
    assert not wrong
    assert len(outcomes) > 3, "edits of too few kinds"


def test_every_kind_of_edit_changes_the_plan(originals: list[Original]) -> None:
    plan = originals[0].plan
    for edit in EDITS:
        mutant = json.loads(json.dumps(plan))
        text, reasons = edit(mutant, random.Random(5))
        assert mutant != plan, text
        assert reasons
