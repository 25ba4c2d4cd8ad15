"""What a fault is, and what it is played on: built programs, a text to train on, a folder of its own, processes that never outlive it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

#: A GPT of 2 layers whose step takes about a millisecond.
TINY = {"depth": 2, "width": 32, "heads": 2, "context": 32, "batch": 2}

#: How one rank of four are laid out.
FOUR = ("--pp", 2, "--dp", 2)


class Broken(Exception):
    """What happened is not what is right."""


@dataclass(frozen=True, slots=True)
class Case:
    """name: words with dashes. fault and right: a clause each, for the table. play: raises Broken when it is not so."""

    name: str
    fault: str
    right: str
    play: Callable[[Field], None]


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended; `code` is negative for a signal."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def digest(self) -> str:
        found = re.search(r"^digest: ([0-9a-f]{64})$", self.out, re.MULTILINE)
        if not found:
            raise Broken(f"no digest, exit code {self.code}: {last_line(self.err)}")
        return found[1]


@dataclass(slots=True)
class Programs:
    """Programs by layout, each built once, also when two cases ask for it at the same time."""

    folder: Path
    lock: threading.Lock = field(default_factory=threading.Lock)

    def build(self, name: str, source: Path, *options: object, defines: dict[str, object] | None = None, **environment: str) -> Path:
        """The program of a model file; `name` stands for the file, options and defines."""
        out = self.folder / name
        program = out / source.stem
        with self.lock:
            if not program.exists():
                settings = [f"-D{key}={value}" for key, value in (defines or {}).items()]
                words = [sys.executable, "-m", "mlc", "compile", source, "-o", out, *settings, *options]
                command, variables = [str(word) for word in words], {**os.environ, **environment}
                done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise Broken(f"{source.name} does not compile: {done.stderr}")
        return program


@dataclass(slots=True)
class Field:
    """Where one case is played. `folder` is empty at its start and removed at its end, with every process started by it."""

    folder: Path
    programs: Programs
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def text(self) -> Path:
        """Some 200 KB of English."""
        path = self.folder / "text.txt"
        if not path.exists():
            path.write_bytes((ROOT / "README.md").read_bytes() * 10)
        return path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def one(self) -> Path:
        """A tiny GPT on one rank, 8 microbatches a step."""
        return self.gpt("one")

    @property
    def four(self) -> Path:
        """The same on two stages and two replicas."""
        return self.gpt("four", *FOUR)

    def gpt(self, name: str, *options: object, **defines: object) -> Path:
        return self.programs.build(name, ROOT / "examples" / "gpt.dsl", "--microbatches", 8, *options, defines={**TINY, **defines})

    def start(self, *command: object, **options: object) -> subprocess.Popen[str]:
        """A process in a group of its own, with pipes for its output; `options` as Popen takes them."""
        chosen: dict[str, object] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.folder}
        process = subprocess.Popen([str(word) for word in command], text=True, start_new_session=True, **{**chosen, **options})  # type: ignore[call-overload]
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], seconds: float = 30) -> Ended:
        """Waits for the end of a process, which must come within `seconds`."""
        start = time.monotonic()
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Broken(f"still running after {seconds:g} s") from None
        return Ended(process.returncode, out or "", err or "", time.monotonic() - start)

    def run(self, *command: object, seconds: float = 30, **options: object) -> Ended:
        return self.finish(self.start(*command, **options), seconds)

    def train(self, program: Path, *arguments: object, steps: int = 20, seconds: float = 30, **options: object) -> Ended:
        """Trains on the text, one thread a rank."""
        return self.run(program, *self.arguments(steps), *arguments, seconds=seconds, **options)

    def arguments(self, steps: int) -> tuple[object, ...]:
        return ("--data", self.text, "--steps", steps, "--threads", 1)

    def clear(self) -> None:
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["(nothing)"])[-1]


def check(held: bool, otherwise: str) -> None:
    if not held:
        raise Broken(otherwise)


def check_ended(ended: Ended, code: int, *words: str) -> None:
    """The exit code, and one line of standard error with all the words."""
    check(ended.code == code, f"exit code {ended.code}, not {code}: {last_line(ended.err)}")
    found = any(all(word in line for word in words) for line in ended.err.splitlines())
    check(not words or found, f"no line with {', '.join(words)} in: {last_line(ended.err)}")


def wait_until(condition: Callable[[], bool], seconds: float = 20, what: str = "what was waited for") -> None:
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, f"{what} did not come within {seconds:g} s")
        time.sleep(0.005)
