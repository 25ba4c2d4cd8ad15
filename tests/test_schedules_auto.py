"""auto: never slower than the best named schedule that fits, within its memory, deterministic, and at the exact optimum where known."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules import check_bounds, code, random_costs

from mlc.parallel.actions import Schedule
from mlc.parallel.auto import arrange
from mlc.parallel.greedy import Policy, list_schedule
from mlc.parallel.improve import improve
from mlc.parallel.limits import Memory, counted, least_makespan
from mlc.parallel.placement import looped, v_shaped
from mlc.parallel.schedules import named, schedule
from mlc.parallel.simulate import Costs, Residuals, peak, simulate, uniform
from mlc.parallel.validate import validate
from oracles import bounds, exact

#: (p, m, (F, I, W), residuals a rank, makespan): optima of an exact search; auto reaches each of them.
OPTIMA = [
    (2, 2, (1, 1, 1), 2, 7),
    (2, 3, (1, 1, 1), 2, 10),
    (2, 4, (1, 1, 1), 2, 13),
    (3, 3, (1, 1, 1), 3, 11),
    (3, 4, (1, 1, 1), 3, 14),
    (2, 4, (2, 3, 1), 2, 28),
    (2, 4, (2, 3, 1), 3, 27),
    (3, 4, (2, 3, 1), 3, 32),
    (3, 4, (2, 3, 1), 5, 31),
]


@pytest.mark.parametrize(("p", "m", "timing", "held", "least"), OPTIMA)
def test_exact_optima(p: int, m: int, timing: tuple[float, float, float], held: int, least: float) -> None:
    costs = uniform(p, *timing)
    made = arrange(named(p, m, 1), costs, counted(held, p, 1), effort=20_000)
    validate(made)
    assert simulate(made, costs).makespan == least
    assert max(simulate(made, costs).peak) <= held
    equal = [(t,) * p for t in timing]
    assert least == bounds.split_linear(m, *equal, 0.0) or least == exact.least_makespan(m, *equal, 0.0, held, least + 0.5)


@pytest.mark.parametrize("seed", range(24))
def test_exact_optima_of_unequal_stages(seed: int) -> None:
    draw = random.Random(seed)
    p, m = draw.choice([(2, 2), (2, 3), (2, 4), (3, 2), (3, 3)])
    f, i, w = (tuple(float(draw.randint(1, 9)) for _ in range(p)) for _ in range(3))
    c, held = draw.choice([0.0, 1.0, 3.0]), draw.randint(1, 2 * p - 1)
    costs = Costs(f, i, w, c)
    made = arrange(named(p, m, 1), costs, counted(held, p, 1), effort=40_000)
    found = simulate(made, costs).makespan
    assert found == exact.least_makespan(m, f, i, w, c, held, found + 0.5)


def test_search_leaves_a_local_optimum() -> None:
    """No single move of the best list schedules is better: the way to the optimum is a detour."""
    costs = Costs((6.0, 8.0, 2.0), (7.0, 8.0, 1.0), (5.0, 3.0, 4.0))
    assert simulate(arrange(named(3, 3, 1), costs, counted(2, 3, 1), effort=40_000), costs).makespan == 75


@given(st.integers(1, 4), st.integers(1, 24), st.integers(1, 3), st.sampled_from([0, 500, 4_000]), st.data())
@settings(max_examples=40)
def test_never_slower_than_a_named_schedule_that_fits(p: int, m: int, v: int, effort: int, data: st.DataObject) -> None:
    """Whatever the effort: with little, policies are compared on fewer microbatches, and there is no local search."""
    costs = random_costs(data, p * v)
    held = data.draw(st.none() | st.integers(v, 2 * p * v))
    memory = None if held is None else counted(held, p, v)
    made = arrange(named(p, m, v), costs, memory, effort)
    assert made == arrange(named(p, m, v), costs, memory, effort)
    validate(made)
    assert (made.name, made.ranks, made.chunks, made.microbatches) == ("auto", p, v, m)
    others = [s for s in named(p, m, v) if memory is None or memory.fits(s)]
    found = simulate(made, costs)
    assert all(found.makespan <= simulate(s, costs).makespan * (1 + 1e-9) for s in others)
    if memory is not None:
        assert memory.fits(made)
    check_bounds(made, costs)


def test_without_a_limit_it_holds_what_the_best_named_holds() -> None:
    costs = uniform(4, 1.0, 1.0, 1.0)
    made = arrange(named(4, 8, 1), costs, None, effort=4_000)
    assert simulate(made, costs).makespan == simulate(schedule("zb-h1", 4, 8), costs).makespan
    assert max(simulate(made, costs).peak) <= 4


def test_better_than_every_named_schedule() -> None:
    """Slow input gradients, and messages that take time: the named orders are made for equal times without."""
    costs = uniform(8, 0.5, 1.0, 0.5, 0.1)
    limit = counted(8, 4, 2)
    made = arrange(named(4, 8, 2), costs, limit, effort=20_000)
    assert simulate(made, costs).makespan < min(simulate(s, costs).makespan for s in named(4, 8, 2) if limit.fits(s))


def test_deterministic() -> None:
    costs = Costs((1.0, 1.3, 0.9, 1.1), (1.1, 1.2, 0.8, 1.0), (0.7, 0.9, 1.0, 0.6), 0.2)
    first, second = (arrange(named(2, 6, 2), costs, counted(6, 2, 2), effort=20_000) for _ in range(2))
    assert first == second


def test_limit_in_bytes() -> None:
    """Ranks of different memory, stages of different residuals: no byte more than allowed."""
    residuals = Residuals((100, 80, 60, 10), (40, 30, 90, 5))
    memory = Memory((250, 170, 180, 20), residuals)
    costs = uniform(4, 1.0, 1.2, 0.8)
    made = arrange(named(4, 6, 1), costs, memory, effort=4_000)
    validate(made)
    assert all(held <= limit for held, limit in zip(peak(made, residuals), memory.limit))


@pytest.mark.parametrize("v", [1, 2, 3])
def test_least_memory(v: int) -> None:
    """One residual on each chunk of a rank is enough, and less is refused."""
    costs = uniform(3 * v, 1.0, 1.0, 1.0)
    made = schedule("auto", 3, 4, v, costs, counted(v, 3, v))
    validate(made)
    assert max(simulate(made, costs).peak) == v
    found, message = code(schedule, "auto", 3, 4, v, costs, counted(v - 1, 3, v))
    assert found == "E1107" and f"rank 0 may hold {v - 1}, and one microbatch alone takes {v}" in message


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.booleans(), st.data())
def test_list_schedules_never_lock_up(p: int, m: int, v: int, turned: bool, data: st.DataObject) -> None:
    placement = (v_shaped if turned else looped)(p, v)
    costs = random_costs(data, p * v)
    size = data.draw(st.lists(st.integers(1, 9), min_size=p * v, max_size=p * v).map(tuple))
    pending = data.draw(st.lists(st.integers(0, 12), min_size=p * v, max_size=p * v).map(tuple))
    memory = Memory((0,) * p, Residuals(size, pending))
    memory = Memory(tuple(least + data.draw(st.integers(0, 20)) for least in memory.least(placement)), memory.residuals)
    held = tuple(data.draw(st.integers(v, 3 * v)) for _ in range(p))
    patience = data.draw(st.sampled_from([1.0, 2.0, float("inf")]))
    policy = Policy(data.draw(st.booleans()), data.draw(st.booleans()), patience, held)
    made = Schedule("x", p, v, m, placement, list_schedule(placement, p, m, costs, memory, policy))
    validate(made)
    assert memory.fits(made)
    assert all(a <= b for a, b in zip(simulate(made, costs).peak, held))


@given(st.integers(1, 4), st.integers(1, 6), st.data())
@settings(max_examples=30)
def test_local_search_keeps_what_it_is_given(p: int, m: int, data: st.DataObject) -> None:
    costs = random_costs(data, p)
    start = dataclasses.replace(schedule("zb-h2", p, m), name="start")
    memory = counted(max(simulate(start, costs).peak), p, 1)
    found = improve(start, costs, memory, 0.0, 3_000)
    validate(found)
    assert memory.fits(found)
    assert simulate(found, costs).makespan <= simulate(start, costs).makespan * (1 + 1e-9)
    assert simulate(found, costs).makespan >= least_makespan(start.placement, p, m, costs) * (1 - 1e-9)
