"""Same bits in every layout: models of every kind train, evaluate, sample and log alike on one rank and on many, by every schedule."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from conftest import need_mpi
from layout_models import MODELS, Layout, Programs, Said, digest_of, run_model

MICROBATCHES = 8
ONE = Layout()

#: Every schedule, chunks of both placements, replicas alone and beside a pipeline.
LAYOUTS = (
    Layout(2),
    Layout(3, 2, "zb-h1"),
    Layout(2, 1, "interleaved", 2),
    Layout(2, 1, "zb-v"),
    Layout(2, 2, "dualpipe-v", 2),
    Layout(3, 1, "gpipe"),
    Layout(2, 1, "auto", 2),
    Layout(1, 4, "1f1b"),
    Layout(4, 1, "zb-h2"),
    Layout(1, 1, "bfs", 3),
    Layout(2, 4, "bfs", 2),
)

#: What the quick tests run: each model for what it alone has, each layout once or more.
SAMPLE = (
    ("gpt2", Layout(3, 2, "zb-h1")),
    ("gpt2", Layout(2, 2, "dualpipe-v", 2)),
    ("gpt2-bf16", Layout(2, 4, "bfs", 2)),
    ("gpt2-f64", Layout(2, 2, "1f1b")),
    ("albert", Layout(2, 1, "zb-v")),
    ("deepseek_v3", Layout(2, 2, "auto")),
    ("muon", Layout(3, 2, "1f1b")),
    ("state", Layout(1, 4, "1f1b")),
    ("supervised", Layout(3, 1, "gpipe")),
    ("t5", Layout(2, 1, "interleaved", 2)),
    ("unet", Layout(4, 1, "zb-h2")),
)


class Runs:
    """Programs, and what their runs said."""

    def __init__(self, programs: Programs):
        self.programs = programs
        self.one = cache(self._one)

    def program(self, model: str, layout: Layout) -> Path:
        return self.programs.build(MODELS[model], layout.options(MICROBATCHES))

    def run(self, model: str, layout: Layout, *arguments: object, launcher: tuple[str, ...] = ()) -> Said:
        folder = self.programs.folder / "data"
        program = self.program(model, layout)
        folder.mkdir(exist_ok=True)
        return run_model(program, MODELS[model], folder, *arguments, launcher=launcher)

    def _one(self, model: str) -> Said:
        """What one rank of one thread says."""
        return self.run(model, ONE, "--threads", 1)


@pytest.fixture(scope="module")
def runs(programs: Programs) -> Runs:
    return Runs(programs)


def check(runs: Runs, model: str, layout: Layout, transport: str, threads: int) -> None:
    chosen = ["--transport", transport] if layout.pp * layout.dp > 1 else []
    assert runs.run(model, layout, "--threads", threads, *chosen) == runs.one(model)


@pytest.mark.parametrize(("model", "layout"), SAMPLE, ids=str)
def test_a_layout_says_what_one_rank_says(model: str, layout: Layout, runs: Runs) -> None:
    check(runs, model, layout, "threads", 2)
    check(runs, model, layout, "local", 1)


#: Each model meets some of the layouts, each layout some of the models.
MEETINGS = tuple((m, layout) for i, m in enumerate(MODELS) for j, layout in enumerate(LAYOUTS) if (i + j) % 5 == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layout"), MEETINGS, ids=str)
def test_layouts_say_what_one_rank_says(model: str, layout: Layout, runs: Runs) -> None:
    number = LAYOUTS.index(layout)
    check(runs, model, layout, ("threads", "local")[number % 2], 1 + number % 3)


def test_mpi_says_what_one_rank_says(runs: Runs) -> None:
    need_mpi()
    layout = Layout(2, 2, "dualpipe-v", 2)
    program = runs.program("gpt2", layout)
    runs.programs.make("../libmlc_mpi.so")
    shutil.copy(runs.programs.folder / "build" / "libmlc_mpi.so", program.parent)
    launcher = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "4")
    assert runs.run("gpt2", layout, "--threads", 1, "--transport", "mpi", launcher=launcher) == runs.one("gpt2")


#: (model, layout that saves, layout that goes on)
RESUMES = (
    ("gpt2-bf16", ONE, Layout(2, 4, "bfs", 2)),
    ("gpt2-bf16", Layout(2, 4, "bfs", 2), ONE),
    ("muon", Layout(3, 2, "1f1b"), ONE),
    ("gpt2", Layout(3, 2, "zb-h1"), Layout(2, 2, "dualpipe-v", 2)),
    ("state", Layout(1, 4, "1f1b"), ONE),
)


def train(program: Path, model: str, folder: Path, *arguments: object) -> str:
    """The digest after four steps."""
    return digest_of(program, MODELS[model], folder, "--steps", 4, "--threads", 1, *arguments)


@pytest.mark.parametrize(("model", "first", "second"), RESUMES, ids=str)
def test_any_layout_goes_on_from_any_other(model: str, first: Layout, second: Layout, runs: Runs, tmp_path: Path) -> None:
    data = tmp_path / "data"
    whole = train(runs.program(model, ONE), model, data)
    assert train(runs.program(model, first), model, data, "--checkpoint", tmp_path / "saved", "--every", 2) == whole
    assert train(runs.program(model, second), model, data, "--resume", tmp_path / "saved" / "step-00000002") == whole


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "state.json"}


@pytest.mark.parametrize("model", ["gpt2-bf16", "muon"])
def test_every_layout_writes_the_same_files(model: str, runs: Runs, tmp_path: Path) -> None:
    layouts = (ONE, *(layout for name, layout in SAMPLE if name == model))
    for number, layout in enumerate(layouts):
        train(runs.program(model, layout), model, tmp_path / "data", "--checkpoint", tmp_path / str(number))
    first = tmp_path / "0" / "step-00000004"
    for number in range(1, len(layouts)):
        other = tmp_path / str(number) / "step-00000004"
        assert stored(other) == stored(first)
        states = [json.loads((folder / "state.json").read_text()) for folder in (first, other)]
        assert {k for k in states[0] if states[0][k] != states[1].get(k)} <= {"plan", "run", "checksum"}
