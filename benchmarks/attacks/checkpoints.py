"""Directories of checkpoints: links and things of others in them, several writers, kills."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

from attacks.field import Case, Field, check, check_ended, wait_until

#: A program, and what stands before and behind its name.
Command = tuple[object, ...]

#: Text that must still be there.
PRECIOUS = "precious"


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What lies in a folder: inode, size and time of change of every name, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("step-"))


def latest(folder: Path) -> str:
    return (folder / "latest").read_text().strip()


def run_of(step: Path) -> str:
    return json.loads((step / "state.json").read_text())["run"]


def victim(field: Field) -> Path:
    """A folder of the user's with files named as those of a checkpoint."""
    folder = field.folder / "victim"
    folder.mkdir()
    for name in ("state.json", "model-00001-of-00001.safetensors", "notes.txt", "latest"):
        (folder / name).write_text(PRECIOUS)
    return folder


def check_unharmed(folder: Path) -> None:
    names = ("state.json", "model-00001-of-00001.safetensors", "notes.txt", "latest")
    lost = [name for name in names if not (folder / name).is_file() or (folder / name).read_text() != PRECIOUS]
    check(not lost, f"changed or deleted in {folder.name}: {', '.join(lost)}")


def links_to_directories(field: Field) -> None:
    target = victim(field)
    field.checkpoints.mkdir()
    names = (".step-00000003.tmp", "step-00000003", "step-00000006", ".mlc-" + 32 * "a", ".latest.tmp")
    for name in names:
        (field.checkpoints / name).symlink_to(target)
    for extra in (("--dry-run",), ("--every", 3), ("--every", 3, "--resume", "auto")):
        check_ended(field.train(field.one, "--checkpoint", field.checkpoints, *extra, steps=7), 0)
        check_unharmed(target)
    check(all((field.checkpoints / name).is_symlink() for name in names), "a link of the user's is gone")
    check(run_of(field.checkpoints / latest(field.checkpoints)) != "", "no checkpoint beside the links")


def links_to_files(field: Field) -> None:
    target = victim(field)
    for name in ("latest", "best", ".mlc-lock", ".mlc-made"):
        field.checkpoints.mkdir()
        (field.checkpoints / name).symlink_to(target / "notes.txt")
        check_ended(field.train(field.one, "--checkpoint", field.checkpoints, steps=3), 1, name, "not a file that mlc made")
        check_unharmed(target)
        shutil.rmtree(field.checkpoints)


def a_directory_that_is_a_link(field: Field) -> None:
    """The user names it: that link is followed."""
    (field.folder / "disk").mkdir()
    field.checkpoints.symlink_to(field.folder / "disk")
    check_ended(field.train(field.four, "--checkpoint", field.checkpoints, steps=3), 0)
    check(latest(field.folder / "disk") == "step-00000003", "nothing was saved there")


def things_of_the_user(field: Field) -> None:
    mine = [field.checkpoints / name for name in (".step-00000003.tmp", ".mlc-" + 32 * "0", "step-00000003")]
    for folder in mine:
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(PRECIOUS)
    saving = ("--checkpoint", field.checkpoints, "--every", 3, "--keep", 1)
    ended = field.train(field.one, *saving, steps=6)
    check_ended(ended, 0, "not of this run, so it stays")
    (field.checkpoints / latest(field.checkpoints) / "notes.txt").write_text(PRECIOUS)
    check_ended(field.train(field.one, *saving, "--resume", "auto", steps=9), 0, "left, with files in it that mlc did not make")
    check(all((folder / "state.json").read_text() == PRECIOUS for folder in mine), "a folder of the user's has changed")
    check((field.checkpoints / "step-00000006" / "notes.txt").read_text() == PRECIOUS, "a file inside an old step is gone")


def a_step_that_stays(field: Field) -> None:
    """A file of an old step cannot be removed: the step goes as soon as it can."""
    saving = ("--checkpoint", field.checkpoints, "--every", 3)
    check_ended(field.train(field.one, *saving, steps=6), 0)
    old = field.checkpoints / "step-00000003"
    stuck = old / "model-00001-of-00001.safetensors"
    stuck.unlink()
    stuck.mkdir()
    check_ended(field.train(field.one, *saving, "--keep", 1, "--resume", "auto", steps=9), 0, "step-00000003: left: Is a directory")
    stuck.rmdir()
    check_ended(field.train(field.one, *saving, "--keep", 1, "--resume", "auto", steps=12), 0)
    check(not old.exists(), "the old step is left for ever")


def a_step_again(field: Field) -> None:
    """The newest step is damaged and has a file of the user's in it: it is written once more."""
    saving = ("--checkpoint", field.checkpoints, "--every", 3)
    check_ended(field.train(field.one, *saving, steps=6), 0)
    newest = field.checkpoints / "step-00000006"
    (newest / "notes.txt").write_text(PRECIOUS)
    os.truncate(newest / "model-00001-of-00001.safetensors", 100)
    check_ended(field.train(field.one, *saving, "--resume", "auto", steps=6), 0, "passed over")
    check(not (newest / "notes.txt").exists() and latest(field.checkpoints) == newest.name, "the damaged step is still there")
    check([p.read_text() for p in field.checkpoints.glob("step-00000006.kept-*/*")] == [PRECIOUS], "the user's file is gone")


def dry_run(field: Field) -> None:
    check_ended(field.train(field.one, "--checkpoint", field.checkpoints, "--dry-run", "--log", field.folder / "log"), 0)
    check(not field.checkpoints.exists() and not (field.folder / "log").exists(), "something was made")
    run = field.start(field.one, *field.arguments(3000), "--checkpoint", field.checkpoints, "--every", 20)
    wait_until(lambda: (field.checkpoints / "latest").exists(), what="a checkpoint")
    for program in (field.one, field.four, field.one):
        field.train(program, "--checkpoint", field.checkpoints, "--resume", "auto", "--dry-run", steps=3000)
    check(run.poll() is None, "the live run has ended")
    run.send_signal(signal.SIGTERM)
    check_ended(field.finish(run), 0)
    before = listing(field.checkpoints)
    for program in (field.one, field.four):
        check_ended(field.train(program, "--checkpoint", field.checkpoints, "--resume", "auto", "--dry-run", steps=3000), 0)
    check(listing(field.checkpoints) == before, "the directory has changed")


def several_writers(field: Field, first: Command, second: Command) -> None:
    """The first one trains; the second is refused, and touches nothing."""
    saving = ("--checkpoint", field.checkpoints, "--every", 5)
    log = field.folder / "log"
    log.write_text(PRECIOUS)
    run = field.start(*first, *field.arguments(100000), *saving)
    wait_until(lambda: (field.checkpoints / "latest").exists(), what="a checkpoint")
    for extra in ((), ("--resume", "auto"), ("--fresh",)):
        began = time.monotonic()
        ended = field.run(*second, *field.arguments(100000), *saving, *extra, "--log", log)
        check(ended.code != 0 and time.monotonic() - began < 15, f"the second writer ends with {ended.code}")
        words = (f"{field.checkpoints}: in use: gpt, process ", " writes checkpoints there")
        check(all(word in ended.err for word in words), f"the second writer says: {ended.err.strip()[-300:]}")
        check(log.read_text() == PRECIOUS, "the second writer has touched its log")
    check(run.poll() is None, "the first writer has ended")
    run.send_signal(signal.SIGTERM)
    check_ended(field.finish(run), 0)
    newest = field.checkpoints / latest(field.checkpoints)
    check({run_of(field.checkpoints / name) for name in steps(field.checkpoints)} == {run_of(newest)}, "steps of two runs")


def two_writers(field: Field) -> None:
    several_writers(field, (field.one,), (field.four,))


def two_writers_of_ranks(field: Field) -> None:
    several_writers(field, (field.four,), (field.four, "--transport", "threads"))


MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe", "-np", 4)


def two_writers_under_mpirun(field: Field) -> None:
    if shutil.which("mpirun") and (field.four.parent / "libmlc_mpi.so").exists():
        several_writers(field, (field.one,), (*MPIRUN, field.four))


def race(field: Field, trial: int, commands: tuple[Command, Command], rng: random.Random) -> None:
    """Two programs at nearly the same moment, of different seeds: exactly one trains, and what is there is its own."""
    folder = field.folder / f"race-{trial}"
    runs = []
    for seed, command in enumerate(commands, 1):
        runs.append(field.start(*command, *field.arguments(30), "--checkpoint", folder, "--every", 10, "--seed", seed))
        time.sleep(rng.choice((0, 0, rng.random() / 50)))
    ended = [field.finish(run) for run in runs]
    codes = sorted(e.code for e in ended)
    check(codes == [0, 1], f"exit codes {codes}: {ended[0].err} {ended[1].err}")
    loser = next(e for e in ended if e.code)
    check("in use:" in loser.err or "holds steps of another run" in loser.err, f"the loser says: {loser.err}")
    winner = [e.code for e in ended].index(0)
    check(len({run_of(folder / name) for name in steps(folder)}) == 1 and len(steps(folder)) == 3, f"there is {steps(folder)}")
    for name in steps(folder):
        state = json.loads((folder / name / "state.json").read_text())
        check(state["seed"] == winner + 1, f"{name} is of the loser")
        check_ended(field.run(field.one, "--resume", folder / name, "--hash"), 0)


def races(field: Field) -> None:
    rng = random.Random(8)
    for trial in range(6):
        race(field, trial, ((field.one,), (field.four,)) if trial % 2 else ((field.four,), (field.one,)), rng)


def removed_beside_a_run(field: Field) -> None:
    """The directory is moved away, then the lock removed, under a live run: it goes on, and a lock that another one has is respected."""
    saving = ("--checkpoint", field.checkpoints, "--every", 5)
    run = field.start(field.four, *field.arguments(100000), *saving)
    wait_until(lambda: (field.checkpoints / "latest").exists(), what="a checkpoint")
    field.checkpoints.rename(field.folder / "away")
    wait_until(lambda: (field.checkpoints / "latest").exists(), what="a checkpoint in a directory made anew")
    (field.checkpoints / ".mlc-lock").unlink()
    wait_until(lambda: (field.checkpoints / ".mlc-lock").exists(), what="a lock made anew")
    check_ended(field.train(field.one, *saving, "--resume", "auto", steps=100000), 1, "in use")
    run.send_signal(signal.SIGTERM)
    check_ended(field.finish(run), 0)
    check(len({run_of(field.checkpoints / name) for name in steps(field.checkpoints)}) == 1, "steps of two runs")


def lock_of_the_dead(field: Field) -> None:
    """SIGKILL while saving: the next one takes the directory at once, and clears away what was half made."""
    field.checkpoints.mkdir()
    (field.checkpoints / (".mlc-" + 32 * "b")).mkdir()
    for trial in range(6):
        run = field.start(
            field.four, *field.arguments(100000), "--checkpoint", field.checkpoints, "--every", 1, "--keep", 2, "--resume", "auto"
        )
        before = latest(field.checkpoints) if trial else ""
        wait_until(lambda before=before: (field.checkpoints / "latest").exists() and latest(field.checkpoints) != before, what="a step")
        time.sleep(0.013 * trial)
        os.killpg(run.pid, signal.SIGKILL)
        field.finish(run)
        newest = field.checkpoints / latest(field.checkpoints)
        check_ended(field.run(field.one, "--resume", newest, "--hash"), 0)
    check_ended(field.train(field.one, "--checkpoint", field.checkpoints, "--resume", "auto", "--keep", 2, "--dry-run", steps=100000), 0)
    number = int(latest(field.checkpoints)[5:]) + 2
    check_ended(field.train(field.one, "--checkpoint", field.checkpoints, "--resume", "auto", "--keep", 2, steps=number), 0)
    left = [p.name for p in field.checkpoints.iterdir() if p.name.startswith(".mlc-") and len(p.name) > 12]
    check(left == [".mlc-" + 32 * "b"], f"left behind: {left}")
    check(len(steps(field.checkpoints)) == 2, f"kept: {steps(field.checkpoints)}")


def fresh_in_a_used_directory(field: Field) -> None:
    saving = ("--checkpoint", field.checkpoints, "--every", 10)
    check_ended(field.train(field.one, *saving, steps=40), 0)
    before = listing(field.checkpoints)
    del before[".mlc-lock"], before[".mlc-made"]
    for program in (field.one, field.four):
        for extra in ((), ("--dry-run",), ("--weights", field.checkpoints)):
            ended = field.train(program, *saving, *extra, steps=20)
            check_ended(ended, 1, "holds steps of another run", "--resume auto", "another directory", "--fresh")
    after = listing(field.checkpoints)
    check({k: after[k] for k in before} == before, "the other run's steps have changed")
    first = run_of(field.checkpoints / "step-00000040")
    check_ended(field.train(field.one, *saving, "--fresh", "--seed", 1, steps=20), 0, "not of this run, so it stays")
    check(
        {k: listing(field.checkpoints)[k] for k in before if k != "latest"} == {k: v for k, v in before.items() if k != "latest"}, "mixed"
    )
    second = run_of(field.checkpoints / latest(field.checkpoints))
    check(second != first and latest(field.checkpoints) == f"step-00000020-{second[:8]}", "latest does not name the new run")
    check_ended(field.train(field.four, *saving, "--resume", "auto", steps=30), 0)
    check(run_of(field.checkpoints / latest(field.checkpoints)) == second, "auto took a step of the other run")


def latest_missing(field: Field) -> None:
    saving = ("--checkpoint", field.checkpoints, "--every", 10)
    check_ended(field.train(field.one, *saving, steps=20), 0)
    for damage in ("", "nonsense\n", None):
        (field.checkpoints / "latest").unlink()
        if damage is not None:
            (field.checkpoints / "latest").write_text(damage)
        check_ended(field.train(field.one, *saving, "--resume", "auto", steps=20), 0, "step-00000020", "all 20 steps are done")
        check_ended(field.train(field.one, "--resume", field.checkpoints / "step-00000020", steps=20), 0)
        if not (field.checkpoints / "latest").exists():
            (field.checkpoints / "latest").write_text("step-00000020\n")
    check_ended(field.train(field.one, *saving, "--fresh", steps=20), 0)
    (field.checkpoints / "latest").unlink()
    check_ended(field.train(field.one, *saving, "--resume", "auto", steps=20), 1, "steps of several runs", "--resume")


def going_back(field: Field) -> None:
    """A run that goes on from an older step is one of its own, so that `auto` never takes the later steps of the first."""
    saving = ("--checkpoint", field.checkpoints, "--every", 10)
    check_ended(field.train(field.one, *saving, steps=30), 0)
    ended = field.train(field.one, *saving, "--resume", field.checkpoints / "step-00000010", steps=20)
    check_ended(ended, 0, "goes back to step 10")
    check(len(steps(field.checkpoints)) == 4, f"there is {steps(field.checkpoints)}")
    check_ended(field.train(field.one, *saving, "--resume", "auto", steps=25), 0)
    check(latest(field.checkpoints) == "step-00000025", f"auto went on from another run: {latest(field.checkpoints)}")


def special_files(field: Field) -> None:
    check_ended(field.train(field.one, "--checkpoint", field.checkpoints, steps=3), 0)
    step = field.checkpoints / "step-00000003"
    for path in (step / "state.json", step / "model-00001-of-00001.safetensors", step / "optimizer.safetensors.index.json"):
        aside = path.with_suffix(".aside")
        path.rename(aside)
        for make, kind in ((os.mkfifo, "a FIFO"), (lambda p: p.symlink_to("/dev/zero"), "a link"), (Path.mkdir, "a directory")):
            make(path)
            for program in (field.one, field.four):
                check_ended(field.run(program, "--resume", step, "--hash", seconds=10), 1, path.name, kind)
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        aside.rename(path)
    (field.checkpoints / "latest").unlink()
    os.mkfifo(field.checkpoints / "latest")
    check_ended(field.run(field.one, "--resume", field.checkpoints, "--hash", seconds=10), 1, "latest", "a FIFO")
    check_ended(field.train(field.one, "--checkpoint", field.checkpoints, "--resume", "auto", steps=6, seconds=10), 1, "latest")


def kept_steps(field: Field) -> None:
    evaluating = ("--evaluate", field.text, "--evaluate-batches", 1, "--every", 5)
    ended = field.train(field.one, "--checkpoint", field.checkpoints, *evaluating, "--keep", 2, "--rate", 3, steps=30)
    check_ended(ended, 0)
    losses = {int(step): float(loss) for step, loss in re.findall(r"evaluation after (\d+) steps: loss ([\d.]+)", ended.out)}
    best = min(losses, key=lambda step: losses[step])
    expected = sorted({f"step-{n:08d}" for n in (best, 25, 30)})
    check(steps(field.checkpoints) == expected, f"kept {steps(field.checkpoints)}, not {expected}")
    check((field.checkpoints / "best").read_text().startswith(f"step-{best:08d}\n"), "best names another step")
    check_ended(field.run(field.one, "--resume", field.checkpoints / "best", "--hash"), 0)


def last_step(field: Field) -> None:
    check_ended(field.train(field.one, "--checkpoint", field.checkpoints, steps=20), 0)
    check_ended(field.train(field.one, "--checkpoint", field.checkpoints, "--resume", "auto", steps=20), 0, "nothing is left to train")


CASES = (
    Case(
        "links-to-directories",
        "links in the places of steps and temporaries",
        "targets and links stay; steps lie beside",
        links_to_directories,
    ),
    Case("links-to-files", "links in the places of latest, best, lock and list", "refused by name before step 0", links_to_files),
    Case("directory-linked", "--checkpoint is a link to a directory", "followed", a_directory_that_is_a_link),
    Case("things-of-the-user", "directories named like ours, files inside old steps", "stay; said in a line", things_of_the_user),
    Case("step-that-stays", "a file of an old step cannot be removed", "said with the reason; it goes at a later save", a_step_that_stays),
    Case("step-again", "a damaged step with a user's file in it is written again", "the file is kept beside", a_step_again),
    Case("dry-run", "--dry-run beside a live run, and alone", "touches nothing", dry_run),
    Case("two-writers", "a second program in one directory", "exit code 1, naming the holder; the first trains on", two_writers),
    Case("two-writers-of-ranks", "the same with four ranks each", "the same", two_writers_of_ranks),
    Case("two-writers-mpirun", "the second under mpirun", "the same", two_writers_under_mpirun),
    Case("races", "two programs start at once", "exactly one trains; every checkpoint is its own and whole", races),
    Case(
        "removed",
        "the directory is moved away, or its lock removed, under a live run",
        "both are made anew; one writer",
        removed_beside_a_run,
    ),
    Case(
        "killed-holder",
        "SIGKILL of all ranks while saving",
        "the next one takes the directory and removes what was half made",
        lock_of_the_dead,
    ),
    Case(
        "used-directory",
        "a run begins where steps of another lie",
        "refused with the ways out; --fresh mixes nothing",
        fresh_in_a_used_directory,
    ),
    Case("latest-missing", "latest missing, empty or nonsense", "the only run is taken; of several none", latest_missing),
    Case("going-back", "a run goes on from an older step", "it is a new run; auto follows it", going_back),
    Case("special-files", "FIFOs, links and directories as files of a checkpoint", "refused before they are opened", special_files),
    Case("kept-steps", "--keep 2 with --evaluate", "the last two and the best stay", kept_steps),
    Case("last-step", "--resume at the last step", "says that nothing is left to train", last_step),
)
