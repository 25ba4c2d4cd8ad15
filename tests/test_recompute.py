"""What backward passes make again: the same digests whatever is chosen, memory as planned, what --memory demands and no more."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import EXAMPLES
from layout_models import MODELS, Layout, Programs, data_options, execute, run_model

from mlc.cli import run_command
from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file, load_program
from mlc.ir.program import CHOICES
from mlc.ir.verify import verify
from mlc.lower import lower
from mlc.ops import OPS
from mlc.passes import prepared
from mlc.plan.backward import _Planner
from mlc.plan.choose import choose_layout
from mlc.targets.c import C

MICROBATCHES = 8
ONE = Layout()

#: Models with random numbers, losses in the middle, router loads and experts, skips, metrics, in f32 and bf16; every kind of schedule.
SAMPLE = (
    ("gpt2-drop", Layout(1, 1, recompute="full")),
    ("gpt2-drop", Layout(2, 2, "zb-h1", recompute="selective")),
    ("gpt2-bf16", Layout(2, 1, "interleaved", 2, recompute="full")),
    ("gpt2-bf16", Layout(1, 2, recompute="selective")),
    ("deepseek_v3", Layout(2, 2, "1f1b", recompute="full")),
    ("deepseek_v3-f32", Layout(2, 1, "zb-v", recompute="selective")),
    ("supervised", Layout(2, 1, "gpipe", recompute="full")),
    ("unet", Layout(2, 1, "zb-h2", recompute="full")),
)

MORE = (
    *((model, Layout(1, 1, recompute=choice)) for model in MODELS for choice in CHOICES[1:]),
    ("gpt2", Layout(2, 2, "dualpipe-v", 2, recompute="full")),
    ("gpt2", Layout(4, 1, "gpipe", recompute="selective")),
    ("skips", Layout(3, 2, "zb-h1", recompute="full")),
    ("albert", Layout(2, 1, "auto", recompute="full")),
)


def check(programs: Programs, model: str, layout: Layout) -> None:
    folder = programs.folder / "data"
    one, other = (programs.build(MODELS[model], of.options(MICROBATCHES)) for of in (ONE, layout))
    folder.mkdir(exist_ok=True)
    text = re.compile(r",? [\d.]+% more work recomputed")
    want = run_model(one, MODELS[model], folder, "--threads", 1)
    got = run_model(other, MODELS[model], folder, "--threads", 2)
    work = json.loads((other.parent / "plan.json").read_text())["recomputed_flops_per_microbatch"]
    assert bool(text.search(got.output)) == (work > 0) and not text.search(want.output)
    assert replace(got, output=text.sub("", got.output)) == want


@pytest.mark.parametrize(("model", "layout"), SAMPLE, ids=str)
def test_what_is_made_again_is_the_same(model: str, layout: Layout, programs: Programs) -> None:
    check(programs, model, layout)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layout"), MORE, ids=str)
def test_every_model_makes_the_same_again(model: str, layout: Layout, programs: Programs) -> None:
    check(programs, model, layout)


def test_memory_is_what_the_plan_says(programs: Programs, tmp_path: Path) -> None:
    """The program maps what plan.json states, which is less the more is made again."""
    digests: set[str] = set()
    sizes: dict[str, int] = {}
    for choice in CHOICES:
        program = programs.build(MODELS["gpt2"], Layout(recompute=choice).options(2))
        plan = json.loads((program.parent / "plan.json").read_text())
        (place,) = plan["places"]
        sizes[choice] = place["arena_bytes"]
        tmp_path.joinpath(choice).mkdir()
        words = [*data_options(MODELS["gpt2"], tmp_path / choice, evaluate=False), "--steps", "3", "--seed", "5", "--hash"]
        said = execute([str(program), *words, "--threads", "1"]).stdout
        digests |= set(re.findall(r"digest: \w+", said))
        report = execute([str(program), *words, "--threads", "1", "--dry-run"]).stdout
        assert f"{place['arena_bytes'] + plan['scratch_bytes_per_thread']:,}" in report or str(place["arena_bytes"]) in report
    assert len(digests) == 1
    assert sizes["full"] < sizes["selective"] < sizes["none"]


def arena_bytes(folder: Path) -> int:
    return max(place["arena_bytes"] for place in json.loads((folder / "plan.json").read_text())["places"])


GPT2 = EXAMPLES / "gpt2.dsl"
SMALL = {"vocab": 64, "context": 32, "width": 32, "heads": 2, "batch": 4, "depth": 6}


def planned(folder: Path, **options: object) -> dict:
    compile_file(GPT2, folder, SMALL, Options(emit="plan", **options))  # type: ignore[arg-type]
    return json.loads((folder / "plan.json").read_text())


@pytest.mark.parametrize(("pp", "microbatches"), [(1, 1), (1, 4), (2, 4)])
def test_memory_decides_what_is_made_again(pp: int, microbatches: int, tmp_path: Path) -> None:
    """Any memory from that of `full` to that of `none` is kept to; less memory never means less recomputation; less is refused."""
    options = {"pp": pp, "microbatches": microbatches, "schedule": "1f1b", "split": None if pp == 1 else "begin block*3 | block*3 end"}
    ends = []
    for choice in ("full", "none"):
        planned(tmp_path, recompute=choice, **options)
        ends.append(arena_bytes(tmp_path))
    least, most = ends
    assert least < most
    before = None
    for part in range(5):
        memory = most - (most - least) * part // 4
        plan = planned(tmp_path, memory=memory, **options)
        assert arena_bytes(tmp_path) <= memory
        flops = plan["recomputed_flops_per_microbatch"]
        assert before is None or flops >= before
        before = flops
        if part == 0:
            assert flops == 0
    with pytest.raises(MlcError, match="E1002"):
        planned(tmp_path, memory=least - 1, **options)


def test_a_plan_names_a_choice_for_each_call(tmp_path: Path) -> None:
    """plan.json can be edited; the edited one is followed, and one that does not fit is refused."""
    plan = planned(tmp_path, recompute="full", microbatches=4)
    (stage,) = plan["stages"]
    assert stage["calls"][1:-1] == [f"h.{n}" for n in range(6)] and set(stage["recompute"][1:-1]) == {"full"}
    stage["recompute"] = ["none", "full", "none", "selective", "full", "none", "none", "none"]
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(plan))
    again = planned_from(tmp_path, edited)
    assert again["stages"][0]["recompute"] == stage["recompute"]
    assert 0 < again["recomputed_flops_per_microbatch"] < plan["recomputed_flops_per_microbatch"]
    for wrong in (stage["recompute"][1:], ["all"] * 8):
        edited.write_text(json.dumps({**plan, "stages": [{**stage, "recompute": wrong}]}))
        with pytest.raises(MlcError, match="E1201"):
            planned_from(tmp_path, edited)


def test_full_keeps_the_states_of_some_layers_alone_where_that_is_less(tmp_path: Path) -> None:
    """The figure that is promised, and what a plan may not say: a state that is read at once is kept."""
    sizes: dict[str, int] = {}
    for choice in ("none", "full"):
        compile_file(GPT2, tmp_path, {"depth": 24}, Options(emit="plan", recompute=choice))
        sizes[choice] = arena_bytes(tmp_path)
    assert sizes["full"] <= 0.35 * sizes["none"]
    plan = json.loads((tmp_path / "plan.json").read_text())
    (stage,) = plan["stages"]
    assert stage["recompute"][-2:] == ["full", "none"] and "states" in stage["recompute"]
    assert plan["recomputed_flops_per_microbatch"] <= 0.35 * plan["flops_per_microbatch"]
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(plan))
    assert planned_from(tmp_path, edited, {"depth": 24})["stages"][0]["recompute"] == stage["recompute"]
    for wrong in (-2, -1):
        choices = list(stage["recompute"])
        choices[wrong] = "states"
        edited.write_text(json.dumps({**plan, "stages": [{**stage, "recompute": choices}]}))
        with pytest.raises(MlcError, match=r"E1201.*made again"):
            planned_from(tmp_path, edited, {"depth": 24})


def test_a_plan_is_made_once_where_all_states_leave_their_stage(tmp_path: Path) -> None:
    """Runs of calls of one stage cannot be longer than one call: no schedule is sought for them."""
    seen: list[str] = []
    options = Options(emit="plan", recompute="full", pp=4, split="embed | block | block | head", microbatches=8, schedule="auto")
    compile_file(GPT2, tmp_path, {**SMALL, "depth": 2}, options, lambda stage, made, seconds: seen.append(stage))
    assert seen.count("plan") == 1


SKIPPING = """
from mlc.losses import cross_entropy
from mlc.nn import linear
from mlc.optim import adamw
from mlc.rates import constant

depth: int
width: dim = 8
batch: dim = 2

@layer
def cell(x: real[batch, width], y: real[batch, width]):
    return linear(tanh(linear(x * y, width, name="a")), width, name="b")

@model
def skipping(tokens: i32[batch], targets: i32[batch]):
    x = gather(param("table", [16, width], init=normal(0.02)), tokens)
    y = x
    for i in range(depth):
        z = cell(x, y, name=f"c.{i}")
        y = x
        x = z
    return {"loss": cross_entropy(linear(x, 16, bias=False, name="head"), targets)}

@train
def recipe():
    return adamw(rate=constant(1e-3))
"""


class Asked(dict[str, int]):
    """Makers of states that are looked for."""

    times = 0

    def __contains__(self, key: object) -> bool:
        Asked.times += 1
        return super().__contains__(key)


def test_what_two_read_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each state is read by the next two calls: there are as many ways back to the first as there are sums of ones and twos."""
    model, edited, depth = tmp_path / "skipping.dsl", tmp_path / "edited.json", 16
    model.write_text(SKIPPING)
    compile_file(model, tmp_path, {"depth": depth}, Options(emit="plan", recompute="full"))
    plan = json.loads((tmp_path / "plan.json").read_text())
    (stage,) = plan["stages"]
    stage["recompute"][1:-2] = ["states"] * (depth - 1)
    edited.write_text(json.dumps(plan))
    find = _Planner._readers

    def counted(planner: _Planner) -> object:
        planner.makers = Asked(planner.makers)
        return find(planner)

    monkeypatch.setattr(_Planner, "_readers", counted)
    compile_file(model, tmp_path, {"depth": depth}, Options(emit="plan", plan=edited))
    assert depth < Asked.times < 20 * depth


def planned_from(folder: Path, path: Path, define: dict[str, int] = SMALL) -> dict:
    compile_file(GPT2, folder / "again", define, Options(emit="plan", plan=path))
    return json.loads((folder / "again" / "plan.json").read_text())


def test_recomputation_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned(tmp_path, recompute="full", microbatches=4)
    assert run_command(["explain", str(tmp_path / "plan.json")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"again     [\d.]+ GFLOP a microbatch are computed once more, \d+\.\d% of it", out)
    assert "again  full: h.0 to h.5 (6 calls)" in out


@pytest.mark.parametrize("name", ["gpt2", "deepseek_v3", "unet", "vit", "t5"])
def test_variants_keep_less_and_repeat_no_contraction_where_they_must_not(name: str) -> None:
    program, _ = load_program(EXAMPLES / f"{name}.dsl", {}, Options())
    step = prepared(program, OPS)
    lowered = lower(step, OPS, C.rules)
    for unit, variants in enumerate(step.variants):
        kept = [set(v.saved) - {r.name for r in v.again.results} if v.again else set(v.saved) for v in variants]
        assert all(more > less for more, less in pairwise(kept))
        for variant in variants[1:]:
            again = lowered.again[unit].get(variant.choice)
            assert again is None or set(again.remade) <= {r.name for r in variant.again.results}
            if again is None:
                continue
            verify(again.routine.function, OPS)
            names = [type(k).__name__ for k in again.routine.kernels]
            if variant.choice == "selective":
                assert not {"Contract", "Call", "Scatter", "Scan"} & set(names)
            else:
                assert set(again.remade) == set(variant.saved)


def test_a_choice_that_is_none_is_refused() -> None:
    program, _ = load_program(GPT2, {}, Options())
    layout = choose_layout(lower(prepared(program, OPS), OPS, C.rules), Options(recompute="none"))
    assert set(layout.choices) == {"none"}
    with pytest.raises(MlcError, match="E0808"):
        compile_file(GPT2, None, {}, Options(recompute="some"))
