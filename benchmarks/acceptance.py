"""Measures what the project promises, and prints each figure beside its limit.

    python benchmarks/acceptance.py                        # everything, some minutes on an idle machine
    python benchmarks/acceptance.py threads kill --short   # some of it, on fewer steps

Exits 1 when a figure misses its limit. Programs are built into a temporary folder (--folder keeps them).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

#: nanoGPT's published run on a CPU: config/train_shakespeare_char.py with the overrides of its README.
NANOGPT = {"context": 64, "width": 128, "heads": 4, "depth": 4, "batch": 12, "drop": 0.0}

#: Bytes before the tokens of an llm.c shard, which are two bytes each.
SHARD_HEADER_BYTES = 1024

SMALL = {"vocab": 256, "context": 32, "width": 64, "heads": 4, "depth": 2, "batch": 4}


@dataclass(frozen=True)
class Figure:
    """`met` says whether the value keeps its limit."""

    name: str
    value: str
    limit: str
    met: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.met else 'MISS'}  {self.name}: {self.value}   (limit: {self.limit})"


@dataclass(frozen=True)
class Bench:
    """Where things are built, on which text, and whether a short sample is enough. `peers` is the script that measures them with
    `python`, None to leave them out."""

    folder: Path
    text: Path
    short: bool
    peers: Path | None
    python: Path | None

    @property
    def train(self) -> Path:
        """The corpus as characters: train.bin, and validation.bin with its last tenth."""
        train = self.folder / "tokens" / "train.bin"
        if not train.exists():
            mlc("tokenize", self.text, "--level", "characters", "--validation", "0.1", "-o", train.parent)
        return train

    @property
    def vocabulary(self) -> int:
        return len(json.loads(self.train.with_name("vocabulary.json").read_text(encoding="utf-8")))

    def build(self, name: str, defines: dict, *options: object) -> Path:
        """The folder of examples/gpt2.dsl built with these settings."""
        out = self.folder / name
        if not (out / "gpt2").exists():
            compile_gpt2(out, defines, *options)
        return out

    @property
    def small(self) -> Path:
        return self.build("small", SMALL)


def mlc(*arguments: object, **environment: str) -> str:
    """Run the mlc command of this tree; returns what it printed."""
    command = [sys.executable, "-m", "mlc", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def compile_gpt2(out: Path, defines: dict, *options: object, **environment: str) -> float:
    """Compile examples/gpt2.dsl into `out`; returns the seconds it took."""
    settings = [argument for name, value in defines.items() for argument in ("-D", f"{name}={value}")]
    start = time.perf_counter()
    mlc("compile", EXAMPLES / "gpt2.dsl", "-o", out, *settings, *options, **environment)
    return time.perf_counter() - start


def run(program: Path, *arguments: object, **environment: str) -> str:
    """Run a built program to its end; returns its standard output."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def digest(output: str) -> str:
    found = re.search(r"^digest: ([0-9a-f]{64})$", output, re.MULTILINE)
    if not found:
        sys.exit(f"no digest in:\n{output}")
    return found[1]


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def nanogpt(bench: Bench) -> Iterable[Figure]:
    """Characters of Shakespeare: loss over the whole validation split, and the time it takes to get there."""
    steps = 200 if bench.short else 1400
    build = bench.build("nanogpt", NANOGPT | {"vocab": bench.vocabulary})
    log = build / "log.jsonl"
    log.unlink(missing_ok=True)
    validation = bench.train.with_name("validation.bin")
    arguments = ["--data", bench.train, "--steps", steps, "--rate", "4e-3", "--warmup", "100", "--threads", 2, "--seed", 1337]
    run(build / "gpt2", *arguments, "--evaluate", validation, "--log", log)
    lines = read_log(log)
    seconds = sum(line["step_ms"] for line in lines if "step_ms" in line) / 1e3
    loss = [line["evaluate_loss"] for line in lines if "evaluate_loss" in line][-1]
    tokens = [line["evaluate_tokens"] for line in lines if "evaluate_tokens" in line][-1]
    yield Figure(f"validation loss after {steps} steps", f"{loss:.4f}", "1.88, in at most 2000 steps", bench.short or loss <= 1.88)
    stored = (validation.stat().st_size - SHARD_HEADER_BYTES) // 2
    whole = (stored - 1) // NANOGPT["context"] * NANOGPT["context"]
    yield Figure("tokens of the validation split it is taken over", str(tokens), f"all {whole} in whole windows", tokens == whole)
    yield Figure(f"seconds of {steps} steps, 2 threads", f"{seconds:.1f}", "40", seconds < 40)


def threads(bench: Bench) -> Iterable[Figure]:
    """The same bits with every number of threads, each run at another place in memory."""
    steps = 20 if bench.short else 60
    arguments = ["--data", bench.text, "--steps", steps, "--hash"]
    digests = {n: digest(run(bench.small / "gpt2", *arguments, "--threads", n)) for n in (1, 2, 3, 5)}
    yield Figure("digests with 1, 2, 3 and 5 threads", ", ".join(d[:12] for d in digests.values()), "one", len(set(digests.values())) == 1)


def killed(bench: Bench, arguments: list[object], folder: Path, moment: float) -> bool:
    """Kill a run after `moment` seconds; was it still running?"""
    command = [str(bench.small / "gpt2"), *map(str, arguments), "--checkpoint", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(moment)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def kill(bench: Bench) -> Iterable[Figure]:
    """SIGKILL at random moments; each run is resumed from its newest checkpoint and ends as if it had not been killed."""
    arguments: list[object] = ["--data", bench.text, "--steps", 60, "--every", 4, "--threads", 2, "--hash"]
    moments = random.Random(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        straight = digest(run(bench.small / "gpt2", *arguments, "--checkpoint", folder))
    whole = time.perf_counter() - start
    same = done = 0
    runs = 5 if bench.short else 30
    while done < runs:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            if not killed(bench, arguments, Path(folder), moments.uniform(0.0, whole)):
                continue
            done += 1
            same += digest(run(bench.small / "gpt2", *arguments, "--checkpoint", folder, "--resume", "auto")) == straight
    yield Figure("runs of 60 steps that end alike after SIGKILL", f"{same} of {runs}", "all", same == runs)


def libraries(bench: Bench) -> Iterable[Figure]:
    """What the program needs of the machine it runs on."""
    listed = subprocess.run(["ldd", bench.small / "gpt2"], capture_output=True, text=True, check=True).stdout
    names = [Path(line.split()[0]).name for line in listed.splitlines()]
    extra = [name for name in names if not re.match(r"(libc|libm|ld-linux.*|linux-vdso)\.so", name)]
    yield Figure("shared libraries", ", ".join(names), "libc, libm, loader", not extra)


def counter(bench: Bench) -> Path:
    """The preloaded counter of allocations and mappings."""
    library = bench.folder / "count_calls.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, ROOT / "benchmarks" / "count_calls.c"], check=True)
    return library


def counted(bench: Bench, steps: int, threads: int) -> tuple[int, int]:
    """Calls of the allocator and bytes mapped by a run."""
    counts = bench.folder / "counts.txt"
    arguments = ["--data", bench.text, "--steps", steps, "--threads", threads, "--log", os.devnull]
    run(bench.small / "gpt2", *arguments, LD_PRELOAD=str(counter(bench)), MLC_COUNTS=str(counts))
    _, calls, _, mapped = counts.read_text(encoding="utf-8").split()
    return int(calls), int(mapped)


def allocations(bench: Bench) -> Iterable[Figure]:
    """No step allocates: more steps call the allocator no more often, and a session's first steps not at all."""
    few, many = counted(bench, 1, 2)[0], counted(bench, 50, 2)[0]
    yield Figure("allocator calls of a program of 1 and of 50 steps", f"{few}, {many}", "equal", few == many)
    harness = bench.folder / "count_steps"
    include = ROOT / "runtime" / "include"
    subprocess.run(["cc", "-O2", "-I", include, "-o", harness, ROOT / "benchmarks" / "count_steps.c", "-ldl"], check=True)
    inside = int(run(harness, bench.small / "libgpt2.so", 5, LD_PRELOAD=str(counter(bench))))
    yield Figure("allocator calls within the first 5 steps of a session", str(inside), "0", inside == 0)


def memory(bench: Bench) -> Iterable[Figure]:
    """The bytes in plan.json are the bytes mapped."""
    plan = json.loads((bench.small / "plan.json").read_text(encoding="utf-8"))
    for n in (1, 2):
        planned = plan["places"][0]["arena_bytes"] + n * plan["scratch_bytes_per_thread"]
        mapped = counted(bench, 2, n)[1]
        yield Figure(f"bytes mapped with {n} threads", str(mapped), f"{planned} planned", mapped == planned)


def compile_times(bench: Bench) -> Iterable[Figure]:
    """gpt2.dsl as it stands: mlc and cc together, mlc alone, and what depth costs. As installed: Python keeps the bytecode of modules."""
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bench.folder / "bytecode")}
    mlc("check", EXAMPLES / "gpt2.dsl", **kept)
    whole = compile_gpt2(bench.folder / "whole", {}, **kept)
    yield Figure("seconds to compile gpt2.dsl", f"{whole:.2f}", "8", whole < 8)
    depths = {depth: bench.folder / f"depth{depth}" for depth in (12, 96)}
    rounds = [{depth: compile_gpt2(out, {"depth": depth}, "--emit", "c", **kept) for depth, out in depths.items()} for _ in range(9)]
    seconds = {depth: statistics.median(taken[depth] for taken in rounds) for depth in depths}
    yield Figure("seconds of mlc alone", f"{seconds[12]:.2f}", "1.5", seconds[12] < 1.5)
    growth = seconds[96] / seconds[12] - 1
    yield Figure("growth of mlc's time from depth 12 to 96", f"{growth:.1%}", "15%", growth < 0.15)
    sizes = {depth: code_bytes(out) for depth, out in depths.items()}
    growth = sizes[96] / sizes[12] - 1
    yield Figure("growth of emitted code, tables apart", f"{growth:.1%} of {sizes[12]} bytes", "10%", growth < 0.10)


def model_files(out: Path) -> dict[str, bytes]:
    """What was emitted for the model itself: everything but the copy of the runtime."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and "runtime" not in path.relative_to(out).parts]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def code_bytes(out: Path) -> int:
    """Bytes of C that is not a table: lines of a file's initialisers begin with a brace or an array's name."""
    return sum(len(data) for name, data in model_files(out).items() if name.endswith((".c", ".h")) and "tables" not in name)


def emission(bench: Bench) -> Iterable[Figure]:
    """The same bytes under two hash seeds."""
    made = []
    for seed in ("1", "2"):
        out = bench.folder / f"seed{seed}"
        compile_gpt2(out, SMALL, "--emit", "c", PYTHONHASHSEED=seed)
        made.append(model_files(out))
    different = sorted(name for name in made[0].keys() | made[1].keys() if made[0].get(name) != made[1].get(name))
    yield Figure("files that differ under two hash seeds", ", ".join(different) or "none", "none", not different)


def script(name: str, limit: str, *arguments: object) -> Iterable[Figure]:
    """A benchmark with figures of its own: shows what it prints; its exit code says whether they keep their limits."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    lines = []
    for line in process.stdout or ():
        lines.append(line.rstrip())
        print(f"      {lines[-1]}", flush=True)
    yield Figure(name, lines[-1] if lines else "nothing printed", limit, process.wait() == 0)


def layouts(bench: Bench) -> Iterable[Figure]:
    """The same bits on every layout, stopped and resumed under another too."""
    return script("layouts", "all digests equal", *(("--sample", 5, "--resumes", 2) if bench.short else ()))


def mutations(bench: Bench) -> Iterable[Figure]:
    """Edited plans are refused for the right reason, or harmless."""
    return script("mutations", "none wrong", *(("--count", 60, "--layouts", 1) if bench.short else ()))


def kills(bench: Bench) -> Iterable[Figure]:
    """Ranks killed at random moments."""
    return script("kills", "digests equal", "--count", 5 if bench.short else 100)


def mpi(bench: Bench) -> Iterable[Figure]:
    """Open MPI: many ranks, network namespaces, a bad network, a cut cable."""
    return script("mpi", "all as they must be")


def pipeline(bench: Bench) -> Iterable[Figure]:
    """Two stages beside the peers, where an environment with them is given, and beside the simulated makespan."""
    peers = ("--peers", bench.peers, "--python", bench.python) if bench.peers and bench.python else ()
    return script("pipeline", "times the peers' speed, and efficiency", *peers)


FIGURES: dict[str, Callable[[Bench], Iterable[Figure]]] = {
    "nanogpt": nanogpt,
    "threads": threads,
    "kill": kill,
    "libraries": libraries,
    "allocations": allocations,
    "memory": memory,
    "compile": compile_times,
    "emission": emission,
    "layouts": layouts,
    "mutations": mutations,
    "kills": kills,
    "mpi": mpi,
    "pipeline": pipeline,
}


def measure(names: list[str], bench: Bench) -> bool:
    """Print every figure; returns whether all keep their limits."""
    good = True
    for name in names:
        for figure in FIGURES[name](bench):
            good &= figure.met
            print(figure, flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--text", type=Path, default=ROOT.parent / "shared" / "data" / "shakespeare.txt", help="the corpus")
    parser.add_argument("--folder", type=Path, help="where to build; kept")
    parser.add_argument("--short", action="store_true", help="fewer steps and runs")
    parser.add_argument("--peers", type=Path, help="the script that measures the peers of a pipeline")
    parser.add_argument("--python", type=Path, help="of an environment that has them")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.figures if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder.resolve(), arguments.text.resolve(), arguments.short, arguments.peers, arguments.python)
        sys.exit(0 if measure(arguments.figures or list(FIGURES), bench) else 1)


if __name__ == "__main__":
    main()
