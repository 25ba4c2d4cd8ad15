"""Layouts at their edges: each trains as one rank does, or is refused with a sentence before anything is emitted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layout_models import MODELS, TEXT, Layout, Model, Programs, digest_of

from mlc.diagnostics import Diagnostic, MlcError
from mlc.driver import Options, compile_file
from mlc.parallel.entries import COMPUTE, RESTS
from mlc.parallel.schedules import SCHEDULES

MLP = MODELS["mlp"]
GPT = Model("examples/gpt2.dsl", TEXT | {"depth": 4})
DEEP = Model("examples/gpt2.dsl", TEXT | {"depth": 30, "width": 16})


class Runs:
    """Digests of programs after three steps; each program is built once."""

    def __init__(self, programs: Programs):
        self.programs = programs

    def digest(self, model: Model, options: Options) -> str:
        program = self.programs.build(model, options)
        several = json.loads((program.parent / "plan.json").read_text())["places"]
        transport = ["--transport", "threads"] if len(several) * options.dp > 1 else []
        return digest_of(program, model, self.programs.folder / "data", "--steps", 3, "--threads", 1, *transport)

    def check(self, model: Model, microbatches: int, layout: Layout) -> None:
        """This layout trains as one rank does."""
        one = Layout(groups=layout.groups).options(microbatches)
        assert self.digest(model, layout.options(microbatches)) == self.digest(model, one)


@pytest.fixture(scope="module")
def runs(programs: Programs) -> Runs:
    return Runs(programs)


def plan_of(model: Model, folder: Path, options: Options) -> dict[str, Any]:
    """The plan.json that a compilation leaves."""
    (folder / "model.dsl").write_text(model.text(), encoding="utf-8")
    compile_file(folder / "model.dsl", folder / "out", model.defines, replace(options, emit="plan"))
    return json.loads((folder / "out" / "plan.json").read_text(encoding="utf-8"))


def refused(model: Model, folder: Path, options: Options) -> Diagnostic:
    with pytest.raises(MlcError) as problem:
        plan_of(model, folder, options)
    return problem.value.diagnostics[0]


def stages_of(plan: dict[str, Any]) -> list[list[str]]:
    return [stage["calls"] for stage in plan["stages"]]


# ------------------------------------------------------------------------------------------------------------ depth, microbatches


def test_thirty_layers_over_four_stages(runs: Runs) -> None:
    runs.check(DEEP, 4, Layout(4, 1, "1f1b"))


@pytest.mark.parametrize(("microbatches", "pp"), [(2, 4), pytest.param(1, 3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fewer_microbatches_than_stages(schedule: str, microbatches: int, pp: int, runs: Runs) -> None:
    runs.check(MLP, microbatches, Layout(pp, 1, schedule))


@pytest.mark.parametrize("layout", [Layout(4, 1, "1f1b"), Layout(2, 2, "zb-v"), Layout(2, 1, "interleaved", 4)], ids=str)
def test_one_layer_on_more_stages(layout: Layout, runs: Runs, tmp_path: Path) -> None:
    """A model of one call: all stages but one are empty."""
    assert sum(map(len, stages_of(plan_of(MLP, tmp_path, layout.options(4))))) == 1
    runs.check(MLP, 4, layout)


@pytest.mark.parametrize("layout", [Layout(2, 1, "1f1b", split="begin | "), Layout(2, 2, "zb-h1", split=" | begin")], ids=str)
def test_stages_without_calls(layout: Layout, runs: Runs) -> None:
    runs.check(MLP, 4, layout)


def test_a_stage_without_parameters(runs: Runs, tmp_path: Path) -> None:
    model = Model("examples/mlp.dsl", MLP.defines, MLP.arrays, ((NETWORK, PLAIN),))
    layout = Layout(3, 2, "zb-h1", split="begin | plain | end")
    plan = plan_of(model, tmp_path, layout.options(4))
    assert stages_of(plan) == [["begin"], ["plain"], ["end"]]
    assert not plan["places"][1]["chunks"]["train"][0]["uses"]
    runs.check(model, 4, layout)


NETWORK = """@model
def mlp(x: real[batch, inputs], y: real[batch, outputs]):
    h = x
"""
PLAIN = """@layer
def plain(h: real[batch, width]):
    return gelu(h) * 2.0


@model
def mlp(x: real[batch, inputs], y: real[batch, outputs]):
    h = plain(linear(x, width, name="first"))
"""


# ---------------------------------------------------------------------------------------------------------------------- replicas


@pytest.mark.parametrize(("microbatches", "groups", "dp"), [(12, 6, 3), (12, 12, 3), (12, 6, 2), (14, 14, 2), (5, 5, 5)])
def test_groups_that_are_no_power_of_two(microbatches: int, groups: int, dp: int, runs: Runs) -> None:
    """Replicas that send several roots of the tree."""
    runs.check(MODELS["state"], microbatches, Layout(1, dp, groups=groups))
    runs.check(MODELS["state"], microbatches, Layout(2, dp, "zb-h1", groups=groups))


@pytest.mark.parametrize(
    ("model", "layout", "microbatches"),
    [("gpt2", Layout(3, 3, "zb-h1", groups=6), 6), ("gpt2-bf16", Layout(2, 5, "1f1b", groups=5), 5), ("muon", Layout(1, 7, groups=7), 7),
     ("muon", Layout(2, 6, "zb-v", groups=18), 18), ("supervised", Layout(2, 7, "1f1b", groups=14), 14)],
    ids=str,
)  # fmt: skip
def test_replicas_that_are_no_power_of_two(model: str, layout: Layout, microbatches: int, runs: Runs) -> None:
    """Replicas that stand in for absent ones; shared parameters, bf16 copies, whole updates, losses on several places."""
    runs.check(MODELS[model], microbatches, layout)


@pytest.mark.parametrize(
    ("microbatches", "groups", "dp", "nearest"),
    [(8, None, 3, "--microbatches 9 --groups 3"), (8, None, 16, "--microbatches 16 --groups 16"), (9, None, 2, "--microbatches 8"),
     (8, 4, 3, "--microbatches 9 --groups 3"), (12, None, 3, "--groups 3"), (10, None, 5, "--groups 5"),
     (12, 4, 3, "--groups 3"), (24, 4, 3, "--groups 3"), (24, 8, 3, "--groups 6")],
)  # fmt: skip
def test_replicas_that_do_not_divide(microbatches: int, groups: int | None, dp: int, nearest: str, tmp_path: Path) -> None:
    problem = refused(MLP, tmp_path, Options(dp=dp, microbatches=microbatches, groups=groups))
    assert problem.code == "E0813"
    assert nearest in (problem.help or "")
    words = nearest.split()
    given = {flag[2:]: int(count) for flag, count in zip(words[::2], words[1::2], strict=True)}
    plan_of(MLP, tmp_path, Options(dp=dp, **{"microbatches": microbatches, "groups": groups, **given}))


# ------------------------------------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize(
    ("split", "stages"),
    [
        ("begin block*2 | block*2 end", [["begin", "h.0", "h.1"], ["h.2", "h.3", "end"]]),
        ("embed h.0 | block* head", [["begin", "h.0"], ["h.1", "h.2", "h.3", "end"]]),
        ("embed block* head | ", [["begin", "h.0", "h.1", "h.2", "h.3", "end"], []]),
    ],
)
def test_splits(split: str, stages: list[list[str]], tmp_path: Path) -> None:
    assert stages_of(plan_of(GPT, tmp_path, Options(pp=2, split=split))) == stages


@pytest.mark.parametrize(
    ("split", "code"),
    [
        ("embed block*2 | block*2 head | ", "E1003"),
        ("* | *", "E1003"),
        ("embed block*0 | block*4 head", "E1003"),
        ("embed | block*4", "E1004"),
        ("embed block*2 | block*3 head", "E1004"),
        ("embed h.1 | h.0 head", "E1004"),
        ("embed attention* | head", "E1004"),
    ],
)
def test_splits_that_are_none(split: str, code: str, tmp_path: Path) -> None:
    assert refused(GPT, tmp_path, Options(pp=2, split=split)).code == code


# ------------------------------------------------------------------------------------------------------------------------- plans

PLANNED = (
    Options(),
    Options(pp=2, dp=2, schedule="zb-h1", microbatches=8),
    Options(pp=2, chunks=2, microbatches=8),
    Options(pp=2, schedule="dualpipe-v", microbatches=8, split="embed | block | block*3 | head"),
    Options(pp=4, dp=3, schedule="zb-h2", microbatches=12, groups=6),
)


@pytest.mark.parametrize("options", PLANNED, ids=str)
def test_a_plan_compiles_to_the_same_sources(options: Options, tmp_path: Path) -> None:
    plan = plan_of(GPT, tmp_path, options)
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(plan))
    for name, chosen in (("asked", options), ("planned", Options(plan=saved))):
        compile_file(tmp_path / "model.dsl", tmp_path / name, GPT.defines, replace(chosen, emit="c"))
    files = [path.relative_to(tmp_path / "asked") for path in (tmp_path / "asked").rglob("*") if path.is_file()]
    assert {str(f) for f in files} >= {"plan.json", "src/model.c", "src/tables.h", "src/actions.c"}
    for path in files:
        assert (tmp_path / "asked" / path).read_bytes() == (tmp_path / "planned" / path).read_bytes(), path


def computed(plan: dict[str, Any], place: int) -> list[list[Any]]:
    """The compute actions of a place: what --plan takes of its list."""
    return [row for row in plan["places"][place]["lists"]["train"] if row[0] in COMPUTE]


def reorder(plan: dict[str, Any], place: int, actions: list[list[Any]]) -> None:
    """These compute actions in the place of those that were there."""
    rest = [row for row in plan["places"][place]["lists"]["train"] if row[0] not in (*COMPUTE, *RESTS.values())]
    plan["places"][place]["lists"]["train"] = actions + rest


def test_another_order_of_actions(runs: Runs, tmp_path: Path) -> None:
    """Weight gradients as late as can be, on one place only."""
    options = Options(pp=2, dp=2, schedule="zb-h1", microbatches=8)
    plan = plan_of(GPT, tmp_path, options)
    late = sorted(computed(plan, 0), key=lambda row: row[0] == "W")
    assert late != computed(plan, 0)
    reorder(plan, 0, late)
    (tmp_path / "edited.json").write_text(json.dumps(plan))
    edited = Options(plan=tmp_path / "edited.json", emit="c")
    found = json.loads((runs.programs.build(GPT, edited).parent / "plan.json").read_text())
    assert computed(found, 0) == late
    assert runs.digest(GPT, edited) == runs.digest(GPT, Options(microbatches=8, emit="c"))


def test_a_plan_that_deadlocks(tmp_path: Path) -> None:
    """The first place wants the gradient of 0 before it forwards 1, the second forwards both first."""
    plan = plan_of(GPT, tmp_path, Options(pp=2, schedule="1f1b", microbatches=2))
    reorder(plan, 0, [["F", 0, 0], ["B", 0, 0], ["F", 0, 1], ["B", 0, 1]])
    reorder(plan, 1, [["F", 0, 0], ["F", 0, 1], ["B", 0, 0], ["B", 0, 1]])
    (tmp_path / "edited.json").write_text(json.dumps(plan))
    problem = refused(GPT, tmp_path, Options(plan=tmp_path / "edited.json"))
    assert problem.code == "E1105"
    assert "rank 0" in problem.message and "rank 1" in problem.message


@pytest.mark.parametrize("edit", ["missing", "twice", "descending", "early"])
def test_plans_that_are_no_step(edit: str, tmp_path: Path) -> None:
    plan = plan_of(GPT, tmp_path, Options(pp=2, schedule="1f1b", microbatches=2))
    f0, f1, b0, b1 = ["F", 0, 0], ["F", 0, 1], ["B", 0, 0], ["B", 0, 1]
    edits = {"missing": [f0, b0, f1], "twice": [f0, f1, f1, b0, b1], "descending": [f0, f1, b1, b0], "early": [b0, f0, f1, b1]}
    reorder(plan, 1, edits[edit])
    (tmp_path / "edited.json").write_text(json.dumps(plan))
    problem = refused(GPT, tmp_path, Options(plan=tmp_path / "edited.json"))
    assert problem.code == "E1104"
    assert "place 1" in problem.message


def test_a_plan_of_another_model(tmp_path: Path) -> None:
    plan_of(MLP, tmp_path, Options(pp=2))
    problem = refused(GPT, tmp_path, Options(plan=tmp_path / "out" / "plan.json"))
    assert problem.code == "E0814"
    assert "h.0" in problem.message


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 2}'])
def test_files_that_are_no_plan(content: str, tmp_path: Path) -> None:
    (tmp_path / "edited.json").write_text(content)
    assert refused(GPT, tmp_path, Options(plan=tmp_path / "edited.json")).code == "E1201"


def test_what_a_plan_fixes_cannot_be_asked(tmp_path: Path) -> None:
    assert refused(GPT, tmp_path, Options(plan=tmp_path / "plan.json", pp=2)).code == "E0808"


# -------------------------------------------------------------------------------------------------------------- schedules, memory


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (Options(pp=2, schedule="1f1b", chunks=2), "E1102"),
        (Options(pp=2, schedule="zb-v", chunks=3), "E1102"),
        (Options(pp=2, schedule="dualpipe-v", chunks=1), "E1102"),
        (Options(pp=2, schedule="1fb1"), "E1101"),
        (Options(pp=0), "E0808"),
        (Options(dp=0), "E0808"),
        (Options(chunks=0), "E0808"),
    ],
    ids=str,
)
def test_schedules_that_cannot_be(options: Options, code: str, tmp_path: Path) -> None:
    assert refused(GPT, tmp_path, options).code == code


def test_chunks_alone_choose_a_schedule_that_takes_them(tmp_path: Path) -> None:
    plan = plan_of(GPT, tmp_path, Options(chunks=2, microbatches=2))
    assert (plan["mesh"]["pp"], plan["chunks"], plan["schedule"]) == (1, 2, "auto")


def test_memory_is_a_limit(tmp_path: Path) -> None:
    """What a plan needs is enough, a byte less is not, or is met by recomputation where that may be chosen; a call that fits
    nowhere is named; a split does not lift the limit."""
    options = Options(pp=2, schedule="1f1b", microbatches=8, recompute="none")
    needed = max(place["arena_bytes"] for place in plan_of(GPT, tmp_path, options)["places"])
    found = plan_of(GPT, tmp_path, replace(options, memory=needed))
    assert max(place["arena_bytes"] for place in found["places"]) == needed
    problem = refused(GPT, tmp_path, replace(options, memory=needed - 1))
    assert problem.code == "E1002" and "--recompute auto" in f"{problem.help} {problem.notes}"
    recomputed = plan_of(GPT, tmp_path, replace(options, memory=needed - 1, recompute="auto"))
    assert max(place["arena_bytes"] for place in recomputed["places"]) < needed
    assert refused(GPT, tmp_path, replace(options, memory=needed // 2)).code == "E1002"
    assert refused(GPT, tmp_path, replace(options, memory=1000)).code == "E1001"
    assert refused(GPT, tmp_path, replace(options, memory=1000, split="embed block*2 | block*2 head")).code == "E1002"
