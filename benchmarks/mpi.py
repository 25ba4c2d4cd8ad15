"""Shows what a program does as ranks that others started: under mpirun, over networks good and bad, under torchrun and srun.

    python benchmarks/mpi.py                       # all of it, some minutes; as root, with Open MPI, iproute2 and /dev/net/tun
    python benchmarks/mpi.py machine kill --short  # some of it, with few ranks and steps
    python benchmarks/mpi.py --list

Each line is a figure beside its limit. Exits 1 when one misses its limit, or cannot be measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from acceptance import Figure
from kills import left_behind, ranks_of
from layouts import mpirun
from network import MpiResult, Namespaces, Relay, missing

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "gpt2.dsl"
WHOLE = {"vocab": 256, "context": 16, "width": 32, "heads": 2, "depth": 12, "batch": 2}
SHORT = {"vocab": 256, "context": 8, "width": 16, "heads": 2, "depth": 2, "batch": 1}
SEED = 7

#: The bad cable: added to each packet one way, and the part of the packets that is lost.
DELAY_SECONDS = 0.02
LOSS = 0.01

#: A run that lost a rank, or was told to stop, ends within this many seconds; one that others stop to hear from, after --timeout more.
END_SECONDS = 5.0

#: What a rank says that ends because another one is out of reach: itself, the other one, and the action that waits.
LAST_LINE = r"rank {rank} \(.*\) waits (?:for|until) .*rank (?P<peer>\d+).* at step \d+, action [A-Z]"

#: The codes of a run that lost a rank, or that stands still.
FAILED, HANG = 3, 4


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str
    seconds: float


class Bench:
    """Programs of one model, built once a layout in `folder`, and how they are run. `short`: a small model, few steps."""

    def __init__(self, folder: Path, short: bool) -> None:
        self.folder = folder
        self.short = short
        self.steps = 3 if short else 20
        self.timeout = 6 if short else 10
        self.program = functools.cache(self._build)
        self.text = folder / "text.txt"
        self.text.write_bytes((ROOT / "README.md").read_bytes() * 2)

    @property
    def small(self) -> tuple[int, int]:
        """The layout of checks that want few ranks."""
        return (2, 2)

    def _build(self, pp: int, dp: int) -> Path:
        """The program of a layout; beside it plan.json and libmlc_mpi.so. One folder builds all, so the runtime is compiled once."""
        made, kept = self.folder / "build", self.folder / f"{pp}x{dp}"
        settings = [a for name, value in (SHORT if self.short else WHOLE).items() for a in ("-D", f"{name}={value}")]
        layout = ["--pp", pp, "--dp", dp, "--schedule", "1f1b", "--microbatches", 8 if self.short else 48]
        succeed(sys.executable, "-m", "mlc", "compile", EXAMPLE, "-o", made, "--emit", "c", *settings, *layout)
        optimize = ["OPTIMIZE=-O1"] if self.short else []
        targets = ["../gpt2", *(["../libmlc_mpi.so"] if shutil.which("mpicc") else [])]
        succeed("make", "-s", f"-j{os.cpu_count()}", "-C", made / "src", *optimize, *targets)
        kept.mkdir(exist_ok=True)
        for name in ("gpt2", "plan.json", *(["libmlc_mpi.so"] if shutil.which("mpicc") else [])):
            shutil.copy(made / name, kept)
        return kept / "gpt2"

    def command(self, layout: tuple[int, int], *arguments: object, steps: int | None = None) -> list[str]:
        fixed = ["--data", self.text, "--steps", steps or self.steps, "--seed", SEED, "--threads", 1, "--hash"]
        return [str(a) for a in (self.program(*layout), *fixed, *arguments)]

    def endless(self, *arguments: object) -> list[str]:
        """A run of the small layout that somebody has to end; `log` tells how far it is."""
        self.log.unlink(missing_ok=True)
        return self.command(self.small, "--log", self.log, *arguments, steps=10**9)

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def wait_for_steps(self, count: int) -> None:
        """Until an endless run has done so many steps."""
        deadline = time.monotonic() + 60
        while not self.log.exists() or self.log.read_bytes().count(b"\n") < count:
            if time.monotonic() > deadline:
                sys.exit("a run makes no steps")
            time.sleep(0.05)

    @functools.cached_property
    def expected(self) -> str:
        """The digest of one rank of one thread. A short bench takes that of ranks which the program itself starts."""
        return digest(execute(self.command(self.small if self.short else (1, 1))))

    def compare(self, name: str, ended: Ended) -> Figure:
        """The figure of a run that must end with the digest of one rank."""
        found = digest(ended) if ended.code == 0 else f"exit code {ended.code}: {last_line(ended.errors)}"
        same = found == self.expected
        return Figure(f"digest, {name}", f"{found[:12]}, that of one rank" if same else found, "that of one rank", same)


def succeed(*command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def execute(command: Sequence[str], limit: float = 300, **environment: str) -> Ended:
    start = time.monotonic()
    with start_process(command, **environment) as process:
        output, errors = finish(process, limit)
    return Ended(process.returncode, output, errors, time.monotonic() - start)


def start_process(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def finish(process: subprocess.Popen[str], limit: float) -> tuple[str, str]:
    try:
        return process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, errors = process.communicate()
        sys.exit(f"{process.args} did not end within {limit} s\n{output}{errors}")


def execute_ranks(command: Sequence[str], environments: Sequence[Mapping[str, str]], limit: float = 60) -> list[Ended]:
    """One process for each environment, all at the same time."""
    processes = [start_process(command, **environment) for environment in environments]
    texts = [finish(process, limit) for process in processes]
    return [Ended(process.returncode, *text, 0.0) for process, text in zip(processes, texts, strict=True)]


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def digest(ended: Ended) -> str:
    found = re.search(r"^digest: ([0-9a-f]{64})$", ended.output, re.MULTILINE)
    if not found:
        sys.exit(f"exit code {ended.code}, no digest in:\n{ended.output}{ended.errors}")
    return found[1]


def step_seconds(bench: Bench, output: str) -> float:
    """Seconds a step, from the program's last line about its training; nan: there is none."""
    found = re.search(r"^trained \d+ steps: .*, (\d+) tokens/s", output, re.MULTILINE)
    model = SHORT if bench.short else WHOLE
    return (8 if bench.short else 48) * model["batch"] * model["context"] / max(int(found[1]), 1) if found else math.nan


# ---- this machine ----


def machine(bench: Bench) -> Iterator[Figure]:
    """More ranks than CPUs under mpirun: the same digest; starting, and steps, cost what sharing the CPUs costs."""
    for pp, dp in (bench.small,) if bench.short else ((4, 8), (8, 4)):
        ranks = pp * dp
        name = f"{ranks} ranks (pp {pp} x dp {dp})"
        started = execute([*mpirun(ranks), *bench.command((pp, dp), "--dry-run")])
        yield Figure(f"start and end of {name}", f"{started.seconds:.1f} s", "20 s", started.code == 0 and started.seconds < 20)
        ended = execute([*mpirun(ranks), *bench.command((pp, dp))])
        yield bench.compare(name, ended)
        if bench.short:
            continue
        own = step_seconds(bench, execute(bench.command((pp, dp))).output)
        step = step_seconds(bench, ended.output)
        times = f"{step * 1e3:.0f} ms, {step / own:.1f} times that of --transport local"
        yield Figure(f"step of {name}", times, "6 times", step < 6 * own)
    if not bench.short:
        yield waiting(bench)


def cpu_seconds(processes: Iterable[int]) -> float:
    """CPU time that processes have used."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def waiting(bench: Bench) -> Figure:
    """What ranks cost that wait for one that was stopped."""
    seconds, layout = 3.0, (4, 8)
    bench.log.unlink(missing_ok=True)
    command = bench.command(layout, "--log", bench.log, steps=10**9)
    with start_process([*mpirun(layout[0] * layout[1]), *command]) as process:
        bench.wait_for_steps(2)
        late, *others = ranks_of(process.pid)
        os.kill(late, signal.SIGSTOP)
        time.sleep(2)
        before = cpu_seconds(others)
        time.sleep(seconds)
        used = (cpu_seconds(others) - before) / seconds
        os.kill(late, signal.SIGCONT)
        process.terminate()
        finish(process, 30)
    return Figure(f"CPUs that {len(others)} waiting ranks use", f"{used:.2f}", "0.5", used < 0.5)


# ---- several machines ----


def as_ended(result: MpiResult) -> Ended:
    """A run over several machines as a command: what all ranks wrote."""
    output, errors = ("".join(texts) for texts in zip(*((rank.output, rank.errors) for rank in result.ranks)))
    return Ended(-1 if result.code is None else result.code, output, errors + result.launcher, result.seconds)


def network(bench: Bench) -> Iterator[Figure]:
    """Ranks on machines with their own addresses and names, over TCP."""
    for pp, dp in (bench.small,) if bench.short else ((2, 2), (2, 4)):
        ranks = pp * dp
        with Namespaces(count=ranks) as net:
            result = net.run_mpi(bench.command((pp, dp), "--timeout", 60), ranks, timeout=120)
        addresses = len({rank.address for rank in result.ranks})
        yield bench.compare(f"{ranks} ranks at {addresses} addresses (pp {pp} x dp {dp})", as_ended(result))


def relay(bench: Bench) -> Iterator[Figure]:
    """The same over a cable with 20 ms of delay that loses 1% of the packets."""
    with Namespaces(count=4) as net, Relay(net, DELAY_SECONDS, LOSS, SEED) as cable:
        ended = as_ended(net.run_mpi(bench.command(bench.small, "--timeout", 60), ranks=4, timeout=200))
        counts = cable.counts()
    plan = json.loads((bench.program(*bench.small).parent / "plan.json").read_text(encoding="utf-8"))
    size = 4 * sum(parameter["elements"] for parameter in plan["parameters"])
    yield Figure("parameters, relay", f"{size / 1e6:.2f} MB", "1 MB", size < 1e6)
    yield bench.compare(f"relay: {DELAY_SECONDS * 1e3:.0f} ms, {counts['lost']} packets lost of {sum(counts.values())}", ended)
    step = step_seconds(bench, ended.output)
    yield Figure("step, relay", f"{step:.2f} s, {step / (2 * DELAY_SECONDS):.0f} round trips", "none", not math.isnan(step))


def names_peer(rank: int, text: str) -> bool:
    """Does a rank say who it is, whom it waits for, and at which action?"""
    found = re.search(LAST_LINE.format(rank=rank), text)
    return bool(found) and int(found["peer"]) != rank


def cut_run(bench: Bench, machines: Sequence[int] | None, control: bool) -> tuple[MpiResult, float, int]:
    """A run whose cables are cut in its middle; when they were, in seconds after its start, and how many processes it left."""
    with Namespaces(count=4) as net, Relay(net, DELAY_SECONDS, LOSS, SEED, control) as cable:
        run = net.start_mpi(bench.endless("--timeout", bench.timeout), ranks=4)
        bench.wait_for_steps(2)
        cable.cut(machines)
        when = time.time() - run.started
        result = run.wait(timeout=bench.timeout + 30)
        return result, when, result.killed + len(net.processes())


def cut_figures(bench: Bench, name: str, machines: Sequence[int] | None, control: bool) -> Iterator[Figure]:
    result, when, left = cut_run(bench, machines, control)
    codes = [rank.code for rank in result.ranks]
    lines = sum(names_peer(rank.rank, rank.errors) for rank in result.ranks)
    last = max((rank.seconds or math.inf for rank in result.ranks), default=math.inf) - when
    limit = bench.timeout + END_SECONDS
    yield Figure(f"{name}: exit codes of the ranks", str(codes), "3 or 4", set(codes) <= {FAILED, HANG})
    yield Figure(f"{name}: last rank gone after", f"{last:.1f} s", f"{limit:.0f} s with --timeout {bench.timeout}", last <= limit)
    yield Figure(f"{name}: ranks that name rank, peer and action", str(lines), "4", lines == 4)
    yield Figure(f"{name}: processes left behind", str(left), "0", left == 0)
    ended = f"{result.code}, after {result.seconds - when:.1f} s"
    yield Figure(f"{name}: exit code of mpirun", ended, "3 or 4, or its own", result.code not in (0, None))


def cut(bench: Bench) -> Iterator[Figure]:
    """The cable is cut in the middle: every rank ends within the limit, and says what it waited for."""
    yield from cut_figures(bench, "one cable cut", [2], control=False)
    if not bench.short:
        yield from cut_figures(bench, "all cables cut", None, control=False)
        yield from cut_figures(bench, "all cables cut, mpirun's too", None, control=True)


# ---- kills ----


def alive(processes: Iterable[int]) -> list[int]:
    """Those that run: not gone, and not only waiting for their parent to take notice."""
    found = []
    for process in processes:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
            found += [process] if state != "Z" else []
    return found


def segments(bench: Bench) -> list[Path]:
    """Shared memory of Open MPI that nobody has removed."""
    return list(bench.folder.glob("vader_segment.*"))


def kill_run(bench: Bench, of: Callable[[int, list[int]], int]) -> tuple[Ended, list[int], float]:
    """Kills the process that `of` picks from mpirun and its ranks; returns the end of mpirun, and of the ranks: those that still run
    END_SECONDS later, and when the last one was gone. Open MPI's own files go to a folder of ours."""
    for segment in segments(bench):
        segment.unlink()
    base = {f"OMPI_MCA_{name}": str(bench.folder) for name in ("orte_tmpdir_base", "btl_vader_backing_directory")}
    process = start_process([*mpirun(4), *bench.endless("--timeout", bench.timeout)], **base)
    bench.wait_for_steps(2)
    ranks = ranks_of(process.pid)
    os.kill(of(process.pid, ranks), signal.SIGKILL)
    start = time.monotonic()
    output, errors = finish(process, 60)
    ended = Ended(process.returncode, output, errors, time.monotonic() - start)
    while alive(ranks) and time.monotonic() - start < END_SECONDS:
        time.sleep(0.02)
    return ended, alive(ranks), time.monotonic() - start


def kill(bench: Bench) -> Iterator[Figure]:
    """kill -9 of a rank, or of mpirun: the run ends within seconds and leaves nothing."""
    ended, left, seconds = kill_run(bench, lambda _, ranks: ranks[1])
    lines = [rank for rank in range(4) if names_peer(rank, ended.errors)]
    yield Figure("rank killed: all ended after", f"{seconds:.1f} s", f"{END_SECONDS:.0f} s", not left and ended.seconds < END_SECONDS)
    yield Figure("rank killed: exit code of mpirun", str(ended.code), "137, of the killed rank", ended.code == 137)
    yield Figure("rank killed: ranks whose line (rank, peer, action) mpirun passed on", str(lines), "one or more", bool(lines))
    yield Figure("rank killed: left behind", str(left_behind(bench.program(*bench.small))), "[]", not left)
    _, left, seconds = kill_run(bench, lambda mpirun, _: mpirun)
    yield Figure("mpirun killed: all ended after", f"{seconds:.1f} s", f"{END_SECONDS:.0f} s", not left)
    value = f"{left_behind(bench.program(*bench.small))} of ours, {len(segments(bench))} files of Open MPI"
    yield Figure("mpirun killed: left behind", value, "nothing of ours", not left_behind(bench.program(*bench.small)))


# ---- other launchers ----


def torchrun_environment(rank: int, ranks: int, near: int) -> dict[str, str]:
    sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(near), "LOCAL_RANK": str(rank % near)}
    return {"RANK": str(rank), **sizes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 10000)}


def srun_environment(rank: int, ranks: int) -> dict[str, str]:
    tasks = {"SLURM_NTASKS": str(ranks), "SLURM_STEP_NUM_TASKS": str(ranks)}
    nodes = {"SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0"}
    return {"SLURM_PROCID": str(rank), **tasks, **nodes}


def join(ranks: Sequence[Ended]) -> Ended:
    code = max(rank.code for rank in ranks)
    return Ended(code, "".join(rank.output for rank in ranks), "".join(rank.errors for rank in ranks), 0.0)


def names_file(name: str, ended: Ended, path: Path) -> Figure:
    """The error of a launcher that needs the transport mpi, which is not there. Ranks that cannot meet each say it: it may be missing on
    one machine only."""
    said = [line for line in ended.errors.splitlines() if str(path) in line]
    value = f"exit code {ended.code}: {said[0]}" if said else f"exit code {ended.code}: {last_line(ended.errors)}"
    return Figure(name, value, f"exit code 3, and {path.name}", ended.code == FAILED and bool(said))


def launchers(bench: Bench) -> Iterator[Figure]:
    """The environments of torchrun and srun; and what several machines without libmlc_mpi.so are told."""
    command = bench.command(bench.small, "--timeout", 30)
    torchrun = [torchrun_environment(rank, 4, near=4) for rank in range(4)]
    yield bench.compare("environment of torchrun", join(execute_ranks(command, torchrun)))
    srun = [srun_environment(rank, 4) for rank in range(4)]
    yield bench.compare("environment of srun", join(execute_ranks([*command, "--transport", "local"], srun)))
    if importlib.util.find_spec("torch") and not bench.short:
        started = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "4", "--no-python", *command]
        yield bench.compare("torchrun itself", execute(started))
    bare = bench.folder / "bare"
    bare.mkdir(exist_ok=True)
    lonely = [shutil.copy(bench.program(*bench.small), bare), *command[1:]]
    apart = execute_ranks(lonely, [torchrun_environment(rank, 4, near=2) for rank in range(4)])
    yield names_file("torchrun over two machines without libmlc_mpi.so", join(apart), bare / "libmlc_mpi.so")
    if shutil.which("mpirun"):
        yield names_file("mpirun without libmlc_mpi.so", execute([*mpirun(4), *lonely]), bare / "libmlc_mpi.so")


# ---- the whole ----


def no_mpirun() -> str | None:
    absent = [tool for tool in ("mpirun", "mpicc") if not shutil.which(tool)]
    return f"not installed: {', '.join(absent)}" if absent else None


def no_network() -> str | None:
    return no_mpirun() or missing(relay=True)


def no_launchers() -> str | None:
    return None


#: name -> figures, and why they cannot be measured here (None: they can).
CHECKS: dict[str, tuple[Callable[[Bench], Iterable[Figure]], Callable[[], str | None]]] = {
    "machine": (machine, no_mpirun),
    "network": (network, no_network),
    "relay": (relay, no_network),
    "cut": (cut, no_network),
    "kill": (kill, no_mpirun),
    "launchers": (launchers, no_launchers),
}


def measure(bench: Bench, name: str) -> bool:
    """Prints the figures of a check; returns whether all keep their limits."""
    figures, obstacle = CHECKS[name]
    if reason := obstacle():
        print(f"MISS  {name}: cannot be measured: {reason}", flush=True)
        return False
    met = True
    for figure in figures(bench):
        print(figure, flush=True)
        met &= figure.met
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"some of: {', '.join(CHECKS)}")
    parser.add_argument("--short", action="store_true", help="few ranks and steps")
    parser.add_argument("--list", action="store_true", help="say what each check shows, and end")
    parser.add_argument("--folder", type=Path, help="where programs are built and kept")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.checks if name not in CHECKS]:
        parser.error(f"no check {', '.join(unknown)}")
    if arguments.list:
        print("\n".join(f"{name:10} {(figures.__doc__ or '').splitlines()[0]}" for name, (figures, _) in CHECKS.items()))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder.resolve(), arguments.short)
        missed = [name for name in arguments.checks or CHECKS if not measure(bench, name)]
    print(f"checks that miss a limit: {', '.join(missed) or 'none'}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
