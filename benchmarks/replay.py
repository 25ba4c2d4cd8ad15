"""Emits every example with this tree and with another commit's, and shows where the files differ.

    python benchmarks/replay.py --base HEAD

A change that is called a refactoring differs nowhere. Exits 1 when something differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def check_out(commit: str, folder: Path) -> Path:
    """The files of a commit, under `folder`."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True)
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def emit(checkout: Path, packages: Path, model: Path, out: Path) -> None:
    """Compile one example to C with the compiler of a checkout."""
    packages.mkdir(exist_ok=True)
    link = packages / "mlc"
    if not link.exists():
        link.symlink_to(checkout / "compiler")
    command = [sys.executable, "-m", "mlc", "compile", str(model.relative_to(checkout)), "--emit", "c", "-o", str(out)]
    subprocess.run(command, cwd=checkout, check=True, env={**os.environ, "PYTHONPATH": str(packages)}, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD", help="the commit to compare with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = check_out(arguments.base, work / "checkout")
        for model in sorted((base / "examples").glob("*.dsl")):
            here = ROOT / "examples" / model.name
            if here.exists():
                emit(base, work / "base_packages", model, work / "base" / model.stem)
                emit(ROOT, work / "packages", here, work / "here" / model.stem)
        done = subprocess.run(["diff", "-r", "-u", "base", "here"], cwd=work, check=False)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
