"""Plays faults on real programs and prints what happened: a row for each fault, what is right, and whether it held.

    python benchmarks/attack.py                          # all of them, within five minutes on two cores
    python benchmarks/attack.py checkpoints full-disk    # those whose area or name has one of the words
    python benchmarks/attack.py --list

Areas are the files of benchmarks/attacks/; spec/reliability.md names the cases beside the tests. Exits 1 when a case did not hold.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attacks
from attacks.field import Broken, Case, Field, Programs


def all_cases() -> Iterator[tuple[str, Case]]:
    """(area, case) of every file."""
    for module in sorted(pkgutil.iter_modules(attacks.__path__), key=lambda m: m.name):
        if module.name != "field":
            for case in importlib.import_module(f"attacks.{module.name}").CASES:
                yield module.name, case


def play(case: Case, folder: Path, programs: Programs) -> str | None:
    """None where it held, else what happened."""
    folder.mkdir(parents=True)
    field = Field(folder, programs)
    try:
        case.play(field)
    except Broken as broken:
        return str(broken)
    except Exception as problem:  # noqa: BLE001 - one broken case must not hide the others
        return f"{type(problem).__name__}: {problem}"
    finally:
        field.clear()
    return None


def print_row(area: str, case: Case, happened: str | None, seconds: float) -> None:
    print(f"{'held ' if happened is None else 'BROKE'}  {area}/{case.name}  ({seconds:.1f} s)")
    print(f"       {case.fault}: {case.right}", flush=True)
    if happened is not None:
        print(f"       but: {happened}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of areas or names")
    parser.add_argument("--list", action="store_true", help="print the names only")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    chosen = [(area, case) for area, case in all_cases() if not arguments.words or any(w in f"{area}/{case.name}" for w in arguments.words)]
    if not chosen:
        sys.exit(f"no case has {' or '.join(arguments.words)} in its name")
    if arguments.list:
        print(*(f"{area}/{case.name}" for area, case in chosen), sep="\n")
        return
    start, broken = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="mlc-attack-") as name, ThreadPoolExecutor(arguments.workers) as pool:
        programs = Programs(Path(name) / "programs")

        def timed(numbered: tuple[int, tuple[str, Case]]) -> tuple[str | None, float]:
            number, (_, case) = numbered
            began = time.monotonic()
            return play(case, Path(name) / f"case-{number}", programs), time.monotonic() - began

        for (area, case), (happened, seconds) in zip(chosen, pool.map(timed, enumerate(chosen)), strict=True):
            print_row(area, case, happened, seconds)
            broken += happened is not None
    print(f"{len(chosen) - broken} passed, {broken} failed in {time.monotonic() - start:.0f} s")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
