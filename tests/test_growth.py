"""Planner, simulator, search and proof take steps in proportion to the length of the lists: lines of Python are counted, not time.

What is done a column at a time takes no lines for its rows; NumPy's own work on a column grows as the column does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import ROOT

from mlc.driver import Options, compile_file
from mlc.parallel.auto import arrange
from mlc.parallel.entries import Entries, packed
from mlc.parallel.footprint import schedule_windows
from mlc.parallel.plan_reader import parse_plan
from mlc.parallel.schedules import named, schedule
from mlc.parallel.simulate import Costs, simulate, uniform
from mlc.parallel.verify import verify
from mlc.plan.lists import timetable

MODEL = ROOT / "benchmarks" / "models" / "skips.dsl"


def lines_of(work: Callable[[], Any]) -> int:
    """How many lines of Python run."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def grows_linearly(work: Callable[[int], Callable[[], Any]], size: int) -> None:
    """From size to twice and to four times as much: what comes on top doubles, too, and no more. work: prepares what is counted"""
    one, two, four = (lines_of(work(size * factor)) for factor in (1, 2, 4))
    assert four - two <= 2.1 * (two - one) + 50, (one, two, four)


def uneven(stages: int) -> Costs:
    times = [tuple(1.0 + (7 * s + k) % 5 / 4 for s in range(stages)) for k in range(3)]
    return Costs(*times, 0.1)


@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved"])
def test_simulation_and_windows(name: str) -> None:
    chunks = 2 if name == "interleaved" else 1
    for look in (lambda s: simulate(s, uneven(s.stages)), schedule_windows, timetable):
        grows_linearly(lambda m, look=look: partial(look, schedule(name, 4, m, chunks)), 16)
        grows_linearly(lambda p, look=look: partial(look, schedule(name, p, 16, chunks)), 4)


@pytest.mark.parametrize(("ranks", "chunks", "effort"), [(4, 1, 2_000), (3, 2, 2_000)])
def test_search(ranks: int, chunks: int, effort: int) -> None:
    """Beyond the effort, which is what it is however many microbatches there are."""
    costs = uneven(ranks * chunks)
    grows_linearly(lambda m: lambda: arrange(named(ranks, m, chunks), costs, None, effort), 32)


@cache
def plan_of(folder: Path, places: int, microbatches: int, schedule: str, depth: int = 4) -> str:
    options = Options(pp=places, schedule=schedule, microbatches=microbatches, emit="plan")
    compile_file(MODEL, folder, {"depth": depth, "context": 8, "width": 16}, options)
    return (folder / "plan.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("schedule", ["1f1b", "zb-v"])
def test_proof(schedule: str, tmp_path: Path) -> None:
    """Read and proved: twice the microbatches are at most twice the steps on top, twice the places of half as many more."""

    def judged(microbatches: int) -> Callable[[], Any]:
        text = plan_of(tmp_path, 3, microbatches, schedule)
        return lambda: verify(parse_plan(text))

    grows_linearly(judged, 12)


def test_proof_of_deeper_models(tmp_path: Path) -> None:
    """Twice the layers are twice the parameters and rows, and no more steps for each."""

    def judged(depth: int) -> Callable[[], Any]:
        text = plan_of(tmp_path, 2, 2, "1f1b", depth)
        return lambda: verify(parse_plan(text))

    grows_linearly(judged, 6)


def test_lists_are_small() -> None:
    """A row takes some bytes, and a plan's lists are packed as they are read."""
    rows = packed([("F", 0, n) for n in range(1000)])
    assert rows.kinds.nbytes + rows.of.nbytes + rows.microbatches.nbytes <= 16 * len(rows)
    text = json.dumps({"places": [{"lists": {"train": [["SEND", "x", 0], ["F", 0, 1]]}}]})
    found = parse_plan(text)["places"][0]["lists"]["train"]
    assert isinstance(found, Entries) and list(found) == [("SEND", "x", 0), ("F", 0, 1)]


def test_deterministic_and_as_short_as_told() -> None:
    """More actions than the effort is for: policies are compared on fewer microbatches, and what comes out is the same each time."""
    costs = uneven(6)
    first, second = (arrange(named(6, 40, 1), costs, None, 500) for _ in range(2))
    assert first == second
    fastest = min(simulate(s, costs).makespan for s in named(6, 40, 1))
    assert simulate(first, costs).makespan <= fastest
    assert simulate(arrange(named(6, 40, 1), uniform(6, 1.0, 1.0, 1.0), None, 500), uniform(6, 1.0, 1.0, 1.0)).makespan <= 3 * 40 + 5


def test_layers(tmp_path: Path) -> None:
    """A layer more takes few steps beside what a model takes at all, and no more the more there are."""

    def compiled(depth: int) -> Callable[[], Any]:
        defines = {"depth": depth, "width": 64, "heads": 2, "vocab": 64, "context": 16}
        return lambda: compile_file(ROOT / "examples" / "gpt2.dsl", tmp_path, defines, Options(emit="c"))

    compiled(1)()  # what is read once is read
    few, some, many = (lines_of(compiled(depth)) for depth in (12, 40, 96))
    assert many - few <= 1.2 * few, (few, many)
    assert many - some <= 2.3 * (some - few), (few, some, many)  # 2 in proportion
