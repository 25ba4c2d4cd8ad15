"""Plans of several layouts: they compute what one rank computes, in memory that is enough and no more shared than it may be."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import EXAMPLES, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_run import run_plan

from mlc.driver import Options, compile_file, load_program
from mlc.emit import SourceTree, emit
from mlc.emit.actions import actions_text
from mlc.emit.items import model_items
from mlc.ir.program import CHOICES, STATES, Program
from mlc.lower import lower
from mlc.lower.layout import aligned
from mlc.lower.program import Lowered
from mlc.mesh import Cohort, Mesh, Portions
from mlc.ops import OPS
from mlc.parallel.entries import COMPUTE
from mlc.parallel.footprint import schedule_windows
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.planned import Area, Chunk, Place, Planned, StageNote
from mlc.parallel.schedules import schedule
from mlc.parallel.shards import BLOCK, Owned, Share, Sharing, line_bytes
from mlc.parallel.tree import most_roots, roots, subtrees, tree_levels
from mlc.parallel.verify import prove, verify
from mlc.passes import prepared
from mlc.plan import Layout, plan
from mlc.plan.over_time import draw, moments
from mlc.plan.recompute import in_runs
from mlc.plan.report import explain_plan
from mlc.plan.stages import staged_chains
from mlc.targets.c import C

MODELS = {
    "gpt2": {"depth": 4, "width": 32, "heads": 2, "context": 16, "vocab": 64, "batch": 2},  # tied embeddings
    "albert": {"depth": 3, "vocab": 64, "context": 16, "embedded": 16, "width": 32, "heads": 2, "batch": 2},  # one block for all layers
    "unet": {"size": 16, "width": 32, "levels": 2, "depth": 1, "head": 16, "batch": 2},  # skips
    "supervised": {},  # losses in the middle of the chain
    "muon": {"depth": 2, "width": 32, "heads": 2, "context": 16, "batch": 2},  # rules for whole tensors
    "state": {},  # values carried from step to step
}

#: MiB.
UNITS = {"B": 2.0**-20, "KiB": 2.0**-10, "MiB": 1.0, "GiB": 2.0**10}

#: Copies of parameters in bf16.
NARROW = {
    "deepseek_v3": {
        "vocab": 64, "context": 16, "width": 32, "heads": 2, "batch": 2, "depth": 3, "dense_depth": 1, "q_rank": 12, "kv_rank": 8,
        "nope": 8, "rope": 4, "v_head": 6, "dense_hidden": 40, "hidden": 12, "experts": 8, "active": 2, "shared": 1, "groups": 4,
        "active_groups": 2,
    },
}  # fmt: skip

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
    defines = {key: str(value) for key, value in (MODELS | NARROW)[name].items()}
    program, _ = load_program(EXAMPLES / f"{name}.dsl", defines, Options())
    program = replace(program, recipe=replace(program.recipe, microbatches=MICROBATCHES, groups=GROUPS))
    return lower(prepared(program, OPS), OPS, C.rules)


def cut_evenly(calls: int, stages: int) -> list[int]:
    return [calls * stage // stages for stage in range(stages + 1)]


def choices_of(choice: str, calls: int) -> tuple[str, ...]:
    """The same for every call; mixed: each after the other."""
    return tuple(CHOICES[n % len(CHOICES)] if choice == "mixed" else choice for n in range(calls))


def layout_of(program: Program, name: str, choice: str = "none") -> Layout:
    pp, dp, chunks, order, cuts = LAYOUTS[name]
    calls = len(program.train.calls)
    edges = {None: cut_evenly(calls, pp * chunks), "all in the third": [0, 0, 0, calls, calls], "none in the middle": [0, 1, 1, calls]}
    ranges = tuple(range(a, b) for a, b in pairwise(edges[cuts]))
    choices = choices_of(choice, calls)
    return Layout(Mesh(pp, dp), chunks, schedule(order, pp, MICROBATCHES // dp, chunks), ranges, MICROBATCHES, GROUPS, choices)


@cache
def planned(model: str, layout: str, choice: str = "none") -> Planned:
    lowered = lowered_model(model)
    return plan(lowered, layout_of(lowered.step.program, layout, choice))


def cases(*models: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("model", "layout"), [(m, name) for m in models or MODELS for name in LAYOUTS])


@cases()
@pytest.mark.parametrize("eager", [True, False])
def test_every_layout_computes_the_same(model: str, layout: str, eager: bool) -> None:
    want = run_plan(lowered_model(model), planned(model, "one"), True)
    got = run_plan(lowered_model(model), planned(model, layout), eager)
    missing = [key for key in want if key not in got]
    assert not missing
    assert [key for key, made in want.items() if got[key] != made] == []


@cases("gpt2", "supervised")
@pytest.mark.parametrize("choice", ["selective", "full", "mixed"])
def test_what_is_made_again_is_what_was_made(model: str, layout: str, choice: str) -> None:
    made, lowered = planned(model, layout, choice), lowered_model(model)
    rows = [row for place in made.places for chunk in place.chunks["train"] for of in chunk.rows.values() for row in of]
    assert any(row.name.endswith(" again") for row in rows) and made.recomputed_flops > 0
    assert made.flops == planned(model, layout).flops
    text = emitted(made, model).text("plan.json")
    assert read_plan(json.loads(text)) == made
    verify(json.loads(text))
    want, got = run_plan(lowered, planned(model, layout), True), run_plan(lowered, made, False)
    assert [key for key, symbol in want.items() if got[key] != symbol] == []


def run_of(lowered: Lowered, layout: Layout, length: int) -> Layout:
    """The layout where calls that make everything again come in runs."""
    return replace(layout, choices=in_runs(lowered, layout.choices, layout.cuts, schedule_windows(layout.schedule), length))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", ["one", "two", "split", "looped", "v", "mixed", "hollow"])
@pytest.mark.parametrize("length", [2, 5])
def test_states_that_are_made_again_are_what_they_were(model: str, layout: str, length: int) -> None:
    lowered = lowered_model(model)
    full = layout_of(lowered.step.program, layout, "full")
    runs = run_of(lowered, full, length)
    made = plan(lowered, runs)
    names = [b.name for p in made.places for c in p.chunks["train"] for b in c.buffers]
    assert (STATES in runs.choices) == any(name.startswith("again.") for name in names)
    assert STATES in runs.choices or layout != "one" or model not in ("gpt2", "albert")
    text = emitted(made, model).text("plan.json")
    assert read_plan(json.loads(text)) == made
    verify(json.loads(text))
    want, got = run_plan(lowered, planned(model, layout), True), run_plan(lowered, made, False)
    assert [key for key, symbol in want.items() if got[key] != symbol] == []


@pytest.mark.parametrize("model", [*MODELS, *NARROW])
@pytest.mark.parametrize("length", [2, 3])
def test_states_of_a_step_of_one_microbatch_are_made_again(model: str, length: int) -> None:
    lowered = lowered_model(model)
    calls = len(lowered.step.program.train.calls)
    one = Layout(Mesh(1, 1), 1, schedule("1f1b", 1, 1, 1), (range(calls),), 1, 1, choices_of("full", calls))
    made = plan(lowered, run_of(lowered, one, length))
    verify(json.loads(emitted(made, model).text("plan.json")))
    passes = ("train", "train")
    kept = plan(lowered, replace(one, choices=choices_of("none", calls)))
    want, got = run_plan(lowered, kept, True, passes), run_plan(lowered, made, True, passes)
    assert [key for key, symbol in want.items() if got[key] != symbol] == []


@pytest.mark.parametrize("model", [*MODELS, *NARROW])
@pytest.mark.parametrize(("pp", "dp", "choice"), [(1, 1, "none"), (1, 1, "mixed"), (3, 1, "full"), (2, 2, "none")])
def test_a_step_of_one_microbatch_keeps_its_gradients(model: str, pp: int, dp: int, choice: str) -> None:
    """Gradients lie where the way back has freed memory; the end of a step finds them all."""
    lowered = lowered_model(model)
    calls = len(lowered.step.program.train.calls)
    cuts = tuple(range(a, b) for a, b in pairwise(cut_evenly(calls, pp)))
    layout = Layout(Mesh(pp, dp), 1, schedule("1f1b", pp, 1, 1), cuts, dp, dp, choices_of(choice, calls))
    one = Layout(Mesh(1, 1), 1, schedule("1f1b", 1, dp, 1), (range(calls),), dp, dp, choices_of("none", calls))
    made = plan(lowered, layout)
    names = {area.name for place in made.places for area in place.fixed}
    assert not any(name.startswith("gradient of ") for name in names)
    assert pp * dp > 1 or not any(name.startswith("copy of ") for name in names)
    text = emitted(made, model).text("plan.json")
    assert read_plan(json.loads(text)) == made
    verify(json.loads(text))
    passes = ("train", "train")
    want, got = run_plan(lowered, plan(lowered, one), True, passes), run_plan(lowered, made, True, passes)
    assert [key for key, symbol in want.items() if got[key] != symbol] == []


def areas_of(plan: Planned, place: Place, chain: str) -> list[Area]:
    """Everything that is in use while a chain runs."""
    own = [region for region in place.regions.values() if not region.name.startswith("in:")]
    regions = [Area(r.name, r.base, (r.slots - 1) * r.stride + r.bytes, r.chain) for r in own]
    found = [area for area in (*place.fixed, *regions) if area.chain in (None, chain) and area.bytes]
    found += [area for area in (place.states, place.work, place.guests) if area.bytes]
    for channel in plan.channels.values():
        tree = channel.kind == "tree"
        peers = 3 if tree else Cohort(plan.dp).blocks if channel.source == channel.target else 1
        if tree or channel.target == place.number:
            found.append(Area(f"headers {channel.name}", channel.headers, 256 * peers, None))
            if channel.chain in (None, chain):
                found.append(Area(f"inbox {channel.name}", channel.inbox, peers * channel.slots * channel.slot_bytes, channel.chain))
        if tree or (channel.source == place.number and channel.chain is None):
            found.append(Area(f"outbox {channel.name}", channel.outbox, peers * channel.outbox_slots * channel.slot_bytes, None))
    return found


@cases()
def test_buffers_lie_side_by_side(model: str, layout: str) -> None:
    made = planned(model, layout)
    for place in made.places:
        for chain in place.lists:
            areas = sorted(areas_of(made, place, chain), key=lambda area: area.at)
            for low, high in pairwise(areas):
                turns = low.at == high.at and low.name.startswith("out:") and high.name.startswith("out:")
                assert low.at + low.bytes <= high.at or turns, f"{low} and {high}"
            assert areas[-1].at + areas[-1].bytes <= place.arena_bytes
            assert all(area.at % 64 == 0 for area in areas)


@cases("gpt2", "muon")
def test_places_own_every_parameter_once(model: str, layout: str) -> None:
    made = planned(model, layout)
    owned = [(one.parameter, place.number) for place in made.places for one in place.owned]
    assert sorted(owned) == [(number, parameter.owner) for number, parameter in enumerate(made.parameters)]
    for place in made.places:
        assert all(one.sharing == made.parameters[one.parameter].kind.sharing for one in place.owned)


SIZES = st.sampled_from((1, 17, BLOCK, 3 * BLOCK, 5000, 90 * BLOCK + 3))
SHARED = st.lists(st.tuples(SIZES, st.sampled_from(("sliced", "whole", "still"))), max_size=8)


def shares_of(sharing: Sharing, first: int, width: int = 1) -> tuple[Share, ...]:
    return sharing.shares(Portions(first, first + width))


@given(SHARED, st.integers(1, 9))
def test_portions_cover_every_parameter_once(kinds: list[tuple[int, str]], replicas: int) -> None:
    sharing = Sharing([Owned(n, elements, kind) for n, (elements, kind) in enumerate(kinds)], replicas, 4)
    for one in sharing.owned:
        found = [share for portion in range(replicas) for share in shares_of(sharing, portion) if share.parameter == one.parameter]
        assert [0, *(share.end for share in found)] == [*(share.begin for share in found), one.elements]
        assert all(share.begin % BLOCK == 0 for share in found)
        assert one.sharing != "whole" or len(found) == 1


@given(SHARED, st.integers(1, 9), st.data())
def test_no_run_of_portions_has_more_than_the_most(kinds: list[tuple[int, str]], replicas: int, data: st.DataObject) -> None:
    sharing = Sharing([Owned(n, elements, kind) for n, (elements, kind) in enumerate(kinds)], replicas, 4)
    buffers = {n: data.draw(st.integers(0, 3)) for n in range(len(kinds))}
    whole = {n: 64 * data.draw(st.integers(0, 9)) for n in range(len(kinds))}
    width = data.draw(st.integers(1, replicas))

    def size(share: Share) -> int:
        return whole[share.parameter] if kinds[share.parameter][1] == "whole" else buffers[share.parameter] * line_bytes(share.size, 4)

    loads = [sum(map(size, shares_of(sharing, first, width))) for first in range(replicas - width + 1)]
    assert max(loads) <= sharing.most(buffers, whole, width)
    if width == replicas:
        assert loads == [sharing.most(buffers, whole, width)]


@pytest.mark.parametrize("replicas", [1, 2, 3, 5, 64, 1_000_000])
def test_shares_are_balanced(replicas: int) -> None:
    sizes = [500 * BLOCK, 17, 300 * BLOCK + 1, 900 * BLOCK, 4]
    sharing = Sharing([Owned(n, size, "sliced") for n, size in enumerate(sizes)], replicas, 4)
    some = range(replicas) if replicas < 100 else range(0, replicas, 9973)
    blocks = [sum(-(-share.size // BLOCK) for share in shares_of(sharing, portion)) for portion in some]
    assert max(blocks) - min(blocks) <= 1


def test_whole_parameters_are_spread_out() -> None:
    sharing = Sharing([Owned(n, BLOCK, "whole") for n in range(12)], 4, 4)
    found = [[share.parameter for share in shares_of(sharing, portion)] for portion in range(4)]
    assert found == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


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
        runs = [(a, min(a + width, dp)) for width in (1 << n for n in range(6)) for a in range(0, dp, width)]
        assert max(len(list(subtrees(groups // dp * a, groups // dp * b, groups))) for a, b in runs) == most_roots(groups, dp)
        assert most_roots(groups, dp) <= tree_levels(groups, dp)


@cases("gpt2", "unet")
def test_all_layouts_have_the_same_routines(model: str, layout: str) -> None:
    def layers(made: Planned) -> set[str]:
        moves = {r.name for r in lowered_model(model).routines if r.function.name in ("copy", "zero", "add")}
        return {routine.name for routine in made.routines} - moves

    assert layers(planned(model, layout)) == layers(planned(model, "one"))
    lowered = lowered_model(model)
    assert model_items(lowered, planned(model, layout)) == model_items(lowered, planned(model, "one"))


def test_stages_that_only_pass_values_on_are_whole(tmp_path: Path) -> None:
    """What moves values alone has no FLOPs; it is done in one part all the same where one part is all of it."""
    options = Options(pp=3, chunks=2, schedule="interleaved", microbatches=12, groups=12, emit="plan")
    model = ROOT / "benchmarks" / "models" / "skips.dsl"
    compile_file(model, tmp_path, {"depth": 2, "context": 8, "width": 16, "vocab": 256}, options)
    content = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    verify(content)
    made = read_plan(content)
    chunks = [chunk for place in made.places for chunk in place.chunks["train"]]
    assert any(not any(made.routines[row.routine].flops for row in rows) for chunk in chunks for rows in chunk.rows.values() if rows)


def emitted(made: Planned, name: str) -> SourceTree:
    return emit(lowered_model(name), made, name, f"{name}.dsl", "0")


@cases()
def test_plans_are_proved(model: str, layout: str) -> None:
    made = planned(model, layout)
    text = emitted(made, model).text("plan.json")
    assert read_plan(json.loads(text)) == made
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
        for region in place.regions.values():
            if region.slots == 1 or region.chain != "train" or region.name.startswith(("in:", "out:")):
                continue
            regions = {**place.regions, region.name: replace(region, slots=region.slots - 1)}
            places = tuple(replace(p, regions=regions) if p is place else p for p in made.places)
            lowered = lowered_model("unet")
            with pytest.raises(AssertionError):
                assert run_plan(lowered, replace(made, places=places), True) == run_plan(lowered, made, True)
            tried += 1
    assert tried >= 3


def test_no_region_has_more_slots_than_microbatches() -> None:
    for layout in LAYOUTS:
        made = planned("gpt2", layout)
        for place in made.places:
            assert all(r.slots <= made.rounds[r.chain] for r in place.regions.values() if r.chain)


def test_forward_chains_follow_the_cut() -> None:
    lowered = lowered_model("gpt2")
    train, *others = staged_chains(lowered, layout_of(lowered.step.program, "four"))
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


def slots_in_use(place: Place, name: str) -> list[int]:
    """At each compute action of the train list, the microbatches that have a slot of a region: told row by row."""
    entries = list(place.lists["train"])
    acts = [(at, entry) for at, entry in enumerate(entries) if entry.kind in COMPUTE]
    held: dict[int, set[int]] = {}
    for n, (_, entry) in enumerate(acts):
        chunk = place.chunks["train"][int(entry.of)]
        given = [number for row in chunk.rows[entry.kind] for number in row.buffers]
        given += [number for _, number in chunk.inputs] if entry.kind == "F" else []
        if any(chunk.buffers[number].region == name for number in given):
            held.setdefault(entry.microbatch, set()).add(n)
    for at, entry in enumerate(entries):
        if entry.kind == "SENT" and f"out:{entry.of}" == name:
            begun = [n for n, (position, _) in enumerate(acts) if position < at]
            behind = next((other.kind for other in entries[at:] if other.kind not in ("SENT", "SEND", "RECEIVE", "FREE")), "")
            held[entry.microbatch].add(begun[-2 if behind.endswith("+") else -1])
    until = {microbatch: len(acts) - 1 if name.endswith(".values") else max(of) for microbatch, of in held.items()}
    return [sum(min(of) <= n <= until[microbatch] for microbatch, of in held.items()) for n in range(len(acts))]


def transient_bytes(place: Place, chunk: Chunk, phase: str) -> int:
    """The most bytes of values of one action between their first and their last row."""
    areas = [area for area in place.fixed if area.name == "transient.train"]
    most, rows = 0, [row.buffers for row in chunk.rows[phase]]
    for at in range(len(rows)):
        alive = {n for before in rows[: at + 1] for n in before} & {n for behind in rows[at:] for n in behind}
        buffers = [chunk.buffers[n] for n in alive if chunk.buffers[n].region == "arena"]
        most = max(most, sum(b.bytes for b in buffers for area in areas if area.at <= b.at < area.end))
    return most


def lasting_bytes(made: Planned, place: Place) -> int:
    """Where the last of what is always there ends."""
    areas = [place.states, place.work, place.guests, *(area for area in place.fixed if area.chain is None)]
    boxes = [c for c in made.channels.values() if c.chain is None and c.source == place.number]
    ends = [c.outbox + c.peers(made.dp) * c.outbox_slots * c.slot_bytes for c in boxes]
    return aligned(max(place.inbox_bytes, *(area.end for area in areas), *ends))


@cases()
def test_memory_over_time_is_what_was_planned(model: str, layout: str) -> None:
    """At each action, by slots and bytes that are counted here once more; every ring is full at some moment, and none ever more."""
    made = planned(model, layout)
    for place in made.places:
        found = moments(made, place)
        entries = [entry for entry in place.lists["train"] if entry.kind in COMPUTE]
        assert len(found.names) == len(entries)
        assert (found.totals <= place.arena_bytes).all()
        assert found.lasting == (lasting_bytes(made, place) if entries else place.arena_bytes)
        own = [r for r in place.regions.values() if r.chain == "train" and not r.name.startswith("in:")]
        used = {region.name: [region.stride * slots for slots in slots_in_use(place, region.name)] for region in own}
        assert {name: of.tolist() for name, of in found.rings.items()} == {name: of for name, of in used.items() if any(of)}
        wanted = [transient_bytes(place, place.chunks["train"][int(entry.of)], entry.kind) for entry in entries]
        assert found.transient.tolist() == wanted
        assert found.totals.tolist() == [found.lasting + sum(column) for column in zip(wanted, *used.values(), strict=True)]
        for name, used in found.rings.items():
            region = place.regions[name]
            assert used.max() <= region.slots * region.stride
            assert used.max() == region.slots * region.stride or name.startswith("out:")
        assert len(list(draw(found))) == 2 + min(16, len(found.names))


def test_boxes_do_not_grow_with_replicas(tmp_path: Path) -> None:
    """gpt2 of 96 layers on a million ranks: a state over a cut is 48 MiB, and inbox and outbox of a rank have room for little more."""
    for dp in (1, 65536):
        options = Options(pp=16, dp=dp, microbatches=2 * dp, groups=2 * dp, emit="plan")
        compile_file(ROOT / "examples" / "gpt2.dsl", tmp_path, {"depth": 96, "width": 1536}, options)
        text = explain_plan(json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")))
        boxes = [float(size) * UNITS[unit] for size, unit in re.findall(r"^    (?:inbox|outbox) +([\d.]+) (\w+)$", text, re.MULTILINE)]
        assert len(boxes) == 2 * 16
        assert all(inbox + outbox < 64 for inbox, outbox in zip(boxes[::2], boxes[1::2], strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["1f1b", "gpipe", "zb-h1", "interleaved", "zb-v"]),
    st.integers(2, 4),
    st.integers(1, 9),
    st.lists(st.tuples(*[st.floats(0.01, 9)] * 3), min_size=8, max_size=8),
)
def test_boxes_fit_whatever_stages_cost(kind: str, pp: int, microbatches: int, costs: list[tuple[float, float, float]]) -> None:
    """With the boxes that some costs lead to, lists run to their end, and what they send and receive has its memory to itself."""
    lowered = lowered_model("gpt2")
    chunks = 2 if kind in ("interleaved", "zb-v") else 1
    calls = len(lowered.step.program.train.calls)
    names = ("forward_seconds", "input_gradient_seconds", "weight_gradient_seconds")
    notes = tuple(StageNote(dict(zip(names, cost, strict=True)), "") for cost in costs[: pp * chunks])
    cuts = tuple(range(a, b) for a, b in pairwise(cut_evenly(calls, pp * chunks)))
    microbatches *= pp if kind == "interleaved" else 1
    made = schedule(kind, pp, microbatches, chunks)
    prove(plan(lowered, Layout(Mesh(pp, 1), chunks, made, cuts, microbatches, 1, choices_of("none", calls), notes)))


NOTHING_TO_LEARN = """
from mlc.rates import constant
batch: dim = 2

@model
def program(x: f32[batch, 3], scale: f32 = constant(2.0)):
    return mean(x * scale)

@train()
def recipe():
    return None
"""


def test_a_model_without_parameters_reads_scalars(tmp_path: Path) -> None:
    (tmp_path / "nothing.dsl").write_text(NOTHING_TO_LEARN)
    compile_file(tmp_path / "nothing.dsl", tmp_path / "out", {}, Options(emit="plan"))
    (place,) = json.loads((tmp_path / "out" / "plan.json").read_text())["places"]
    assert [name for name, *_ in place["named"]] == ["scalar scale"]
