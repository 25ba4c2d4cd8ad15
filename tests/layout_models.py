"""Models on many layouts: every example at a small size, its data, and programs that are built once and judged by all that they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlc.driver import Build, Options, compile_file

ROOT = Path(__file__).resolve().parent.parent

#: Rows of arrays, and bytes of text: no multiple of any microbatch, so evaluation ends with a part of a round.
ROWS = 37
TEXT_BYTES = 1500

TEXT = {"vocab": 256, "context": 12, "width": 32, "heads": 2, "batch": 2}


@dataclass(frozen=True)
class Model:
    """A model file at a small size.

    file:     relative to the root
    arrays:   its inputs as (name, shape of a row, numbers below which its values lie; 0: reals); none: it reads text
    edits:    (before, after) in the file's text
    """

    file: str
    defines: dict[str, object]
    arrays: tuple[tuple[str, tuple[int, ...], int], ...] = ()
    edits: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        text = (ROOT / self.file).read_text(encoding="utf-8")
        for before, after in self.edits:
            assert before in text, f"{self.file} has no `{before}`"
            text = text.replace(before, after)
        return text


IMAGES = ("images", (3, 8, 8), 0)
TO_F32 = (("precision=bf16", "precision=f32"),)
TO_F64 = (("precision=f32", "precision=f64"),)
TO_BF16 = (("precision=f32", "precision=bf16"),)
T5 = {"vocab": 40, "source_length": 12, "target_length": 9, "width": 32, "head": 8, "heads": 4, "hidden": 48, "depth": 2, "batch": 3}
DEEPSEEK = TEXT | {
    "depth": 3, "dense_depth": 1, "q_rank": 12, "kv_rank": 8, "nope": 8, "rope": 4, "v_head": 6, "dense_hidden": 40, "hidden": 12,
    "experts": 8, "active": 2, "shared": 1, "groups": 4, "active_groups": 2,
}  # fmt: skip

#: What each one adds: see the comment.
MODELS = {
    "gpt": Model("examples/gpt.dsl", TEXT | {"depth": 2}),
    "mlp": Model("examples/mlp.dsl", {"depth": 2, "batch": 8}, (("x", (8,), 0), ("y", (1,), 0))),
    "gpt2": Model("examples/gpt2.dsl", TEXT | {"depth": 4}),  # tied embeddings, clipping
    "gpt2-drop": Model("examples/gpt2.dsl", TEXT | {"depth": 3, "drop": 0.1}),  # random numbers
    "gpt2-bf16": Model("examples/gpt2.dsl", TEXT | {"depth": 3}, edits=TO_BF16),  # masters and copies
    "gpt2-f64": Model("examples/gpt2.dsl", TEXT | {"depth": 3}, edits=TO_F64),  # everything twice as wide
    "llama3": Model("examples/llama3.dsl", TEXT | {"hidden": 48, "heads": 4, "kv_heads": 2, "depth": 3}),
    "llama3-tied": Model("examples/llama3.dsl", TEXT | {"hidden": 48, "heads": 4, "kv_heads": 2, "depth": 2, "tied": True}),
    "deepseek_v3": Model("examples/deepseek_v3.dsl", DEEPSEEK),  # losses inside, router loads, experts
    "deepseek_v3-f32": Model("examples/deepseek_v3.dsl", DEEPSEEK, edits=TO_F32),
    "vit": Model("examples/vit.dsl", {"size": 8, "patch": 4, "width": 32, "heads": 4, "depth": 3, "classes": 7, "batch": 5},
                 (IMAGES, ("labels", (), 7))),  # metrics
    "unet": Model("examples/unet.dsl", {"size": 8, "width": 8, "levels": 2, "depth": 1, "head": 4, "batch": 3}, (IMAGES,)),  # skips
    "gla": Model("examples/gla.dsl", TEXT | {"key": 6, "chunk": 4, "depth": 2}),
    "albert": Model("examples/albert.dsl", TEXT | {"embedded": 16, "depth": 4}),  # one block for all layers, weights of microbatches
    "muon": Model("examples/muon.dsl", TEXT | {"depth": 2}),  # update rules for whole tensors
    "supervised": Model("examples/supervised.dsl", {"inputs": 6, "width": 16, "latent": 4, "classes": 5, "depth": 3, "batch": 8},
                        (("x", (6,), 0), ("labels", (), 5))),  # losses in the middle of the chain
    "t5": Model("examples/t5.dsl", T5, (("source", (12,), 40), ("target", (9,), 40))),
    "state": Model("examples/state.dsl", {"width": 16}, (("x", (8,), 0), ("y", (), 0))),  # values carried from step to step
    "skips": Model("benchmarks/models/skips.dsl", TEXT | {"depth": 6}),
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How ranks share a step."""

    pp: int = 1
    dp: int = 1
    schedule: str | None = None
    chunks: int | None = None
    groups: int | None = None
    split: str | None = None
    recompute: str | None = None

    def __str__(self) -> str:
        return "-".join(f"{name}{value}" for name, value in vars(self).items() if value not in (None, 1)) or "one"

    def options(self, microbatches: int) -> Options:
        return Options(**{name: value for name, value in vars(self).items() if value is not None}, microbatches=microbatches, emit="c")


@dataclass(frozen=True)
class Said:
    """All that a run says, but for times."""

    output: str
    log: tuple[str, ...]

    @property
    def digest(self) -> str:
        found = re.search(r"^digest: ([0-9a-f]{64})$", self.output, re.MULTILINE)
        assert found, self.output
        return found[1]


TIMES = ("step_ms", "tokens_per_s", "records_per_s", "mfu")


def digest_of(program: Path, model: Model, folder: Path, *arguments: object) -> str:
    """What a run of a few steps without evaluation leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--seed", "5", "--timeout", "60", "--hash"]
    done = execute([str(program), *data_options(model, folder, evaluate=False), *common, *map(str, arguments)])
    return Said(done.stdout, ()).digest


def make_data(model: Model, folder: Path) -> list[tuple[str, Path]]:
    """Data of a model in `folder`, as (prefix of its --data, file)."""
    if not model.arrays:
        (folder / "text.txt").write_bytes((ROOT / "spec" / "language.md").read_bytes()[:TEXT_BYTES])
        return [("", folder / "text.txt")]
    rng = np.random.default_rng(11)
    made = []
    for name, shape, below in model.arrays:
        values = rng.integers(0, below, (ROWS, *shape)) if below else rng.standard_normal((ROWS, *shape))
        np.save(folder / f"{name}.npy", values.astype(np.int32 if below else np.float32))
        made.append((f"{name}=", folder / f"{name}.npy"))
    return made


@dataclass
class Programs:
    """Programs of models on layouts, each built once. All are built in one folder under one name: the runtime is compiled once."""

    folder: Path
    variables: tuple[str, ...] = ("OPTIMIZE=-O1",)
    built: dict[tuple[object, ...], Path] = field(default_factory=dict)

    def build(self, model: Model, options: Options, kind: str = "model") -> Path:
        """The program, or with kind "libmodel.so" the library; beside it plan.json. raises: MlcError"""
        key = (model.file, *sorted(model.defines.items()), model.edits, options, kind)
        if key not in self.built:
            self.folder.mkdir(exist_ok=True)
            (self.folder / "model.dsl").write_text(model.text(), encoding="utf-8")
            compile_file(self.folder / "model.dsl", self.folder / "build", model.defines, options)
            self.make(f"../{kind}")
            kept = self.folder / str(len(self.built))
            kept.mkdir()
            shutil.copy(self.folder / "build" / kind, kept)
            shutil.copy(self.folder / "build" / "plan.json", kept)
            self.built[key] = kept / kind
        return self.built[key]

    def library(self, model: Model, options: Options) -> Build:
        """The shared library, as mlc.compile would have left it."""
        return Build(self.build(model, options, "libmodel.so").parent, "model", ())

    def make(self, target: str) -> None:
        command = ["make", "-s", "-j2", "-C", str(self.folder / "build" / "src"), *self.variables, target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def data_options(model: Model, folder: Path, evaluate: bool = True) -> list[str]:
    """--data and --evaluate of a model, whose data is made in `folder`."""
    flags = ("--data", "--evaluate") if evaluate else ("--data",)
    return [word for prefix, path in make_data(model, folder) for flag in flags for word in (flag, f"{prefix}{path}")]


def execute(command: list[str], code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the environment, and check its exit code."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=300, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == code, f"{' '.join(command)}: exit code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
    return done


def run_model(program: Path, model: Model, folder: Path, *arguments: object, launcher: tuple[str, ...] = ()) -> Said:
    """Three steps with everything that is compared: evaluation before the last, a sample of text, the log, the digest."""
    log = folder / "log.jsonl"
    log.unlink(missing_ok=True)
    common = ["--steps", "3", "--seed", "5", "--timeout", "60", "--hash", "--log", str(log)]
    text = ["--sample", "6", "--prompt", "The "] if not model.arrays and "logits" in model.text() and "albert" not in model.file else []
    command = [*launcher, str(program), *data_options(model, folder), *common, *text, *map(str, arguments)]
    done = execute(command)
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    kept = tuple(json.dumps({name: value for name, value in row.items() if name not in TIMES}) for row in rows)
    return Said(re.sub(r"[\d.]+ (tokens|records)/s, mfu \S+", "", done.stdout), kept)
