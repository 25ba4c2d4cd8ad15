"""Schedules: the published orders, their closed forms, exact optima and lower bounds; what is refused; text and drawings."""

from __future__ import annotations

import dataclasses
import re
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.diagnostics import CODES, MlcError
from mlc.parallel.actions import Action, Schedule, needed
from mlc.parallel.csv import read_csv, write_csv
from mlc.parallel.draw import draw_svg, draw_text
from mlc.parallel.limits import least_makespan
from mlc.parallel.placement import by_rank, looped, v_shaped
from mlc.parallel.schedules import SCHEDULES, named, schedule
from mlc.parallel.simulate import Costs, Residuals, messages, peak, simulate, uniform
from mlc.parallel.validate import validate, validate_imported
from oracles import bounds

NAMES = [name for name, row in SCHEDULES.items() if row.lists is not None]
TIMINGS = [(1.0, 1.0, 1.0), (1.0, 1.2, 0.8), (10.0, 14.0, 9.0)]
RANKS = [1, 2, 4, 8]


def equal(chosen: Schedule, timing: tuple[float, float, float], transfer: float = 0.0) -> Costs:
    """Costs of equal stages from times of a rank."""
    f, i, w = (t / chosen.chunks for t in timing)
    return uniform(chosen.stages, f, i, w, transfer)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[str, int, int, int]:
    """(name, ranks, microbatches, chunks) of any schedule but auto."""
    name = draw(st.sampled_from(NAMES))
    row = SCHEDULES[name]
    chunks = draw(st.integers(1, 4).filter(lambda v: v in row.chunks))
    return name, draw(st.integers(1, 6)), draw(st.integers(1, 14)), chunks


TIME = st.floats(0.01, 10.0)


def random_costs(data: st.DataObject, stages: int) -> Costs:
    times = st.lists(TIME, min_size=stages, max_size=stages).map(tuple)
    return Costs(data.draw(times), data.draw(times), data.draw(times), data.draw(st.sampled_from([0.0, 0.1, 3.0])))


# What every schedule is.


@given(shapes())
def test_every_schedule_is_one_of_a_step(shape: tuple[str, int, int, int]) -> None:
    name, ranks, microbatches, chunks = shape
    made = schedule(name, ranks, microbatches, chunks)
    assert (made.name, made.ranks, made.chunks, made.microbatches) == (name, ranks, chunks, microbatches)
    validate(made)
    simulate(made, equal(made, TIMINGS[0]))


@pytest.mark.parametrize("name", NAMES)
def test_default_chunks_are_taken(name: str) -> None:
    made = schedule(name, 3, 7)
    assert made.chunks == SCHEDULES[name].default_chunks
    assert made.placement == SCHEDULES[name].placement(3, made.chunks)


def test_placements() -> None:
    assert looped(3, 2) == (0, 1, 2, 0, 1, 2)
    assert v_shaped(3, 2) == (0, 1, 2, 2, 1, 0)
    assert v_shaped(2, 3) == (0, 1, 1, 0, 0, 1)
    assert by_rank(v_shaped(3, 2), 3) == [[0, 5], [1, 4], [2, 3]]


# Closed forms under equal costs.


def gpipe_form(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[float, list[int]]:
    return (p - 1) * (f + i + w), [m] * p


def one_forward_form(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[float, list[int]]:
    return (p - 1) * (f + i + w), [min(p - r, m) for r in range(p)]


def interleaved_form(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[float, list[int]]:
    return (p - 1) * (f + i + w) / v, [min(2 * (p - 1 - r) + (v - 1) * p + 1, m * v) for r in range(p)]


def bfs_form(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[float, list[int]]:
    return (p - 1) * (f + i + w) / v, [m * v] * p


def zb_h1_form(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[float, list[int]]:
    return (p - 1) * (f + i - w), [p] * p


def zb_h2_form(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[float, list[int]]:
    return (p - 1) * f, [2 * p - 1] * p


def zb_v_form(p: int, m: int, v: int, f: float, i: float, w: float) -> tuple[float, list[int]]:
    return (p - 1) * i / 2, [2 * p] * p


Form = Callable[[int, int, int, float, float, float], tuple[float, list[int]]]
FORMS: list[tuple[str, int, Form]] = [
    ("gpipe", 1, gpipe_form),
    ("1f1b", 1, one_forward_form),
    ("interleaved", 2, interleaved_form),
    ("interleaved", 3, interleaved_form),
    ("bfs", 2, bfs_form),
    ("bfs", 3, bfs_form),
    ("zb-h1", 1, zb_h1_form),
    ("zb-h2", 1, zb_h2_form),
    ("zb-v", 2, zb_v_form),
]


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize(("name", "v", "form"), FORMS)
def test_closed_forms(name: str, v: int, form: Form, p: int, timing: tuple[float, float, float]) -> None:
    for m in (2 * p, 3 * p, 4 * p):
        made = schedule(name, p, m, v)
        found = simulate(made, equal(made, timing))
        bubble, held = form(p, m, v, *timing)
        assert found.bubble == pytest.approx(bubble)
        assert list(found.peak) == held
        assert found.busy == pytest.approx([m * sum(timing)] * p)
        assert found.fraction == pytest.approx(bubble / (bubble + m * sum(timing)))


@pytest.mark.parametrize(("name", "form", "m"), [("zb-h1", zb_h1_form, 4), ("zb-h2", zb_h2_form, 7), ("zb-v", zb_v_form, 7)])
def test_fewest_microbatches_of_closed_forms(name: str, form: Form, m: int) -> None:
    for timing in TIMINGS:
        made = schedule(name, 4, m)
        found = simulate(made, equal(made, timing))
        assert (found.bubble, list(found.peak)) == (pytest.approx(form(4, m, made.chunks, *timing)[0]), form(4, m, made.chunks, *timing)[1])
        less = schedule(name, 4, m - 1)
        found = simulate(less, equal(less, timing))
        assert (found.bubble, list(found.peak)) != (pytest.approx(form(4, m, made.chunks, *timing)[0]), form(4, m, made.chunks, *timing)[1])


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "bfs", "zb-h1", "zb-h2"])
@pytest.mark.parametrize("p", [2, 4, 8])
def test_fewer_microbatches_than_ranks(name: str, p: int) -> None:
    """The closed forms of schedules without a full steady state: whole backwards as with many, split ones down to one microbatch."""
    for m in range(1, p):
        made = schedule(name, p, m)
        found = simulate(made, equal(made, TIMINGS[0]))
        assert max(found.peak) <= m * made.chunks
        if name in ("gpipe", "1f1b", "bfs"):
            assert found.makespan == pytest.approx((p * made.chunks + m - 1) * 3 / made.chunks)
        else:
            assert found.makespan <= (m + p - 1) * 3


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("p", RANKS)
def test_spans_of_zero_bubble(p: int, timing: tuple[float, float, float]) -> None:
    """What is lost between a rank's first and last action: by zb-h2 (p-1)(F+I-2W), by zb-v (p-1)(I-W), never less than 0."""
    f, i, w = timing
    for name, lost in (("zb-h2", (p - 1) * max(0.0, f + i - 2 * w)), ("zb-v", (p - 1) * (i - w))):
        made = schedule(name, p, 4 * p)
        found = simulate(made, equal(made, timing))
        assert max(span - busy for span, busy in zip(found.span, found.busy)) == pytest.approx(lost)


def cells(chosen: Schedule, overlapped: bool) -> list[list[tuple[Action, ...]]]:
    """Lists of cells; overlapped: a forward and the whole backward right behind it are one, but the first of the last rank."""
    lists: list[list[tuple[Action, ...]]] = []
    for rank, actions in enumerate(chosen.lists):
        row: list[tuple[Action, ...]] = []
        alone = overlapped and rank == chosen.ranks - 1
        for action in actions:
            if overlapped and action.kind == "B" and row and row[-1][-1].kind == "F" and not alone:
                row[-1] += (action,)
            else:
                alone = alone and action.kind != "B"
                row.append((action,))
        lists.append(row)
    return lists


def makespan_of_cells(chosen: Schedule, costs: Costs, lists: list[list[tuple[Action, ...]]]) -> float:
    """Another simulator: a cell starts when all it needs is there and ends as one."""
    ended: dict[Action, float] = {}
    free = [0.0] * chosen.ranks
    left = [list(row) for row in lists]
    while any(left):
        for rank, row in enumerate(left):
            while row and all(a in ended or a in row[0] for action in row[0] for a in needed(action, chosen.stages)):
                inputs = [a for action in row[0] for a in needed(action, chosen.stages) if a not in row[0]]
                arrivals = [ended[a] + costs.transfer * (chosen.placement[a.stage] != rank) for a in inputs]
                free[rank] = max([free[rank], *arrivals]) + sum(map(costs.seconds, row[0]))
                ended.update((action._replace(kind="I") if action.kind == "B" else action, free[rank]) for action in row.pop(0))
    return max(free)


@given(shapes(), st.data())
def test_simulator_agrees_with_another(shape: tuple[str, int, int, int], data: st.DataObject) -> None:
    chosen = schedule(*shape)
    costs = random_costs(data, chosen.stages)
    assert simulate(chosen, costs).makespan == pytest.approx(makespan_of_cells(chosen, costs, cells(chosen, False)))


@pytest.mark.parametrize("p", RANKS)
def test_dualpipe_v(p: int) -> None:
    """With F=I=W: (p-1)(F&B + B - 3W) where a forward and a backward are one cell; apart they are half as far from the bound."""
    for m in (2 * p, 4 * p):
        made = schedule("dualpipe-v", p, m)
        costs = equal(made, TIMINGS[0])
        found = simulate(made, costs)
        assert makespan_of_cells(made, costs, cells(made, True)) - 3 * m == pytest.approx((p - 1) * (1.5 + 1.0 - 1.5))
        assert found.bubble == pytest.approx((p - 1) * 0.5)
        assert list(found.peak) == [2 * p + 1 if m > p else 2 * p] * p if p > 1 else [2]


#: Orders of two chunks a rank on two ranks, as their authors' programs print them.
WRITTEN_OUT = {
    "zb-v": (
        "0F0,0F1,0F2,3F0,3I0,3W0,3F1,3I1,3W1,0F3,0I0,0W0,3F2,3I2,3W2,0I1,0W1,3F3,3I3,3W3,0I2,0W2,0I3,0W3\n"
        "1F0,2F0,1F1,2F1,2I0,2W0,1F2,1I0,1W0,2F2,2I1,2W1,1F3,1I1,1W1,2F3,2I2,2W2,1I2,2I3,1I3,1W2,2W3,1W3\n"
    ),
    "dualpipe-v": (
        "0F0,0F1,0F2,3F0,3I0,3W0,3F1,0F3,3B1,3F2,0B0,3B2,3F3,0B1,3B3,0I2,0W2,0I3,0W3\n"
        "1F0,2F0,1F1,2F1,1F2,2B0,2F2,1B0,1F3,2B1,2F3,1B1,2B2,1B2,2I3,1I3,2W3,1W3\n"
    ),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_orders_written_out(name: str) -> None:
    assert write_csv(schedule(name, 2, 4)) == WRITTEN_OUT[name]


#: (schedule, microbatches, chunks, makespan added by c = 0.1 on 8 ranks, in units of c).
SENSITIVITY = [
    ("gpipe", 32, 1, 14),
    ("bfs", 32, 2, 14),
    ("interleaved", 32, 2, 30),
    ("interleaved", 64, 2, 30),
    ("zb-h1", 32, 1, 28),
    ("zb-h2", 32, 1, 7),
    ("zb-v", 32, 2, 33),
    ("1f1b", 32, 1, 68),
    ("1f1b", 64, 1, 124),
    ("1f1b", 128, 1, 236),
]


@pytest.mark.parametrize(("name", "m", "v", "added"), SENSITIVITY)
def test_transfers_cost(name: str, m: int, v: int, added: int) -> None:
    made = schedule(name, 8, m, v)
    without, with_transfer = (simulate(made, equal(made, TIMINGS[0], c)).makespan for c in (0.0, 0.1))
    assert (with_transfer - without) / 0.1 == pytest.approx(added)


def test_transfers_cost_dualpipe_v_more() -> None:
    """A forward and a backward that are one cell wait for each other's messages."""
    made = schedule("dualpipe-v", 8, 32)
    overlapped = cells(made, True)
    without, with_transfer = (makespan_of_cells(made, equal(made, TIMINGS[0], c), overlapped) for c in (0.0, 0.1))
    assert (with_transfer - without) / 0.1 == pytest.approx(77)


@pytest.mark.parametrize(("name", "v", "each"), [("gpipe", 1, 1), ("1f1b", 1, 1), ("zb-h2", 1, 1), ("interleaved", 3, 3), ("bfs", 2, 2)])
def test_messages(name: str, v: int, each: int) -> None:
    p, m = 4, 8
    made = schedule(name, p, m, v)
    assert sum(messages(made)) == 2 * m * (p * v - 1)
    assert messages(made)[1] == 2 * m * each


@pytest.mark.parametrize("name", ["zb-v", "dualpipe-v"])
def test_messages_of_v(name: str) -> None:
    assert sum(messages(schedule(name, 4, 8))) == 4 * 8 * 3


# Exact optima, and bounds.


@pytest.mark.parametrize(("p", "m", "least"), [(2, 2, 9), (2, 3, 12), (2, 4, 15), (3, 3, 15), (3, 4, 18)])
def test_whole_backwards_reach_the_optimum(p: int, m: int, least: float) -> None:
    for name in ("gpipe", "1f1b"):
        made = schedule(name, p, m)
        assert simulate(made, equal(made, TIMINGS[0])).makespan == least


#: (schedule, p, m, (F, I, W), makespan): optima of an exact search in the memory that the schedule uses.
SPLIT_OPTIMA = [
    ("zb-h1", 2, 2, (1, 1, 1), 7),
    ("zb-h1", 2, 3, (1, 1, 1), 10),
    ("zb-h1", 2, 4, (1, 1, 1), 13),
    ("zb-h1", 3, 3, (1, 1, 1), 11),
    ("zb-h1", 3, 4, (1, 1, 1), 14),
    ("zb-h1", 2, 4, (2, 3, 1), 28),
    ("zb-h2", 2, 4, (2, 3, 1), 27),
    ("zb-h1", 3, 4, (2, 3, 1), 32),
    ("zb-h2", 3, 4, (2, 3, 1), 31),
]


@pytest.mark.parametrize(("name", "p", "m", "timing", "least"), SPLIT_OPTIMA)
def test_split_backwards_reach_the_optimum(name: str, p: int, m: int, timing: tuple[float, float, float], least: float) -> None:
    made = schedule(name, p, m)
    assert simulate(made, equal(made, timing)).makespan == least


@pytest.mark.parametrize(("p", "m", "least"), [(2, 3, 9), (2, 4, 12), (3, 4, 13)])
def test_zb_h2_spans(p: int, m: int, least: float) -> None:
    made = schedule("zb-h2", p, m)
    assert max(simulate(made, equal(made, TIMINGS[0])).span) == least


def check_bounds(chosen: Schedule, costs: Costs) -> None:
    """No makespan is below what any order needs."""
    f, i, w, c = costs.forward, costs.input_gradient, costs.weight_gradient, costs.transfer
    b = tuple(x + y for x, y in zip(i, w))
    m, found = chosen.microbatches, simulate(chosen, costs)
    least = [
        bounds.work(chosen.placement, m, f, i, w),
        bounds.one_microbatch(chosen.placement, f, i, w, c),
        least_makespan(chosen.placement, chosen.ranks, m, costs),
    ]
    if chosen.chunks == 1:
        least += [bounds.split_linear(m, f, i, w, c), bounds.held_linear(m, found.peak[0], f, i, w, c)]
    whole = all(action.kind in "FB" for actions in chosen.lists for action in actions)
    if whole and chosen.chunks == 1:
        least += [bounds.fused_linear(m, f, b, c), bounds.held_fused(m, found.peak[0], f, b, c)]
    assert found.makespan >= max(least) * (1 - 1e-9)


@given(shapes(), st.data())
def test_no_schedule_beats_a_bound(shape: tuple[str, int, int, int], data: st.DataObject) -> None:
    chosen = schedule(*shape)
    check_bounds(chosen, random_costs(data, chosen.stages))


@given(shapes(), TIME, TIME, TIME)
def test_no_schedule_beats_a_bound_of_equal_stages(shape: tuple[str, int, int, int], f: float, i: float, w: float) -> None:
    name, p, m, v = shape
    chosen = schedule(*shape)
    makespan = simulate(chosen, equal(chosen, (f, i, w))).makespan * (1 + 1e-9)
    if name in ("interleaved", "bfs"):
        assert makespan >= bounds.fused_looped(p, m, v, f, i + w)
    if name in ("zb-v", "dualpipe-v"):
        assert makespan >= bounds.split_v(p, m, f, i, w)


@given(st.integers(1, 5), st.integers(1, 10), st.data())
def test_1f1b_is_optimal_for_whole_backwards(p: int, m: int, data: st.DataObject) -> None:
    """Equal stages, no transfers: bound 2 is reached by gpipe and 1f1b, bound 3 by bfs with m >= p, and by interleaved with full groups."""
    f, b = data.draw(TIME), data.draw(TIME)
    for name, v in (("gpipe", 1), ("1f1b", 1), *([("bfs", 3)] if m >= p else []), *([("interleaved", 2)] if m % p == 0 else [])):
        made = schedule(name, p, m, v)
        assert simulate(made, equal(made, (f, b, 0.0))).makespan == pytest.approx(bounds.fused_looped(p, m, v, f, b))


# Residuals in bytes.


def test_peak_in_bytes() -> None:
    """zb-h1 on two ranks: rank 1 holds two microbatches, one of them pending."""
    made = schedule("zb-h1", 2, 4)
    assert peak(made, Residuals((1, 1), (1, 1))) == (2, 2)
    assert peak(made, Residuals((100, 100), (10, 10))) == (200, 110)
    assert peak(made, Residuals((100, 7), (0, 0))) == (200, 7)
    assert peak(schedule("1f1b", 2, 4), Residuals((100, 50), (10, 10))) == (200, 50)


# What is refused.


def code(function: Callable[..., object], *arguments: object) -> tuple[str, str]:
    with pytest.raises(MlcError) as caught:
        function(*arguments)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code in CODES
    return diagnostic.code, f"{diagnostic.message}; {diagnostic.help}"


@pytest.mark.parametrize(
    ("arguments", "expected", "words"),
    [
        (("zb-h3", 2, 4), "E1101", "did you mean zb-h1?"),
        (("pipedream", 2, 4), "E1101", "there are gpipe"),
        (("1f1b", 2, 4, 2), "E1102", "nearest it takes is 1"),
        (("zb-v", 2, 4, 1), "E1102", "nearest it takes is 2"),
        (("zb-v", 2, 4, 5), "E1102", "nearest it takes is 2"),
        (("bfs", 2, 4, 0), "E1102", "nearest it takes is 1"),
        (("gpipe", 2, 0), "E1103", "at least 1"),
        (("gpipe", 0, 2), "E1103", "at least 1"),
    ],
)
def test_what_cannot_be_made(arguments: tuple[object, ...], expected: str, words: str) -> None:
    found, message = code(schedule, *arguments)
    assert found == expected and words in message


def changed(name: str, edit: Callable[[list[list[Action]]], None], **fields: object) -> Schedule:
    """A schedule of two ranks and four microbatches after an edit of its lists."""
    original = schedule(name, 2, 4)
    lists = [list(actions) for actions in original.lists]
    edit(lists)
    return dataclasses.replace(original, lists=tuple(map(tuple, lists)), **fields)


def swap(rank: int, i: int, j: int) -> Callable[[list[list[Action]]], None]:
    def edit(lists: list[list[Action]]) -> None:
        lists[rank][i], lists[rank][j] = lists[rank][j], lists[rank][i]

    return edit


BROKEN = [
    (lambda lists: lists[1].pop(), "place 1: 1W3 is missing"),
    (lambda lists: lists[0].append(Action("F", 0, 2)), "place 0: 0F2 comes twice"),
    (lambda lists: lists[0].append(Action("B", 0, 2)), "place 0: 0B2 does I of its microbatch a second time"),
    (lambda lists: lists[0].append(Action("F", 1, 2)), "place 0: 1F2 is not of this place: stage 1 is on place 1"),
    (lambda lists: lists[0].append(Action("F", 2, 2)), "place 0: 2F2 does not exist"),
    (lambda lists: lists[0].append(Action("F", 0, 4)), "place 0: 0F4 does not exist"),
    (lambda lists: lists[0].append(Action("X", 0, 1)), "place 0: 0X1 does not exist"),
    (lambda lists: lists.pop(), "1 lists and 2 stages for 2 ranks of 1 chunks"),
    (swap(1, 0, 1), "place 1: 1I0 comes before 1F0"),
    (swap(0, 2, 3), "place 0: 0W0 comes before 0I0"),
    (swap(0, 0, 1), "place 0: 0F0 comes after 0F1"),
]


@pytest.mark.parametrize(("edit", "words"), BROKEN)
def test_lists_that_are_not_of_a_step(edit: Callable[[list[list[Action]]], None], words: str) -> None:
    found, message = code(validate, changed("zb-h1", edit))
    assert found == "E1104" and words in message


def test_descending_order_can_be_imported_only() -> None:
    broken = changed("gpipe", swap(0, 4, 5))
    validate_imported(broken)
    assert "place 0: 0B0 comes after 0B1" in code(validate, broken)[1]


def test_lists_that_lock_up() -> None:
    """Rank 0 wants the gradient of microbatch 0 before it has sent microbatch 1, with which rank 1 begins."""
    first = "0F0,0B0,0F1,0F2,0F3,0B1,0B2,0B3\n"
    broken = read_csv(first + "1F1,1F0,1F2,1F3,1B0,1B1,1B2,1B3\n", "broken")
    found, message = code(simulate, broken, uniform(2, 1, 1, 1))
    assert found == "E1105"
    assert "rank 0 at 0B0 waits for 1I0 of rank 1" in message and "rank 1 at 1F1 waits for 0F1 of rank 0" in message


# Text and drawings.


@given(shapes())
def test_csv_round_trip(shape: tuple[str, int, int, int]) -> None:
    chosen = schedule(*shape)
    assert read_csv(write_csv(chosen), chosen.name) == chosen


def test_csv_of_others() -> None:
    """Idle slots, several actions in a cell, and what torch derives when it lowers a list."""
    text = "0F0,0F1,,(0B0;0B1)OVERLAP_F_B\r\n,0UNSHARD,1F0,1RECV_F0,1I0,1W0, 1F1 ,1I1,1W1,1REDUCE_GRAD\r\n"
    read = read_csv(text.replace("0UNSHARD", "1UNSHARD"), "x")
    assert read.lists[0] == (Action("F", 0, 0), Action("F", 0, 1), Action("B", 0, 0), Action("B", 0, 1))
    assert list(map(str, read.lists[1])) == ["1F0", "1I0", "1W0", "1F1", "1I1", "1W1"]
    assert (read.ranks, read.chunks, read.microbatches, read.placement) == (2, 1, 2, (0, 1))


@pytest.mark.parametrize(
    ("text", "expected", "words"),
    [
        ("", "E1106", "no actions"),
        (",,\n", "E1106", "no actions"),
        ("0F0,0B0,zero\n", "E1106", "x:1: `zero` is not an action"),
        ("0F0,0B0\n1F0,1V0\n", "E1106", "x:2: `1V0` is not an action"),
        ("(0F0;0Q0)OVERLAP_F_B\n", "E1106", "is not an action"),
        ("0F0,0B0,1F0,1B0\n2F0,2B0\n", "E1106", "ranks hold 2, 1 stages"),
        ("0F0,0B0\n2F0,2B0\n", "E1106", "no action of stage 1"),
        ("0F0,0B0\n0F1,0B1\n", "E1104", "place 1: 0F1 is not of this place: stage 0 is on place 0"),
        ("0F0\n", "E1104", "place 0: 0I0 is missing"),
        (f"0F{'9' * 5000}\n", "E1106", "is not an action"),
    ],
)
def test_csv_that_is_refused(text: str, expected: str, words: str) -> None:
    found, message = code(read_csv, text, "x")
    assert found == expected and words in message


def test_text_drawing() -> None:
    made = schedule("1f1b", 2, 2)
    expected = "rank 0 F0F1....B0--..B1--\nrank 1 ..F0B0--F1B1--....\n"
    assert draw_text(made, simulate(made, uniform(2, 1, 1, 1)), 80) == expected


def test_text_drawing_in_bands() -> None:
    made = schedule("zb-v", 2, 2)
    found = simulate(made, uniform(4, 0.5, 0.5, 0.5))
    whole, banded = draw_text(made, found, 1000), draw_text(made, found, 20)
    assert all(len(line) <= 20 for line in banded.splitlines())
    margin = len("rank 0 ")
    for rank, line in enumerate(whole.splitlines()):
        assert line[margin:] == "".join(part[margin:] for part in banded.splitlines() if part.startswith(f"rank {rank} "))
    assert "F0a" in whole and "W1b" in whole


def test_text_drawing_of_short_actions() -> None:
    """A label that does not fit is cut; one that takes no time is not there. Rows stay in step."""
    made = schedule("zb-h1", 3, 12)
    lines = draw_text(made, simulate(made, Costs((1.0, 2.0, 1.0), (1.0, 1.0, 1.0), (0.3, 0.0, 0.1))), 1000).splitlines()
    assert len(set(map(len, lines))) == 1
    assert "W" in lines[0] and "W" not in lines[1]


@given(shapes())
@settings(max_examples=20)
def test_svg_shows_every_action(shape: tuple[str, int, int, int]) -> None:
    chosen = schedule(*shape)
    root = ElementTree.fromstring(draw_svg(chosen, simulate(chosen, equal(chosen, TIMINGS[1]))))
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(t.split(":")[0] for t in titles) == sorted(str(a) for actions in chosen.lists for a in actions)
    assert "href" not in ElementTree.tostring(root, "unicode")


def test_named_of_two_chunks() -> None:
    assert [s.name for s in named(2, 4, 2)] == ["interleaved", "bfs", "zb-v", "dualpipe-v"]


MANUAL = (Path(__file__).parent.parent / "spec" / "schedules.md").read_text()


def test_manual_names_every_schedule() -> None:
    assert all(f"| `{name}` | " in MANUAL for name in SCHEDULES)


def test_csv_of_the_manual() -> None:
    (example,) = [block for block in re.findall(r"(?:^    .*\n)+", MANUAL, re.MULTILINE) if "0F0" in block]
    read = read_csv(textwrap.dedent(example), "the manual")
    assert dataclasses.replace(read, name="1f1b") == schedule("1f1b", 2, 3)
