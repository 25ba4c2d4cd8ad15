"""The proof of sweeps: whatever is taken from them, put elsewhere or given something else is refused, or does nothing."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.sweep_proof import sweep_faults
from mlc.parallel.sweeps import CONDITIONS, KERNELS, MOMENTS, OPERANDS, OVER, RANGES
from mlc.parallel.verify import verify

Plan = dict[str, Any]

MODELS = {
    "muon": (ROOT / "examples" / "muon.dsl", {}, Options(emit="plan")),
    "state": (ROOT / "examples" / "state.dsl", {}, Options(microbatches=6, groups=6, dp=3, emit="plan")),
    "tied": (
        ROOT / "benchmarks" / "models" / "skips.dsl",
        {"depth": 2, "context": 8, "width": 16, "tied": True},
        Options(pp=2, microbatches=8, emit="plan"),
    ),
    "shared": (
        ROOT / "benchmarks" / "models" / "skips.dsl",
        {"depth": 2, "context": 8, "width": 16, "tied": True},
        Options(pp=2, dp=2, microbatches=8, emit="plan"),
    ),
    "albert": (ROOT / "examples" / "albert.dsl", {}, Options(microbatches=4, groups=4, emit="plan")),
}


@cache
def planned(name: str, folder: Path) -> Plan:
    file, defines, options = MODELS[name]
    compile_file(file, folder / name, defines, options)
    return json.loads((folder / name / "plan.json").read_text(encoding="utf-8"))


@pytest.fixture(params=MODELS)
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return copy.deepcopy(planned(request.param, tmp_path_factory.getbasetemp() / "sweeps"))


def is_refused(plan: Plan) -> bool:
    """By the proof of sweeps, or as what is no plan."""
    try:
        return any(True for _ in sweep_faults(read_plan(plan)))
    except MlcError as problem:
        assert {found.code for found in problem.diagnostics} == {"E1201"}
        return True


def calls(plan: Plan) -> Iterator[tuple[dict[str, Any], int]]:
    """(sweep, number) of every call."""
    for sweep in plan["sweeps"]:
        for number in range(len(sweep["calls"])):
            yield sweep, number


def test_the_plan_passes(plan: Plan) -> None:
    verify(plan)


def test_every_call_is_needed(plan: Plan) -> None:
    for sweep, number in list(calls(plan)):
        call = sweep["calls"].pop(number)
        assert is_refused(plan), (sweep, call)
        sweep["calls"].insert(number, call)
    for number, sweep in enumerate(list(plan["sweeps"])):
        plan["sweeps"].pop(number)
        assert is_refused(plan), sweep
        plan["sweeps"].insert(number, sweep)


def test_sums_join_once(plan: Plan) -> None:
    """Also where REDUCE has joined them: what waits still lies there. Of a single group nothing waits."""
    waits = read_plan(plan).places[0].levels > 1
    for sweep in plan["sweeps"]:
        if sweep["moment"] in ("FOLD", "REDUCE", "SHARE", "NORM") and sweep["over"] != "rank" and "spread" not in sweep["only"]:
            sweep["calls"].insert(0, ["add", "sum", "waiting"])
            assert is_refused(plan) == waits, sweep
            sweep["calls"].pop(0)


#: What is put before or behind the calls of a sweep, with nothing for it to do there.
STRANGERS = {
    "NORM": (["inspect", "master"], ["inspect", "gradient"]),
    "UPDATE": (["copy", "gradient", "master"], ["finite", "gradient"], ["squares", "gradient"], ["copy", "state", "master"]),
    "FOLD": (["finite", "sum"], ["squares", "sum"]),
    "REDUCE": (["squares", "sum"], ["inspect", "sum"]),
    "SEARCH": (["squares", "sum"], ["copy", "sum", "waiting"]),
}
#: The same of what goes over the rank.
STRANGERS_OF_RANK = (
    ["refusals", "statistics"],
    ["account", "statistics", "value", "weight", "number", "share"],
    ["weigh", "scale", "held", "statistics"],
    ["total", "squares"],
    ["norm", "norm", "clip", "held", "squares", "limit"],
    ["first", "flaw"],
)


#: What does the same when it is done twice.
AGAIN = ("weigh", "total", "first")


def test_nothing_strange_is_called(plan: Plan) -> None:
    waits = read_plan(plan).places[0].levels > 1
    states = {parameter["name"] for parameter in plan["parameters"] if parameter["states"]}
    for sweep, takers in zip(plan["sweeps"], taken(plan), strict=True):
        of_rank = sweep["over"] == "rank"
        for call in STRANGERS_OF_RANK if of_rank else STRANGERS.get(sweep["moment"], ()):
            if of_rank and call in sweep["calls"] and call[0] in AGAIN:
                continue
            does_nothing = ("state" in call and states.isdisjoint(takers)) or ("waiting" in call and not waits)
            sweep["calls"].append(call)
            assert is_refused(plan) or does_nothing, (sweep, call)
            sweep["calls"].pop()
        only, calls = sweep["only"], sweep["calls"]
        for edit in ({"only": only * 2}, {"calls": []}):
            sweep.update(edit)
            assert is_refused(plan) or edit == {"only": []}, sweep
            sweep.update({"only": only, "calls": calls})


def edits(plan: Plan) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """(what it is, how it is done, how it is undone) of every other edit of one word."""
    for sweep in plan["sweeps"]:
        said = f"{sweep['moment']} over {sweep['over']} {sweep['only']}"
        for key, words in (("moment", MOMENTS), ("over", OVER), ("range", RANGES), ("gated", (True, False))):
            for word in words:
                if word != sweep[key]:
                    yield f"{said}: {key} {word}", partial(sweep.update, {key: word}), partial(sweep.update, {key: sweep[key]})
        for word in CONDITIONS:
            only = [w for w in sweep["only"] if w != word] if word in sweep["only"] else [*sweep["only"], word]
            yield f"{said}: only {only}", partial(sweep.update, {"only": only}), partial(sweep.update, {"only": sweep["only"]})
        for call in sweep["calls"]:
            for at in range(1, len(call)):
                for word in OPERANDS:
                    if word != call[at]:
                        yield f"{said}: {call}: {word}", partial(call.__setitem__, at, word), partial(call.__setitem__, at, call[at])
            for kernel in KERNELS:
                if kernel != call[0] and len(KERNELS[kernel].operands) == len(call) - 1:
                    yield f"{said}: {call}: {kernel}", partial(call.__setitem__, 0, kernel), partial(call.__setitem__, 0, call[0])
        for at in range(len(sweep["calls"]) - 1):
            swap = partial(_swap, sweep["calls"], at)
            yield f"{said}: swaps {sweep['calls'][at]}", swap, swap


def _swap(of: list[Any], at: int) -> None:
    of[at], of[at + 1] = of[at + 1], of[at]


#: Edits that do nothing: in another order statistics are put together, what an update left is copied and looked through; of a single use
#: the sum is the gradient, and what other uses have is scaled to no end.
HARMLESS = re.compile(
    r"STATISTICS.*: swaps .*|UPDATE.*: swaps \['(round|inspect|inspect_copy)', .*"
    r"|NORM.*, 'gradient'.*: sum|NORM.*'sum', 'waiting'\]: gradient"
)


def test_every_word_is_needed(plan: Plan) -> None:
    """But for conditions that leave nothing out."""
    single = all(len(p["uses"]) < 2 or p["owner"] != plan["stages"][p["uses"][1]["stage"]]["place"] for p in plan["parameters"])
    for text, do, undo in list(edits(plan)):
        before = taken(plan)
        do()
        harmless = HARMLESS.fullmatch(text) and (single or "['scale'" in text or not text.endswith((": sum", ": gradient")))
        assert is_refused(plan) or harmless or (": only " in text and taken(plan) == before), text
        undo()


def taken(plan: Plan) -> list[list[str]]:
    """What each sweep over parameters takes."""
    return [[p["name"] for p in plan["parameters"] if words_of(plan, p, sweep["over"]) >= set(sweep["only"])] for sweep in plan["sweeps"]]


def words_of(plan: Plan, parameter: dict[str, Any], over: str) -> set[str]:
    number = plan["parameters"].index(parameter)
    held = next(of for place in plan["places"] for of in place["held"] if of["parameter"] == number)
    if over == "held":
        return {"elementwise" if plan["routines"][held["init"][0]]["flat"] else "whole"}
    homes = {plan["stages"][use["stage"]]["place"] for use in parameter["uses"]}
    words = {"accumulated" if parameter["fed"] == "accumulate" else parameter["fed"], "here" if homes <= {parameter["owner"]} else "spread"}
    return words | {"elementwise" if parameter["elementwise"] else "whole"} if parameter["update"] is not None else words
