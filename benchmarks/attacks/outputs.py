"""Outputs that fail, values that are not finite, data that shrink, limits: nothing of what was trained is lost, nothing wrong is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from attacks.field import Case, Field, check, check_ended, last_line, wait_until

SAID = "the run goes on without it"


def latest(field: Field) -> str:
    path = field.checkpoints / "latest"
    return path.read_text().strip() if path.exists() else "(none)"


def check_saved(field: Field, steps: int) -> None:
    check(latest(field) == f"step-{steps:08d}", f"the latest checkpoint is {latest(field)}, not that of {steps} steps")


def saving(field: Field) -> tuple[object, ...]:
    return ("--checkpoint", field.checkpoints)


def full_output(field: Field) -> None:
    with Path("/dev/full").open("w") as full:
        ended = field.train(field.four, *saving(field), stdout=full)
    check_ended(ended, 3, "standard output: cannot be written", SAID)
    check_saved(field, 20)


def gone_reader(field: Field) -> None:
    read, write = os.pipe()
    os.close(read)
    process = field.start(field.one, *field.arguments(20), *saving(field), stdout=write, restore_signals=True)
    os.close(write)
    check_ended(field.finish(process), 3, "Broken pipe", SAID)
    check_saved(field, 20)


def full_trace(field: Field) -> None:
    limited = ("sh", "-c", 'ulimit -f 1000; exec "$@"', "sh", field.one)
    check_ended(field.run(*limited, *field.arguments(80), "--trace", "trace", *saving(field)), 3, "trace: cannot be written", SAID)
    check_saved(field, 80)


def log_is_data(field: Field) -> None:
    before = field.text.read_bytes()
    for option, name in (("--log", "text.txt"), ("--log", "hard"), ("--trace", "soft")):
        path = field.folder / name
        if name == "hard":
            path.hardlink_to(field.text)
        if name == "soft":
            path.symlink_to(field.text)
        check_ended(field.train(field.four, option, name, *saving(field)), 2, "is also read as", "nothing was written")
    check(field.text.read_bytes() == before and not field.checkpoints.exists(), "something was written")


def earlier_log(field: Field) -> None:
    for steps in (3, 4):
        check_ended(field.train(field.one, "--log", "log", steps=steps), 0)
    lines = [len((field.folder / name).read_text().splitlines()) for name in ("log.1", "log")]
    check(lines == [3, 4], f"logs of {lines} lines")


def one_log(field: Field) -> None:
    """Two runs that start at once with one log, then a third and a resumed one beside the run that has it."""
    runs = [field.start(field.four, *field.arguments(100000000), "--log", "log") for _ in range(2)]
    wait_until(lambda: any(run.poll() is not None for run in runs), what="the end of one")
    ended, live = sorted(runs, key=lambda run: run.poll() is None)
    check_ended(field.finish(ended), 1, "another run writes its log there")
    check_ended(field.train(field.one, "--log", "log", steps=3), 1, "another run writes its log there")
    live.send_signal(signal.SIGTERM)
    check_ended(field.finish(live), 0)
    steps = [json.loads(line)["step"] for line in (field.folder / "log").read_text().splitlines()]
    check(steps == list(range(len(steps))), "the log is not of one run")
    check(not (field.folder / "log.1").exists(), "the log of a live run was renamed")


def rate_too_large(field: Field) -> None:
    check_ended(field.train(field.four, "--rate", "1e39", *saving(field)), 2, "does not fit an f32")
    ended = field.train(field.four, "--rate", "3e38", "--warmup", 1, "--log", "log", *saving(field))
    check_ended(ended, 5, "not finite")
    for line in (field.folder / "log").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: check(False, f"the log holds {word}"))
    check(latest(field) == "(none)", f"{latest(field)} was published")


def shrinking_data(field: Field) -> None:
    process = field.start(field.four, *field.arguments(100000000), "--log", "log", *saving(field))
    log = field.folder / "log"
    wait_until(lambda: log.exists() and log.stat().st_size > 0, what="a step")
    os.truncate(field.text, 1000)
    ended = field.finish(process)
    check_ended(ended, 1, "text.txt", "are saved")
    found = re.search(r"the (\d+) steps before are saved", ended.err)
    check(found is not None, last_line(ended.err))
    check_saved(field, int(found[1]) if found else -1)


def small_stack(field: Field) -> None:
    whole = field.train(field.four, "--hash").digest
    limited = field.run("sh", "-c", 'ulimit -s 64; exec "$@"', "sh", field.four, *field.arguments(20), "--hash", *saving(field))
    check(limited.digest == whole, "another digest")
    check_saved(field, 20)


def little_memory(field: Field) -> None:
    for limit in ("-v 9000", "-v 30000", "-n 8", "-n 14"):
        for transport in ("local", "threads"):
            script = f'ulimit {limit}; exec "$@"'
            ended = field.run("sh", "-c", script, "sh", field.four, *field.arguments(3), "--transport", transport)
            check(ended.code in (0, 3), f"exit code {ended.code} under ulimit {limit}: {last_line(ended.err)}")
            check(not ended.code or "error: " in ended.err, f"no word under ulimit {limit}")


def checkpoint_in_the_way(field: Field) -> None:
    process = field.start(field.one, *field.arguments(100000000), "--every", 20, *saving(field), stdout=subprocess.DEVNULL)
    wait_until(lambda: (field.checkpoints / "latest").exists(), what="a checkpoint")
    for attempt in range(1000):
        field.checkpoints.rename(field.folder / f"away-{attempt}")
        (field.folder / "file").write_text("in the way")
        try:
            (field.folder / "file").rename(field.checkpoints)
            break
        except IsADirectoryError:
            continue
    process.terminate()
    check_ended(field.finish(process), 3, "checkpoints")


CASES = (
    Case("full-output", "a full disk under standard output", "said once, saved, exit code 3", full_output),
    Case("gone-reader", "a reader of standard output that has gone", "said once, saved, exit code 3", gone_reader),
    Case("full-trace", "a limit on the size of a trace", "said once, saved, exit code 3", full_trace),
    Case("log-is-data", "--log or --trace that is the data, by links too", "usage error, nothing written", log_is_data),
    Case("earlier-log", "--log onto that of an earlier run", "the earlier one is renamed", earlier_log),
    Case("one-log", "two runs at once with one --log", "one trains; the other ends with code 1", one_log),
    Case("rate-too-large", "a rate that makes parameters infinite", "exit code 2 or 5, nothing published, the log is JSON", rate_too_large),
    Case("shrinking-data", "a data file that shrinks while it is mapped", "exit code 1 with its name, steps before saved", shrinking_data),
    Case("small-stack", "ulimit -s 64", "the same bits", small_stack),
    Case("little-of-something", "few descriptors, little address space", "trains, or exit code 3 with a sentence", little_memory),
    Case("checkpoint-in-the-way", "a checkpoint directory that becomes a file", "exit code 3 with its name", checkpoint_in_the_way),
)
