"""Cuts of a chain into stages: the best there is where that can be known, within memory always, and the words of --split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations_with_replacement, pairwise

import pytest
from conftest import EXAMPLES
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlc.diagnostics import MlcError
from mlc.driver import Options, load_program
from mlc.lower import lower
from mlc.lower.program import Lowered
from mlc.ops import OPS
from mlc.parallel.costs import CallCost, Kept, ParameterUse, call_costs
from mlc.parallel.cut import Bounds, Question, equal_cut
from mlc.parallel.cut_report import explain_stages, stage_rows
from mlc.parallel.footprint import Footprint, Window, schedule_windows
from mlc.parallel.partition import partition
from mlc.parallel.placement import looped, v_shaped
from mlc.parallel.roofline import kernel_bytes
from mlc.parallel.schedules import schedule
from mlc.parallel.split import SPLIT, split_calls
from mlc.parallel.tree import most_roots
from mlc.passes import prepared
from mlc.plan import plan
from mlc.plan.choose import LayoutOptions, choose_layout
from mlc.render import human
from mlc.targets.c import C

# ------------------------------------------------------------------------------------------------ chains


def call(seconds: float, path: str = "h", parameters: Sequence[ParameterUse] = (), kept: Sequence[Kept] = (), saved: int = 0) -> CallCost:
    """A call of few numbers: a third of the time in each part."""
    third = seconds / 3
    return CallCost("block", path, third, third, third, tuple(parameters), saved, saved // 2, saved // 3, tuple(kept), saved // 4, 1, 8, ())


def plain(*seconds: float) -> tuple[CallCost, ...]:
    return tuple(call(s, f"h.{n}") for n, s in enumerate(seconds))


@st.composite
def chains(draw: st.DrawFn, most: int = 7) -> tuple[CallCost, ...]:
    """Calls with parameters, states and inputs that some of them share."""

    def uses(n: int) -> tuple[ParameterUse, ...]:
        own = ParameterUse(f"own.{n}", draw(st.integers(0, 20)), draw(st.integers(0, 20)), draw(st.integers(0, 20)))
        tied = ParameterUse("tied", 15, 0, 15)
        return (own, tied) if draw(st.booleans()) else (own,)

    def keeps(n: int) -> tuple[Kept, ...]:
        skip = (Kept("skip", 7, True),) if draw(st.booleans()) else ()
        return (Kept(f"state.{n}", draw(st.integers(0, 9)), False), *skip)

    seconds = draw(st.lists(st.integers(0, 12), min_size=1, max_size=most))
    return tuple(
        replace(call(float(s), f"h.{n}", uses(n), keeps(n), draw(st.integers(0, 12))), crossing_bytes=draw(st.integers(0, 3)))
        for n, s in enumerate(seconds)
    )


def windows_of(stages: int) -> st.SearchStrategy[list[Window]]:
    one = st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, 2)).map(lambda w: Window(w[0], w[0] + w[1], w[2]))
    return st.lists(one, min_size=stages, max_size=stages)


def all_cuts(calls: int, stages: int) -> Iterator[Bounds]:
    return ((0, *inner, calls) for inner in combinations_with_replacement(range(calls + 1), stages - 1))


def bounds_of(cut: Sequence[range]) -> Bounds:
    """The bounds of a cut that covers the chain in order."""
    assert all(a.stop == b.start for a, b in pairwise(cut)) and cut[0].start == 0
    return (0, *(calls.stop for calls in cut))


def lengths(cut: Sequence[range]) -> list[int]:
    return [len(calls) for calls in cut]


def held_bytes(costs: Sequence[CallCost], stages: Sequence[tuple[int, int, Window]]) -> int:
    """What a rank holds, said as plainly as can be."""
    inside = [(costs[n], w) for i, j, w in stages for n in range(i, j)]
    values = {p.name: p.value_bytes for c, _ in inside for p in c.parameters}
    total = sum(values.values()) + sum(p.state_bytes + p.accumulator_bytes for c, _ in inside for p in c.parameters)
    for i, j, w in stages:
        kept = {k.name: k for n in range(i, j) for k in costs[n].kept}
        total += sum(k.bytes * (w.saved_w if k.to_weight else w.saved) for k in kept.values())
        total += sum(w.saved * c.saved_bytes + w.saved_w * c.saved_w_bytes + w.pending * c.pending_bytes for c in costs[i:j])
    return total + max((c.work_bytes + (0 if w.pending else c.fused_bytes) for c, w in inside), default=0)


# ------------------------------------------------------------------------------------------------ one stage a rank


@settings(max_examples=150)
@given(st.data(), chains(), st.integers(1, 4), st.integers(1, 9), st.integers(20, 400) | st.none())
def test_one_stage_a_rank_is_cut_best(
    data: st.DataObject, costs: tuple[CallCost, ...], stages: int, microbatches: int, memory: int | None
) -> None:
    windows = data.draw(windows_of(stages))
    question = Question(costs, range(stages), windows, microbatches, memory)
    fitting = [b for b in all_cuts(len(costs), stages) if question.excess_bytes(b) == 0]
    if not fitting:
        with pytest.raises(MlcError) as caught:
            partition(costs, range(stages), windows, microbatches, memory)
        assert caught.value.diagnostics[0].code in ("E1001", "E1002")
        return
    bounds = bounds_of(partition(costs, range(stages), windows, microbatches, memory))
    best = min(fitting, key=lambda b: (question.balance(b), question.traffic(b)))
    assert question.excess_bytes(bounds) == 0
    assert (question.balance(bounds), question.traffic(bounds)) == (question.balance(best), question.traffic(best))
    assert question.bottleneck(bounds) == min(map(question.bottleneck, fitting))


def test_busiest_stage_first_then_what_fills_the_pipeline() -> None:
    two = [Window(2, 2, 0), Window(1, 1, 0)]
    assert lengths(partition(plain(1, 1, 1, 1, 2), (0, 1), two, 8)) == [3, 2]
    assert lengths(partition(plain(1, 1, 1), (0, 1), two, 8)) == [2, 1], "the last rank starts later: it gets less"
    assert lengths(partition(plain(5, 1, 1, 1), (0, 1), two, 8)) == [1, 3]


def test_equal_calls_with_a_heavy_end() -> None:
    costs = plain(0.1, *[1.0] * 12, 4.9)
    assert lengths(partition(costs, range(4), [Window(4 - s, 4 - s, 0) for s in range(4)], 16)) == [5, 4, 4, 1]


def test_fewer_calls_than_stages() -> None:
    """The stages of least memory are used; those before the first call have nothing to pass on."""
    windows = [Window(4 - s, 4 - s, 0) for s in range(4)]
    model = [replace(call(1.0, "all", saved=100), crossing_bytes=0)]
    assert lengths(partition(model, range(4), windows, 4)) == [0, 0, 0, 1]
    assert sorted(lengths(partition(plain(1, 1, 1), range(5), [Window(1, 1, 0)] * 5, 4))) == [0, 0, 1, 1, 1]


@settings(max_examples=60)
@given(chains(), st.integers(1, 3), st.integers(30, 300), st.integers(1, 100))
def test_more_memory_and_more_ranks_are_never_worse(costs: tuple[CallCost, ...], stages: int, memory: int, more: int) -> None:
    def bottleneck(stages: int, memory: int | None) -> float:
        windows = [Window(1, 1, 0)] * stages
        try:
            cut = partition(costs, range(stages), windows, 4, memory)
        except MlcError:
            return float("inf")
        return Question(costs, range(stages), windows, 4, memory).bottleneck(bounds_of(cut))

    assert bottleneck(stages, memory + more) <= bottleneck(stages, memory)
    assert bottleneck(stages + 1, memory) <= bottleneck(stages, memory)
    assert bottleneck(stages, None) <= bottleneck(stages, memory + more)


# ------------------------------------------------------------------------------------------------ several stages a rank


@settings(max_examples=40)
@given(st.data(), chains(5), st.sampled_from([looped, v_shaped]), st.integers(1, 9), st.integers(60, 400) | st.none())
def test_few_cuts_are_all_weighed(data: st.DataObject, costs: tuple[CallCost, ...], placed, microbatches: int, memory: int | None) -> None:
    windows = data.draw(windows_of(4))
    question = Question(costs, placed(2, 2), windows, microbatches, memory)
    fitting = [b for b in all_cuts(len(costs), 4) if question.excess_bytes(b) == 0]
    try:
        bounds = bounds_of(partition(costs, placed(2, 2), windows, microbatches, memory))
    except MlcError as error:
        assert not fitting or error.diagnostics[0].code == "E1001"
        return
    assert question.balance(bounds) == min(map(question.balance, fitting))


@settings(max_examples=25)
@example([15, 27, 16, 25, 11, 8, 27, 27], looped, 4, 2)  # less busy ranks on the way to a worse balance
@given(st.lists(st.integers(1, 30), min_size=6, max_size=40), st.sampled_from([looped, v_shaped]), st.integers(2, 4), st.integers(2, 3))
def test_search_is_never_worse_than_the_equal_cut(seconds: list[int], placed, ranks: int, chunks: int) -> None:
    placement, windows = placed(ranks, chunks), [Window(1, 1, 0)] * (ranks * chunks)
    question = Question(plain(*map(float, seconds)), placement, windows, 2 * ranks, None)
    cut = partition(question.costs, placement, windows, 2 * ranks)
    assert question.balance(bounds_of(cut)) <= question.balance(equal_cut(len(seconds), ranks * chunks))
    assert cut == partition(question.costs, placement, windows, 2 * ranks), "deterministic"


@pytest.mark.parametrize("placed", [looped, v_shaped])
def test_search_balances_ranks_not_stages(placed) -> None:
    """A head of four blocks: its rank gets fewer of them in its other stage."""
    costs = plain(*[1.0] * 28, 4.0)
    cut = partition(costs, placed(4, 2), [Window(1, 1, 0)] * 8, 16)
    question = Question(costs, placed(4, 2), [Window(1, 1, 0)] * 8, 16, None)
    work = question.rank_work(bounds_of(cut))
    assert max(work) <= 1.001 * sum(work) / 4


@pytest.mark.parametrize("placed", [looped, v_shaped])
def test_search_fits_memory(placed) -> None:
    """The equal cut does not fit: the first calls keep far more than the others."""
    costs = [call(1.0, f"h.{n}", saved=400 if n < 6 else 10) for n in range(24)]
    windows = [Window(2, 2, 0)] * 8
    free = Question(costs, placed(4, 2), windows, 8, None)
    limit = 3000
    assert max(free.rank_bytes(equal_cut(24, 8), rank) for rank in range(4)) > limit
    bounds = bounds_of(partition(costs, placed(4, 2), windows, 8, limit))
    assert max(free.rank_bytes(bounds, rank) for rank in range(4)) <= limit


@pytest.mark.parametrize(("ranks", "chunks"), [(16, 1), (16, 2)])
def test_work_grows_gently_with_the_chain(ranks: int, chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in cuts weighed, or stages weighed where all are: twice the calls cost less than five times as much."""
    counted = [0]

    def counting(function):
        def wrapped(*arguments):
            counted[0] += 1
            return function(*arguments)

        return wrapped

    for name in ("stage_work", "alive_bytes"):
        monkeypatch.setattr(Question, name, counting(getattr(Question, name)))

    def weighed(calls: int) -> int:
        counted[0] = 0
        costs = plain(0.2, *[1.0] * (calls - 2), 2.5)
        placement = looped(ranks, chunks)
        partition(costs, placement, [Window(2, 2, 0)] * len(placement), 32)
        return counted[0]

    assert weighed(126) < 60_000
    assert weighed(252) < 5 * weighed(126)


# ------------------------------------------------------------------------------------------------ memory


@settings(max_examples=150)
@given(st.data(), chains())
def test_bytes_are_those_of_the_plain_sum(data: st.DataObject, costs: tuple[CallCost, ...]) -> None:
    stages = data.draw(st.integers(1, 3))
    bounds = (0, *sorted(data.draw(st.lists(st.integers(0, len(costs)), min_size=stages - 1, max_size=stages - 1))), len(costs))
    windows = data.draw(windows_of(stages))
    held = [(i, j, w) for (i, j), w in zip(pairwise(bounds), windows, strict=True)]
    footprint = Footprint(costs)
    assert footprint.rank_total(held) == held_bytes(costs, held)
    for i, j, window in held:
        assert footprint.stage_total(i, j, window) == held_bytes(costs, [(i, j, window)] if i < j else [])


def test_windows_are_those_of_the_lists() -> None:
    assert schedule_windows(schedule("1f1b", 4, 8)) == tuple(Window(4 - s, 4 - s, 0, s == 3) for s in range(4))
    assert schedule_windows(schedule("1f1b", 2, 1)) == (Window(1, 1, 0, True, True),) * 2
    assert schedule_windows(schedule("gpipe", 2, 5)) == (Window(5, 5, 0),) * 2
    for saved, saved_w, pending, *_ in schedule_windows(schedule("zb-h1", 4, 8)):
        assert 1 <= pending <= saved_w <= 4 and saved <= saved_w


def test_a_call_that_fits_nowhere_is_named() -> None:
    costs = [*plain(1, 1), call(1.0, "wide", [ParameterUse("w", 5 << 20, 10 << 20, 5 << 20)], saved=3 << 20)]
    with pytest.raises(MlcError) as caught:
        partition(costs, (0, 1), [Window(2, 2, 0), Window(1, 1, 0)], 4, 16 << 20)
    (found,) = caught.value.diagnostics
    assert str(found) == (
        "error[E1001]: wide alone wants 25.3 MiB on stage 1, where it wants least, and a rank has 16.0 MiB: "
        "20.0 MiB of parameters, gradients and optimizer states, 4.5 MiB kept for 1 microbatch in flight, 768.0 KiB while it runs"
    )


def test_a_chain_that_fits_nowhere_names_the_fullest_rank_of_the_nearest_cut() -> None:
    costs = [call(1.0, f"h.{n}", saved=10 << 20) for n in range(6)]
    with pytest.raises(MlcError) as caught:
        partition(costs, (0, 1), [Window(2, 2, 0), Window(1, 1, 0)], 4, 60 << 20)
    (found,) = caught.value.diagnostics
    assert str(found) == (
        "error[E1002]: no cut into 2 stages fits: the nearest wants 62.5 MiB on place 1, which has 60.0 MiB, with h.2 to h.5 on stage 1: "
        "0 B of parameters, gradients and optimizer states, 60.0 MiB kept for 1 microbatch in flight, 2.5 MiB while it runs"
    )
    with pytest.raises(MlcError, match=r"no cut into 4 stages was found that fits: the nearest wants .* on place [01]"):
        partition(costs, (0, 1, 0, 1), [Window(2, 2, 0)] * 4, 4, 60 << 20)


# ------------------------------------------------------------------------------------------------ models


@cache
def lowered(name: str, **defines: int) -> Lowered:
    program, _ = load_program(EXAMPLES / f"{name}.dsl", defines, Options())
    return lower(prepared(program, OPS), OPS, C.rules)


@pytest.mark.parametrize("name", ["gpt2", "unet", "albert", "t5", "deepseek_v3", "vit", "muon", "state"])
def test_costs_of_examples(name: str) -> None:
    """Every call counts, embedding and head too; what crosses is what is made before a cut and read behind it."""
    model = lowered(name)
    costs, chain = call_costs(model), model.step.program.train
    assert len(costs) == len(chain.calls) and all(c.forward_seconds > 0 and c.seconds > c.forward_seconds for c in costs)
    states = state_bytes(model)
    assert [c.crossing_bytes for c in costs] == [sum(states[name] for name in crossing(model, n)) for n in range(len(costs))]
    trained = [p for p in model.step.program.parameters if p.update is not None]
    owned = [use.name for c in costs for use in c.parameters if use.state_bytes]
    assert len(owned) == len(set(owned)), "each state has one owner"
    assert set(owned) >= {p.name for p in trained if model.step.program.updates[p.update].states}


def state_bytes(model: Lowered) -> dict[str, int]:
    program = model.step.program
    pairs = ((name, v) for c in program.train.calls for name, v in zip(c.results, program.units[c.unit].function.results, strict=False))
    return {name: value.type.bytes for name, value in pairs}


def crossing(model: Lowered, n: int) -> set[str]:
    """The states that calls 0 to n make and later ones read."""
    calls = model.step.program.train.calls
    return {name for c in calls[: n + 1] for name in c.results} & {name for c in calls[n + 1 :] for name in c.arguments}


@pytest.mark.parametrize("name", ["gpt2", "unet", "albert", "t5", "deepseek_v3", "vit"])
@pytest.mark.parametrize(("kind", "ranks", "chunks"), [("1f1b", 2, 1), ("zb-h1", 4, 1), ("interleaved", 2, 2), ("zb-v", 2, 2)])
def test_examples_are_balanced(name: str, kind: str, ranks: int, chunks: int) -> None:
    """No rank is busier than an even share and the largest call together."""
    costs = call_costs(lowered(name))
    chosen = schedule(kind, ranks, 16, chunks)
    cut = partition(costs, chosen.placement, schedule_windows(chosen), 16)
    question = Question(costs, chosen.placement, schedule_windows(chosen), 16, None)
    largest = max(b - a for a, b in pairwise(question.work))
    assert question.bottleneck(bounds_of(cut)) <= question.work[-1] / ranks + largest


def test_tied_parameters_count_once_a_rank() -> None:
    """The embedding of GPT-2 is read by the first call and the last: its owner is the first, and a V brings both to one rank."""
    costs = call_costs(lowered("gpt2"))
    first, last = (next(p for p in c.parameters if p.name == "wte.weight") for c in (costs[0], costs[-1]))
    assert first.value_bytes == last.value_bytes == 4 * 50257 * 768
    assert (first.state_bytes, last.state_bytes) == (2 * first.value_bytes, 0)
    assert first.accumulator_bytes == last.accumulator_bytes == first.value_bytes
    one = Window(1, 1, 0)
    footprint, n = Footprint(costs), len(costs)
    apart = footprint.stage(0, 3).total(one) + footprint.stage(n - 3, n).total(one)
    together = footprint.rank_total([(0, 3, one), (n - 3, n, one)])
    assert together == apart - first.value_bytes + footprint.transient(n - 3, n, one)


def test_layers_called_again_share_their_parameters() -> None:
    costs = call_costs(lowered("albert"))
    footprint = Footprint(costs)
    assert footprint.stage(1, 13).parameters == footprint.stage(1, 2).parameters
    assert footprint.stage(1, 13).accumulators == 12 * footprint.stage(1, 2).accumulators


def test_skips_are_sent_through_every_cut_between() -> None:
    """The first skip of the U-Net lives until the last way up, beside the embedding of the time; inputs are never sent."""
    model = lowered("unet")
    at = {call.path: n for n, call in enumerate(model.step.program.train.calls)}
    skips = {f"down.{level}.1.x" for level in range(3)}
    assert crossing(model, at["middle.0"]) == {"middle.0.x", "begin.y", *skips}
    assert crossing(model, at["up.1.1"]) == {"up.1.1.x", "begin.y", "down.0.1.x"}


def test_levels_and_replicas() -> None:
    model = lowered("gpt2")
    one, many = Footprint(call_costs(model)), Footprint(call_costs(model, levels=3, replicas=4))
    assert many.stage(0, 14).accumulators == 3 * one.stage(0, 14).accumulators
    assert many.stage(0, 14).states == one.stage(0, 14).states // 4


@pytest.mark.parametrize("dp", [2, 3, 5, 6, 7])
def test_sums_of_absent_replicas_count(dp: int) -> None:
    """What a replica keeps for those that are missing to a power of two is in what a rank holds, as the plan has it."""
    program, _ = load_program(EXAMPLES / "vit.dsl", {"depth": 2}, Options(microbatches=4 * dp, groups=2 * dp))
    model = lower(prepared(program, OPS), OPS, C.rules)
    (place,) = plan(model, choose_layout(model, LayoutOptions(dp=dp))).places
    costs = call_costs(model, replicas=dp, roots=most_roots(2 * dp, dp))
    without = Footprint([replace(cost, guest_bytes=0) for cost in costs])
    window, calls = Window(1, 1, 0), len(costs)
    counted = Footprint(costs).stage_total(0, calls, window) - without.stage_total(0, calls, window)
    assert counted == Footprint(costs).rank_total([(0, calls, window)]) - without.rank_total([(0, calls, window)])
    assert 0.99 * place.guests.bytes <= counted <= 1.01 * place.guests.bytes
    assert (counted > 0) == (dp > 2)


def test_rows_a_gather_does_not_reach_are_not_read() -> None:
    model = lowered("gpt2")
    routine = model.forward[0]
    (kernel,) = routine.kernels
    tokens = 8 * 1024
    assert kernel_bytes(kernel, routine.buffers) == 4 * (tokens + 2 * tokens * 768 + 1024 * 768)


# ------------------------------------------------------------------------------------------------ reports


def test_report_is_plain_data_and_says_why() -> None:
    costs = [replace(c, saved_bytes=1 << 20) for c in plain(0.1, *[0.03] * 12, 0.12)]
    windows = [Window(2, 2, 0), Window(1, 1, 0)]
    cut = partition(costs, (0, 1), windows, 8)
    rows = stage_rows(costs, cut, (0, 1), windows, 8)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["stage"] for row in rows] == [row["place"] for row in rows] == [0, 1]
    assert [label for row in rows for label in row["calls"]] == [c.path for c in costs]
    assert sum(row["cost"]["share"] for row in rows) == pytest.approx(1.0)
    assert rows[0]["why"] == "moving h.6 to stage 1 would raise the bottleneck from 300 ms to 330 ms"
    text = explain_stages(rows)
    assert text[0] == "stage 0 on place 0: h.0 to h.6 (7 calls)"
    assert text[1] == "    time   280 ms a microbatch on a core, as modelled (48.3% of all): F 93.3 ms, I 93.3 ms, W 93.3 ms"


def test_report_of_a_cut_by_hand() -> None:
    costs = plain(*[0.001] * 6)
    rows = stage_rows(costs, (range(1), range(1, 6), range(6, 6)), range(3), [Window(1, 1, 0)] * 3, 4)
    assert rows[0]["why"] == "moving h.0 to stage 1 would raise the bottleneck from 5 ms to 6 ms"
    assert rows[1]["why"].startswith("moving h.1 to stage 0 would lower the bottleneck from 5 ms to 4 ms; moving h.5 to stage 2")
    assert rows[2]["why"] == "6 calls for 3 stages: this one passes the state on"
    assert explain_stages(rows)[-2:] == ["stage 2 on place 2: no calls", "    why    6 calls for 3 stages: this one passes the state on"]


def test_report_names_the_memory_that_holds_a_call_back() -> None:
    costs = [call(0.001, f"h.{n}", saved=6 << 20) for n in range(4)]
    windows = [Window(2, 2, 0), Window(1, 1, 0)]
    limit = 40 << 20
    cut = partition(costs, (0, 1), windows, 4, limit)
    rows = stage_rows(costs, cut, (0, 1), windows, 4, limit)
    assert lengths(cut) == [2, 2]
    assert "moving h.2 to stage 0 would want 55.5 MiB on place 0, which has 40.0 MiB" in rows[1]["why"]


# ------------------------------------------------------------------------------------------------ --split

GPT2 = [("begin", "begin"), *(("block", f"h.{n}") for n in range(12)), ("end", "end")]
UNET = [
    ("begin", "begin"), ("block", "down.0.0"), ("block", "down.0.1"), ("merge", "down.0.merge"), ("block.1", "middle.0"),
    ("expand", "up.0.expand"), ("block", "up.0.0"), ("end", "end"),
]  # fmt: skip
ALBERT = [("begin", "begin"), *(("block", "groups.0.layers.0" + (f"#{n}" if n else "")) for n in range(4)), ("end", "end")]
NAMED = [("embed", "vit.embeddings"), ("block", "vit.layer.0"), ("between.1", "between.1"), ("block", "vit.layer.1"), ("end", "end")]


@pytest.mark.parametrize(
    ("text", "calls", "parts"),
    [
        ("embed block*5 | block*7 head", GPT2, [6, 8]),
        ("begin block*5|block*7 end", GPT2, [6, 8]),
        ("embed h.0 h.1 | h*9 | h.11 head", GPT2, [3, 9, 2]),
        ("embed h.* head", GPT2, [14]),
        ("embed block* | | head |", GPT2, [13, 0, 1, 0]),
        ("| embed block* head", GPT2, [0, 14]),
        ("embed down*3 | middle block* | up* head", UNET, None),
        ("embed block*2 merge | block expand | block head", UNET, [4, 2, 2]),
        ("embed down.0* | middle.0 | up* head", UNET, [4, 1, 3]),
        ("embed layers*2 | groups.0.layers.0#2 | block head", ALBERT, [3, 1, 2]),
        ("embed block between | layer.1 head", NAMED, [3, 2]),
        ("vit.* | between.1 | vit.layer.1 end", NAMED, [2, 1, 2]),
    ],
)
def test_split(text: str, calls: list[tuple[str, str]], parts: list[int] | None) -> None:
    if parts is None:
        with pytest.raises(MlcError, match="E1004"):
            split_calls(text, calls, text.count("|") + 1)
        return
    cut = split_calls(text, calls, len(parts))
    assert bounds_of(cut)[-1] == len(calls) and lengths(cut) == parts


@pytest.mark.parametrize(
    ("text", "stages", "said"),
    [
        (
            "embd block*12 | head", 2,
            """--split:1:1: error[E1004]: no call of the chain is called `embd`
    embd block*12 | head
    ^~~~
help: did you mean `embed`?""",
        ),
        (
            "embed transformer*12 | head", 2,
            """--split:1:7: error[E1004]: no call of the chain is called `transformer`
    embed transformer*12 | head
          ^~~~~~~~~~~~~~
help: the chain goes on with h.0 (block); layers are called begin, block, end""",
        ),
        (
            "embed block*13 | head", 2,
            """--split:1:7: error[E1004]: `block*13` takes 13 calls, but only 12 of that name follow: the chain goes on with end
    embed block*13 | head
          ^~~~~~~~
help: write `block*12`""",
        ),
        (
            "embed head | block*12", 2,
            """--split:1:7: error[E1004]: `head` is not next: the chain goes on with h.0 (block)
    embed head | block*12
          ^~~~""",
        ),
        (
            "embed block* | head head", 2,
            """--split:1:21: error[E1004]: `head` is not next: the chain ends here
    embed block* | head head
                        ^~~~""",
        ),
        (
            "embed | block*10", 2,
            """--split:1:17: error[E1004]: the split ends before h.10 (block) to end: 3 calls of the chain in no stage
    embed | block*10
                    ^""",
        ),
        (
            "embed block* head", 2,
            """--split:1:1: error[E1003]: 1 part for 2 stages
    embed block* head
    ^~~~~~~~~~~~~~~~~
help: parts are divided by `|`""",
        ),
        (
            "embed block+12 | head", 2,
            """--split:1:7: error[E1003]: `block+12` is no word of a split
    embed block+12 | head
          ^~~~~~~~
help: a word is `name`, `name*5` or `name*`""",
        ),
        (
            "embed block*0 | head", 2,
            """--split:1:7: error[E1003]: `block*0` takes no call
    embed block*0 | head
          ^~~~~~~
help: leave it out, or say how many calls it takes""",
        ),
    ],
)  # fmt: skip
def test_split_errors(text: str, stages: int, said: str) -> None:
    with pytest.raises(MlcError) as caught:
        split_calls(text, GPT2, stages)
    (found,) = caught.value.diagnostics
    assert human(found, {SPLIT: text}) == said


@given(st.integers(1, 6), st.data())
def test_any_cut_can_be_written(stages: int, data: st.DataObject) -> None:
    bounds = (0, *sorted(data.draw(st.lists(st.integers(0, 14), min_size=stages - 1, max_size=stages - 1))), 14)
    text = " | ".join(" ".join(GPT2[n][1] for n in range(i, j)) for i, j in pairwise(bounds))
    assert bounds_of(split_calls(text, GPT2, stages)) == bounds
