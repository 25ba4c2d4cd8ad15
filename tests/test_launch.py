"""Programs of several ranks as processes: how they start, by whom, how a rank that dies or stops ends the run, what is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import need_mpi

from mlc.driver import Build, Options
from mlc.emit.launch import launch_files
from mlc.mesh import Mesh

SIZES = {"depth": 2, "width": 32, "vocab": 256, "context": 16, "heads": 2, "batch": 2}
RANKS = 4
MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(RANKS))
RUN = ("--steps", "4", "--threads", "1", "--hash", "--timeout", "60")
FOREVER = ("--steps", "100000000", "--threads", "1", "--log", "log")


@pytest.fixture(scope="module")
def whole(compiled) -> Build:
    return compiled("gpt2", Options(microbatches=4), **SIZES)


@pytest.fixture(scope="module")
def cut(compiled) -> Build:
    return compiled("gpt2", Options(pp=2, dp=2, microbatches=4), **SIZES)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes(np.random.default_rng(0).integers(97, 123, 4000, dtype=np.uint8).tobytes())
    return path


@pytest.fixture(scope="module")
def expected(whole: Build, text: Path) -> str:
    done = subprocess.run([whole.program, "--data", text, *RUN], capture_output=True, text=True, check=True, timeout=60)
    return digest_of(done.stdout)


def digest_of(output: str) -> str:
    found = re.findall(r"^digest: ([0-9a-f]{64})$", output, re.MULTILINE)
    assert len(found) == 1, output
    return found[0]


def environment_of(rank: int, size: int = RANKS, near: int = RANKS) -> dict[str, str]:
    """What torchrun sets."""
    port = str(10000 + os.getpid() % 50000)
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": near}
    return {**{name: str(value) for name, value in numbers.items()}, "MASTER_ADDR": "localhost", "MASTER_PORT": port}


# ---- processes ----


def parents() -> Iterator[tuple[int, int]]:
    """(process, its parent), of all that run."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if state != "Z":
            yield int(path.parent.name), int(parent)


def children_of(parent: int) -> list[int]:
    return sorted(child for child, its in parents() if its == parent)


def wait_until_gone(processes: list[int], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while left := {child for child, _ in parents()} & set(processes):
        assert time.monotonic() < end, f"processes {left} are left"
        time.sleep(0.01)


class Running:
    """A run of RANKS processes that is in its steps; ranks[r] is the process of rank r."""

    def __init__(self, build: Build, text: Path, folder: Path, *more: str):
        command = [str(build.program), "--data", str(text), *FOREVER, *more]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        log, end = folder / "log", time.monotonic() + 60
        while not (log.exists() and log.stat().st_size):
            assert time.monotonic() < end and self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        self.ranks = children_of(self.process.pid)
        assert len(self.ranks) == RANKS

    def end(self, seconds: float = 20) -> tuple[int, str]:
        """The exit code and what was said, when all processes are gone."""
        _, said = self.process.communicate(timeout=seconds)
        wait_until_gone(self.ranks)
        return self.process.returncode, said


# ---- starting ----


@pytest.mark.parametrize("transport", ["local", "threads"])
def test_a_program_starts_its_ranks(cut: Build, text: Path, expected: str, run, transport: str) -> None:
    assert digest_of(run(cut, "--data", text, *RUN, "--transport", transport).stdout) == expected


@pytest.mark.parametrize("transport", ["mpi", "local"])
def test_ranks_under_mpirun(cut: Build, text: Path, expected: str, run, transport: str) -> None:
    need_mpi()
    done = run(Path(MPIRUN[0]), *MPIRUN[1:], cut.program, "--data", text, *RUN, "--transport", transport)
    assert digest_of(done.stdout) == expected


def test_the_mpirun_script(cut: Build, text: Path, expected: str, run) -> None:
    need_mpi()
    script = cut.program.with_name(f"{cut.program.name}.mpirun.sh")
    done = run(script, "--data", text, *RUN, MPIRUN_OPTIONS="--allow-run-as-root --oversubscribe")
    assert digest_of(done.stdout) == expected


def test_ranks_that_torchrun_starts(cut: Build, text: Path, expected: str) -> None:
    command = [str(cut.program), "--data", str(text), *RUN]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **environment_of(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    outputs = [rank.communicate(timeout=60) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * RANKS, outputs
    assert digest_of("".join(out for out, _ in outputs)) == expected
    assert not any(said for _, said in outputs)


REFUSED = [
    ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "0"}, (), "mpirun started 3 ranks, this program has 4 (pp 2 x dp 2)"),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (), "srun started 8 ranks, this program has 4"),
    ({"PMI_SIZE": "4", "PMI_RANK": "4"}, (), "PMI_SIZE=4, but PMI_RANK=4: it is not a rank of them"),
    ({"WORLD_SIZE": "1", "RANK": "3"}, (), "WORLD_SIZE=1, but RANK=3: it is not a rank of them"),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "5"}, (), "SLURM_NTASKS=4, but SLURM_PROCID=5: it is not a rank of them"),
    ({"SLURM_NTASKS": "4"}, (), "SLURM_NTASKS=4, but SLURM_PROCID is not set"),
    ({"RANK": "-1", "WORLD_SIZE": "4"}, (), "RANK=-1: wants a whole number of at least 0"),
    (environment_of(0, near=5), (), "WORLD_SIZE=4, but LOCAL_WORLD_SIZE=5: a machine has no more ranks than there are"),
    (environment_of(0, size=1, near=2), (), "WORLD_SIZE=1, but LOCAL_WORLD_SIZE=2: a machine has no more ranks than there are"),
    (
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"},
        (),
        "OMPI_COMM_WORLD_SIZE=4, but OMPI_COMM_WORLD_LOCAL_SIZE=8",
    ),
    (environment_of(2, near=2), (), "LOCAL_WORLD_SIZE=2, but LOCAL_RANK=2: it is not a rank of them"),
    ({**environment_of(0), "LOCAL_RANK": "-1"}, (), "LOCAL_RANK=-1: wants a whole number of at least 0"),
    ({**environment_of(0), "LOCAL_RANK": "first"}, (), "LOCAL_RANK=first: wants a whole number of at least 0"),
    (
        {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "2"},
        (),
        "MPI_LOCALNRANKS=2, but MPI_LOCALRANKID=2: it is not a rank of them",
    ),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "4"}, (), "SLURM_NTASKS=4, but SLURM_LOCALID=4: it is not a rank of them"),
    (environment_of(0), ("--transport", "threads"), "torchrun started 4 processes"),
    (environment_of(0, near=2), ("--transport", "local"), "wants all 4 ranks on one machine, LOCAL_WORLD_SIZE=2"),
    ({"RANK": "abc", "WORLD_SIZE": "4"}, (), "RANK=abc: wants a whole number of at least 0"),
    ({"RANK": "1x", "WORLD_SIZE": "1"}, (), "RANK=1x: wants a whole number"),
    ({"WORLD_SIZE": "abc"}, (), "WORLD_SIZE=abc: wants a whole number of at least 1"),
    ({"WORLD_SIZE": "0"}, (), "WORLD_SIZE=0: wants"),
    ({"WORLD_SIZE": "-4"}, (), "WORLD_SIZE=-4: wants"),
    ({"RANK": "0", "WORLD_SIZE": "99999999999999999999"}, (), "WORLD_SIZE=99999999999999999999: wants"),
    ({**environment_of(0), "LOCAL_WORLD_SIZE": "four"}, (), "LOCAL_WORLD_SIZE=four: wants"),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": ""}, (), "SLURM_NNODES=: wants"),
    ({}, ("--transport", "mpi"), "no launcher in the environment; start it with: mpirun -n 4"),
    ({}, ("--transport", "tcp"), "wants one of local|threads|mpi"),
]


@pytest.mark.parametrize("environment, options, sentence", REFUSED)
def test_launchers_and_transports_that_do_not_fit(
    cut: Build, text: Path, run, environment: Mapping[str, str], options: tuple[str, ...], sentence: str
) -> None:
    assert sentence in run(cut, "--data", text, *options, code=2, **environment).stderr


@pytest.mark.parametrize("environment", [{}, environment_of(0), environment_of(1)], ids=["own", "rank 0", "rank 1"])
def test_too_few_open_files(cut: Build, text: Path, environment: Mapping[str, str]) -> None:
    """Where more may be taken they are, else the limit is named."""
    command = [str(cut.program), "--data", str(text), *RUN, "--start-timeout", "2"]
    everything = {**os.environ, **environment}
    for hard, code in ((1024, 4 if environment else 0), (8, 3)):
        limited = ["bash", "-c", f'ulimit -Sn 8; ulimit -Hn {hard}; exec "$@"', "-", *command]
        done = subprocess.run(limited, env=everything, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done
        assert ("4 ranks of one machine want 28 open files each, and the limit is 8" in done.stderr) == (hard == 8), done.stderr


def test_two_processes_of_one_rank(cut: Build, text: Path) -> None:
    command = [str(cut.program), "--data", str(text), *RUN, "--start-timeout", "10"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(command, env={**os.environ, **environment_of(rank)}, **pipes) for rank in (0, 1, 1)]
    said = [rank.communicate(timeout=30)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2, 2], said
    assert "two processes are rank 1 of 4" in said[0] and not said[1] and not said[2]


def test_a_missing_mpi_module_is_named(cut: Build, text: Path, run, tmp_path: Path) -> None:
    alone = shutil.copy(cut.program, tmp_path / "alone")
    said = run(alone, "--data", text, code=3, **environment_of(0, near=2)).stderr
    assert f"{tmp_path}/libmlc_mpi.so" in said and said.count("\n") == 1
    assert "error: rank 1: transport mpi" in run(alone, "--data", text, code=3, **environment_of(1, near=2)).stderr


def test_one_rank_under_a_launcher(whole: Build, text: Path, expected: str, run) -> None:
    assert digest_of(run(whole, "--data", text, *RUN, OMPI_COMM_WORLD_SIZE="1", OMPI_COMM_WORLD_RANK="0").stdout) == expected
    said = run(whole, "--data", text, code=2, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0").stderr
    assert "a launcher started several ranks, this program has one" in said


def test_launch_files() -> None:
    assert not launch_files("gpt2", Mesh())
    (mpirun, script), (slurm, batch) = launch_files("gpt2", Mesh(2, 3))
    assert (mpirun, slurm) == ("gpt2.mpirun.sh", "gpt2.sbatch")
    assert "mpirun -n 6 " in script and "#SBATCH --ntasks=6\n" in batch
    for name, lines in launch_files("gpt2", Mesh(2, 3)):
        subprocess.run(["sh", "-n"], input=lines, text=True, check=True)
        assert lines.startswith("#!/bin/") and name in lines


# ---- ends ----


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_rank_that_dies_ends_the_run(cut: Build, text: Path, tmp_path: Path, rank: int) -> None:
    running = Running(cut, text, tmp_path)
    os.kill(running.ranks[rank], signal.SIGKILL)
    begun = time.monotonic()
    code, said = running.end()
    assert code == 3 and time.monotonic() - begun < 5
    name = rf"rank {rank} \(place {rank % 2}, replica {rank // 2}\)"
    assert re.fullmatch(rf"gpt2: error: {name} was killed by signal 9 (at step \d+, action .+|after step \d+)\n", said), said


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_rank_that_stops_ends_the_run(cut: Build, text: Path, tmp_path: Path, rank: int) -> None:
    running = Running(cut, text, tmp_path, "--timeout", "1")
    os.kill(running.ranks[rank], signal.SIGSTOP)
    begun = time.monotonic()
    code, said = running.end()
    assert code == 4 and time.monotonic() - begun < 5
    first, *others = said.splitlines()
    assert first == f"gpt2: error: no progress for 1 s: rank {rank} is late"
    assert [line.split(" (")[0] for line in others] == [f"  rank {r}" for r in range(RANKS)]
    assert "was stopped by a signal" in others[rank]
    assert all("waits for rank" in line for r, line in enumerate(others) if r != rank)


@pytest.mark.parametrize("transport", ["local", "threads"])
def test_a_loss_that_is_not_finite(cut: Build, text: Path, run, transport: str) -> None:
    done = run(cut, "--data", text, "--steps", "30", "--rate", "1e30", "--warmup", "1", "--transport", transport, code=5)
    assert re.fullmatch(r"gpt2: error: step \d+, stage \d, microbatch \d+: the (loss|gradient of .+) is not finite\n", done.stderr)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_run_that_is_ended(cut: Build, text: Path, tmp_path: Path, kill: signal.Signals) -> None:
    running = Running(cut, text, tmp_path)
    running.process.send_signal(kill)
    code, _ = running.end()
    assert code == (-kill if kill == signal.SIGKILL else 0)


def test_a_stopped_run_goes_on(cut: Build, whole: Build, text: Path, tmp_path: Path, run) -> None:
    running = Running(cut, text, tmp_path, "--checkpoint", "saved")
    running.process.send_signal(signal.SIGUSR1)
    code, said = running.end()
    done = re.search(r"stopped by signal 10 after (\d+) steps\n", said)
    assert code == 0 and done
    resume = ("--resume", "saved", "--steps", "100000000", "--dry-run", "--hash")
    here, there = (run(build, *resume).stdout for build in (cut, whole))
    assert f"{done[1]} done" in here and digest_of(here) == digest_of(there)


@pytest.mark.parametrize("options, code", [(("--data", "none"), 1), (("--log", "/none/log"), 1), (("--trace", "/none/trace"), 1)])
@pytest.mark.parametrize("transport", ["local", "threads"])
def test_a_failure_is_one_sentence(cut: Build, text: Path, run, transport: str, options: tuple[str, ...], code: int) -> None:
    data = () if options[0] == "--data" else ("--data", str(text))
    for _ in range(5):
        assert run(cut, *data, *options, "--transport", transport, code=code).stderr.count("\n") == 1


# ---- what they write ----


@pytest.mark.parametrize("transport", ["local", "threads"])
def test_one_trace_of_all_ranks(cut: Build, text: Path, tmp_path: Path, run, transport: str) -> None:
    run(cut, "--data", text, "--steps", "3", "--threads", "2", "--trace", "trace", "--transport", transport)
    events = json.loads((tmp_path / "trace").read_text())
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {rank: f"rank {rank}: place {rank % 2}, replica {rank // 2}" for rank in range(RANKS)}
    plan = json.loads(cut.plan.read_text())
    for rank in range(RANKS):
        listed = [name_of(action, plan["parameters"]) for action in plan["places"][rank % 2]["lists"]["train"]]
        assert [event["name"] for event in events if event.get("cat") == "action" and event["pid"] == rank] == 3 * listed
    check_clock(events)


def name_of(action: list[object], parameters: list[dict[str, object]]) -> str:
    kind, of, number = action
    match kind:
        case "STATISTICS" | "NORM" | "UPDATE" | "VERDICT":
            return str(kind)
        case "GATHER":
            return f"GATHER {number}"
        case "SHARE" | "SPREAD":
            return f"{kind} {of} {parameters[int(str(number))]['name']}"
        case "REDUCE":
            return f"REDUCE {of} {number}"
    return f"{kind} {number}" if of == 0 else f"{kind} {of} {number}"


def check_clock(events: list[dict[str, object]]) -> None:
    """No message is received before it was sent."""
    spans = {(event["pid"], event["name"]): event for event in reversed(events) if event.get("cat") == "action"}
    for (rank, name), event in spans.items():
        sender = (rank - 1, name.replace("RECEIVE", "SEND"))
        if "RECEIVE act" in name:
            assert event["ts"] + event["dur"] >= spans[sender]["ts"]


def test_dry_run_states_the_memory_of_the_ranks_of_each_place(cut: Build, text: Path, run) -> None:
    plan = json.loads(cut.plan.read_text())
    lines = [line for line in run(cut, "--data", text, "--dry-run", "--threads", "2").stdout.splitlines() if line.startswith("memory")]
    scratch = plan["scratch_bytes_per_thread"]
    arenas = [place["arena_bytes"] for place in plan["places"]]
    totals = [f"{arena + 2 * scratch} bytes mapped: arena {arena}, scratch 2 x {scratch}" for arena in arenas]
    assert lines == [f"memory of a rank of place {place}: {total}" for place, total in enumerate(totals)]


# ---- the library ----


def test_ranks_of_a_library_are_one_model(cut: Build, whole: Build, tmp_path: Path) -> None:
    """Steps, gradients, views, writes to parameters, checkpoints: the same with four ranks as with one, to the bit."""
    rng = np.random.default_rng(1)
    with whole.open(threads=1) as one, cut.open(threads=1) as four:
        assert (one.ranks, four.ranks) == (1, RANKS)
        batches = [{kind.name: rng.integers(0, 256, kind.shape).astype(np.int32) for kind in one.inputs} for _ in range(4)]
        assert one.step(**batches[0]) == four.step(**batches[0])
        (loss, gradients), (other, others) = one.gradient(**batches[1]), four.gradient(**batches[1])
        assert loss == other and same(gradients, others)
        for model in (one, four):
            model.parameters["wte.weight"][...] *= 1.5
        assert one.step(**batches[2]) == four.step(**batches[2])
        assert one.gradient_norm == four.gradient_norm and one.digest() == four.digest()
        assert same(one.parameters, four.parameters) and same(one.optimizer_state, four.optimizer_state)
        assert one.evaluate(**batches[3]) == four.evaluate(**batches[3])
        one.load(four.save(tmp_path / "saved"))
        assert one.step(**batches[3]) == four.step(**batches[3])
        assert one.digest() == four.digest()


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)
