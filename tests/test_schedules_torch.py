"""torch.distributed.pipelining as an oracle: it accepts every schedule of ours, we read every schedule of its, and they are the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from mlc.parallel.actions import Action, Schedule
from mlc.parallel.csv import read_csv, write_csv
from mlc.parallel.limits import counted
from mlc.parallel.schedules import SCHEDULES, schedule
from mlc.parallel.simulate import Residuals, peak, simulate, uniform
from mlc.parallel.validate import validate, validate_imported

pytestmark = pytest.mark.peers

torch = pytest.importorskip("torch.distributed.pipelining.schedules", reason="torch is not installed")


def runtime(ranks: int, stages: int, microbatches: int) -> Any:
    """What loads, checks and lowers lists in torch, without the modules, process group and devices that it would run them on."""
    made = torch._PipelineScheduleRuntime.__new__(torch._PipelineScheduleRuntime)
    made._stages, made._defer_pp_recv = [], False
    made.pp_group_size, made._num_stages, made._n_microbatches = ranks, stages, microbatches
    made.pipeline_order = {}
    return made


#: Torch's dry run knows no weights that are gathered for a while, nor the reduction at the end.
NOT_SIMULATED = (torch.UNSHARD, torch.RESHARD, torch.REDUCE_GRAD)


def accepted(chosen: Schedule, path: Path) -> None:
    """Torch reads our file, checks it, adds messages, and runs it dry."""
    path.write_text(write_csv(chosen))
    made = runtime(chosen.ranks, chosen.stages, chosen.microbatches)
    made._load_csv(str(path), format="compute_only")
    assert made.stage_index_to_group_rank == dict(enumerate(chosen.placement))
    sent = {rank: [a for a in row if a.computation_type not in NOT_SIMULATED] for rank, row in made.pipeline_order_with_comms.items()}
    simulated = torch._simulate_comms_compute(sent, lambda stage: chosen.placement[stage], chosen.stages)
    computed = {rank: [str(a) for a in actions if a is not None and a.is_compute_op] for rank, actions in simulated.items()}
    assert computed == {rank: list(map(str, actions)) for rank, actions in enumerate(chosen.lists)}


def test_torch_accepts_every_schedule(tmp_path: Path) -> None:
    for name, row in SCHEDULES.items():
        for ranks, microbatches in ((1, 3), (2, 1), (2, 4), (3, 5), (4, 2), (4, 8), (8, 16)):
            for chunks in [v for v in (1, 2, 3) if v in row.chunks]:
                memory = counted(2 * ranks * chunks, ranks, chunks)
                costs = uniform(ranks * chunks, 1.0, 1.2, 0.8, 0.1)
                if name != "auto" or ranks * microbatches <= 16:
                    accepted(schedule(name, ranks, microbatches, chunks, costs, memory), tmp_path / "ours.csv")


class RecordingStage:
    """A stage that computes nothing and sends nothing, but notes what it is told to compute."""

    def __init__(self, stage: int):
        self.stage_index, self.is_last, self.done = stage, False, []

    def forward_one_chunk(self, microbatch: int, *_: Any, **__: Any) -> None:
        self.done.append(torch._Action(self.stage_index, torch.FORWARD, microbatch))

    def backward_one_chunk(self, microbatch: int, **_: Any) -> None:
        self.done.append(torch._Action(self.stage_index, torch.FULL_BACKWARD, microbatch))

    def __getattr__(self, name: str) -> Any:
        return lambda *_: []


def executed(made: Any, rank: int) -> list[Any]:
    """What a schedule of one stage a rank runs: the lists that torch 2.13 itself makes of 1F1B lack the last rank's first forward."""
    made._stage, made._has_backward, made.scale_grads = RecordingStage(rank), True, False
    made._check_inputs = lambda *_: ([()] * made._n_microbatches, [{}] * made._n_microbatches)
    made._initialize_stage = made._maybe_compute_loss = made._maybe_get_loss = made._update_losses = lambda *_: None
    made._step_microbatches()
    return made._stage.done


def torch_lists(name: str, ranks: int, microbatches: int, chunks: int) -> dict[int, list[Any]]:
    """What a schedule class of torch makes for every rank."""
    kind = torch.get_schedule_class(name)
    made = kind.__new__(kind)
    made._num_stages = made.num_stages = ranks * chunks
    made._n_microbatches, made.pp_group_size = microbatches, ranks
    if issubclass(kind, torch.PipelineScheduleSingle):
        return {rank: executed(made, rank) for rank in range(ranks)}
    made._stages, made.n_local_stages = [None] * chunks, chunks
    made.number_of_rounds = max(1, microbatches // ranks)
    made.microbatches_per_round = microbatches // made.number_of_rounds
    made.pipeline_order = {rank: made._calculate_single_rank_operations(rank) for rank in range(ranks)}
    if name == "InterleavedZeroBubble":
        return made._add_bubbles_to_actions(ranks * chunks)
    return made.pipeline_order


def dumped(ranks: int, stages: int, microbatches: int, lists: dict[int, list[Any]], path: Path, form: str) -> Schedule:
    """Torch writes its lists, lowered or not; we read them."""
    made = runtime(ranks, stages, microbatches)
    made.pipeline_order = lists
    if form == "compute_comms":
        made._prepare_schedule_with_comms(copy.deepcopy(lists))
    made._dump_csv(str(path), format=form)
    return read_csv(path.read_text(), "torch")


#: (torch's name, ours where the orders are equal, chunks)
PAIRS = [
    ("GPipe", "gpipe", 1),
    ("1F1B", "1f1b", 1),
    ("Interleaved1F1B", "interleaved", 2),
    ("Interleaved1F1B", "interleaved", 3),
    ("LoopedBFS", None, 2),
    ("InterleavedZeroBubble", "zb-h1", 1),
    ("InterleavedZeroBubble", None, 2),
    ("ZBVZeroBubble", "zb-v", 2),
    ("DualPipeV", "dualpipe-v", 2),
]


@pytest.mark.parametrize("form", ["compute_only", "compute_comms"])
@pytest.mark.parametrize(("theirs", "ours", "chunks"), PAIRS)
def test_we_read_every_schedule_of_torch(theirs: str, ours: str | None, chunks: int, form: str, tmp_path: Path) -> None:
    for ranks, microbatches in ((2, 4), (4, 8), (4, 16), (8, 16)):
        lists = torch_lists(theirs, ranks, microbatches, chunks)
        read = dumped(ranks, ranks * chunks, microbatches, lists, tmp_path / "theirs.csv", form)
        assert (read.ranks, read.chunks, read.microbatches) == (ranks, chunks, microbatches)
        validate_imported(read)
        simulate(read, uniform(read.stages, 1.0, 1.0, 1.0, 0.1))
        if ours is not None:
            assert read.lists == schedule(ours, ranks, microbatches, chunks).lists


def test_zb_v_for_few_microbatches(tmp_path: Path) -> None:
    for ranks, microbatches in ((2, 1), (4, 3), (4, 6)):
        lists = torch_lists("ZBVZeroBubble", ranks, microbatches, 2)
        read = dumped(ranks, 2 * ranks, microbatches, lists, tmp_path / "theirs.csv", "compute_only")
        assert read.lists == schedule("zb-v", ranks, microbatches).lists


def test_torch_runs_bfs_backwards_in_descending_order(tmp_path: Path) -> None:
    """Which takes as long and holds as much as ours; such a list is for looking at, not for compiling."""
    read = dumped(4, 8, 8, torch_lists("LoopedBFS", 4, 8, 2), tmp_path / "theirs.csv", "compute_only")
    ours, costs = schedule("bfs", 4, 8, 2), uniform(8, 1.0, 1.0, 1.0)
    ones = Residuals((1,) * 8, (1,) * 8)
    assert simulate(read, costs).makespan == simulate(ours, costs).makespan
    assert peak(read, ones) == peak(ours, ones)
    assert read.lists == tuple(tuple(a for a in row if a.kind == "F") + tuple(map(reverse, backwards(row))) for row in ours.lists)
    with pytest.raises(Exception, match="ascending order"):
        validate(read)


def backwards(row: tuple[Action, ...]) -> list[Action]:
    return [a for a in row if a.kind == "B"]


def reverse(action: Action) -> Action:
    return Action(action.kind, action.stage, 7 - action.microbatch)


def test_torch_refuses_what_we_refuse(tmp_path: Path) -> None:
    """A list without its last action, and one whose backward comes first."""
    path = tmp_path / "broken.csv"
    for text in ("0F0,0F1,0I0,0W0,0I1\n", "0F0,0B1,0F1,0B0\n"):
        path.write_text(text)
        with pytest.raises(AssertionError):
            runtime(1, 1, 2)._load_csv(str(path), format="compute_only")
        with pytest.raises(Exception, match="E1104"):
            read_csv(text, "broken")
