"""Edits valid plans at random; each edit is refused for a reason that fits it, or runs to the same digest.

    python benchmarks/mutations.py --count 2000

A mutant that passes the verifier is emitted anew: actions.c, which depends on lists, regions and channels, and the tables of model.c
where rows or their buffers were edited. It is linked with the other files of the original, trains, evaluates and samples.
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
from functools import cache
from pathlib import Path

from mutants import Mutant, mutate

from mlc.diagnostics import MlcError
from mlc.driver import Options, load_program
from mlc.emit.actions import actions_text
from mlc.emit.model import tables_text
from mlc.lower import lower
from mlc.lower.program import Lowered
from mlc.ops import OPS
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.verify import verify
from mlc.passes import prepared
from mlc.targets.c import C

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "benchmarks" / "models" / "skips.dsl"
DEFINES = {"depth": 4, "context": 8, "width": 16, "vocab": 256}
MICROBATCHES = 8
STEPS = 3
#: (pp, dp, schedule, chunks) of the plans that are edited; of several replicas, their first and last place share a parameter.
LAYOUTS = (
    (2, 1, "1f1b", 1),
    (2, 2, "zb-h1", 1),
    (2, 1, "interleaved", 2),
    (2, 1, "zb-v", 2),
    (3, 1, "gpipe", 1),
    (2, 3, "interleaved", 2),
)


@dataclass(frozen=True)
class Original:
    """A compiled plan, and what its program and every harmless edit of it must say: evaluation, sample, digest."""

    folder: Path
    plan: dict
    ranks: int
    said: str


@cache
def lowered_model(microbatches: int, groups: int, tied: bool) -> Lowered:
    """The model that a plan is of."""
    options = Options(microbatches=microbatches, groups=groups)
    return lower(prepared(load_program(MODEL, {**DEFINES, "tied": tied}, options)[0], OPS), OPS, C.rules)


def batching(dp: int) -> tuple[int, int]:
    """Microbatches and groups of a step of so many replicas."""
    return (MICROBATCHES, MICROBATCHES) if MICROBATCHES % dp == 0 else (4 * dp, 2 * dp)


def compile_layout(folder: Path, layout: tuple[int, int, str, int], text: Path) -> Original:
    pp, dp, schedule, chunks = layout
    out = folder / f"{pp}-{dp}-{schedule}-{chunks}"
    settings = [a for name, value in DEFINES.items() for a in ("-D", f"{name}={value}")]
    settings += ["-D", f"tied={dp > 1}"]
    options = ["--pp", pp, "--dp", dp, "--schedule", schedule, "--chunks", chunks]
    options += ["--microbatches", batching(dp)[0], "--groups", batching(dp)[1]]
    command = [sys.executable, "-m", "mlc", "compile", MODEL, "-o", out, *settings, *options]
    subprocess.run([str(c) for c in command], check=True, cwd=ROOT)
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    code, said, error = run(out / "skips", text)
    if code:
        sys.exit(f"{layout}: exit code {code}\n{error}")
    return Original(out, plan, pp * dp, said)


def run(program: Path, text: Path) -> tuple[int, str, str]:
    """(exit code, what it says, standard error) of a few steps, an evaluation and a sample; -1 for a program that does not end."""
    fixed = ["--data", text, "--steps", STEPS, "--seed", 5, "--threads", 1, "--timeout", 10, "--hash", "--transport", "threads"]
    also = ["--evaluate", text, "--evaluate-batches", 5, "--sample", 6]
    try:
        done = subprocess.run([str(a) for a in (program, *fixed, *also)], capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return -1, "", "it did not end"
    said = done.stdout.decode(errors="backslashreplace")
    return done.returncode, re.sub(r"^trained .*$", "", said, flags=re.MULTILINE), done.stderr.decode(errors="replace")


def run_mutant(original: Original, mutant: Mutant, text: Path, scratch: Path) -> str | None:
    """What is wrong with a mutant that was accepted; None when it is harmless."""
    source = original.folder / "src"
    (scratch / "src").mkdir(parents=True, exist_ok=True)
    plan = read_plan(mutant.plan)
    (scratch / "src" / "actions.c").write_text(actions_text(plan), encoding="utf-8")
    shutil.copy(original.folder / "plan.json", scratch / "plan.json")
    made = ["actions"]
    if mutant.rows:
        made.append("model")
        shutil.copy(source / "model.c", scratch / "src" / "model.c")
        lowered = lowered_model(plan.microbatches, plan.groups, plan.dp > 1)
        (scratch / "src" / "tables.h").write_text(tables_text(lowered, plan), encoding="utf-8")
    objects = [str(p) for p in sorted((source / "objects").glob("*.o")) if p.stem not in made]
    include = ["-I", str(source / "runtime" / "include"), "-I", str(source)]
    exact = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-march=native", "-fopenmp-simd", *exact]
    files = [str(scratch / "src" / f"{name}.c") for name in made]
    command = ["cc", *flags, *include, *files, *objects, str(source / "libmlcrt.a"), "-o", str(scratch / "skips")]
    built = subprocess.run([*command, "-lm", "-ldl", "-pthread"], capture_output=True, text=True, check=False)
    if built.returncode:
        return f"does not compile: {built.stderr}"
    code, said, error = run(scratch / "skips", text)
    if code:
        return f"was accepted and ends with exit code {code}: {error}"
    return None if said == original.said else "was accepted and computes something else"


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
