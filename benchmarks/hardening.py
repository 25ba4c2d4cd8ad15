"""Measures what hardening costs: one program built with and without it, run in turn.

    python benchmarks/hardening.py [--rounds 15]

Prints the median CPU seconds of each and the median of the ratios of neighbouring runs, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFINES = {"depth": 4, "width": 256, "heads": 4, "context": 256, "vocab": 8192}
BARE = ("HARDEN=", "SEALED=", "../gpt2")


def build(folder: Path) -> tuple[Path, Path]:
    """The program as it is, and without protection."""
    defines = [word for name, value in DEFINES.items() for word in ("-D", f"{name}={value}")]
    command = [sys.executable, "-m", "mlc", "compile", str(ROOT / "examples" / "gpt2.dsl"), "-o", str(folder), *defines]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    hardened = shutil.copy(folder / "gpt2", folder / "hardened")
    subprocess.run(["make", "-s", "-j2", "-C", str(folder / "src"), *BARE], check=True)
    return hardened, folder / "gpt2"


def cpu_seconds(program: Path, steps: int) -> float:
    """User time of a run of one thread; the system's is that of the machine."""
    arguments = ["--data", str(ROOT / "README.md"), "--steps", str(steps), "--threads", "1"]
    process = subprocess.Popen([str(program), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{program} ended with status {status}")
    return usage.ru_utime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hardened, bare = build(Path(folder))
        pairs = [(cpu_seconds(hardened, arguments.steps), cpu_seconds(bare, arguments.steps)) for _ in range(arguments.rounds)]
    with_it, without_it = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"hardened {with_it:.2f} s, bare {without_it:.2f} s, ratio {ratio:.3f} ({arguments.rounds} rounds)")


if __name__ == "__main__":
    main()
