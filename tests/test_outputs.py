"""What a program writes, and signals: an output that fails costs no step, none is written over what is there, and what asks a run to
stop makes it save."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc.driver import Build, Options

SIZES = {"depth": 1, "width": 32, "vocab": 256, "context": 16, "heads": 2, "batch": 2}
STEPS = 12
RUN = ("--steps", str(STEPS))


@pytest.fixture(params=["one", "local", "threads"])
def words(request: pytest.FixtureRequest, compiled, tmp_path: Path) -> list[str]:
    """The words that train on a text: one rank, four processes, four that are threads."""
    ranks = {} if request.param == "one" else {"pp": 2, "dp": 2}
    build: Build = compiled("gpt2", Options(microbatches=4, **ranks), **SIZES)
    text = tmp_path / "text"
    text.write_bytes(bytes(97 + i * i // 7 % 26 for i in range(4000)))
    transport = ["--transport", request.param] if ranks else []
    return [str(build.program), "--data", "text", *transport, "--threads", "1"]


def run(words: list[str], *more: object, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    chosen: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([*words, *map(str, more)], cwd=folder, text=True, timeout=60, check=False, **chosen)


def latest(folder: Path) -> str:
    return (folder / "saved" / "latest").read_text().strip()


# ---- what is said ----


def test_names_that_a_terminal_would_obey(words: list[str], tmp_path: Path) -> None:
    done = run([*words[:2], "none\x1b[31m\rgone", *words[3:]], "--steps", 1, folder=tmp_path)
    assert done.returncode == 1 and "none?[31m?gone: " in done.stderr


def test_a_sentence_that_is_too_long_still_ends(words: list[str], tmp_path: Path) -> None:
    done = run([*words[:2], "x" * 6000, *words[3:]], "--steps", 1, folder=tmp_path)
    assert done.returncode == 1 and done.stderr.endswith("\n") and done.stderr.count("\n") == 1


# ---- outputs that fail ----


def test_a_full_standard_output(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(words, "--steps", STEPS, "--checkpoint", "saved", folder=tmp_path, stdout=full)
    assert done.returncode == 3 and latest(tmp_path) == "step-00000012"
    assert done.stderr == "gpt2: error: standard output: cannot be written: No space left on device; the run goes on without it\n"


def test_a_reader_that_has_gone(words: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(words, "--steps", STEPS, "--checkpoint", "saved", "--hash", folder=tmp_path, stdout=write, restore_signals=True)
    os.close(write)
    assert done.returncode == 3 and latest(tmp_path) == "step-00000012"
    assert done.stderr.count("\n") == 1 and "standard output: cannot be written: Broken pipe" in done.stderr


def test_errors_that_nobody_reads(words: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run([words[0], "--nonsense"], folder=tmp_path, stderr=write, restore_signals=True)
    os.close(write)
    assert done.returncode == 2


def test_closed_descriptors_are_not_those_of_files(words: list[str], tmp_path: Path) -> None:
    command = " ".join([*words, "--steps 3 --log log --hash >&- 2>&-"])
    done = run(["sh", "-c", command], folder=tmp_path)
    assert done.returncode == 3
    assert [json.loads(line)["step"] for line in (tmp_path / "log").read_text().splitlines()] == [0, 1, 2]


@pytest.mark.parametrize("option", ["--log", "--trace"])
def test_a_full_disk_under_an_output(words: list[str], tmp_path: Path, option: str) -> None:
    if "local" in words:
        pytest.skip("the limit is that of shared memory too: such a run does not start")
    limited = ["sh", "-c", 'ulimit -f 600; exec "$@"', "sh", *words]
    done = run(limited, "--steps", 3000, option, "out", "--checkpoint", "saved", folder=tmp_path)
    assert done.returncode == 3 and latest(tmp_path) == "step-00003000"
    assert done.stderr == "gpt2: error: out: cannot be written: File too large; the run goes on without it\n"
    if option == "--log":
        steps = [json.loads(line)["step"] for line in (tmp_path / "out").read_text().splitlines()]
        assert steps == list(range(len(steps))) and len(steps) > 1000


def block(folder: Path) -> None:
    """A file in the place of the directory of checkpoints, which a save may make anew meanwhile."""
    (folder / "file").write_text("in the way")
    for attempt in range(1000):
        (folder / "saved").rename(folder / f"away-{attempt}")
        with contextlib.suppress(IsADirectoryError):
            (folder / "file").rename(folder / "saved")
            return
    pytest.fail("a save was faster a thousand times")


def test_a_checkpoint_between_two_steps(words: list[str], tmp_path: Path) -> None:
    """Its directory cannot take one for a while: nothing ends, and the last checkpoint holds all."""
    (tmp_path / "saved").mkdir()
    process = start(words, tmp_path, "--steps", 100000000, "--log", "log", "--checkpoint", "saved", "--every", 20)
    wait_until((tmp_path / "saved" / "latest").exists)
    block(tmp_path)
    steps = len((tmp_path / "log").read_bytes().splitlines())
    wait_until(lambda: len((tmp_path / "log").read_bytes().splitlines()) > steps + 50)
    (tmp_path / "saved").unlink()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "no checkpoint after step" in said and "tries again at the next one" in said
    assert f"after {int(latest(tmp_path).removeprefix('step-'))} steps" in said


def test_a_last_checkpoint_that_cannot_be_written(words: list[str], tmp_path: Path) -> None:
    process = start(words, tmp_path, "--steps", 100000000, "--log", "log", "--checkpoint", "saved", "--every", 20)
    wait_until((tmp_path / "saved" / "latest").exists)
    block(tmp_path)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3 and "saved: " in said.splitlines()[-1], said


# ---- what is there already ----


@pytest.mark.parametrize("option", ["--log", "--trace"])
@pytest.mark.parametrize("way", ["same", "hard", "soft"])
def test_outputs_that_are_inputs(words: list[str], tmp_path: Path, option: str, way: str) -> None:
    before = (tmp_path / "text").read_bytes()
    if way == "hard":
        (tmp_path / "hard").hardlink_to(tmp_path / "text")
    if way == "soft":
        (tmp_path / "soft").symlink_to(tmp_path / "text")
    name = "./text" if way == "same" else way
    done = run(words, *RUN, option, name, "--checkpoint", "saved", folder=tmp_path)
    assert done.returncode == 2 and f"{option} {name}: is also read as text: nothing was written" in done.stderr
    assert (tmp_path / "text").read_bytes() == before and not (tmp_path / "saved").exists()


def test_two_outputs_in_one_file(words: list[str], tmp_path: Path) -> None:
    done = run(words, *RUN, "--log", "out", "--trace", "./out", folder=tmp_path)
    assert done.returncode == 2 and "--log out: is also --trace" in done.stderr and not (tmp_path / "out").exists()
    with (tmp_path / "both").open("w") as both:
        done = run(words, *RUN, "--log", "both", folder=tmp_path, stdout=both)
    assert done.returncode == 2 and "--log both: is also standard output" in done.stderr


def test_an_output_that_is_another_file(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    for option in ("--log", "--trace"):
        done = run(words, *RUN, option, "notes", folder=tmp_path)
        assert done.returncode == 2 and "notes: is there already, and no output of an earlier run" in done.stderr
    assert (tmp_path / "notes").read_text() == "mine"
    done = run(words, *RUN, "--log", "saved/latest", "--checkpoint", "saved", folder=tmp_path)
    assert done.returncode == 2 and "a name that checkpoints use" in done.stderr


def test_earlier_outputs_are_kept(words: list[str], tmp_path: Path) -> None:
    for steps in (3, 4, 5):
        assert run(words, "--steps", steps, "--log", "log", "--trace", "trace", folder=tmp_path).returncode == 0
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("log.1", "log.2", "log")] == [3, 4, 5]
    assert all(json.loads((tmp_path / name).read_text()) for name in ("trace.1", "trace.2", "trace"))


def test_what_does_not_train_cuts_no_log(words: list[str], tmp_path: Path) -> None:
    assert run(words, *RUN, "--checkpoint", "saved", "--every", 5, "--log", "log", folder=tmp_path).returncode == 0
    before = (tmp_path / "log").read_text()
    assert run(words, *RUN, "--resume", "saved/step-00000005", "--log", "log", "--dry-run", folder=tmp_path).returncode == 0
    assert (tmp_path / "log").read_text() == before
    evaluate = [words[0], "--evaluate", *words[2:]]
    assert run(evaluate, "--resume", "saved/step-00000005", "--log", "log", folder=tmp_path).returncode == 0
    assert (tmp_path / "log").read_text().startswith(before)


# ---- signals ----


def start(words: list[str], folder: Path, *more: object, **options: Any) -> subprocess.Popen[str]:
    command = [*words, *map(str, more)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_the_whole_group(words: list[str], tmp_path: Path, stop: signal.Signals) -> None:
    """As a terminal sends it: to the program and to each rank."""
    process = start(words, tmp_path, "--steps", 100000000, "--log", "log", "--checkpoint", "saved")
    wait_until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").stat().st_size > 0)
    os.killpg(process.pid, stop)
    _, said = process.communicate(timeout=60)
    steps = int(latest(tmp_path).removeprefix("step-"))
    assert process.returncode == 0 and said == f"gpt2: stopped by signal {stop.value} after {steps} steps\n"


def ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_nohup(words: list[str], tmp_path: Path) -> None:
    process = start(words, tmp_path, "--steps", 100000000, "--log", "log", preexec_fn=ignore_hangups)
    wait_until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").stat().st_size > 0)
    os.killpg(process.pid, signal.SIGHUP)
    steps = (tmp_path / "log").stat().st_size
    wait_until(lambda: (tmp_path / "log").stat().st_size > steps + 10000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped by signal 2 " in said
