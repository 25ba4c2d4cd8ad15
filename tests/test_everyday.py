"""Everyday use of real programs: what they say of themselves, completion in real shells, the line of progress on a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
from pathlib import Path

import numpy as np
import pytest

from mlc import __version__
from mlc.driver import Build, Options

SIZES = {"depth": 2, "width": 32, "heads": 2, "context": 32, "batch": 2}

#: A model of records, not of tokens.
CLASSES = '''"""Two classes."""
from mlc.losses import cross_entropy
from mlc.nn import linear
from mlc.optim import sgd

batch: dim = 4
rate: f32 = 0.1


@layer
def look(x: real[batch, 3]):
    h = linear(x, 2, name="fc")
    report("size", mean(h * h))
    return h


@model
def classes(x: real[batch, 3], y: i32[batch]):
    logits = look(x)
    right = mean(cast(argmax(logits, axis=-1) == y, f32))
    return {"loss": cross_entropy(logits, y), "accuracy": right}


@train()
def recipe():
    return sgd(rate=rate)
'''


@pytest.fixture(scope="module")
def gpt(compiled) -> Build:
    return compiled("gpt", Options(microbatches=8), **SIZES)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_bytes(b"It was the best of times, it was the worst of times, it was the age of wisdom. " * 200)
    return path


def records(folder: Path, rows: int) -> tuple[str, str]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, 3)).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", (x.sum(1) > 0).astype(np.int32))
    return "x=x.npy", "y=y.npy"


def test_version_names_compiler_model_and_target(gpt: Build, run) -> None:
    lines = run(gpt, "--version").stdout.splitlines()
    assert lines[0] == f"gpt: a training program made by mlc {__version__}"
    assert re.fullmatch(r"model   [0-9a-f]{64} \(\d+ parameters, 8 microbatches of 2\)", lines[1])
    assert lines[2] == "layout  pp 1, dp 1, 1 stages"
    assert re.fullmatch(r"target  \S+.*, (gcc|clang) \d+.*, \S.*", lines[3])
    assert run(gpt, "-h").stdout == run(gpt, "--help").stdout


def test_records_are_called_so(compiled, tmp_path: Path, run) -> None:
    """Units, the model's own metrics in evaluations, and the same bits of them in every layout."""
    source = tmp_path / "classes.dsl"
    source.write_text(CLASSES)
    x, y = records(tmp_path, 26)
    arguments = ("--data", x, "--data", y, "--evaluate", x, "--evaluate", y, "--steps", 30, "--threads", 1)
    said = set()
    for dp in (1, 2):
        build = compiled(source, Options(dp=dp, microbatches=4))
        out = run(build, *arguments, "--log", "log").stdout
        assert re.match(r"trained 30 steps: loss \S+, \d+ records/s, mfu unknown\n", out)
        said.add(out.splitlines()[1])
    (line,) = said
    found = re.fullmatch(r"evaluation after 30 steps: loss (\S+) over 26 records; size (\S+), accuracy (\S+)", line)
    assert found, line
    assert float(found[3]) * 26 == pytest.approx(round(float(found[3]) * 26))
    logged = [json.loads(written) for written in (tmp_path / "log").read_text().splitlines()]
    assert logged[0]["records"] == 16 and "records_per_s" in logged[0] and "tokens" not in logged[0]
    assert logged[-1]["evaluate_records"] == 26
    assert logged[-1]["evaluate_accuracy"] == float(found[3]) and logged[-1]["evaluate_size"] == float(found[2])


def complete_in_bash(script: Path, folder: Path, *words: str) -> list[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    command = f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _mlc_gpt; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_bash_completes(gpt: Build, tmp_path: Path, run) -> None:
    script = tmp_path / "gpt.bash"
    script.write_text(run(gpt, "--completion", "bash").stdout)
    (tmp_path / "two words.txt").touch()
    (tmp_path / "saved").mkdir()
    assert complete_in_bash(script, tmp_path, "gpt", "--evaluate-") == ["--evaluate-batches"]
    assert "--warmup" in complete_in_bash(script, tmp_path, "gpt", "--")
    assert complete_in_bash(script, tmp_path, "gpt", "--order", "") == ["shuffled", "sequential"]
    assert complete_in_bash(script, tmp_path, "gpt", "--transport", "=", "l") == ["local"]
    assert complete_in_bash(script, tmp_path, "gpt", "--transport", "=") == ["local", "threads", "mpi"]
    assert complete_in_bash(script, tmp_path, "gpt", "--data", "tw") == ["two words.txt"]
    assert complete_in_bash(script, tmp_path, "gpt", "--data", "tokens", "=", "tw") == ["two words.txt"]
    assert complete_in_bash(script, tmp_path, "gpt", "--checkpoint", "") == ["saved"]
    assert complete_in_bash(script, tmp_path, "gpt", "--resume", "") == ["auto", "saved"]
    assert complete_in_bash(script, tmp_path, "gpt", "--steps", "") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_script(gpt: Build, tmp_path: Path, run, shell: str) -> None:
    script = tmp_path / f"gpt.{shell}"
    script.write_text(run(gpt, "--completion", shell).stdout)
    assert all(f"{'--' if shell == 'zsh' else '-l '}{name}" in script.read_text() for name in ("data", "top-k", "rate", "help"))
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    subprocess.run([shell, "-n", script], check=True)
    if shell == "fish":
        asked = f"source {script}; complete -C 'gpt --order '"
        done = subprocess.run([shell, "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["sequential", "shuffled"]


def on_terminal(command: list[object], columns: int, **environment: str) -> str:
    """What a program writes to stderr when that is a terminal of so many columns."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {**os.environ, "TERM": "xterm", **environment}
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=other, env=variables)
    os.close(other)
    written = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(main)
    assert process.wait(timeout=60) == 0, written
    return written.decode()


@pytest.mark.parametrize("columns", [1, 7, 20, 45, 132])
def test_progress_fits_the_terminal(gpt: Build, text: Path, columns: int) -> None:
    written = on_terminal([gpt.program, "--data", text, "--steps", 40, "--threads", 1], columns)
    lines = re.split(r"\r|\n", re.sub(r"\x1b\[[0-9]*[A-Za-z]", "", written))
    assert max(map(len, lines)) < columns
    if columns > 15:
        assert any(line.startswith("40/40 steps") for line in lines)
        assert written.endswith("\n")
    assert ("tokens/s" in written) == (columns > 100)


def test_progress_elsewhere(gpt: Build, text: Path, run) -> None:
    """COLUMNS counts where the terminal does not know; one that cannot write over a line gets plain ones, rarely."""
    assert "40/40 steps\x1b" in on_terminal([gpt.program, "--data", text, "--steps", 40, "--threads", 1], 0, COLUMNS="20")
    plain = on_terminal([gpt.program, "--data", text, "--steps", 40, "--threads", 1], 80, TERM="dumb")
    for written in (plain.replace("\r\n", "\n"), run(gpt, "--data", text, "--steps", 40).stderr):
        assert re.fullmatch(r"(\d+/40 steps  loss .*\n)*", written)


def test_a_terminal_that_nobody_reads_holds_up_nothing(gpt: Build, text: Path) -> None:
    main, other = pty.openpty()
    os.set_blocking(other, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(other, b"x")
    os.set_blocking(other, True)
    command = [gpt.program, "--data", text, "--steps", "40"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=other, env={**os.environ, "TERM": "xterm"}, timeout=100, check=True)
    assert b"trained 40 steps" in done.stdout
    os.close(main)
    os.close(other)


def test_partial_evaluation(gpt: Build, text: Path, run) -> None:
    some = run(gpt, "--evaluate", text, "--evaluate-batches", 3).stdout
    assert "over 6 windows, 192 tokens" in some
    assert run(gpt, "--evaluate", text, "--evaluate-batches", 3, "--threads", 2).stdout == some
    assert run(gpt, "--evaluate", text).stdout == run(gpt, "--evaluate", text, "--evaluate-batches", 10**15).stdout
