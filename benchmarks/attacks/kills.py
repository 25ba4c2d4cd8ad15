"""Ranks that are killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from attacks.field import Case, Field, check, check_ended, wait_until


def children(process: int) -> list[int]:
    """The processes that a process has started and that live."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def kill_a_rank(field: Field) -> None:
    whole = field.train(field.four, "--hash", steps=60)
    saving = (*field.arguments(60), "--checkpoint", field.checkpoints, "--every", 5, "--resume", "auto", "--hash")
    run = field.start(field.four, *saving)
    wait_until(lambda: (field.checkpoints / "latest").exists(), what="a checkpoint")
    os.kill(children(run.pid)[2], signal.SIGKILL)
    check_ended(field.finish(run), 3, "rank 2", "killed by signal 9")
    check(field.run(field.four, *saving).digest == whole.digest, "another digest after resuming")


CASES = (
    Case("rank-killed", "SIGKILL of one rank of four", "exit code 3 with its name; resumed, it ends in the same bits", kill_a_rank),
)
