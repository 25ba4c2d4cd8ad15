"""Edits valid plans at random; each edit is refused for a reason that fits it, or runs to the same digest.

    python benchmarks/mutations.py --count 2000

Only actions.c depends on action lists, regions and channels: a mutant that passes the verifier recompiles that file, links, and is run.
Exits 1 when a mutant is refused for another reason, hangs, fails or computes something else.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mutants import Mutant, mutate

from mlc.diagnostics import MlcError
from mlc.emit.actions import actions_text
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.verify import verify

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "benchmarks" / "models" / "skips.dsl"
DEFINES = {"depth": 4, "context": 8, "width": 16, "vocab": 256}
MICROBATCHES = 8
STEPS = 3
#: (pp, dp, schedule, chunks) of the plans that are edited.
LAYOUTS = ((2, 1, "1f1b", 1), (2, 2, "zb-h1", 1), (2, 1, "interleaved", 2), (2, 1, "zb-v", 2), (3, 1, "gpipe", 1))


@dataclass(frozen=True)
class Original:
    """A compiled plan, and the digest that its program and every harmless edit of it must have."""

    folder: Path
    plan: dict
    ranks: int
    digest: str


def compile_layout(folder: Path, layout: tuple[int, int, str, int], text: Path) -> Original:
    pp, dp, schedule, chunks = layout
    out = folder / f"{pp}-{dp}-{schedule}-{chunks}"
    settings = [a for name, value in DEFINES.items() for a in ("-D", f"{name}={value}")]
    options = ["--pp", pp, "--dp", dp, "--schedule", schedule, "--chunks", chunks, "--microbatches", MICROBATCHES]
    command = [sys.executable, "-m", "mlc", "compile", MODEL, "-o", out, *settings, *options]
    subprocess.run([str(c) for c in command], check=True, cwd=ROOT)
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    code, digest, error = run(out / "skips", text)
    if code:
        sys.exit(f"{layout}: exit code {code}\n{error}")
    return Original(out, plan, pp * dp, digest)


def run(program: Path, text: Path) -> tuple[int, str, str]:
    """(exit code, digest, standard error) of a few steps; -1 for a program that does not end."""
    fixed = ["--data", text, "--steps", STEPS, "--seed", 5, "--threads", 1, "--timeout", 10, "--hash", "--transport", "threads"]
    try:
        done = subprocess.run([str(a) for a in (program, *fixed)], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return -1, "", "it did not end"
    found = re.search(r"^digest: (\w{64})$", done.stdout, re.MULTILINE)
    return done.returncode, found[1] if found else "", done.stderr


def run_mutant(original: Original, mutant: Mutant, text: Path, scratch: Path) -> str | None:
    """What is wrong with a mutant that was accepted; None when it is harmless."""
    source = original.folder / "src"
    (scratch / "src").mkdir(parents=True, exist_ok=True)
    actions = scratch / "src" / "actions.c"
    actions.write_text(actions_text(read_plan(mutant.plan)), encoding="utf-8")
    shutil.copy(original.folder / "plan.json", scratch / "plan.json")
    objects = [str(p) for p in sorted((source / "objects").glob("*.o")) if p.name != "actions.o"]
    include = ["-I", str(source / "runtime" / "include"), "-I", str(source)]
    command = ["cc", "-std=c11", "-O1", *include, str(actions), *objects, str(source / "libmlcrt.a"), "-o", str(scratch / "skips")]
    built = subprocess.run([*command, "-lm", "-pthread"], capture_output=True, text=True, check=False)
    if built.returncode:
        return f"does not compile: {built.stderr}"
    code, digest, error = run(scratch / "skips", text)
    if code:
        return f"was accepted and ends with exit code {code}: {error}"
    return None if digest == original.digest else "was accepted and computes something else"


def judge(original: Original, mutant: Mutant, text: Path, scratch: Path) -> tuple[str, str | None]:
    """(what became of a mutant, what is wrong with that)."""
    try:
        verify(mutant.plan)
    except MlcError as problem:
        code = problem.diagnostics[0].code
        return code, None if code in mutant.reasons else f"was refused for another reason: {problem.diagnostics[0]}"
    return "harmless", run_mutant(original, mutant, text, scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layouts", type=int, default=len(LAYOUTS), help="edit so many of the plans")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = folder / "text.txt"
        text.write_bytes((ROOT / "README.md").read_bytes())
        originals = [compile_layout(folder, layout, text) for layout in LAYOUTS[: arguments.layouts]]
        for number in range(arguments.count):
            original = originals[number % len(originals)]
            mutant = mutate(original.plan, rng)
            outcome, problem = judge(original, mutant, text, folder / "mutant")
            tally[outcome] += 1
            if problem:
                wrong.append(f"{original.folder.name}: {mutant.edit}: {problem}")
                print(wrong[-1], flush=True)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.items()))
    print(f"{arguments.count} mutants of {len(originals)} plans: {counted}; {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
