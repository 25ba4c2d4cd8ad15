"""Processes that stand still, readers that do not read, files that are none: what would wait for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from attacks.field import Case, Field, check, check_ended, wait_until
from attacks.kills import children
from attacks.ranks import RANKS, finish_ranks, start_ranks


def train(field: Field, *words: object, **options: object) -> tuple[subprocess.Popen[str], list[int]]:
    """Four ranks in their steps, and their processes."""
    log = field.folder / "log"
    run = field.start(field.four, *field.arguments(100000000), "--log", log, *words, **options)
    wait_until(lambda: log.exists() and log.stat().st_size > 0, what="a step")
    return run, children(run.pid)


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def stopped_rank_is_told(field: Field) -> None:
    run, ranks = train(field, "--grace", 1)
    os.kill(ranks[2], signal.SIGSTOP)
    run.terminate()
    check_ended(field.finish(run), 4, "told to stop by signal 15", "rank 2 is late")
    check(all(is_gone(rank) for rank in ranks), "a rank is left")


def rank_is_told(field: Field) -> None:
    run, ranks = train(field, "--grace", 1)
    os.kill(ranks[2], signal.SIGSTOP)
    os.kill(ranks[0], signal.SIGTERM)
    check_ended(field.finish(run), 4, "told to stop by signal 15", "rank 2 is late")


def stopped_rank_of_torchrun(field: Field) -> None:
    log = field.folder / "log"
    words = (field.four, *field.arguments(10**9), "--timeout", 1)
    ranks = start_ranks(field, {rank: (*words, "--log", log) if rank == 0 else words for rank in range(RANKS)})
    wait_until(lambda: log.exists() and log.stat().st_size > 0, what="a step")
    ranks[2].send_signal(signal.SIGSTOP)
    ended = finish_ranks(field, {rank: process for rank, process in ranks.items() if rank != 2})
    ranks[2].kill()
    check({e.code for e in ended.values()} == {4}, f"exit codes {[e.code for e in ended.values()]}, not 4")
    said = "".join(e.err for e in ended.values())
    check(said.count("no progress for 1 s") == 1 and said.count("error:") == 1, f"not one report: {said}")
    check("rank 2 is late" in said, f"rank 2 is not named: {said}")


def all_stopped(field: Field) -> None:
    run, ranks = train(field, "--grace", 1)
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    run.terminate()
    check_ended(field.finish(run), 4, "told to stop by signal 15")


def stopped_supervisor(field: Field) -> None:
    run, ranks = train(field)
    os.kill(run.pid, signal.SIGSTOP)
    os.kill(ranks[2], signal.SIGKILL)
    wait_until(lambda: all(is_gone(rank) for rank in ranks), what="the end of the other ranks")
    os.kill(run.pid, signal.SIGCONT)
    check_ended(field.finish(run), 3, "rank 2", "is lost")


def stopped_supervisor_and_rank(field: Field) -> None:
    run, ranks = train(field, "--timeout", 1)
    os.kill(run.pid, signal.SIGSTOP)
    os.kill(ranks[2], signal.SIGSTOP)
    wait_until(lambda: all(is_gone(rank) for rank in ranks if rank != ranks[2]), what="the end of the other ranks")
    os.kill(run.pid, signal.SIGCONT)
    check_ended(field.finish(run), 4, "no progress for 1 s", "rank 2 is late")


def long_work_when_told(field: Field) -> None:
    """What is told to stop and computes is not ended by force."""
    program = field.gpt("four-slow", "--pp", 2, "--dp", 2, width=256, context=256)
    log = field.folder / "log"
    run = field.start(program, *field.arguments(1000), "--log", log, "--grace", 0.2, "--checkpoint", field.checkpoints)
    wait_until(lambda: log.exists() and log.stat().st_size > 0, seconds=60, what="a step")
    took = json.loads(log.read_text(encoding="utf-8").splitlines()[0])["step_ms"]
    check(took > 400, f"the step of the test takes {took:g} ms only")
    run.terminate()
    check_ended(field.finish(run, 60), 0, "stopped by signal 15")
    check((field.checkpoints / "latest").exists(), "nothing is saved")


def full_pipe() -> tuple[int, int]:
    """Ends of a pipe that takes nothing more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(writer, b"x" * size)
        except BlockingIOError:
            pass
    os.set_blocking(writer, True)
    return reader, writer


def full_error_pipe(field: Field) -> None:
    for play, code in ((lambda run, ranks: os.kill(ranks[1], signal.SIGKILL), 3), (lambda run, ranks: run.terminate(), 0)):
        reader, writer = full_pipe()
        run, ranks = train(field, stderr=writer)
        play(run, ranks)
        check_ended(field.finish(run), code)
        os.close(reader)
        os.close(writer)
        (field.folder / "log").unlink()


def full_output_pipe(field: Field) -> None:
    """The summary has no reader; SIGTERM comes before and after it."""
    reader, writer = full_pipe()
    run, _ = train(field, "--checkpoint", field.checkpoints, stdout=writer)
    run.terminate()
    check_ended(field.finish(run), 3, "standard output", "nobody reads it")
    check((field.checkpoints / "latest").exists(), "nothing is saved")
    done = field.start(field.four, *field.arguments(3), stdout=writer)
    time.sleep(1.5)
    check(done.poll() is None, "a reader that is slow is not waited for")
    done.terminate()
    check(field.finish(done).code != 0, "exit code 0 without its output")
    os.close(reader)
    os.close(writer)


def told_in_evaluation(field: Field) -> None:
    long = field.folder / "long.txt"
    long.write_bytes(field.text.read_bytes() * 200)
    run = field.start(field.one, *field.arguments(100), "--every", 1, "--evaluate", long, "--checkpoint", field.checkpoints)
    wait_until(lambda: (field.checkpoints / "latest").exists(), what="a checkpoint")
    time.sleep(0.3)
    run.terminate()
    check_ended(field.finish(run, 10), 0, "stopped by signal 15")


def special_files(field: Field) -> None:
    fifo = field.folder / "fifo"
    os.mkfifo(fifo)
    data = ("--data", field.text)
    field.train(field.one, "--checkpoint", field.checkpoints, steps=2)
    shard = next(path for path in field.checkpoints.glob("step-*/*") if path.suffix == ".safetensors")
    kept = shard.read_bytes()
    cases: list[tuple[object, ...]] = [
        ("--data", fifo),
        ("--data", "/dev/zero"),
        ("--data", field.folder),
        (*data, "--evaluate", fifo),
        (*data, "--log", fifo),
        (*data, "--trace", fifo),
        (*data, "--weights", fifo),
        (*data, "--resume", fifo),
    ]
    for words in cases:
        for program in (field.one, field.four):
            ended = field.run(program, *words, "--steps", 1, seconds=10)
            check(ended.code in (1, 2), f"{' '.join(map(str, words))}: exit code {ended.code}: {ended.err}")
    shard.unlink()
    os.mkfifo(shard)
    ended = field.run(field.one, *data, "--steps", 3, "--resume", shard.parent, seconds=10)
    check_ended(ended, 1, "a FIFO")
    shard.unlink()
    shard.write_bytes(kept)
    check_ended(field.run(field.one, *data, "--steps", 3, "--resume", shard.parent), 0)
    check_ended(field.run(field.one, *data, "--steps", 1, "--log", "/dev/null"), 0)


def each_signal_at_the_start(field: Field) -> None:
    """From the first instruction on a run can be ended."""
    for delay in (0.0, 0.003, 0.01, 0.03, 0.1):
        run = field.start(field.four, *field.arguments(100000000))
        time.sleep(delay)
        run.terminate()
        ended = field.finish(run, 10)
        check(ended.code in (0, -signal.SIGTERM), f"after {delay:g} s: exit code {ended.code}: {ended.err}")


CASES = (
    Case(
        "stopped-rank-told",
        "one rank is stopped, then SIGTERM to the launcher",
        "code 4 after --grace names the rank",
        stopped_rank_is_told,
    ),
    Case("stopped-rank-told-rank", "one rank is stopped, then SIGTERM to another", "code 4 after --grace names the rank", rank_is_told),
    Case(
        "stopped-rank-of-torchrun",
        "a rank that torchrun started is stopped",
        "code 4 of all others after --timeout, one report",
        stopped_rank_of_torchrun,
    ),
    Case("all-stopped-told", "all ranks are stopped, then SIGTERM", "code 4 after --grace", all_stopped),
    Case("stopped-supervisor", "the supervisor is stopped while a rank is killed", "the others end and name it", stopped_supervisor),
    Case("stopped-supervisor-hang", "supervisor and a rank are stopped", "the others end with the report", stopped_supervisor_and_rank),
    Case("long-work-told", "a step takes longer than --grace after SIGTERM", "it is finished and saved", long_work_when_told),
    Case("full-error-pipe", "nobody reads standard error", "kills and SIGTERM end the run as ever", full_error_pipe),
    Case("full-output-pipe", "nobody reads standard output", "SIGTERM ends the run; all is saved", full_output_pipe),
    Case("told-in-evaluation", "SIGTERM in a long evaluation while training", "it is cut short, the run ends with 0", told_in_evaluation),
    Case("special-files", "FIFOs, devices, directories as any file", "refused at once by what they are", special_files),
    Case("told-at-start", "SIGTERM at any moment of the start", "the run ends", each_signal_at_the_start),
)
