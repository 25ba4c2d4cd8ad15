"""Kills ranks at random moments, resumes, and compares with a run that was never killed.

    python benchmarks/kills.py --count 100

Each kill is a SIGKILL of one random rank of a run on 2 stages and 2 replicas, or of the process that started them; the next run resumes
from the newest whole checkpoint. Every killed run must end by itself, leave no process and no shared memory, and the last one must have
the digest of the run that was left alone. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from layouts import build

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = (2, 2, "1f1b", 1)
EXPECTED = (0, 3, -signal.SIGKILL)


@dataclass
class Tally:
    """`codes` counts exit codes; `torn` counts checkpoints that were passed over when resuming."""

    kills: int = 0
    finished: int = 0
    torn: int = 0
    slowest: float = 0.0


def ranks_of(supervisor: int) -> list[int]:
    """The processes that a supervisor started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == supervisor and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def left_behind(program: Path) -> list[str]:
    """Processes of the program, and shared memory that has a name."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "exe") == str(program):
                    found.append(f"process {entry.name}")
            except OSError:
                continue
    named = [path for path in Path("/dev/shm").glob("*mlc*") if not path.is_dir()]  # a directory where ranks meet stays
    return found + [str(path) for path in [*named, *Path("/dev/shm").glob("mlc-*/*")]]


def command(program: Path, text: Path, steps: int, *arguments: object) -> list[str]:
    fixed = ["--data", text, "--steps", steps, "--threads", 1, "--timeout", 60, "--hash"]
    return [str(a) for a in (program, *fixed, *arguments)]


def finish(process: subprocess.Popen[str], limit: float) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        sys.exit(f"a killed run did not end within {limit} s")
    return process.returncode, out, err


def kill_once(program: Path, arguments: list[str], rng: random.Random, longest: float, tally: Tally) -> str | None:
    """One run that is killed after a random time, unless it ends first. Returns its digest when it ended."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(rng.uniform(0.02, longest))
    victim = rng.choice([*ranks_of(process.pid), process.pid])
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended just now
            os.kill(victim, signal.SIGKILL)
            tally.kills += 1
    start = time.monotonic()
    code, out, err = finish(process, 30)
    tally.slowest = max(tally.slowest, time.monotonic() - start)
    tally.torn += err.count("checkpoint passed over")
    for _ in range(100):
        left = left_behind(program)
        if not left:
            break
        time.sleep(0.02)
    if left:
        sys.exit(f"left behind after a kill: {left}")
    if code not in EXPECTED:
        sys.exit(f"exit code {code} after a kill\n{err}")
    found = re.search(r"^digest: (\w{64})$", out, re.MULTILINE)
    return found[1] if found and code == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        program = build(folder, "gpt2", LAYOUT).resolve()
        text = Path(temporary) / "text.txt"
        text.write_bytes((ROOT / "README.md").read_bytes() * 2)
        whole = subprocess.run(command(program, text, arguments.steps, "--seed", 3), capture_output=True, text=True, check=True)
        expected = re.search(r"^digest: (\w{64})$", whole.stdout, re.MULTILINE)
        if not expected:
            sys.exit(f"no digest in:\n{whole.stdout}")
        checkpoints = Path(temporary) / "checkpoints"
        resuming = command(program, text, arguments.steps, "--seed", 3, "--checkpoint", checkpoints, "--every", 3, "--resume", "auto")
        tally, equal = Tally(), True
        while tally.kills < arguments.count:
            digest = kill_once(program, resuming, rng, 2.5, tally)
            if digest is not None:
                equal &= digest == expected[1]
                tally.finished += 1
                shutil.rmtree(checkpoints)
        last = subprocess.run(resuming, capture_output=True, text=True, check=True)
        equal &= expected[1] in last.stdout
    print(f"kills: {tally.kills}, runs that ended between: {tally.finished}, torn checkpoints passed over: {tally.torn}")
    print(f"a killed run ends after at most {tally.slowest:.1f} s; final digests {'equal' if equal else 'DIFFER'}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
