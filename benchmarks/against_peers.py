"""Step times of mlc beside PyTorch and JAX on the GPT of examples/gpt2.dsl, measured in turn.

    python benchmarks/against_peers.py --peers ../shared/bench/peers.py --python peers/bin/python

A round measures every program once, one after the other; the figures are medians over the rounds. Prints a table, and writes
JSON where --json says. Exits 1 when mlc is slower than the best peer on some size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("torch-eager", "torch-compile", "jax")
DIMS = ("batch", "context", "width", "depth", "heads", "vocab")
SIZES = {"tiny": (4, 64, 64, 2, 4, 256), "small": (4, 256, 384, 6, 6, 8192), "gpt2": (1, 512, 768, 12, 12, 50304)}
STEPS = {"tiny": 200, "small": 8, "gpt2": 4}


def mlc_step_ms(size: str, steps: int, threads: int) -> float:
    """Median step time of the compiled model, in ms."""
    defines = [f"-D{name}={value}" for name, value in zip(DIMS, SIZES[size], strict=True)]
    model, out = ROOT / "examples" / "gpt2.dsl", ROOT / "build" / "bench" / size
    command = [sys.executable, "-m", "mlc", "bench", str(model), "-o", str(out), *defines, "--steps", str(steps), "--threads", str(threads)]
    return json.loads(last_line(command))["step_ms"]


def peer_step_ms(arguments: argparse.Namespace, peer: str, size: str, steps: int) -> float:
    """Median step time of a peer, in ms."""
    shape = ",".join(map(str, SIZES[size]))
    command = [arguments.python, str(arguments.peers), peer, shape, "f32", "--steps", str(steps), "--threads", str(arguments.threads)]
    return json.loads(last_line(command))["step_ms"]


def last_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def measure(arguments: argparse.Namespace, size: str) -> dict[str, float]:
    """Program -> median over the rounds of its step time."""
    times: dict[str, list[float]] = {name: [] for name in ("mlc", *arguments.against)}
    for _ in range(arguments.rounds):
        times["mlc"].append(mlc_step_ms(size, STEPS[size], arguments.threads))
        for peer in arguments.against:
            times[peer].append(peer_step_ms(arguments, peer, size, STEPS[size]))
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(results: dict[str, dict[str, float]], peers: list[str]) -> None:
    print(f"| step, ms (median) | mlc | {' | '.join(peers)} | best peer / mlc |")
    print("|---" * (len(peers) + 3) + "|")
    for size, times in results.items():
        ratio = min(times[peer] for peer in peers) / times["mlc"]
        print(f"| {size} | {times['mlc']:.1f} | {' | '.join(f'{times[peer]:.1f}' for peer in peers)} | {ratio:.2f} |")


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
    print_table(results, arguments.against)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    slower = [size for size, times in results.items() if times["mlc"] > min(times[peer] for peer in arguments.against)]
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
