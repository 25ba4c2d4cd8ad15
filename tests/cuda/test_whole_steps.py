"""Programs for GPUs under the execution shim: losses, evaluation and text of small models are those of the C target."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layout_models import MODELS, ROWS, Model, Programs, data_options, execute, run_model
from shim_kernels import few_processors
from shim_library import GPU, SHIM, compiler, of_shim
from tolerances import TOLERANCES

from mlc.diagnostics import MlcError
from mlc.driver import Options
from mlc.targets.cuda import kernels, split

#: Model -> its precision; mixed: f32 with an optimizer that works in bf16. Slow ones compile the most kernels.
QUICK = {"gpt": "f32"}
SLOW = {
    "mlp": "f32", "gpt2": "f32", "gpt2-drop": "f32", "gpt2-bf16": "bf16", "llama3": "bf16", "deepseek_v3-f32": "f32", "vit": "bf16",
    "unet": "f32", "gla": "f32", "albert": "f32", "muon": "mixed", "supervised": "f32", "t5": "bf16", "state": "f32",
}  # fmt: skip


#: A row of the first step, but not of its first microbatch.
HELD = 9

DEVICE = f"sm_{GPU.rstrip('a') or 90}"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Programs]:
    """By target. The kernels of `sm_90` run on the shim, or those of DEVICE on it."""
    shim = ("OPTIMIZE=-O1", f"CXX={' '.join(compiler())}", f"SHIM={SHIM}")
    return {
        "c": Programs(tmp_path_factory.mktemp("c")),
        DEVICE: Programs(tmp_path_factory.mktemp(DEVICE), ("OPTIMIZE=-O1",) if GPU else shim),
    }


def numbers(log: tuple[str, ...]) -> list[dict[str, float]]:
    return [{k: v for k, v in json.loads(line).items() if isinstance(v, float)} for line in log]


def check(programs: dict[str, Programs], model: Model, precision: str, folder: Path) -> None:
    """The sums of the two targets have other orders."""
    said = {}
    for target, of in programs.items():
        program = of.build(model, Options(microbatches=4, groups=2, emit="c", target=target))
        (folder / target).mkdir()
        said[target] = numbers(run_model(program, model, folder / target, "--threads", 1).log)
    assert len(said["c"]) == len(said[DEVICE]) > 3
    for expected, found in zip(said["c"], said[DEVICE], strict=True):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            kind = "norm" if name == "grad_norm" else "loss"
            assert found[name] == pytest.approx(value, rel=TOLERANCES[f"device.{kind}.{precision}"]), (name, expected, found)


@pytest.mark.parametrize("name", QUICK)
def test_a_model_trains_as_on_a_cpu(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    check(programs, MODELS[name], QUICK[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_example_trains_as_on_a_cpu(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    check(programs, MODELS[name], SLOW[name], tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(bool(GPU), reason="compute-sanitizer does that there")
@pytest.mark.parametrize("name", ["gpt2-bf16", "muon"])
def test_kernels_of_a_step_have_no_races(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    """In the checked build, which ends at what is wrong with a kernel: sweeps and what else stands behind rows."""
    (tmp_path / "built").mkdir()
    checked = "SHIM_EXTRA=-fsanitize=thread --param=tsan-instrument-func-entry-exit=0"
    built = Programs(tmp_path / "built", (*programs[DEVICE].variables, checked))
    program = built.build(MODELS[name], Options(microbatches=2, groups=2, emit="c", target=DEVICE))
    plain = programs[DEVICE].build(MODELS[name], Options(microbatches=2, groups=2, emit="c", target=DEVICE))
    for kind in ("checked", "plain"):
        (tmp_path / kind).mkdir()
    said = [run_model(of, MODELS[name], tmp_path / kind, "--threads", 1) for of, kind in ((program, "checked"), (plain, "plain"))]
    assert said[0].log == said[1].log


@pytest.mark.slow
@pytest.mark.parametrize("full", [1, 2])
def test_contractions_of_many_tiles(programs: dict[str, Programs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int) -> None:
    """As where tiles fill a device, by warpgroups; and where that takes sums in pieces."""
    few_processors(monkeypatch, full, memory=1e18)
    monkeypatch.setattr(split, "LEAST_K", 8)
    (tmp_path / "built").mkdir()
    wide = {"c": programs["c"], DEVICE: Programs(tmp_path / "built", programs[DEVICE].variables)}
    check(wide, MODELS["gpt2-bf16"], "bf16", tmp_path)
    program = wide[DEVICE].build(MODELS["gpt2-bf16"], Options(microbatches=4, groups=2, emit="c", target=DEVICE))
    refused = execute([str(program), *data_options(MODELS["gpt2-bf16"], tmp_path)], 3, MLC_SHIM_NO_MAPS="1").stderr
    cause = r"GPU: \w+: \w+: the driver takes no tensor map \(CUresult, 1\): address \S+, \d+ matrices every \d+"
    assert re.search(cause, refused), refused
    text = next((tmp_path / "built").glob("**/src/kernels.cu")).read_text()
    assert "mlc_contract_tensor<" in text
    assert (re.search(r"mlc_contract_tensor<\d+, [2-9]", text) is not None) == (full == 2)


@pytest.mark.slow
def test_neighbours_are_moved_together(programs: dict[str, Programs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there are many: in rows of a warp and of a block, the last pack of which is not whole, and elementwise."""
    monkeypatch.setattr(kernels, "PACKED", 1)
    (tmp_path / "built").mkdir()
    wide = {"c": programs["c"], DEVICE: Programs(tmp_path / "built", programs[DEVICE].variables)}
    model = MODELS["gpt2-bf16"]
    arrays = tuple((name, (12,), 1037) for name in ("tokens", "targets"))
    check(wide, replace(model, arrays=arrays, defines={**model.defines, "width": 256, "depth": 1, "vocab": 1037}), "bf16", tmp_path)
    text = next((tmp_path / "built").glob("**/src/kernels.cu")).read_text()
    assert "1037 - first" in text and "first < 256" in text and "% 130 * 8" in text


def test_a_library_for_gpus_says_that_it_has_no_views(programs: dict[str, Programs]) -> None:
    with pytest.raises(MlcError, match="cannot be opened as a library"):
        programs[DEVICE].library(MODELS["gpt"], Options(microbatches=4, groups=2, emit="c", target=DEVICE)).open()


def run(programs: dict[str, Programs], target: str, folder: Path, *arguments: str, code: int = 0) -> str:
    """What gpt says."""
    program = programs[target].build(MODELS["gpt"], Options(microbatches=4, groups=2, emit="c", target=target))
    command = [str(program), *data_options(MODELS["gpt"], folder, False), "--seed", "5", *arguments]
    done = execute(command, code)
    return done.stderr if code else done.stdout


def test_a_gpu_takes_the_same_list(programs: dict[str, Programs], tmp_path: Path) -> None:
    """Actions, and kernels of sweeps with their parameters and elements, of a step that was captured before; rows are the target's own."""
    listed = {}
    for target in programs:
        text = run(programs, target, tmp_path, "--steps", "2", "--print-launches", "2")
        listed[target] = re.findall(r"^([A-Z].*)$|^  0x\w+ (.*):.*(, elements .*)$", text, re.MULTILINE)
    assert listed["c"] == listed[DEVICE]
    assert {"update", "squares"} <= {call.split(" ")[0] for _, call, _ in listed["c"]}


LINES = '''"""Numbers that are scaled and shifted, and what was seen of them."""
from mlc.optim import sgd

batch: dim = 4
boost: f32 = 1.0


@layer
def line(x: real[batch]):
    return param("a", [1], init=ones()) * x + param("b", [1], init=zeros())


@model
def lines(x: real[batch], y: real[batch]):
    accumulate(param("seen", [batch], init=zeros(), dtype=f32), x)
    error = line(x, name="first") - y
    return {"loss": mean(error * error)}


@optimizer
def follow(p: f32[...], g: f32[p.shape], step: f32, *, boost: f32):
    return p + boost * g


@train()
def recipe(p: parameter):
    if p.name == "seen":
        return follow(boost=boost)
    return sgd(rate=0.1, momentum=0.5)
'''


def test_times_are_those_of_the_list(programs: dict[str, Programs], tmp_path: Path) -> None:
    """A trace has the actions of a CPU's, in their order, and rows inside of them; a profile has what steps did."""
    traces = {}
    for target in programs:
        said = run(programs, target, tmp_path, "--steps", "2", "--threads", "1", "--trace", str(tmp_path / target), "--profile")
        events = [e for e in json.loads((tmp_path / target).read_text()) if e["ph"] == "X"]
        traces[target] = [e for e in events if e["cat"] == "action"], [e for e in events if e["cat"] == "row"]
        assert " update" in said
    (actions, rows), (expected, cpu_rows) = traces[DEVICE], traces["c"]
    assert [e["name"] for e in actions] == [e["name"] for e in expected] and actions
    assert [e["name"] for e in rows if e["args"]["flops"]] == [e["name"] for e in cpu_rows if e["args"]["flops"]]
    ends = [(e["ts"], e["ts"] + e["dur"]) for e in actions]
    assert all(first[1] <= then[0] + 0.01 for first, then in itertools.pairwise(ends))
    slack = 2 * max(e["dur"] for e in actions) * 2**-20 + 1
    assert all(any(a - slack <= r["ts"] and r["ts"] + r["dur"] <= b + slack for a, b in ends) and r["dur"] >= 0 for r in rows)


def test_a_step_that_is_not_finite(programs: dict[str, Programs], tmp_path: Path) -> None:
    """Where the gradient of one microbatch is not, its loss is: a second walk finds it, for no update has touched masters. And where an
    update is not that has nothing before it, its parameter is named."""
    (tmp_path / "lines.dsl").write_text(LINES)
    model = Model(str(tmp_path / "lines.dsl"), {}, (("x", (), 0), ("y", (), 0)))
    words = data_options(model, tmp_path, False)
    said: dict[str, list[str]] = {}
    for target, of in programs.items():
        program = of.build(model, Options(microbatches=4, groups=2, emit="c", target=target))
        for large, boost in ((1e25, 1.0), (10.0, 3e38)):
            x = np.ones(ROWS, np.float32)
            x[HELD] = large
            np.save(tmp_path / "x.npy", x)
            np.save(tmp_path / "y.npy", x * np.float32(1 - 1e-6))
            command = [str(program), *words, "--seed", "5", "--steps", "2", "--boost", str(boost)]
            said.setdefault(target, []).append(execute(command, 5).stderr)
    assert said["c"] == said[DEVICE]
    gradient, update = said["c"]
    assert re.search("stage 0, microbatch [1-3]: the gradient of first.a is not finite", gradient)
    assert "its update makes parameter seen not finite" in update


@pytest.mark.parametrize("rate", ["3e38", "1e30", "1e10"])
def test_what_is_not_finite_is_found_as_on_a_cpu(programs: dict[str, Programs], rate: str, tmp_path: Path) -> None:
    said = {run(programs, target, tmp_path, "--steps", "4", "--warmup", "1", "--rate", rate, code=5) for target in programs}
    assert len(said) == 1, said


@of_shim
@pytest.mark.parametrize(("options", "code"), [(("--rate", "1e10"), 5), (("--checkpoint", "kept", "--sample", "3", "--prompt", "a"), 0)])
def test_the_host_leaves_the_memory_of_a_gpu_alone(
    programs: dict[str, Programs], options: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_SHIM_APART", "1")
    monkeypatch.chdir(tmp_path)
    assert run(programs, DEVICE, tmp_path, "--steps", "4", "--warmup", "1", *options, code=code)


def test_a_run_goes_on_from_its_checkpoint(programs: dict[str, Programs], tmp_path: Path) -> None:
    options = ("--steps", "4", "--hash")
    whole = run(programs, DEVICE, tmp_path, *options, "--checkpoint", str(tmp_path / "kept"), "--every", "2")
    resumed = run(programs, DEVICE, tmp_path, *options, "--resume", str(tmp_path / "kept" / "step-00000002"))
    assert whole.splitlines()[-1] == resumed.splitlines()[-1]
    assert whole.splitlines()[-1].startswith("digest: ")
