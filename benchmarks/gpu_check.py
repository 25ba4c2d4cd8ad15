"""What a GPU shows of the programs for it, in one go: the most telling first, results written after every part.

    make gpu-check                              # 10 minutes, benchmarks/results/<device>.json
    python benchmarks/gpu_check.py --minutes 4 --parts machine steps speed
    python benchmarks/gpu_check.py --rehearse   # the parts that can go on the execution shim, where there is no GPU

It needs no network: nvcc, the driver and this Python with the packages of the extra `test`; torch and jax for the peers, ncu and
compute-sanitizer where they are. What cannot be measured is said in the results, not left out. Exits 1 when a part failed.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from mlc.diagnostics import MlcError
from mlc.nvcc import find_nvcc

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("torch-compile", "jax")
TO_BF16 = ("precision=f32", "precision=bf16")


@dataclass(frozen=True)
class Size:
    """A model to be timed. flags: what the peers are told beside dims; its first six defines are theirs."""

    file: str
    defines: dict[str, int]
    dtype: str
    steps: int
    flags: tuple[str, ...] = ()

    @property
    def dims(self) -> str:
        return ",".join(str(self.defines[name]) for name in ("batch", "context", "width", "depth", "heads", "vocab"))


SIZES = {
    "gpt2": Size("gpt2", {"batch": 16, "context": 1024, "width": 768, "depth": 12, "heads": 12, "vocab": 50257}, "bf16", 20),
    "tiny": Size("gpt2", {"batch": 4, "context": 64, "width": 64, "depth": 2, "heads": 4, "vocab": 256}, "f32", 500),
    "llama": Size(
        "llama3",
        {"batch": 2, "context": 2048, "width": 2048, "depth": 16, "heads": 32, "vocab": 128256, "hidden": 8192, "kv_heads": 8},
        "bf16", 8, ("--hidden", "8192", "--kv-heads", "8"),
    ),
}  # fmt: skip
#: In place of all of them where no GPU is.
REHEARSED = Size("gpt2", {"batch": 1, "context": 8, "width": 16, "depth": 1, "heads": 2, "vocab": 256}, "f32", 2)


class Failed(Exception):
    """A part did not show what it should. Its text is the part's result."""


@dataclass
class Check:
    """One run of this script."""

    folder: Path
    architecture: str
    rehearse: bool
    deadline: float
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return f"sm_{self.architecture.rstrip('a')}"

    def left(self, at_most: float = 1e9) -> float:
        """Seconds that a command may take."""
        return max(min(self.deadline - time.monotonic(), at_most), 1)

    def run(self, command: list[object], at_most: float = 1e9, **variables: str) -> subprocess.CompletedProcess[str]:
        """raises: Failed, with the end of what it said, where it fails or takes longer"""
        words, environment, seconds = [str(word) for word in command], os.environ | variables, self.left(at_most)
        try:
            process = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        except OSError as problem:
            raise Failed(str(problem)) from problem
        late = False
        try:
            said, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            late = True
            os.killpg(process.pid, signal.SIGKILL)  # what it has started too: else the pipes stay open
            said, errors = process.communicate()
        if late or process.returncode:
            end = f"not done in {seconds:.0f} s" if late else f"exit {process.returncode}"
            raise Failed(f"{' '.join(words)}: {end}\n{(said + errors)[-3000:]}")
        return subprocess.CompletedProcess(words, process.returncode, said, errors)

    def build(self, size: Size, layout: tuple[object, ...] = ()) -> Path:
        """A program with its data beside it; the same is built once. layout: options of the compiler."""
        folder = self.folder / "-".join(map(str, (size.file, size.dtype, *size.defines.values(), *layout)))
        program = folder / "model"
        if program.exists():
            return program
        folder.mkdir()
        text = (ROOT / "examples" / f"{size.file}.dsl").read_text(encoding="utf-8")
        (folder / "model.dsl").write_text(text.replace(*TO_BF16) if size.dtype == "bf16" else text, encoding="utf-8")
        defines = [f"-D{name}={value}" for name, value in size.defines.items()]
        emit = ["--emit", "c"] if self.rehearse else []
        options = ["--target", self.target, *emit, *defines, *layout]
        _ = self.run([sys.executable, "-m", "mlc", "compile", folder / "model.dsl", "-o", folder, *options])
        if self.rehearse:
            _ = self.run(["make", "-s", f"-j{os.cpu_count()}", "-C", folder / "src", f"SHIM={ROOT / 'runtime/cuda/shim'}"])
        built = [path for path in (folder, folder / "src") for path in path.iterdir() if path.is_file() and os.access(path, os.X_OK)]
        built[0].rename(program)
        tokens = np.random.default_rng(0).integers(0, size.defines["vocab"], 200_000)
        np.save(folder / "tokens.npy", tokens.astype(np.int32))
        return program

    def train(
        self, size: Size, steps: int, *options: str, before: tuple[str, ...] = (), layout: tuple[object, ...] = ()
    ) -> tuple[str, list[dict[str, float]]]:
        """What the program says, and its log, a step an entry."""
        program = self.build(size, layout)
        log = program.parent / "log.jsonl"
        log.unlink(missing_ok=True)
        command = [*before, program, "--data", program.parent / "tokens.npy", "--steps", steps, "--seed", "5", "--log", log, *options]
        said = self.run(command).stdout
        return said, [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


# ---- parts: each returns what goes into the results, or raises Failed ----


def check_machine(check: Check) -> dict[str, Any]:
    """What is here."""
    release = re.search(r"release ([\d.]+)", check.run([find_nvcc().compiler, "--version"]).stdout)
    found = {"nvcc": release[1] if release else "?", "processors": os.cpu_count(), "python": sys.version.split()[0]}
    if check.rehearse:
        return found
    fields = ("name", "driver_version", "memory.total", "compute_cap", "clocks.max.sm", "power.limit")
    said = check.run(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]).stdout.splitlines()
    return found | {"gpus": len(said), **dict(zip(fields, (word.strip() for word in said[0].split(",")), strict=True))}


#: Seconds that tests may take: what is measured after them tells as much.
MOST_OF_TESTS = 240


def tests(*names: str, only: str = "") -> Callable[[Check], dict[str, Any]]:
    """A part that runs tests of tests/cuda on the device; only: those of a mark."""

    def run(check: Check) -> dict[str, Any]:
        report = check.folder / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            *(f"tests/cuda/{n}" for n in names),
        ]
        if check.rehearse:
            command += ["-m", "not slow", "-k", "votes or trains_as_on_a_cpu"]
        elif only:
            command += ["-m", only]
        if importlib.util.find_spec("xdist") and not check.rehearse:
            # nvcc takes most of the time; what a file compiles is compiled once.
            command += ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "worksteal" if only else "loadfile"]
        variables = {} if check.rehearse else {"MLC_GPU": check.architecture}
        try:
            _ = check.run(command, MOST_OF_TESTS, **variables)
        except Failed as problem:
            failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", str(problem), re.MULTILINE)
            raise Failed(f"{len(failed)} failed: {' '.join(failed[:40])}\n{str(problem)[-3000:]}") from problem
        suite = next(ElementTree.parse(report).iter("testsuite")).attrib
        return {name: int(suite[name]) for name in ("tests", "skipped")}

    return run


def check_bits(check: Check) -> dict[str, Any]:
    """The same run twice: the same digest, at f32 and at bf16."""
    digests: dict[str, str] = {}
    for dtype in ("f32", "bf16"):
        size = Size("gpt2", (REHEARSED if check.rehearse else SIZES["tiny"]).defines, dtype, 0)
        said = {check.train(size, 3 if check.rehearse else 50, "--hash")[0].splitlines()[-1] for _ in range(2)}
        if len(said) != 1:
            raise Failed(f"{dtype}: two runs end with {said}")
        digests[dtype] = said.pop().removeprefix("digest: ")
    return digests


def children_of(process: int) -> list[int]:
    """In the order in which they were started."""
    return sorted(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def kill_a_rank(program: Path, seconds: float) -> str:
    """What a program of two ranks says after the second one was killed. raises: Failed, if the first goes on, or ends as if all was well"""
    log = program.parent / "killed.jsonl"
    command = [program, "--data", program.parent / "tokens.npy", "--steps", 10_000_000, "--log", log]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(list(map(str, command)), **pipes, text=True, start_new_session=True)
    end = time.monotonic() + seconds
    try:
        while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 1) and time.monotonic() < end:
            time.sleep(0.05)
        if process.poll() is None:
            os.kill(children_of(process.pid)[1], signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
    except (subprocess.TimeoutExpired, IndexError) as problem:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise Failed(f"a rank that is killed does not end the others: {problem!r}") from problem
    if process.returncode != 3 or "was killed by signal 9" not in said:
        raise Failed(f"after a rank was killed: exit {process.returncode}\n{said[-3000:]}")
    return said.splitlines()[-1]


#: Of a run with others to be compared with: options of the compiler, but for pp and dp.
_ALIKE = ("--microbatches", 4, "--groups", 2)


def check_ranks(check: Check) -> dict[str, Any]:
    """A pipeline and a replica of two GPUs end with the digest of one; a rank that is killed ends both. Nothing, where there is one GPU."""
    gpus = 2 if check.rehearse else len(check.run(["nvidia-smi", "-L"]).stdout.splitlines())
    if gpus < 2:
        return {"passed": None, "said": "one GPU is here: nothing of several ranks is shown"}
    size = REHEARSED if check.rehearse else SIZES["tiny"]
    size = replace(size, defines={**size.defines, "depth": 2})
    layouts = {"one": _ALIKE, "pp 2": (*_ALIKE, "--pp", 2), "dp 2": (*_ALIKE, "--dp", 2)}
    found: dict[str, Any] = {}
    for name, layout in layouts.items():
        text, log = check.train(size, 3 if check.rehearse else 50, "--hash", layout=layout)
        found[name] = {"digest": text.splitlines()[-1].removeprefix("digest: "), "step_ms": seconds_of(log) * 1e3}
    if len({of["digest"] for of in found.values()}) != 1:
        raise Failed(f"layouts end with {found}")
    return found | {"killed": kill_a_rank(check.build(size, layouts["pp 2"]), check.left(60))}


def tool_of(name: str) -> str:
    """A program of the toolkit, in PATH or beside nvcc. raises: Failed, where there is none"""
    tool = shutil.which(name) or shutil.which(name, path=str(Path(find_nvcc().home) / "bin"))
    if tool is None:
        raise Failed(f"no {name}")
    return tool


def check_sanitizer(check: Check) -> dict[str, Any]:
    """compute-sanitizer finds nothing in two steps of a small model."""
    tool = tool_of("compute-sanitizer")
    said: dict[str, Any] = {}
    for kind in ("memcheck", "racecheck", "initcheck", "synccheck"):
        before = (tool, "--tool", kind, "--error-exitcode", "9", "--print-limit", "20")
        text, _ = check.train(SIZES["tiny"], 2, before=before)
        said[kind] = [line for line in text.splitlines() if "SUMMARY" in line]
    return said


def seconds_of(log: list[dict[str, float]]) -> float:
    """The median step, without the first two."""
    return statistics.median(entry["step_ms"] for entry in log[2:] or log) / 1e3


def check_speed(name: str) -> Callable[[Check], dict[str, Any]]:
    """A part that times a model and its peers, one after the other."""

    def run(check: Check) -> dict[str, Any]:
        size = REHEARSED if check.rehearse else SIZES[name]
        _, log = check.train(size, size.steps)
        seconds = seconds_of(log)
        tokens = size.defines["batch"] * size.defines["context"]
        found: dict[str, Any] = {"mlc": {"step_ms": seconds * 1e3, "tokens_per_s": tokens / seconds, "loss": log[-1]["loss"]}}
        for peer in PEERS:
            if importlib.util.find_spec(peer.split("-")[0]) is None or check.rehearse:
                found[peer] = "not here"
                continue
            model = "gpt2" if size.file == "gpt2" else "llama"
            command = [sys.executable, "benchmarks/gpu_peers.py", peer, model, size.dims, size.dtype, *size.flags, "--steps", size.steps]
            try:
                found[peer] = json.loads(check.run(command, 150).stdout.strip().splitlines()[-1])
                found[peer]["of_mlc"] = found[peer]["step_ms"] / (seconds * 1e3)
            except Failed as problem:
                found[peer] = str(problem)[-600:]
        return found

    return run


#: Counters of ncu: nanoseconds, bytes of device memory, share of tensor pipes' and of memory's peak, registers, warps resident of possible.
COUNTERS = (
    "gpu__time_duration.sum",
    "dram__bytes.sum",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "launch__registers_per_thread",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
)


def is_number(text: str | None) -> bool:
    """Not where a GPU has no such counter."""
    return text is not None and re.fullmatch(r"[\d.,]+(e[+-]?\d+)?", text) is not None


def kernels_of(text: str) -> Iterator[dict[str, Any]]:
    """ncu's page of raw values, a kernel an entry."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        raise Failed(f"ncu said no table:\n{text[-1500:]}")
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[begin:]))))
    for row in rows[1:]:  # the first has the units
        yield {"kernel": row["Kernel Name"], **{name: float(row[name].replace(",", "")) for name in COUNTERS if is_number(row.get(name))}}


def check_kernels(check: Check) -> dict[str, Any]:
    """Time of each kernel in a step of gpt2, by name; the sum beside the step's own time says what lies between kernels."""
    tool = tool_of("ncu")
    before = (tool, "--graph-profiling", "node", "--csv", "--page", "raw", "--clock-control", "none", "--metrics", ",".join(COUNTERS))
    text, _ = check.train(SIZES["gpt2"], 1, before=before)
    total: dict[str, dict[str, float]] = {}
    for each in kernels_of(text):
        of = total.setdefault(each["kernel"], {"launches": 0, "ms": 0, "bytes": 0})
        of["launches"] += 1
        of["ms"] += each.get(COUNTERS[0], 0) / 1e6
        of["bytes"] += each.get(COUNTERS[1], 0)
        for name in COUNTERS[2:]:
            of[name] = each.get(name, 0)
    ordered = dict(sorted(total.items(), key=lambda item: -item[1]["ms"]))
    return {"ms_of_kernels": sum(of["ms"] for of in total.values()), "kernels": ordered}


PARTS: dict[str, Callable[[Check], dict[str, Any]]] = {
    "machine": check_machine,
    "instructions": tests("test_shim.py", "test_shim_async.py", "test_contract.py"),
    "steps": tests("test_whole_steps.py", only="not slow"),
    "speed-gpt2": check_speed("gpt2"),
    "speed-tiny": check_speed("tiny"),
    "operations": tests("test_ops_on_shim.py", "test_attention_tiles.py"),
    "bits": check_bits,
    "ranks": check_ranks,
    "kernels": check_kernels,
    "examples": tests("test_whole_steps.py", only="slow"),
    "sanitizer": check_sanitizer,
    "speed-llama": check_speed("llama"),
}
#: What a rehearsal has nothing to do for.
OF_DEVICES = ("operations", "kernels", "examples", "sanitizer", "speed-llama")


def device_here() -> tuple[str, str]:
    """Name and architecture of the first GPU; exits 2 where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        name, capability = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        print("gpu_check: no GPU here (nvidia-smi names none); --rehearse tries this script on the execution shim", file=sys.stderr)
        sys.exit(2)
    architecture = capability.strip().replace(".", "") + "a"
    if architecture not in ("90a", "103a"):
        print(f"gpu_check: {name} is sm_{architecture[:-1]}; programs are emitted for sm_90 and sm_103", file=sys.stderr)
        sys.exit(2)
    return name, architecture


def write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="no part begins later (default: 10)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--rehearse", action="store_true", help="on the execution shim, at sizes for it")
    parser.add_argument("--to", type=Path, help="the file of results (default: benchmarks/results/<device>.json)")
    arguments = parser.parse_args()
    device, architecture = ("rehearsal", "90a") if arguments.rehearse else device_here()
    to = arguments.to or ROOT / "benchmarks/results" / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    with tempfile.TemporaryDirectory() as folder:
        check = Check(Path(folder), architecture, arguments.rehearse, time.monotonic() + 60 * arguments.minutes)
        check.results["device"] = device
        for name in arguments.parts:
            if arguments.rehearse and name in OF_DEVICES:
                continue
            begin = time.monotonic()
            if begin > check.deadline - 5:
                check.results[name] = {"passed": None, "said": "no time was left"}
            else:
                try:
                    check.results[name] = {"passed": True, **PARTS[name](check)}
                except (Failed, MlcError) as problem:
                    check.results[name] = {"passed": False, "said": str(problem)}
                except (OSError, ValueError, LookupError, SyntaxError) as problem:  # what a tool said is not what was expected
                    check.results[name] = {"passed": False, "said": repr(problem)}
                check.results[name]["seconds"] = round(time.monotonic() - begin, 1)
            write(to, check.results)
            print(f"{name}: {json.dumps(check.results[name])[:1500]}", flush=True)
    print(f"results: {to}")
    sys.exit(any(isinstance(of, dict) and of["passed"] is False for of in check.results.values()))


if __name__ == "__main__":
    main()
