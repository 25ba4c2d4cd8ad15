"""Ranks that a launcher started and that were given different things, or that never come."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from attacks.field import ROOT, Broken, Case, Ended, Field, check, check_ended, last_line

RANKS = 4
ODD = 3
MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", RANKS)
Words = tuple[object, ...]


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    numbers = {"RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "MASTER_PORT": port}
    return {**os.environ, **{name: str(value) for name, value in numbers.items()}, "MASTER_ADDR": "localhost"}


def start_ranks(field: Field, commands: dict[int, Words], port: int = 0, **options: object) -> dict[int, subprocess.Popen[str]]:
    """Ranks without a common parent, as torchrun starts them."""
    port = port or random.randrange(1 << 30)
    return {rank: field.start(*words, env=environment(rank, port), **options) for rank, words in commands.items()}


def finish_ranks(field: Field, ranks: dict[int, subprocess.Popen[str]], seconds: float = 20) -> dict[int, Ended]:
    return {rank: field.finish(process, seconds) for rank, process in ranks.items()}


def all_ranks(words: Words, odd: Words) -> dict[int, Words]:
    return {rank: odd if rank == ODD else words for rank in range(RANKS)}


def check_one_sentence(said: str, *words: str) -> None:
    lines = [line for line in said.splitlines() if "error:" in line]
    check(len(lines) == 1, f"{len(lines)} sentences: {' / '.join(lines)}")
    check(all(word in lines[0] for word in words), f"no {', '.join(words)} in: {lines[0]}")


def differ_alone(field: Field, words: Words, odd: Words, code: int, *said: str) -> None:
    """Ranks that torchrun starts: all end with the code, one says why."""
    ended = finish_ranks(field, start_ranks(field, all_ranks(words, odd)))
    check({e.code for e in ended.values()} == {code}, f"exit codes {[e.code for e in ended.values()]}, not {code}")
    check_one_sentence("".join(e.err for e in ended.values()), *said)


def differ_under_mpirun(field: Field, words: Words, odd: Words, *said: str) -> None:
    if not shutil.which("mpirun"):
        raise Broken("there is no mpirun")
    script = field.folder / "rank.sh"
    quoted = [" ".join(f"'{word}'" for word in each) for each in (odd, words)]
    script.write_text(f'if [ "$OMPI_COMM_WORLD_RANK" = {ODD} ]; then exec {quoted[0]}; else exec {quoted[1]}; fi\n', encoding="utf-8")
    ended = field.run(*MPIRUN, "sh", script)
    check(ended.code != 0, "exit code 0")
    check_one_sentence(ended.err, *said)


def differ(field: Field, words: Words, odd: Words, code: int, *said: str) -> None:
    differ_alone(field, words, odd, code, *said)
    differ_under_mpirun(field, words, odd, *said)


def other_options(field: Field) -> None:
    words = (field.four, *field.arguments(5))
    for option, value in (("--seed", 4), ("--rate", 0.5), ("--order", "sequential"), ("--every", 2)):
        more = ("--evaluate", field.text)
        differ_alone(field, (*words, *more), (*words, *more, option, value), 2, f"differ in {option}:", str(value), f"at rank {ODD}")
    differ_under_mpirun(field, words, (*words[:3], "--steps", 6, "--threads", 1), "differ in --steps: 5 at rank 0, 6 at rank 3")


def other_threads(field: Field) -> None:
    """What ranks may differ in."""
    words = (field.four, "--data", field.text, "--steps", 5, "--hash", "--threads")
    ended = finish_ranks(field, start_ranks(field, all_ranks((*words, 1), (*words, 2, "--log", "other"))))
    check(all(e.code == 0 for e in ended.values()), f"exit codes {[e.code for e in ended.values()]}: {last_line(ended[0].err)}")
    check(ended[0].digest == field.train(field.four, "--hash", steps=5).digest, "another digest")


def wrong_option(field: Field) -> None:
    words = (field.four, *field.arguments(5))
    differ(field, words, (*words, "--what"), 2, f"rank {ODD}: unknown option --what")


def other_batch(field: Field) -> None:
    words = field.arguments(5)
    other = field.gpt("four-of-batch-4", "--pp", 2, "--dp", 2, batch=4)
    differ(field, (field.four, *words), (other, *words), 2, "differ in batch: 2 at rank 0, 4 at rank 3")


def other_body(field: Field) -> None:
    """The same names and shapes; one number of a layer is another."""
    text = (ROOT / "examples" / "gpt.dsl").read_text(encoding="utf-8")
    source = field.folder / "gpt.dsl"
    source.write_text(text.replace("gelu(", "0.5 * gelu(", 1), encoding="utf-8")
    settings = {"depth": 2, "width": 32, "heads": 2, "context": 32, "batch": 2}
    other = field.programs.build("four-of-other-body", source, "--microbatches", 8, "--pp", 2, "--dp", 2, defines=dict(settings))
    differ_alone(field, (field.four, *field.arguments(5)), (other, *field.arguments(5)), 2, "the ranks differ in", f"at rank {ODD}")


def other_size(field: Field) -> None:
    words = field.arguments(5)
    differ(field, (field.four, *words), (field.one, *words), 2, "a launcher started several ranks, this program has one")


def other_data(field: Field) -> None:
    other = field.folder / "other.txt"
    other.write_bytes(field.text.read_bytes()[:-1] + b"?")
    words = (field.four, *field.arguments(5))
    differ(field, words, (field.four, "--data", other, *words[3:]), 1, "differ in --data: what feeds input tokens", f"at rank {ODD}")
    evaluating = (*words, "--evaluate")
    differ_alone(field, (*evaluating, field.text), (*evaluating, other), 1, "differ in --evaluate")


def copied_data(field: Field) -> None:
    """The same content under another name is no difference."""
    copy = shutil.copy(field.text, field.folder / "copy.txt")
    words = (field.four, *field.arguments(5))
    ended = finish_ranks(field, start_ranks(field, all_ranks(words, (field.four, "--data", copy, *words[3:]))))
    check(all(e.code == 0 for e in ended.values()), f"exit codes {[e.code for e in ended.values()]}: {last_line(ended[0].err)}")


def other_files(field: Field) -> None:
    """One path, but on the disk of one rank there lies another checkpoint of the same step and shape."""
    for seed, name in ((1, "here"), (2, "there")):
        folder = field.folder / name
        folder.mkdir()
        ended = field.train(field.four, "--seed", seed, "--checkpoint", "saved", steps=2, cwd=folder)
        check(ended.code == 0, f"exit code {ended.code}: {ended.err}")
        shutil.copy(next(folder.glob("saved/step-*/model-*.safetensors")), folder / "weights.safetensors")
    for words in (("--resume", "saved"), ("--weights", "weights.safetensors")):
        command = (field.four, *field.arguments(5), *words)
        port = random.randrange(1 << 30)
        ranks = {
            rank: field.start(*command, env=environment(rank, port), cwd=field.folder / ("there" if rank == ODD else "here"))
            for rank in range(RANKS)
        }
        ended = finish_ranks(field, ranks)
        check({e.code for e in ended.values()} == {1}, f"{words[0]}: exit codes {[e.code for e in ended.values()]}, not 1")
        check_one_sentence("".join(e.err for e in ended.values()))


def never_comes(field: Field) -> None:
    words = (field.four, *field.arguments(5), "--start-timeout", 1)
    for missing in (2, 0):
        ended = finish_ranks(field, start_ranks(field, {rank: words for rank in range(RANKS) if rank != missing}))
        check({e.code for e in ended.values()} == {4}, f"exit codes {[e.code for e in ended.values()]}, not 4")
        check(f"rank {missing}" in "".join(e.err for e in ended.values()), f"rank {missing} is not named")


def never_comes_under_mpirun(field: Field) -> None:
    program = f"exec '{field.four}' --data '{field.text}' --start-timeout 1"
    ended = field.run(*MPIRUN, "sh", "-c", f'[ "$OMPI_COMM_WORLD_RANK" = {ODD} ] && exec sleep 100; {program}')
    check_ended(ended, 4, "MPI has not started: not all ranks have come within 1 s")


def stopped_at_start(field: Field) -> None:
    """A rank that is there, but stands still while the others load."""
    words = (field.four, *field.arguments(5), "--start-timeout", 1)
    ranks = start_ranks(field, {rank: words for rank in range(RANKS) if rank != ODD})
    last = start_ranks(field, {ODD: words}, port=1)[ODD]  # meets nobody: its environment is another
    ended = finish_ranks(field, ranks)
    check({e.code for e in ended.values()} == {4}, f"exit codes {[e.code for e in ended.values()]}, not 4")
    check_ended(field.finish(last), 4, "rank 0 has not come")


def socket_in_use(field: Field) -> None:
    """Two runs whose environments have the same names: the second waits for its time, and says what for."""
    port = random.randrange(1 << 30)
    waiting = (field.four, *field.arguments(5), "--start-timeout", 20)
    first = start_ranks(field, {0: waiting}, port)[0]
    time.sleep(0.5)
    second = start_ranks(field, {0: (*waiting[:-1], 1)}, port)[0]
    check_ended(field.finish(second), 3, "cannot meet the other ranks at socket", "in use")
    check(first.poll() is None, "the first run was disturbed")
    first.kill()
    rest = finish_ranks(field, start_ranks(field, dict.fromkeys(range(RANKS), waiting), port))
    check(all(e.code == 0 for e in rest.values()), f"a socket that a killed rank left is not taken over: {last_line(rest[0].err)}")


def private_directory(field: Field) -> None:
    """Where ranks meet nobody else can enter."""
    ranks = start_ranks(field, {0: (field.four, *field.arguments(5), "--start-timeout", 5)})
    found: list[Path] = []
    end = time.monotonic() + 5
    while not found and time.monotonic() < end:
        found = [path for path in sockets_of(ranks[0].pid) if path.is_absolute()]
    check(bool(found), "rank 0 listens at no path")
    mode, owner = found[0].parent.stat().st_mode & 0o777, found[0].parent.stat().st_uid
    check(mode == 0o700 and owner == os.getuid(), f"{found[0].parent} has mode {mode:o}, owner {owner}")


def sockets_of(process: int) -> Iterator[Path]:
    """The unix sockets at which a process listens."""
    try:
        open_files = {os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()}
    except OSError:
        return
    for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and f"socket:[{words[6]}]" in open_files:
            yield Path(words[7])


def told_while_waiting(field: Field) -> None:
    words = (field.four, *field.arguments(5))
    ranks = start_ranks(field, dict.fromkeys(range(2), words))
    time.sleep(0.3)
    for process in ranks.values():
        process.terminate()
    ended = finish_ranks(field, ranks, 5)
    check(-signal.SIGTERM in {e.code for e in ended.values()}, f"exit codes {[e.code for e in ended.values()]}")


CASES = (
    Case(
        "other-options", "one rank has another seed, rate, order or --steps", "code 2, the option and both values", other_options
    ),
    Case("other-threads", "one rank has other threads and another log", "the run goes on, with the same digest", other_threads),
    Case("wrong-option", "one rank has an option that does not exist", "all end with its sentence", wrong_option),
    Case("other-batch", "one rank has a program of another batch", "code 2 names batch and both values", other_batch),
    Case("other-body", "one rank has a program with another layer body", "code 2 names the function", other_body),
    Case("other-size", "one rank has a program for one rank", "code 2, by one sentence", other_size),
    Case("other-data", "one rank has other data of equal length", "code 1 names the input and the ranks", other_data),
    Case("other-files", "at one path a rank has another checkpoint, other weights", "code 1 and one sentence", other_files),
    Case("copied-data", "one rank has the same data under another name", "the run goes on", copied_data),
    Case("never-comes", "a rank never comes", "code 4 after --start-timeout names it", never_comes),
    Case("never-comes-mpi", "under mpirun a rank never starts MPI", "code 4 after --start-timeout", never_comes_under_mpirun),
    Case("other-environment", "one rank has the environment of another job", "code 4 after --start-timeout", stopped_at_start),
    Case(
        "socket-in-use",
        "two runs meet at one name; a killed one has left its socket",
        "a sentence; what is left is taken over",
        socket_in_use,
    ),
    Case("private-meeting", "another user wants to hold the socket", "its directory can be entered by its user alone", private_directory),
    Case("told-while-waiting", "SIGTERM while ranks wait for others to come", "they end at once", told_while_waiting),
)
