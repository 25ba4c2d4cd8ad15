"""Sends signals at random moments and looks at what `latest` names after each.

    python benchmarks/signals.py --trials 30

Every trial goes on with the run of the one before: SIGTERM, SIGINT, SIGHUP, SIGUSR1 or SIGKILL comes after a random time, to the program,
to one of its ranks or to all of them, on one rank and on four. Afterwards `latest` must name a step
whose checksums hold, of the same run, that is no older than before; a signal that can be heard must end the run with exit code 0 at the
step that it says. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from attacks.field import Broken, Field, Programs
from attacks.signals import SIGNALS, play_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    broken = 0
    with tempfile.TemporaryDirectory(prefix="mlc-signals-") as name:
        programs = Programs(Path(name) / "programs")
        for ranks in ("one", "four"):
            for number in SIGNALS:
                field = Field(Path(name) / f"{ranks}-{number.name}", programs)
                field.folder.mkdir()
                start = time.monotonic()
                try:
                    line = play_line(field, getattr(field, ranks), number, arguments.trials, arguments.seed)
                    outcome = f"{arguments.trials} trials held, {line.saved} of them saved, {line.step} steps"
                except Broken as problem:
                    outcome, broken = f"BROKE: {problem}", broken + 1
                field.clear()
                print(f"{number.name:8} {ranks:4} {outcome} ({time.monotonic() - start:.0f} s)", flush=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
