"""Messages of the actions that end a list: who exchanges with whom, that few sets of ranks stand for all, and that faults are found."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file
from mlc.mesh import Cohort, Exchange, Mesh
from mlc.parallel import collective_proof
from mlc.parallel.collective_proof import TREES, collective_faults, pattern_of, patterns, run_moves
from mlc.parallel.collectives import Collectives, Move, Trade, trade_moves, tree_moves
from mlc.parallel.entries import ENDINGS
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.planned import Planned
from mlc.parallel.tree import subtrees
from mlc.parallel.verify import verify

Plan = dict[str, Any]
SIZES = st.integers(2, 200) | st.integers(2, 1 << 20)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with an embedding that the first and the last place use, on three places and five replicas."""
    out = tmp_path_factory.mktemp("plan")
    sizes = {"depth": 2, "width": 32, "heads": 2, "context": 32, "batch": 2, "vocab": 300}
    options = Options(pp=3, dp=5, schedule="1f1b", microbatches=20, groups=10, emit="plan")
    compile_file(ROOT / "examples" / "gpt2.dsl", out, sizes, options)
    return (out / "plan.json").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------------ who and whom


@given(SIZES, st.integers(0, 1 << 20), st.booleans())
def test_both_ends_of_an_exchange_know_of_it(size: int, number: int, halving: bool) -> None:
    cohort, member = Cohort(size), number % size
    turns = cohort.halving if halving else cohort.doubling
    for turn in range(cohort.turns):
        for one in turns(member, turn):
            other = Exchange(one.partner, one.point, member, one.receives, one.sends)
            assert one.peer == member or other in turns(one.peer, turn)


@cache
def all_patterns(size: int) -> frozenset[Any]:
    cohort = Cohort(size)
    turns = [(exchanges, turn) for turn in range(cohort.turns) for exchanges in (cohort.halving, cohort.doubling)]
    return frozenset(pattern_of(exchanges, member, turn) for exchanges, turn in turns for member in range(size))


@given(st.integers(2, 300))
@settings(deadline=None)
def test_the_sets_that_are_run_stand_for_all(size: int) -> None:
    assert patterns(size) == all_patterns(size)
    assert max(map(len, patterns(size))) <= 3


@given(st.integers(1 << 10, 1 << 20), st.data())
@settings(deadline=None)
def test_they_do_so_of_many_replicas(size: int, data: st.DataObject) -> None:
    cohort = Cohort(size)
    assert len(cohort.kinds(0)) < 100
    for _ in range(20):
        turn, member = data.draw(st.integers(0, cohort.turns - 1)), data.draw(st.integers(0, size - 1))
        assert pattern_of(cohort.halving, member, turn) in patterns(size)
        assert pattern_of(cohort.doubling, member, turn) in patterns(size)


def neighbourhood(ranks: int, rank: int) -> tuple[int, ...]:
    """How many neighbours below a rank of the tree has, and those around it."""
    below = [2 * rank + 1, 2 * rank + 2]
    own = sum(one < ranks for one in below)
    above = -1 if rank == 0 else sum(one < ranks for one in (2 * ((rank - 1) // 2) + 1, 2 * ((rank - 1) // 2) + 2))
    return own, above, *(sum(2 * one + k < ranks for k in (1, 2)) for one in below if one < ranks)


@given(st.integers(16, 3000))
def test_small_trees_have_every_kind_of_rank(ranks: int) -> None:
    smaller = [n for n in TREES if n % 2 == ranks % 2]
    assert {neighbourhood(ranks, rank) for rank in range(ranks)} <= {neighbourhood(n, rank) for n in smaller for rank in range(n)}


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 5, 6, 7, 12])
def test_as_many_messages_come_as_go(plan: str, replicas: int) -> None:
    """Of every action, between all ranks, one way and the other."""
    planned = with_replicas(read_plan(json.loads(plan)), replicas)
    collectives = Collectives(planned)
    moved: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    for rank in range(planned.mesh.ranks):
        for entry in planned.places[planned.mesh.coordinate(rank).pp].lists["train"]:
            if entry.kind not in ENDINGS:
                continue
            if entry.kind in ("REDUCE", "GATHER") and entry.microbatch >= Cohort(replicas).turns:
                continue
            for move in collectives.moves("train", rank, entry):
                ends = (rank, move.peer) if move.sends else (move.peer, rank)
                moved[(entry, move.channel, *ends)][move.sends] += move.does in ("post", "release")
    assert moved
    assert all(sent == received for received, sent in moved.values())


def with_replicas(planned: Planned, replicas: int) -> Planned:
    return replace(planned, mesh=Mesh(pp=planned.pp, dp=replicas), groups=2 * replicas)


# ----------------------------------------------------------------------------------------------------------------------- faults


def edited(plan: str, edit: Callable[[Plan], None]) -> str:
    """What the proof says of an edited plan."""
    content = json.loads(plan)
    edit(content)
    with pytest.raises(MlcError) as refusal:
        verify(content)
    return str(refusal.value.diagnostics[0])


def rows(plan: Plan, place: int) -> list[list[Any]]:
    return plan["places"][place]["lists"]["train"]


def swap(plan: Plan, place: int, one: list[Any], other: list[Any]) -> None:
    of = rows(plan, place)
    a, b = of.index(one), of.index(other)
    of[a], of[b] = of[b], of[a]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda p: rows(p, 0).remove(["REDUCE", 0, 1]), "E1204"),
        (lambda p: swap(p, 0, ["REDUCE", 0, 0], ["REDUCE", 0, 1]), "turn 1 of chunk 0, but turn 0 is next"),
        (lambda p: swap(p, 1, ["GATHER", 0, 2], ["GATHER", 0, 1]), "turn 2 of GATHER is next"),
        (lambda p: rows(p, 2).remove(["SHARE", 1, 0]), "the gradient of use 1 of wte.weight does not go to place 0"),
        (lambda p: swap(p, 0, ["SHARE", 0, 0], ["SHARE", 1, 0]), "use 0 of wte.weight is next: they add up in the order of the chain"),
        (lambda p: swap(p, 2, ["SHARE", 1, 0], ["REDUCE", 0, 2]), "the gradient of chunk 0 is not whole: turn 2 of REDUCE is missing"),
        (lambda p: swap(p, 0, ["SHARE", 1, 0], ["NORM", 0, 0]), "the gradient of wte.weight is not whole: SHARE of use 1 is missing"),
        (lambda p: swap(p, 0, ["SPREAD", 2, 0], ["UPDATE", 0, 0]), "the values of wte.weight are not the new ones yet"),
        (lambda p: swap(p, 2, ["SPREAD", 2, 0], ["GATHER", 0, 2]), "the new values of wte.weight are not here yet"),
        (lambda p: rows(p, 1).remove(["VERDICT", 0, 0]), "the list ends without VERDICT"),
        (lambda p: rows(p, 1).remove(["GATHER", 0, 0]), "turn 0 of GATHER is missing"),
        (lambda p: p["places"][1]["lists"]["evaluate"].pop(), "evaluate: place 1: the list ends with nothing, not with STATISTICS"),
        (lambda p: rows(p, 0).remove(["SPREAD", 2, 0]), "new values of wte.weight do not go from place 0 to place 2"),
        (lambda p: rows(p, 1).insert(-1, ["SHARE", 0, 1]), "there is no such gradient here that another place has, or wants"),
        (lambda p: rows(p, 2).insert(rows(p, 2).index(["NORM", 0, 0]), ["SHARE", 1, 0]), "this gradient has gone to place 0 before"),
        (lambda p: rows(p, 2).insert(-1, ["SPREAD", 2, 0]), "no such values are to move here, or they have moved before"),
        (lambda p: channel(p, "tree").update(slot_bytes=256), "E1206"),
        (lambda p: channel(p, "replicas.0").update(slot_bytes=96), "channel replicas.0: messages of 96 bytes"),
    ],
)  # fmt: skip
def test_an_edited_ending_is_refused(plan: str, edit: Callable[[Plan], None], said: str) -> None:
    assert said in edited(plan, edit)


def test_sums_of_one_chunk_of_an_absent_replica_are_kept_at_a_time(tmp_path: Path) -> None:
    sizes = {"depth": 4, "width": 16, "heads": 2, "context": 8, "batch": 1, "vocab": 64}
    options = Options(pp=2, dp=3, groups=3, chunks=2, schedule="interleaved", microbatches=6, emit="plan")
    compile_file(ROOT / "examples" / "gpt2.dsl", tmp_path, sizes, options)

    def between(content: Plan) -> None:
        for place in range(2):
            swap(content, place, ["REDUCE", 0, 1], ["REDUCE", 1, 0])

    said = edited((tmp_path / "plan.json").read_text(encoding="utf-8"), between)
    assert "overwrites the sums that a replica keeps for an absent one of chunk 0, which has turns to come" in said


def channel(plan: Plan, name: str) -> Plan:
    return next(one for one in plan["channels"] if one["name"] == name)


def test_places_that_come_to_collectives_in_another_order_wait_for_ever(plan: str) -> None:
    """The receiver has SPREAD before NORM, the sender behind it."""
    said = edited(plan, lambda p: swap(p, 2, ["SPREAD", 2, 0], ["NORM", 0, 0]))
    assert "E1204" in said or "E1202" in said

    def early(content: Plan) -> None:
        of = rows(content, 2)
        of.insert(of.index(["NORM", 0, 0]), of.pop(of.index(["SPREAD", 2, 0])))

    said = edited(plan, early)
    assert "E1202" in said
    assert "(SPREAD 2 0) waits for place 0 to come to it" in said
    assert "(NORM 0 0) waits for place 2 to come to it" in said


def test_what_may_be_done_earlier_is_no_fault(plan: str) -> None:
    content = json.loads(plan)
    swap(content, 0, ["GATHER", 0, 2], ["SPREAD", 2, 0])
    verify(content)


# -------------------------------------------------------------------------------------------------- messages that are edited

#: Sets of ranks that meet, and what each does.
SCRIPTS = {
    "pair": lambda: [list(trade_moves([Trade("c", 1 - rank, 3, 2) if rank == 0 else Trade("c", 0, 2, 3)])) for rank in range(2)],
    "one way": lambda: [list(trade_moves([trade])) for trade in (Trade("c", 1, 4, 0), Trade("c", 0, 0, 4))],
    "guest": lambda: [
        list(trade_moves([Trade("c", 1, 2, 2)])),
        list(trade_moves([Trade("c", 0, 2, 2), Trade("c", 2, 0, 3)])),
        list(trade_moves([Trade("c", 1, 3, 0)])),
    ],
    "tree": lambda: [list(tree_moves("c", 6, rank, 3)) for rank in range(6)],
}


def edit_moves(scripts: list[list[Move]], rng: random.Random) -> None:
    """Drop a move, or all of a message, repeat it, swap two, give it to another peer or another number."""
    script = rng.choice(scripts)
    at = rng.randrange(len(script))
    match rng.randrange(6):
        case 0:
            script.pop(at)
        case 5:
            of = script[at]
            script[:] = [move for move in script if (move.sends, move.peer, move.message) != (of.sends, of.peer, of.message)]
        case 1:
            script.insert(rng.randrange(at, len(script) + 1), script[at])
        case 2:
            to = rng.choice([min(at + 1, len(script) - 1), rng.randrange(len(script))])
            script[at], script[to] = script[to], script[at]
        case 3:
            script[at] = script[at]._replace(peer=rng.randrange(len(scripts)))
        case _:
            script[at] = script[at]._replace(message=max(0, script[at].message + rng.choice([-1, 1])))


def acts(scripts: Sequence[Sequence[Move]], slots: int, outbox_slots: int, rng: random.Random) -> list[list[Any]] | None:
    """What each rank reads when moves and messages happen in a random order, with slots that hold data; None: somebody waits for ever."""
    outbox: dict[tuple[int, int, int], Any] = {}
    inbox: dict[tuple[int, int, int], Any] = {}
    posted: defaultdict[tuple[int, int], int] = defaultdict(int)
    gone: defaultdict[tuple[int, int], int] = defaultdict(int)
    released: defaultdict[tuple[int, int], int] = defaultdict(int)
    packed: defaultdict[tuple[int, int], int] = defaultdict(int)
    read: list[list[Any]] = [[] for _ in scripts]
    at = [0] * len(scripts)

    def can(rank: int) -> bool:
        if at[rank] == len(scripts[rank]):
            return False
        does, _, peer, n = scripts[rank][at[rank]]
        if does == "room":
            return gone[rank, peer] > n - outbox_slots
        return gone[rank, peer] > n if does == "gone" else gone[peer, rank] > n if does == "arrived" else True

    def go(rank: int) -> None:
        does, _, peer, n = scripts[rank][at[rank]]
        at[rank] += 1
        match does:
            case "pack":
                outbox[rank, peer, n % outbox_slots] = (rank, peer, packed[rank, peer])
                packed[rank, peer] += 1
            case "unpack":
                read[rank].append((peer, inbox.get((peer, rank, n % slots))))
            case "post":
                posted[rank, peer] += 1
            case "release":
                released[peer, rank] += 1

    def carry(lane: tuple[int, int]) -> None:
        n = gone[lane]
        inbox[(*lane, n % slots)] = outbox.get((*lane, n % outbox_slots))
        gone[lane] += 1

    while True:
        able: list[Callable[[], None]] = [lambda rank=rank: go(rank) for rank in range(len(scripts)) if can(rank)]
        able += [lambda lane=lane: carry(lane) for lane, n in posted.items() if gone[lane] < min(n, released[lane] + slots)]
        if not able:
            break
        rng.choice(able)()
    if any(done < len(script) for done, script in zip(at, scripts, strict=True)):
        return None
    return read if all(gone[lane] == n == released[lane] for lane, n in posted.items()) else None


@pytest.mark.parametrize("slots", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("name", SCRIPTS)
def test_messages_of_an_action_are_whole_and_edited_ones_refused_or_harmless(name: str, slots: tuple[int, int]) -> None:
    rng = random.Random(name + str(slots))
    original = SCRIPTS[name]()
    assert run_moves(original, *slots) is None
    wanted = acts(original, *slots, rng)
    assert wanted is not None
    outcomes: defaultdict[str, int] = defaultdict(int)
    for _ in range(150):
        scripts = SCRIPTS[name]()
        edit_moves(scripts, rng)
        fault = run_moves(scripts, *slots)
        outcomes[fault[0] if fault else "harmless"] += 1
        for _ in range(0 if fault else 5):
            assert acts(scripts, *slots, rng) == wanted
    assert len(outcomes) > 1 + (name != "guest"), outcomes


@pytest.mark.parametrize(
    ("does", "edit", "said"),
    [
        ("pack", lambda of, at: of.insert(at, of[at]), "where its slot may hold another one"),
        ("pack", lambda of, at: of.pop(at), "sends message 0 to rank 1, which is not there"),
        ("post", lambda of, at: of.pop(at), "has gone, which is not sent"),
        ("unpack", lambda of, at: of.insert(at, of[at]), "reads message 0 from rank 1, which is not there"),
        ("unpack", lambda of, at: of.pop(at), "frees message 0 from rank 1 before it is read"),
        ("gone", lambda of, at: of.pop(at), "ends before message 0 to rank 1 has gone"),
        ("release", lambda of, at: of.pop(at), "ends with message 0 from rank 1 in its slot"),
    ],
)
def test_what_a_rank_may_not_do_with_its_slots_is_named(does: str, edit: Callable[[list[Move], int], None], said: str) -> None:
    scripts = [list(trade_moves([Trade("c", 1 - rank, 1, 1)])) for rank in range(2)]
    assert run_moves(scripts, 1, 1) is None
    edit(scripts[0], next(at for at, move in enumerate(scripts[0]) if move.does == does))
    fault = run_moves(scripts, 1, 1)
    assert fault is not None and fault[0] == "E1205" and said in fault[1]


def test_the_moves_that_are_run_are_those_of_the_channels_of_the_plan(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ranks do is made by one rule for all plans; were it wrong, every channel between replicas would be refused."""
    collective_proof.pattern_fault.cache_clear()
    monkeypatch.setattr(collective_proof, "trade_moves", lambda trades: list(trade_moves(trades))[1:])
    found = [fault.message for fault in collective_faults(read_plan(json.loads(plan)))]
    collective_proof.pattern_fault.cache_clear()
    assert {message.partition(":")[0] for message in found} >= {"channel replicas.0", "channel replicas.1", "channel replicas.2"}


def test_the_tree_of_groups_is_that_of_halving() -> None:
    """Runs of replicas that a point has sums of are runs of groups whose roots join."""
    for groups, replicas in ((12, 6), (10, 5), (16, 4)):
        own = groups // replicas
        for turn in range(Cohort(replicas).turns + 1):
            for first in range(0, replicas, 1 << turn):
                begin, end = own * first, min(own * (first + (1 << turn)), groups)
                assert len(list(subtrees(begin, end, groups))) <= turn + own
