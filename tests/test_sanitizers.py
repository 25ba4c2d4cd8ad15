"""Every example, built without a warning with clang and with the address, undefined-behaviour and thread sanitizers, trains,
evaluates, saves and goes on cleanly; so do several ranks, as threads and as processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layout_models import MODELS, Layout, Programs, data_options, execute

from mlc.driver import Options, compile_file

pytest.importorskip("torch")

from oracles.cases import CASES, Case

pytestmark = [pytest.mark.sanitizers, pytest.mark.slow]

EXAMPLES = [case for case in CASES if not case.changes]
STEPS = 3

#: How a program is built: variables of its Makefile.
BUILDS = {
    "address": ("EXTRA=-fsanitize=address,undefined -fno-sanitize-recover=all -g1", "OPTIMIZE=-O1"),
    "thread": ("EXTRA=-fsanitize=thread -g1", "OPTIMIZE=-O1"),
    "clang": ("CC=clang", "OPTIMIZE=-O1"),
}

#: What makes a sanitizer end the program at its first finding.
ENVIRONMENT = {"UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "detect_stack_use_after_return=1", "TSAN_OPTIONS": "halt_on_error=1"}

Built = Callable[[Case, str], Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """built(case, way): the program. All are built in one folder a way under one name: the runtime is compiled once."""
    folders = {way: tmp_path_factory.mktemp("built") for way in BUILDS}

    def build(case: Case, way: str) -> Path:
        folder = folders[way]
        (folder / "model.dsl").write_text(case.text())
        compile_file(folder / "model.dsl", folder, case.dims, Options(emit="c"))
        command = ["make", "-s", "-j2", "-C", folder / "src", "WARNINGS=-Wall -Wextra -Werror", *BUILDS[way], "../model"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder / "model"

    return build


@pytest.mark.parametrize("way", BUILDS)
@pytest.mark.parametrize("case", EXAMPLES, ids=str)
def test_runs_clean(case: Case, way: str, built: Built, tmp_path: Path) -> None:
    program = built(case, way)
    batches = case.batches(STEPS)
    patterns = []
    for name in batches[0]:
        path = tmp_path / f"{name}.npy"
        np.save(path, np.concatenate([batch[name] for batch in batches]))
        patterns.append(f"{name}={path}")
    data = [word for pattern in patterns for word in ("--data", pattern)]
    evaluate = [word for pattern in patterns for word in ("--evaluate", pattern)]
    common = [program, *data, *evaluate, "--threads", "3", "--checkpoint", tmp_path / "saved", "--log", tmp_path / "log.jsonl"]
    for extra in (["--steps", str(STEPS)], ["--steps", str(STEPS + 2), "--resume", "auto", "--profile", "--hash"]):
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run([*common, *extra], capture_output=True, text=True, check=False, env=environment, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr


#: Several ranks: what makes them different is tied embeddings, skips, copies at bf16, rules for whole tensors.
RANKS = (
    ("gpt2-bf16", Layout(2, 2, "zb-h1")),
    ("unet", Layout(3, 1, "1f1b")),
    ("muon", Layout(2, 2, "dualpipe-v", 2)),
    ("state", Layout(1, 3, groups=6)),
)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Programs]:
    warnings = "WARNINGS=-Wall -Wextra -Werror"
    return {way: Programs(tmp_path_factory.mktemp("ranks") / way, (warnings, *variables)) for way, variables in BUILDS.items()}


@pytest.mark.parametrize(
    ("way", "transport"), [("address", "threads"), ("address", "local"), ("thread", "threads"), ("clang", "local")], ids=str
)
@pytest.mark.parametrize(("name", "layout"), RANKS, ids=str)
def test_several_ranks_run_clean(
    name: str, layout: Layout, way: str, transport: str, ways: dict[str, Programs], tmp_path: Path
) -> None:
    model = MODELS[name]
    program = ways[way].build(model, layout.options(12 if layout.dp == 3 else 8))
    common = [str(program), *data_options(model, tmp_path), "--transport", transport, "--threads", "2", "--hash"]
    common += ["--checkpoint", str(tmp_path / "saved"), "--log", str(tmp_path / "log.jsonl")]
    if not model.arrays:
        common += ["--sample", "3", "--prompt", "The "]
    for extra in (["--steps", "3", "--trace", str(tmp_path / "trace.json")], ["--steps", "5", "--resume", "auto"]):
        done = execute([*common, *extra], **ENVIRONMENT)
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
