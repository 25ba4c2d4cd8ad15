"""Plans of several layouts: they compute what one rank computes, in memory that is enough and no more shared than it may be."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import EXAMPLES, ROOT
from planned_run import run_plan

from mlc.driver import Options, load_program
from mlc.emit import SourceTree, describe, emit
from mlc.emit.actions import actions_text
from mlc.emit.items import model_items
from mlc.emit.tables import plan_rows
from mlc.ir.program import Program
from mlc.lower import lower
from mlc.lower.program import Lowered
from mlc.ops import OPS
from mlc.parallel.planned import read_plan
from mlc.parallel.schedules import schedule
from mlc.parallel.verify import verify
from mlc.passes import differentiate
from mlc.plan import Layout, Plan, plan
from mlc.plan.placed import Area, Place
from mlc.plan.report import explain_plan
from mlc.plan.shards import BLOCK, Share, roots, shares, subtrees, tree_levels
from mlc.plan.stages import staged_chains

MODELS = {
    "gpt2": {"depth": 4, "width": 32, "heads": 2, "context": 16, "vocab": 64, "batch": 2},  # tied embeddings
    "albert": {"depth": 3, "vocab": 64, "context": 16, "embedded": 16, "width": 32, "heads": 2, "batch": 2},  # one block for all layers
    "unet": {"size": 16, "width": 32, "levels": 2, "depth": 1, "head": 16, "batch": 2},  # skips
    "supervised": {},  # losses in the middle of the chain
    "muon": {"depth": 2, "width": 32, "heads": 2, "context": 16, "batch": 2},  # rules for whole tensors
    "state": {},  # values carried from step to step
}

#: (pp, dp, chunks, schedule, cuts). Cuts None: even.
LAYOUTS = {
    "one": (1, 1, 1, "1f1b", None),
    "two": (2, 1, 1, "1f1b", None),
    "four": (4, 1, 1, "1f1b", None),
    "gpipe": (3, 1, 1, "gpipe", None),
    "split": (3, 1, 1, "zb-h1", None),
    "ahead": (2, 2, 1, "zb-h2", None),
    "looped": (2, 1, 2, "interleaved", None),
    "alone": (1, 1, 2, "bfs", None),
    "v": (2, 1, 2, "zb-v", None),
    "mixed": (2, 2, 2, "dualpipe-v", None),
    "replicas": (1, 3, 1, "1f1b", None),
    "mesh": (2, 3, 1, "1f1b", None),
    "hollow": (4, 1, 1, "1f1b", "all in the third"),
    "ends": (3, 1, 1, "zb-h1", "none in the middle"),
}

MICROBATCHES = 12
GROUPS = 6


@cache
def lowered_model(name: str) -> Lowered:
    defines = {key: str(value) for key, value in MODELS[name].items()}
    program, _ = load_program(EXAMPLES / f"{name}.dsl", defines, Options())
    program = replace(program, recipe=replace(program.recipe, microbatches=MICROBATCHES, groups=GROUPS))
    return lower(differentiate(program, OPS), OPS)


def cut_evenly(calls: int, stages: int) -> list[int]:
    return [calls * stage // stages for stage in range(stages + 1)]


def layout_of(program: Program, name: str) -> Layout:
    pp, dp, chunks, order, cuts = LAYOUTS[name]
    calls = len(program.train.calls)
    edges = {None: cut_evenly(calls, pp * chunks), "all in the third": [0, 0, 0, calls, calls], "none in the middle": [0, 1, 1, calls]}
    ranges = tuple(range(a, b) for a, b in pairwise(edges[cuts]))
    return Layout(pp, dp, chunks, schedule(order, pp, MICROBATCHES // dp, chunks), ranges, MICROBATCHES, GROUPS)


@cache
def planned(model: str, layout: str) -> Plan:
    lowered = lowered_model(model)
    return plan(lowered, layout_of(lowered.step.program, layout))


def cases(*models: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("model", "layout"), [(m, name) for m in models or MODELS for name in LAYOUTS])


@cases()
@pytest.mark.parametrize("eager", [True, False])
def test_every_layout_computes_the_same(model: str, layout: str, eager: bool) -> None:
    want = run_plan(planned(model, "one"), True)
    got = run_plan(planned(model, layout), eager)
    missing = [key for key in want if key not in got]
    assert not missing
    assert [key for key, made in want.items() if got[key] != made] == []


def areas_of(plan: Plan, place: Place, chain: str) -> list[Area]:
    """Everything that is in use while a chain runs."""
    regions = [Area(r.name, r.base, (r.slots - 1) * r.stride + r.bytes, r.chain) for r in place.regions if not r.name.startswith("in:")]
    found = [area for area in (*place.fixed, *regions) if area.chain in (None, chain) and area.bytes]
    for channel in plan.channels:
        tree = channel.kind == "tree"
        peers = 3 if tree else plan.layout.dp - 1 if channel.source == channel.target else 1
        if tree or channel.target == place.place:
            found.append(Area(f"headers {channel.name}", channel.headers, 256 * peers, None))
            found.append(Area(f"inbox {channel.name}", channel.inbox, peers * channel.slots * channel.slot_bytes, None))
        if tree or (channel.source == place.place and channel.chain is None):
            found.append(Area(f"outbox {channel.name}", channel.outbox, peers * channel.outbox_slots * channel.slot_bytes, None))
    return found


@cases()
def test_buffers_lie_side_by_side(model: str, layout: str) -> None:
    made = planned(model, layout)
    for place in made.places:
        for chain in place.lists:
            areas = sorted(areas_of(made, place, chain), key=lambda area: area.at)
            for low, high in pairwise(areas):
                assert low.at + low.bytes <= high.at, f"{low} and {high}"
            assert areas[-1].at + areas[-1].bytes <= place.arena_bytes
            assert all(area.at % 64 == 0 for area in areas)


@cases("gpt2", "muon")
def test_pieces_cover_every_parameter_once(model: str, layout: str) -> None:
    made = planned(model, layout)
    found: dict[int, list[tuple[int, int]]] = {}
    for place in made.places:
        assert len(place.shards) == made.layout.dp
        for piece in (piece for shard in place.shards for piece in shard):
            assert made.parameters[piece.parameter].owner == place.place
            assert piece.begin % BLOCK == 0
            found.setdefault(piece.parameter, []).append((piece.begin, piece.end))
    for number, parameter in enumerate(made.program.parameters):
        pieces = sorted(found[number])
        assert [0, *(end for _, end in pieces)] == [*(begin for begin, _ in pieces), parameter.type.size]


@cases("gpt2", "muon")
def test_states_of_a_shard_do_not_overlap(model: str, layout: str) -> None:
    made = planned(model, layout)
    for shard in (shard for place in made.places for shard in place.shards):
        spans: list[tuple[int, int]] = []
        for piece in shard:
            planned_parameter = made.parameters[piece.parameter]
            for at, (_, kind) in zip(piece.states, planned_parameter.states, strict=True):
                size = piece.end - piece.begin if planned_parameter.elementwise else kind.size
                spans.append((at, at + 4 * size))
        assert all(low[1] <= high[0] for low, high in pairwise(sorted(spans)))


@pytest.mark.parametrize("dp", [1, 2, 3, 5])
def test_shares_are_balanced(dp: int) -> None:
    sizes = [5 * BLOCK, 17, 3 * BLOCK + 1, 9 * BLOCK, 4]
    found = shares([Share(n, 0, size) for n, size in enumerate(sizes)], (), dp)
    blocks = [sum(-(-(share.end - share.begin) // BLOCK) for share in shard) for shard in found]
    assert max(blocks) - min(blocks) <= 1
    whole = shares((), [Share(n, 0, size) for n, size in enumerate((5, 4, 3, 3, 1))], 2)
    assert [[share.parameter for share in shard] for shard in whole] == [[0, 3], [1, 2, 4]]


def tree_of(groups: int) -> set[tuple[int, int]]:
    """The nodes of the bottom-up pairwise tree, as ranges of groups."""
    nodes = [(g, g + 1) for g in range(groups)]
    found = set(nodes)
    while len(nodes) > 1:
        pairs = [(a[0], b[1]) for a, b in zip(nodes[::2], nodes[1::2], strict=False)]
        nodes = pairs + ([nodes[-1]] if len(nodes) % 2 else [])
        found |= set(nodes)
    return found


@pytest.mark.parametrize("groups", range(1, 33))
def test_sums_of_groups_are_those_of_the_tree(groups: int) -> None:
    tree = tree_of(groups)
    for dp in (d for d in range(1, groups + 1) if groups % d == 0):
        most = 0
        for replica in range(dp):
            begin, end = replica * groups // dp, (replica + 1) * groups // dp
            held: list[tuple[int, int]] = []
            for group in range(begin, end):
                most = max(most, len(held))
                held.append((group, group + 1))
                while len(held) > 1 and (held[-2][0], held[-1][1]) in tree:
                    held[-2:] = [(held[-2][0], held[-1][1])]
            assert [(node.start, node.stop) for node in subtrees(begin, end, groups)] == held
            assert roots(replica, groups, dp) == len(held)
        assert tree_levels(groups, dp) == 1 + most


@cases("gpt2", "unet")
def test_all_layouts_have_the_same_routines(model: str, layout: str) -> None:
    def layers(made: Plan) -> set[str]:
        return {row.routine.name for row in plan_rows(made) if row.routine.function.name not in ("copy", "zero", "add")}

    assert layers(planned(model, layout)) == layers(planned(model, "one"))
    assert model_items(planned(model, layout)) == model_items(planned(model, "one"))


def emitted(made: Plan, name: str) -> SourceTree:
    return emit(made, describe(made), name, f"{name}.dsl", "0")


@cases()
def test_plans_are_proved(model: str, layout: str) -> None:
    text = emitted(planned(model, layout), model).text("plan.json")
    verify(json.loads(text))
    assert "stage 0 on place 0" in explain_plan(json.loads(text))


def test_skips_pass_through_stages() -> None:
    made = planned("unet", "four")
    copied = [row.name for place in made.places for chunk in place.chunks["train"] for of in chunk.rows.values() for row in of]
    assert sum(name.endswith(" passes") for name in copied) >= 4
    assert any(name.startswith("gradient of") for name in copied)


def test_shrunk_rings_are_noticed() -> None:
    """The check itself: with a slot less than planned, some row reads what is not its own."""
    made = planned("unet", "split")
    tried = 0
    for place in made.places:
        for number, region in enumerate(place.regions):
            if region.slots == 1 or region.chain != "train" or region.name.startswith(("in:", "out:")):
                continue
            regions = list(place.regions)
            regions[number] = replace(region, slots=region.slots - 1)
            places = tuple(replace(p, regions=tuple(regions)) if p is place else p for p in made.places)
            with pytest.raises(AssertionError):
                assert run_plan(replace(made, places=places), True) == run_plan(made, True)
            tried += 1
    assert tried >= 3


def test_no_region_has_more_slots_than_microbatches() -> None:
    for layout in LAYOUTS:
        made = planned("gpt2", layout)
        for place in made.places:
            assert all(r.slots <= made.rounds[r.chain] for r in place.regions if r.chain)


def test_forward_chains_follow_the_cut() -> None:
    step = lowered_model("gpt2").step
    train, *others = staged_chains(step, layout_of(step.program, "four"))
    stage_of = {train.chain.calls[n].path: stage for stage, numbers in enumerate(train.calls) for n in numbers}
    for chain in others:
        assert sum(len(numbers) for numbers in chain.calls) == len(chain.chain.calls)
        for stage, numbers in enumerate(chain.calls):
            assert all(stage_of[chain.chain.calls[n].path] == stage for n in numbers)


def test_actions_come_from_the_plan_alone() -> None:
    tree = emitted(planned("gpt2", "v"), "gpt2")
    text = json.loads(tree.text("plan.json"))
    assert actions_text(read_plan(text)) == tree.text("src/actions.c")
    assert "#SBATCH --ntasks=2" in tree.text("gpt2.sbatch")
    text["places"][0]["lists"]["train"].reverse()
    assert actions_text(read_plan(text)) != tree.text("src/actions.c")


@pytest.mark.parametrize("layout", ["one", "mixed"])
def test_emitted_tables_compile(layout: str, tmp_path: Path) -> None:
    tree = emitted(planned("gpt2", layout), "gpt2")
    for name in ("src/model.c", "src/tables.h", "src/actions.c"):
        (tmp_path / Path(name).name).write_text(tree.text(name))
    folders = [f"-I{ROOT / 'runtime' / part}" for part in ("include", "kernels")]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fopenmp-simd", "-fsyntax-only"]
    done = subprocess.run(["cc", *flags, *folders, "model.c", "actions.c"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
