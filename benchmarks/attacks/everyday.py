"""What people type and hand in: options that would be ignored, weights that are none or are another model's, terminals nobody reads."""

from __future__ import annotations

import json
import os
import pickle
import pty
import shutil
import struct
from pathlib import Path

from attacks.field import Case, Field, check, check_ended

IGNORED = (
    ("--prompt", "The"), ("--temperature", 0), ("--top-k", 5), ("--evaluate-batches", 2), ("--allow", "seed"), ("--fit", "*"),
    ("--every", 2), ("--steps", 3), ("--log=",), ("--version",),
)  # fmt: skip


def ignored_options(field: Field) -> None:
    for extra in IGNORED:
        check_ended(field.train(field.one, *extra), 2, str(extra[0]).strip("="))
    for option in ("--order", "--checkpoint", "--trace"):
        check_ended(field.run(field.four, "--evaluate", field.text, option, "sequential"), 2, f"{option} wants --data")


def header(tensors: dict[str, object], data: int) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def tensor(begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


def foreign_weights(field: Field) -> None:
    files = {
        "a pickle": (pickle.dumps({"w": list(range(99))}, protocol=2), "PyTorch pickle"),
        "an overlap": (header({"a": tensor(0, 64), "b": tensor(32, 96)}, 96), "starts at byte 32"),
        "a hole": (header({"a": tensor(0, 64)}, 96), "belong to none"),
        "a long header": (struct.pack("<Q", 2**62) + b"{}", "no safetensors file"),
        "deep JSON": (struct.pack("<Q", 10**6) + b"[" * 10**6, "not JSON"),
        "a page": (b"<!DOCTYPE html><title>404</title>", "a web page"),
    }
    for name, (content, said) in files.items():
        path = field.folder / name
        path.write_bytes(content)
        for program in (field.one, field.four):
            check_ended(field.run(program, "--weights", path, "--hash"), 1, said)


def another_model(field: Field) -> None:
    field.train(field.one, "--checkpoint", field.checkpoints, steps=2)
    hub = field.folder / "hub"
    hub.mkdir()
    (step,) = field.checkpoints.glob("step-*")
    for path in step.glob("model*"):
        shutil.copy(path, hub)
    whole = field.run(field.one, "--weights", hub, "--hash").digest
    (hub / "config.json").write_text(json.dumps({"n_head": 4, "rope_theta": 500000.0, "layer_norm_epsilon": 1e-3}))
    for program in (field.one, field.four):
        ended = field.run(program, "--weights", hub, "--hash")
        check_ended(ended, 1, "n_head is 4, the model's heads 2", "rope_theta is 500000", "layer_norm_epsilon is 0.001")
        allowed = field.run(program, "--weights", hub, "--hash", "--allow", "heads", "--allow", "the*", "--allow", "eps")
        check(allowed.digest == whole, "another digest where the differences are allowed")


def unread_terminal(field: Field) -> None:
    """A terminal that is full and that nobody reads, as after Ctrl-S."""
    main, other = pty.openpty()
    os.set_blocking(other, False)
    try:
        while True:
            os.write(other, b"x")
    except BlockingIOError:
        os.set_blocking(other, True)
    process = field.start(field.one, *field.arguments(40), "--hash", stderr=other, env={**os.environ, "TERM": "xterm"})
    ended = field.finish(process)
    os.close(main)
    os.close(other)
    check(ended.code == 0 and ended.digest == field.train(field.one, "--hash", steps=40).digest, f"exit code {ended.code}")


def log_over_weights(field: Field) -> None:
    """A log that is named like the weights."""
    field.train(field.one, "--checkpoint", field.checkpoints, steps=2)
    (step,) = field.checkpoints.glob("step-*")
    path: Path = step / "model-00001-of-00001.safetensors"
    before = path.read_bytes()
    copy = field.folder / "weights.safetensors"
    copy.write_bytes(before)
    check_ended(field.train(field.one, "--weights", copy, "--log", copy, steps=2), 2, "weights.safetensors")
    check(copy.read_bytes() == before, "the weights were written over")


CASES = (
    Case("ignored-options", "options that would be parsed and ignored", "exit code 2, with what is missing", ignored_options),
    Case("foreign-weights", "pickles, pages and lying headers as weights", "refused as what they are", foreign_weights),
    Case("another-model", "weights whose config.json states other heads, theta, eps", "all named, each passable", another_model),
    Case("unread-terminal", "a terminal that nobody reads", "the run ends with the digest of one alone", unread_terminal),
    Case("log-over-weights", "--log names the file of --weights", "refused, and the weights are there", log_over_weights),
)
