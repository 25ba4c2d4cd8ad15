"""What recomputation saves and costs: memory and step time of GPT-2 under each choice, which all leave the same bits.

    python benchmarks/recompute.py --depth 24 --batch 1 --context 512 --rounds 3

A round runs every choice once, one after the other; times are medians over all steps but the first of each run. Prints a table; exits 1
when digests differ or a limit is missed. Memory is also planned at the model's own sizes, where activations count for more.
"""

from __future__ import annotations

import argparse
import array
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "gpt2.dsl"
VOCABULARY = 50257
CHOICES = ("none", "selective", "full")
#: Of `full`, as a part of `none`: step time at most, and bytes of the arena at the model's own sizes.
MOST_TIME = 1.35
MOST_MEMORY = 0.35


def compile_choice(out: Path, choice: str, defines: dict[str, int], *options: str) -> int:
    """Compile under one choice; returns the bytes of the arena."""
    settings = [word for name, value in defines.items() for word in ("-D", f"{name}={value}")]
    command = [sys.executable, "-m", "mlc", "compile", MODEL, "-o", out, *settings, "--recompute", choice, *options]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return max(place["arena_bytes"] for place in json.loads((out / "plan.json").read_text())["places"])


def run(program: Path, data: Path, steps: int, threads: int) -> tuple[list[float], str]:
    """Step times in ms without the first, and the digest."""
    log = program.parent / "log.jsonl"
    log.unlink(missing_ok=True)
    command = [program, "--data", data, "--steps", steps, "--threads", threads, "--log", log, "--hash"]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    found = re.search(r"digest: (\w+)", done.stdout)
    assert found is not None, done.stdout
    return [json.loads(line)["step_ms"] for line in log.read_text().splitlines()][1:], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("depth", 24), ("batch", 1), ("context", 512), ("rounds", 3), ("steps", 4), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    sizes = {"depth": arguments.depth, "batch": arguments.batch, "context": arguments.context}
    times: dict[str, list[float]] = {choice: [] for choice in CHOICES}
    digests: set[str] = set()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "tokens.bin"
        data.write_bytes(array.array("H", (7 * n % VOCABULARY for n in range(1 << 18))).tobytes())
        whole = {c: compile_choice(folder / "plan", c, {"depth": arguments.depth}, "--emit", "plan") for c in CHOICES}
        arenas = {choice: compile_choice(folder / choice, choice, sizes) for choice in CHOICES}
        for _ in range(arguments.rounds):
            for choice in CHOICES:
                found, digest = run(folder / choice / "gpt2", data, arguments.steps, arguments.threads)
                times[choice] += found
                digests.add(digest)
    medians = {choice: statistics.median(found) for choice, found in times.items()}
    print(f"gpt2, {sizes}, {arguments.threads} threads; in brackets: of `none`")
    for choice in CHOICES:
        parts = (arenas[choice] / arenas["none"], whole[choice] / whole["none"], medians[choice] / medians["none"])
        print(
            f"{choice:10} {arenas[choice] / 1e9:6.2f} GB ({parts[0]:.3f}), at the model's own sizes {whole[choice] / 1e9:6.2f} GB "
            f"({parts[1]:.3f}), {medians[choice]:8.0f} ms a step ({parts[2]:.3f})"
        )
    met = whole["full"] <= MOST_MEMORY * whole["none"] and medians["full"] <= MOST_TIME * medians["none"]
    print(f"digests {'are equal' if len(digests) == 1 else 'DIFFER'}")
    sys.exit(0 if met and len(digests) == 1 else 1)


if __name__ == "__main__":
    main()
