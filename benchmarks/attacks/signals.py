"""Signals at random moments, run after run in one directory: what `latest` names is always whole, of this run, and never older."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attacks.field import Broken, Case, Ended, Field, check, last_line

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
SIGNALS = (*STOPS, signal.SIGKILL)

#: Seconds after which a signal comes at the latest: some come before step 0, some in a save.
LONGEST = 0.8


@dataclass(slots=True)
class Line:
    """Trials of one signal with one program. `run` and `step`: what `latest` named so far."""

    field: Field
    program: Path
    number: signal.Signals
    checkpoints: Path
    rng: random.Random
    run: str = ""
    step: int = 0
    saved: int = 0


def children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def send(line: Line, process: subprocess.Popen[str]) -> None:
    """To the program, to one of its ranks, or to all of them as a terminal does."""
    ranks = children(process.pid)
    kind = line.rng.choice(("program", "rank", "group"))
    try:
        if kind == "group" and line.number != signal.SIGKILL:
            os.killpg(process.pid, line.number)
        else:
            os.kill(line.rng.choice(ranks) if kind == "rank" and ranks else process.pid, line.number)
    except ProcessLookupError:
        raise Broken(f"the program has ended by itself: {process.communicate()[1]}") from None


def check_end(line: Line, ended: Ended, early: bool) -> None:
    """A signal that comes before step 0, when there is nothing to save, ends a program or a rank as it ends any other."""
    if line.number == signal.SIGKILL:
        check(ended.code in (3, -signal.SIGKILL), f"exit code {ended.code}: {last_line(ended.err)}")
        return
    ended_rank = ended.code == 3 and f"killed by signal {line.number.value}" in ended.err
    if early and (ended.code == -line.number or ended_rank):
        return
    found = re.search(rf"stopped by signal {line.number.value} after (\d+) steps", ended.err)
    check(ended.code == 0 and found is not None, f"exit code {ended.code}: {last_line(ended.err)}")
    step = int(found[1]) if found else -1
    check(step == 0 or number_of(line.checkpoints) == step, f"stopped after step {step}, latest is {number_of(line.checkpoints)}")


def number_of(checkpoints: Path) -> int:
    latest = checkpoints / "latest"
    return int(latest.read_text().strip().removeprefix("step-")) if latest.exists() else 0


def check_latest(line: Line) -> None:
    step = number_of(line.checkpoints)
    check(step >= line.step, f"latest went back from step {line.step} to {step}")
    if not step:
        return
    path = line.checkpoints / f"step-{step:08d}"
    whole = line.field.run(line.program, "--resume", path, "--dry-run", "--hash")
    check(whole.code == 0 and f"{step} done" in whole.out, f"step {step} is not whole: {last_line(whole.err)}")
    run = json.loads((path / "state.json").read_text())["run"]
    check(line.run in ("", run), f"step {step} is of run {run}, not {line.run}")
    line.saved += step > line.step
    line.run, line.step = run, step


def try_once(line: Line) -> None:
    log = line.field.folder / "log"
    log.unlink(missing_ok=True)
    words = (*line.field.arguments(100000000), "--log", log, "--checkpoint", line.checkpoints, "--every", 3, "--resume", "auto")
    process = line.field.start(line.program, *words, stdout=subprocess.DEVNULL)
    time.sleep(line.rng.uniform(0.005, LONGEST))
    send(line, process)
    ended = line.field.finish(process)
    check_end(line, ended, early=not log.exists() or not log.read_text())
    check_latest(line)


def play_line(field: Field, program: Path, number: signal.Signals, trials: int, seed: int) -> Line:
    """Raises Broken at the first trial that does not hold."""
    line = Line(field, program, number, field.folder / f"saved-{program.parent.name}-{number.name}", random.Random(seed))
    for trial in range(trials):
        try:
            try_once(line)
        except Broken as broken:
            raise Broken(f"{number.name}, trial {trial} of seed {seed}: {broken}") from None
    return line


def case_of(number: signal.Signals) -> Callable[[Field], None]:
    def play(field: Field) -> None:
        saved = sum(play_line(field, program, number, 4, 1).saved for program in (field.one, field.four))
        check(saved > 0, "no trial has saved anything")

    return play


CASES = tuple(
    Case(
        f"{number.name.lower()}-at-random",
        f"{number.name} at random moments, to the program, a rank or all, one rank and four",
        "latest is whole, of this run, and the step that was said" if number in STOPS else "latest is whole and of this run",
        case_of(number),
    )
    for number in SIGNALS
)
