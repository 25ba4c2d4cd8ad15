"""Step times and peak memory of mlc beside PyTorch and JAX on the GPT of examples/gpt2.dsl, measured in turn.

    python benchmarks/against_peers.py --peers ../shared/bench/peers.py --python peers/bin/python

A round measures every program once, one after the other; the figures are medians over the rounds. Prints a table, and writes
JSON where --json says. Exits 1 when mlc is slower than the best peer on some size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("torch-eager", "torch-compile", "jax")
DIMS = ("batch", "context", "width", "depth", "heads", "vocab")
SIZES = {"tiny": (4, 64, 64, 2, 4, 256), "small": (4, 256, 384, 6, 6, 8192), "gpt2": (1, 512, 768, 12, 12, 50304)}
STEPS = {"tiny": 200, "small": 8, "gpt2": 4}


@dataclass(frozen=True)
class Run:
    """What one process measured of itself, and what it held at most.

    step_ms:     median time of a step
    peak_bytes:  the largest resident set of it or of a child
    """

    step_ms: float
    peak_bytes: int


def run_mlc(size: str, steps: int, threads: int) -> Run:
    """The compiled model, whose arena is all that its steps use."""
    defines = [f"-D{name}={value}" for name, value in zip(DIMS, SIZES[size], strict=True)]
    model, out = ROOT / "examples" / "gpt2.dsl", ROOT / "build" / "bench" / size
    options = ["--steps", str(steps), "--threads", str(threads)]
    return run([sys.executable, "-m", "mlc", "bench", str(model), "-o", str(out), *defines, *options])


def run_peer(arguments: argparse.Namespace, peer: str, size: str, steps: int) -> Run:
    shape = ",".join(map(str, SIZES[size]))
    options = ["--steps", str(steps), "--threads", str(arguments.threads)]
    return run([arguments.python, str(arguments.peers), peer, shape, "f32", *options])


def run(command: list[str]) -> Run:
    """Run a program whose last line is JSON with step_ms; ends with what it said when it fails."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=said, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{errors.read().decode()}")
        last = json.loads(said.read().decode().strip().splitlines()[-1])
    return Run(last["step_ms"], usage.ru_maxrss * 1024)


def measure(arguments: argparse.Namespace, size: str) -> dict[str, Run]:
    """Program -> medians over the rounds."""
    runs: dict[str, list[Run]] = {name: [] for name in ("mlc", *arguments.against)}
    for _ in range(arguments.rounds):
        runs["mlc"].append(run_mlc(size, STEPS[size], arguments.threads))
        for peer in arguments.against:
            runs[peer].append(run_peer(arguments, peer, size, STEPS[size]))
    return {name: Run(*(statistics.median(column) for column in zip(*map(astuple, found), strict=True))) for name, found in runs.items()}


def print_tables(results: dict[str, dict[str, Run]], peers: list[str]) -> None:
    for title, of in (("step, ms (median)", lambda run: run.step_ms), ("peak memory, MB", lambda run: run.peak_bytes / 1e6)):
        print(f"| {title} | mlc | {' | '.join(peers)} | best peer / mlc |")
        print("|---" * (len(peers) + 3) + "|")
        for size, runs in results.items():
            found = {name: of(run) for name, run in runs.items()}
            best = min(found[peer] for peer in peers) / found["mlc"]
            print(f"| {size} | {' | '.join(f'{found[name]:.1f}' for name in ('mlc', *peers))} | {best:.2f} |")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=ROOT.parent / "shared" / "bench" / "peers.py", help="the script that times the peers")
    parser.add_argument("--python", default=sys.executable, help="Python of an environment with torch, jax and optax")
    parser.add_argument("--against", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    arguments = parser.parse_args()
    results = {size: measure(arguments, size) for size in arguments.sizes}
    print_tables(results, arguments.against)
    if arguments.json:
        plain = {size: {name: asdict(run) for name, run in runs.items()} for size, runs in results.items()}
        arguments.json.write_text(json.dumps(plain, indent=2) + "\n")
    slower = [size for size, runs in results.items() if runs["mlc"].step_ms > min(runs[peer].step_ms for peer in arguments.against)]
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
