"""Shows that a model trains to the same bits on every layout: pp, dp, schedule, chunks, threads, transport.

    python benchmarks/layouts.py                            # some minutes: all layouts of two models, stop and resume
    python benchmarks/layouts.py --sample 6 --resumes 2     # a fixed sample of them

Each model has 12 layers and takes 48 microbatches a step. After 20 steps the digests of parameters and optimizer state are compared;
then checkpoints of step 10, written under one layout, are resumed under another. Exits 1 when any digest differs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MICROBATCHES = 48
STEPS = 20

#: model -> file and settings. gpt2 ties its embedding to its head; skips joins each layer to its mirror.
MODELS = {
    "gpt2": (ROOT / "examples" / "gpt2.dsl", {"vocab": 256, "context": 16, "width": 32, "heads": 2, "depth": 12, "batch": 2}),
    "skips": (ROOT / "benchmarks" / "models" / "skips.dsl", {}),
}

#: (pp, dp, schedule, chunks): every schedule, each pp and dp; pp * dp ranks.
LAYOUTS = (
    (1, 1, "1f1b", 1),
    (1, 2, "gpipe", 1),
    (1, 4, "zb-h1", 1),
    (1, 1, "zb-v", 2),
    (2, 1, "1f1b", 1),
    (2, 1, "auto", 1),
    (2, 2, "zb-h2", 1),
    (2, 4, "interleaved", 2),
    (2, 1, "dualpipe-v", 2),
    (3, 1, "gpipe", 1),
    (3, 1, "interleaved", 2),
    (3, 2, "zb-v", 2),
    (3, 4, "1f1b", 1),
    (4, 1, "zb-h1", 1),
    (4, 2, "bfs", 2),
    (4, 1, "dualpipe-v", 2),
    (4, 4, "zb-h2", 1),
    (6, 1, "bfs", 2),
    (6, 2, "zb-v", 2),
    (6, 1, "interleaved", 2),
    (6, 4, "auto", 1),
)
TRANSPORTS = ("threads", "local", "mpi")


@dataclass(frozen=True)
class Variant:
    """One way to run one build."""

    layout: tuple[int, int, str, int]
    threads: int
    transport: str

    def __str__(self) -> str:
        pp, dp, schedule, chunks = self.layout
        return f"pp {pp} dp {dp} {schedule:11} chunks {chunks}  threads {self.threads}  {self.transport}"


def variants() -> list[Variant]:
    """Each layout three times or more, so that every transport and both numbers of threads meet every layout's shape."""
    found = []
    for number, layout in enumerate(LAYOUTS):
        for turn, transport in enumerate(TRANSPORTS):
            if layout[0] * layout[1] > 1 or transport == "local":
                found.append(Variant(layout, 1 + (number + turn) % 2, transport))
    return found


def build(folder: Path, model: str, layout: tuple[int, int, str, int]) -> Path:
    """The program of a model for a layout, compiled once."""
    pp, dp, schedule, chunks = layout
    file, defines = MODELS[model]
    out = folder / f"{model}-{pp}-{dp}-{schedule}-{chunks}"
    program = out / file.stem
    if program.exists():
        return program
    settings = [a for name, value in defines.items() for a in ("-D", f"{name}={value}")]
    options = ["--pp", pp, "--dp", dp, "--schedule", schedule, "--chunks", chunks, "--microbatches", MICROBATCHES]
    command = [sys.executable, "-m", "mlc", "compile", file, "-o", out, *settings, *options]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")
    return program


def mpirun(ranks: int) -> list[str]:
    """Open MPI on this machine, more ranks than cores allowed, also as root."""
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]


def run(program: Path, variant: Variant, *arguments: object, timeout: float = 300) -> str:
    """The digest of a run; exits when the run fails."""
    ranks = variant.layout[0] * variant.layout[1]
    command = [str(program), "--threads", str(variant.threads), "--timeout", "60", "--hash", *map(str, arguments)]
    if ranks > 1:
        command += ["--transport", variant.transport]
    if variant.transport == "mpi":
        command = [*mpirun(ranks), *command]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=timeout, check=False)
    found = re.search(r"^digest: ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return found[1]


def chosen(sample: int, seed: int) -> list[Variant]:
    """All variants, or a sample that begins with one process."""
    every = [v for v in variants() if v.transport != "mpi" or shutil.which("mpirun")]
    if sample <= 0 or sample >= len(every):
        return every
    return [every[0], *random.Random(seed).sample(every[1:], sample - 1)]


def compare(folder: Path, model: str, text: Path, tried: list[Variant]) -> Iterator[tuple[Variant, str]]:
    """The digest of each variant after all steps."""
    for variant in tried:
        program = build(folder, model, variant.layout)
        yield variant, run(program, variant, "--data", text, "--steps", STEPS, "--seed", 7)


def resumed(folder: Path, model: str, text: Path, first: Variant, second: Variant) -> str:
    """The digest of a run that one layout began and another ended."""
    with tempfile.TemporaryDirectory() as checkpoints:
        common = ("--data", text, "--steps", STEPS)
        run(build(folder, model, first.layout), first, *common, "--seed", 7, "--checkpoint", checkpoints, "--every", STEPS // 2)
        stopped = Path(checkpoints) / f"step-{STEPS // 2:08}"
        return run(build(folder, model, second.layout), second, *common, "--resume", stopped)


def check_model(arguments: argparse.Namespace, folder: Path, model: str, text: Path) -> bool:
    """All comparisons of one model; prints each."""
    tried = chosen(arguments.sample, arguments.seed)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda layout: build(folder, model, layout), dict.fromkeys(v.layout for v in tried)))
    digests = []
    for variant, digest in compare(folder, model, text, tried):
        digests.append(digest)
        print(f"{model:6} {variant}  {digest[:16]}{'' if digest == digests[0] else '   DIFFERS'}", flush=True)
    rng = random.Random(arguments.seed)
    pairs = list(itertools.islice(iter(lambda: rng.sample(tried, 2), None), arguments.resumes))
    after = []
    for first, second in pairs:
        after.append(resumed(folder, model, text, first, second))
        print(f"{model:6} {first}  ->  {second}  {after[-1][:16]}{'' if after[-1] == digests[0] else '   DIFFERS'}", flush=True)
    equal = len(set(digests)) == 1 and set(after) <= {digests[0]}
    counted = f"{len(digests)} layouts, {len(after)} stopped and resumed under another"
    print(f"{model}: {counted}: {'all equal' if equal else 'NOT EQUAL'}", flush=True)
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="so many layouts of each model; 0: all")
    parser.add_argument("--resumes", type=int, default=10, help="random pairs of layouts to stop and resume")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where programs are built and kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        text = Path(temporary) / "text.txt"
        text.write_bytes((ROOT / "README.md").read_bytes() * 2)
        results = [check_model(arguments, folder, model, text) for model in MODELS]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
