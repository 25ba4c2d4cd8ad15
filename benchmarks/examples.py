"""Runs every example as its first lines print it, on made-up data, and prints how its loss falls.

    python benchmarks/examples.py              # some minutes
    python benchmarks/examples.py gpt2 unet

Exits 1 when an example fails or the mean loss of its last steps is not below that of its first.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

#: Steps whose losses are averaged at each end.
ENDS = 10


def make_data(folder: Path, text: Path, image_size: int) -> None:
    """book.txt and the arrays that the printed commands name, with something to learn in each."""
    rng = np.random.default_rng(0)
    (folder / "book.txt").write_bytes(text.read_bytes()[:400_000])
    labels = rng.integers(0, 10, 512)
    pattern = rng.standard_normal((10, 3, image_size, image_size))
    images = pattern[labels] + 0.5 * rng.standard_normal((512, 3, image_size, image_size))
    np.save(folder / "images.npy", images.astype(np.float32))
    np.save(folder / "labels.npy", labels.astype(np.int32))
    source = rng.integers(1, 20, (512, 64))
    np.save(folder / "source.npy", source.astype(np.int32))
    np.save(folder / "target.npy", source[:, :32].astype(np.int32))


def make_rows(folder: Path, example: str) -> None:
    """x and y (or x for labels) as wide as the example wants them."""
    rng = np.random.default_rng(1)
    text = (EXAMPLES / f"{example}.dsl").read_text(encoding="utf-8")
    sizes = {name: int(size) for name, size in re.findall(r"^(inputs|outputs): dim = (\d+)", text, re.MULTILINE)}
    labels = np.load(folder / "labels.npy")
    x = rng.standard_normal((512, sizes["inputs"])) + 2.0 * np.eye(10, sizes["inputs"])[labels]
    np.save(folder / "x.npy", x.astype(np.float32))
    width = (sizes["outputs"],) if "outputs" in sizes else ()
    y = np.tanh(x @ rng.standard_normal((sizes["inputs"], *width)) / np.sqrt(sizes["inputs"]))
    np.save(folder / "y.npy", y.astype(np.float32))


def command_of(example: str) -> list[str]:
    """The command that the example's first lines print, with this tree's mlc and a log."""
    text = (EXAMPLES / f"{example}.dsl").read_text(encoding="utf-8")
    line = re.search(r"^ +mlc (run .*)$", text, re.MULTILINE)
    if line is None:
        sys.exit(f"{example}.dsl prints no command")
    words = shlex.split(line[1])
    words[1] = str(ROOT / words[1])
    return [sys.executable, "-m", "mlc", *words, "--log", "log.jsonl"]


def run(example: str, folder: Path) -> bool:
    """Run one example; prints its losses, and returns whether they fell."""
    if (EXAMPLES / f"{example}.dsl").read_text(encoding="utf-8").find("x.npy") >= 0:
        make_rows(folder, example)
    (folder / "log.jsonl").unlink(missing_ok=True)
    done = subprocess.run(command_of(example), cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"FAILED  {example}: exit code {done.returncode}\n{done.stderr}")
        return False
    losses = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    first, last = np.mean(losses[:ENDS]), np.mean(losses[-ENDS:])
    print(f"{'ok    ' if last < first else 'MISSED'}  {example}: {first:.4f} -> {last:.4f} in {len(losses)} steps", flush=True)
    return bool(last < first)


def main() -> None:
    examples = sys.argv[1:] or sorted(p.stem for p in EXAMPLES.glob("*.dsl"))
    with tempfile.TemporaryDirectory(prefix="mlc-examples-") as name:
        folder = Path(name)
        results = []
        for example in examples:
            make_data(folder, Path(__file__).resolve().parent.parent / "spec" / "language.md", 16 if example == "unet" else 32)
            results.append(run(example, folder))
    sys.exit(0 if all(results) else 1)


main()
