"""Two programs start in one checkpoint directory at nearly the same moment, again and again: one rank, four, threads, under mpirun.

    python benchmarks/writers.py                 # 50 trials
    python benchmarks/writers.py --trials 200 --seed 3

Exactly one of the two trains. The other ends with a sentence that names the holder, or the run whose steps lie there; and every
checkpoint is whole, of one run, with the seed of the one that trained. Exits 1 when a trial did not hold.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from attacks.checkpoints import MPIRUN, Command, race
from attacks.field import Broken, Field, Programs


def commands(field: Field) -> list[Command]:
    """The ways to start a program here."""
    found: list[Command] = [(field.one,), (field.four,), (field.four, "--transport", "threads")]
    if shutil.which("mpirun") and (field.four.parent / "libmlc_mpi.so").exists():
        found.append((*MPIRUN, field.four))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, broken = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="mlc-writers-") as name:
        field = Field(Path(name) / "field", Programs(Path(name) / "programs"))
        field.folder.mkdir()
        ways = commands(field)
        for trial in range(arguments.trials):
            try:
                race(field, trial, (rng.choice(ways), rng.choice(ways)), rng)
            except Broken as happened:
                broken += 1
                print(f"trial {trial}: {happened}", flush=True)
        field.clear()
    held = arguments.trials - broken
    print(f"two writers in one directory: {arguments.trials} trials, {held} in which exactly one trained and nothing was mixed")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
