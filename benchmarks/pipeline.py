"""Two pipeline stages of one thread each: mlc beside PyTorch and JAX, measured in turn, and how near the schedule's own bound it is.

    python benchmarks/pipeline.py --peers ../shared/bench/pipeline_peers.py --python peers/bin/python

A round measures every program once, one after the other; the figures are medians over the rounds. The efficiency is the simulated
makespan of the plan's action lists, for the costs of each action as the trace of the same program shows them, over the measured step.
Prints a table; exits 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "benchmarks" / "models" / "pipeline.dsl"
DIMS = ("batch", "context", "width", "depth", "heads", "vocab")
SIZES = {"tiny": (1, 64, 64, 2, 4, 256), "small": (1, 256, 384, 6, 6, 8192)}
MICROBATCHES = 8
STEPS = {"tiny": 300, "small": 12}
#: Times as many tokens a second as each peer, at least.
LIMITS = {"tiny": 2.0, "small": 1.5}
EFFICIENCY = 0.92
WARM = 2


@dataclass(frozen=True)
class Program:
    """A compiled size with the tokens it trains on."""

    path: Path
    tokens: Path

    def run(self, steps: int, *arguments: object) -> list[float]:
        """Step times in ms, the first ones left out."""
        log = self.path.parent / "log.jsonl"
        log.unlink(missing_ok=True)
        command = [self.path, "--data", self.tokens, "--steps", steps + WARM, "--threads", 1, "--log", log, *arguments]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{command}: exit code {done.returncode}\n{done.stderr}")
        return [json.loads(line)["step_ms"] for line in log.read_text().splitlines()][WARM:]


def compile_size(folder: Path, size: str, schedule: str) -> Program:
    """The pipeline of a size, and random tokens."""
    dims = dict(zip(DIMS, SIZES[size], strict=True))
    out = folder / size
    settings = [a for name, value in dims.items() for a in ("-D", f"{name}={value}")]
    options = ["--pp", 2, "--schedule", schedule, "--microbatches", MICROBATCHES]
    command = [sys.executable, "-m", "mlc", "compile", MODEL, "-o", out, *settings, *options]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    tokens = folder / f"{size}.bin"
    count, state, data = 200 * MICROBATCHES * dims["context"], 1, bytearray()
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        data += ((state >> 33) % dims["vocab"]).to_bytes(2, "little")
    tokens.write_bytes(bytes(data))
    return Program(out / "pipeline", tokens)


def peer_ms(arguments: argparse.Namespace, peer: str, size: str) -> float:
    """Median step time of a peer, in ms."""
    python, script = Path(arguments.python), str(arguments.peers)
    start = [str(python)] if peer == "jax" else [str(python.with_name("torchrun")), "--nproc_per_node", "2"]
    command = [*start, script, peer, size, "--steps", "9" if size == "small" else "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(lines[-1])["step_ms"]


def action_costs(trace: Path) -> dict[tuple[int, str], float]:
    """Median seconds of each kind of action, by rank and name without its microbatch, from a trace of all ranks."""
    durations: dict[tuple[int, str], list[float]] = defaultdict(list)
    for event in json.loads(trace.read_text()):
        if event.get("ph") == "X" and event.get("cat") == "action":
            words = event["name"].split(" ")
            name = words[0] if re.fullmatch(r"[FIWB]\+?\d*", words[0]) else event["name"]
            durations[event["pid"], name].append(event["dur"] / 1e6)
    return {key: statistics.median(values) for key, values in durations.items()}


def simulated_seconds(plan: dict, costs: dict[tuple[int, str], float]) -> float:
    """The makespan of the plan's lists: messages and folds take no time; what ends a step is added as it was measured."""
    lists = [place["lists"]["train"] for place in plan["places"]]
    channels = {c["name"]: c for c in plan["channels"]}
    sent: dict[tuple[str, int], float] = {}
    at, clock = [0] * len(lists), [0.0] * len(lists)
    moved = True
    while moved:
        moved = False
        for place, rows in enumerate(lists):
            while at[place] < len(rows):
                kind, of, microbatch = rows[at[place]]
                if kind == "RECEIVE":
                    if (of, microbatch) not in sent:
                        break
                    clock[place] = max(clock[place], sent[of, microbatch])
                elif kind == "SEND":
                    assert channels[of]["from"] == place
                    sent[of, microbatch] = clock[place]
                elif re.fullmatch(r"[FIWB]\+?", kind):
                    clock[place] += cost_of(costs, place, kind, of, len(plan["places"][place]["stages"]))
                at[place] += 1
                moved = True
    return max(clock) + max(sum(costs.get((p, kind), 0.0) for kind in ("NORM", "UPDATE")) for p in range(len(lists)))


def cost_of(costs: dict[tuple[int, str], float], place: int, kind: str, chunk: int, chunks: int) -> float:
    return costs[place, kind if chunks == 1 else f"{kind}{chunk}"]


def efficiency(program: Program, steps: int) -> tuple[float, float, float]:
    """(simulated ms, measured ms, their ratio) of one traced run."""
    trace = program.path.parent / "trace.json"
    measured = statistics.median(program.run(steps, "--trace", trace))
    plan = json.loads((program.path.parent / "plan.json").read_text())
    simulated = 1e3 * simulated_seconds(plan, action_costs(trace))
    return simulated, measured, simulated / measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the script that measures peers; without it mlc alone is measured")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="of an environment with PyTorch and JAX")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schedule", default="auto")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    met = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for size in arguments.sizes:
            met &= report(arguments, folder, size)
    sys.exit(0 if met else 1)


def report(arguments: argparse.Namespace, folder: Path, size: str) -> bool:
    """Measure and print one size; whether its limits are met."""
    folder.mkdir(parents=True, exist_ok=True)
    program = compile_size(folder, size, arguments.schedule)
    peers = ("torch", "jax") if arguments.peers else ()
    times: dict[str, list[float]] = {name: [] for name in ("mlc", *peers)}
    for _ in range(arguments.rounds):
        times["mlc"].append(statistics.median(program.run(STEPS[size])))
        for peer in peers:
            times[peer].append(peer_ms(arguments, peer, size))
    medians = {name: statistics.median(values) for name, values in times.items()}
    tokens = MICROBATCHES * SIZES[size][0] * SIZES[size][1]
    shown = ", ".join(f"{name} {ms:.2f} ms ({tokens / ms * 1e3:,.0f} tokens/s)" for name, ms in medians.items())
    ratios = {peer: medians[peer] / medians["mlc"] for peer in peers}
    simulated, measured, ratio = efficiency(program, STEPS[size])
    print(f"{size}: {shown}")
    if peers:
        print(f"{size}: times the peers' speed: {', '.join(f'{p} {r:.2f}' for p, r in ratios.items())} (limit {LIMITS[size]})")
    plan = json.loads((program.path.parent / "plan.json").read_text())
    rate = plan["flops_per_microbatch"] * MICROBATCHES / (medians["mlc"] / 1e3) / plan["mesh"]["pp"]
    print(f"{size}: {rate / 1e9:.1f} GFLOP/s a core")
    limit = f" (limit {EFFICIENCY})" if size == "small" else ""
    print(f"{size}: simulated makespan {simulated:.2f} ms, measured step {measured:.2f} ms: efficiency {ratio:.3f}{limit}", flush=True)
    return all(r >= LIMITS[size] for r in ratios.values()) and (size != "small" or ratio >= EFFICIENCY)


if __name__ == "__main__":
    main()
