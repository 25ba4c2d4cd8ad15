"""Programs of several GPUs under the execution shim, each rank a process, NCCL a stub: every layout of a model says what one rank says, to
the bit, and what it says is that of the C target."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import need_mpi
from layout_models import MODELS, Layout, Model, Programs, Said, data_options, execute, run_model
from layouts import mpirun
from shim_library import SHIM, compiler

MICROBATCHES = 4
GPT = MODELS["gpt"]
ONE = Layout(groups=4)
TWO, REPLICAS, FOUR = Layout(pp=2, groups=4), Layout(dp=2, groups=4), Layout(pp=2, dp=2, groups=4)
LOOPED = Layout(pp=2, chunks=2, schedule="interleaved", groups=4)

#: Layouts of a model; the first is what the others are compared with.
LAYOUTS = {"gpt": (ONE, TWO, REPLICAS, FOUR)}
SLOW = {
    "gpt2": (ONE, FOUR, LOOPED, Layout(pp=2, schedule="zb-h1", groups=4), Layout(pp=4, groups=4), Layout(dp=4, groups=4)),
    "gpt2-bf16": (ONE, Layout(pp=3, groups=4), FOUR),
    "deepseek_v3-f32": (ONE, TWO, REPLICAS, FOUR),
    "unet": (ONE, TWO, REPLICAS, FOUR),
    "albert": (ONE, FOUR),
    "state": (ONE, Layout(dp=2, groups=4)),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Programs]:
    """By target. The kernels of `sm_90` run on the shim."""
    return {
        "c": Programs(tmp_path_factory.mktemp("c")),
        "sm_90": Programs(tmp_path_factory.mktemp("sm_90"), ("OPTIMIZE=-O1", f"CXX={' '.join(compiler())}", f"SHIM={SHIM}")),
    }


def build(programs: dict[str, Programs], model: Model, layout: Layout, target: str = "sm_90") -> Path:
    return programs[target].build(model, replace(layout.options(MICROBATCHES), target=target))


def losses(said: Said) -> list[float]:
    return [row["loss"] for row in map(json.loads, said.log) if "loss" in row]


def check(programs: dict[str, Programs], name: str, layouts: tuple[Layout, ...], folder: Path) -> None:
    said = {layout: run_model(build(programs, MODELS[name], layout), MODELS[name], folder, "--threads", 1) for layout in layouts}
    for layout, of in said.items():
        assert of == said[ONE], str(layout)
    expected = run_model(build(programs, MODELS[name], ONE, "c"), MODELS[name], folder, "--threads", 1)
    if name != "gpt2-bf16":
        assert losses(said[ONE]) == pytest.approx(losses(expected), rel=1e-5) and losses(expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_says_what_one_rank_says(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    check(programs, name, LAYOUTS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_layout_of_other_models_does(programs: dict[str, Programs], name: str, tmp_path: Path) -> None:
    check(programs, name, SLOW[name], tmp_path)


def run(
    programs: dict[str, Programs],
    layout: Layout,
    folder: Path,
    *arguments: object,
    code: int = 0,
    target: str = "sm_90",
    **environment: str,
) -> str:
    """What gpt says."""
    command = [
        str(build(programs, GPT, layout, target)),
        *data_options(GPT, folder, False),
        "--seed",
        "5",
        "--threads",
        "1",
        "--timeout",
        "60",
    ]
    done = execute([*command, *map(str, arguments)], code, **environment)
    assert code or "mlc_shim" not in done.stderr, done.stderr
    return done.stderr if code else done.stdout


def digest(text: str) -> str:
    return text.splitlines()[-1].removeprefix("digest: ")


@pytest.mark.parametrize("order", ["reverse", "random", "ahead"])
def test_no_order_of_what_is_unordered_shows(programs: dict[str, Programs], order: str, tmp_path: Path) -> None:
    expected = run(programs, ONE, tmp_path, "--steps", 2, "--hash")
    found = run(programs, FOUR, tmp_path, "--steps", 2, "--hash", MLC_SHIM_ORDER=order, MLC_SHIM_APART="1")
    assert digest(found) == digest(expected)


def test_a_checkpoint_moves_between_layouts_and_targets(programs: dict[str, Programs], tmp_path: Path) -> None:
    whole = digest(run(programs, FOUR, tmp_path, "--steps", 4, "--hash", "--checkpoint", tmp_path / "kept", "--every", 2))
    half = tmp_path / "kept" / "step-00000002"
    for layout in (ONE, TWO, FOUR):
        assert digest(run(programs, layout, tmp_path, "--steps", 4, "--hash", "--resume", half)) == whole, layout
    on_cpu = [digest(run(programs, layout, tmp_path, "--steps", 4, "--hash", "--resume", half, target="c")) for layout in (ONE, FOUR)]
    assert on_cpu[0] == on_cpu[1]
    run(programs, FOUR, tmp_path, "--steps", 2, "--checkpoint", tmp_path / "cpu", target="c")
    back = [
        digest(run(programs, layout, tmp_path, "--steps", 3, "--hash", "--resume", tmp_path / "cpu" / "step-00000002"))
        for layout in (ONE, FOUR)
    ]
    assert back[0] == back[1]


def test_a_gpu_sends_the_messages_that_a_cpu_sends(programs: dict[str, Programs], tmp_path: Path) -> None:
    """Actions and messages of a step, of all ranks; addresses are the target's own."""
    listed = []
    for target in ("c", "sm_90"):
        text = run(programs, FOUR, tmp_path, "--steps", 2, "--print-launches", 2, target=target)
        listed.append(re.findall(r"^([A-Z].*|rank .*)$|^  (\S+ \d+ (?:of|to) rank \d+):", text, re.MULTILINE))
    one, other = ([[a or b for a, b in lines if not b.startswith("tree")]] for lines in listed)
    assert one == other and any("replicas" in line for line in one[0])


@pytest.mark.parametrize("rate", ["3e38", "1e30"])
def test_what_is_not_finite_is_found_as_by_one_rank(programs: dict[str, Programs], rate: str, tmp_path: Path) -> None:
    options = ("--steps", 4, "--warmup", 1, "--rate", rate)
    said = {run(programs, layout, tmp_path, *options, code=5) for layout in (ONE, TWO, REPLICAS, FOUR)}
    assert len(said) == 1, said


def start(programs: dict[str, Programs], layout: Layout, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """gpt for many steps, when it has done some."""
    log = folder / "log.jsonl"
    command = [
        str(build(programs, GPT, layout)),
        *data_options(GPT, folder, False),
        "--steps",
        "100000",
        "--threads",
        "1",
        "--log",
        str(log),
    ]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


def children(process: subprocess.Popen[str]) -> list[int]:
    """Its ranks, in their order."""
    return sorted(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def test_a_rank_that_is_killed_ends_all(programs: dict[str, Programs], tmp_path: Path) -> None:
    process = start(programs, FOUR, tmp_path)
    ranks = children(process)
    os.kill(ranks[3], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3 and "rank 3 (place 1, replica 1) was killed by signal 9" in said, said
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_a_rank_that_stands_still_is_late(programs: dict[str, Programs], tmp_path: Path) -> None:
    process = start(programs, FOUR, tmp_path, "--timeout", "3")
    ranks = children(process)
    os.kill(ranks[1], signal.SIGSTOP)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 4 and "rank 1 is late" in said and "rank 1 (place 1, replica 0) was stopped by a signal" in said, said


def test_ranks_that_are_told_to_stop_save(programs: dict[str, Programs], tmp_path: Path) -> None:
    process = start(programs, TWO, tmp_path, "--checkpoint", str(tmp_path / "kept"))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "kept" / "latest").exists(), said


@pytest.mark.parametrize(
    ("environment", "options", "code", "said"),
    [
        ({"MLC_SHIM_NCCL": "missing"}, (), 3, "libnccl.so.2: cannot open shared object file"),
        ({"MLC_SHIM_NCCL": "old"}, (), 3, "libnccl.so.2 is 2.16.4; several GPUs want NCCL 2.18 or later"),
        ({"MLC_SHIM_GPU": "0000:01:00.0"}, (), 3, "ranks 0 and 1 use one GPU (0000:01:00.0"),
        ({}, ("--transport", "threads"), 2, "ranks that have a GPU each are processes"),
        ({"MLC_SHIM_MEMORY": "100000"}, (), 3, " MiB of its memory, and 0.1 of 0.1 MiB are free: 0.1 MiB for parameters ("),
        ({"MLC_SHIM_MEMORY": str(32 << 20)}, (), 3, "GPU: NCCL may take "),
        ({"MLC_SHIM_DRIVER": "12080"}, (), 3, "the driver of this machine is for CUDA up to 12.8, and this program is of CUDA 13.0"),
        ({"MLC_SHIM_DRIVER": "0"}, (), 3, "this machine has no driver of NVIDIA's"),
        ({"MLC_SHIM_SM": "100"}, (), 3, "this program is compiled for sm_90, and this one is sm_100"),
        ({"MLC_SHIM_SHARED": "101376"}, (), 3, "kernels may ask for 232448 bytes of shared memory a block, and this one has 101376"),
    ],
)
def test_what_ranks_lack_is_a_sentence(
    programs: dict[str, Programs], environment: dict[str, str], options: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    text = run(programs, TWO, tmp_path, *options, code=code, **environment)
    assert said in text and "mlc_shim" not in text


def test_torchrun_starts_ranks(programs: dict[str, Programs], tmp_path: Path) -> None:
    expected = digest(run(programs, ONE, tmp_path, "--steps", 2, "--hash"))
    command = [
        str(build(programs, GPT, TWO)),
        *data_options(GPT, tmp_path, False),
        "--seed",
        "5",
        "--threads",
        "1",
        "--steps",
        "2",
        "--hash",
    ]
    shared = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": str(os.getpid())}
    ranks = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**shared, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(2)
    ]
    said = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0] and digest(said[0]) == expected


def test_mpirun_starts_ranks(programs: dict[str, Programs], tmp_path: Path) -> None:
    need_mpi()
    expected = digest(run(programs, ONE, tmp_path, "--steps", 2, "--hash"))
    program = build(programs, GPT, TWO)
    programs["sm_90"].make("../libmlc_mpi.so")
    shutil.copy(programs["sm_90"].folder / "build" / "libmlc_mpi.so", program.parent)
    command = [*mpirun(2), str(program), *data_options(GPT, tmp_path, False), "--seed", "5", "--threads", "1", "--steps", "2", "--hash"]
    assert digest(execute(command).stdout) == expected


def test_a_deadlock_in_a_list_is_reported(programs: dict[str, Programs], tmp_path: Path) -> None:
    """A program whose first place waits for a gradient before it has sent anything: no plan that is proved has such a list."""
    build(programs, GPT, Layout(pp=2, groups=2))
    of = programs["sm_90"]
    actions = of.folder / "build" / "src" / "actions.c"
    head, tail = actions.read_text().split("place0_train[] = {\n    ", 1)
    assert "{MLC_RECEIVE, 1, 0}, " in tail
    actions.write_text(head + "place0_train[] = {\n    {MLC_RECEIVE, 1, 0}, " + tail.replace("{MLC_RECEIVE, 1, 0}, ", "", 1))
    of.make("../model")
    command = [str(of.folder / "build" / "model"), *data_options(GPT, tmp_path, False), "--steps", "2", "--threads", "1"]
    said = execute(command, 3).stderr
    assert "deadlock: every process waits for another one" in said and "NCCL: channel " in said
