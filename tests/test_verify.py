"""The proof of a plan refuses what is wrong with the right code, naming rank, action and peer; one edit by hand for each kind of fault."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from mutants import mutate

from mlc.diagnostics import Diagnostic, MlcError
from mlc.driver import Options, compile_file
from mlc.parallel.entries import ENDINGS, packed
from mlc.parallel.meaning import bound_buffers, rows_meaning
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.planned import RECORD_HEAD_BYTES, STATISTIC_BYTES, Planned
from mlc.parallel.symbolic import run_symbolic
from mlc.parallel.verify import explain_proof, prove, verify
from mlc.plan.report import explain_plan

Plan = dict[str, Any]
Edit = Callable[[Plan], None]

MODEL = ROOT / "benchmarks" / "models" / "skips.dsl"
DEFINES = {"depth": 4, "context": 8, "width": 16}


@cache
def planned(folder: Path) -> Plan:
    """Two places, two replicas, 1f1b, four microbatches a replica."""
    options = Options(pp=2, dp=2, schedule="1f1b", microbatches=8, split="begin block*2 join block | join block*1 end", emit="plan")
    compile_file(MODEL, folder, DEFINES, options)
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


@pytest.fixture
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return copy.deepcopy(planned(tmp_path_factory.getbasetemp() / "verified"))


def faults(plan: Plan) -> list[Diagnostic]:
    with pytest.raises(MlcError) as problem:
        verify(plan)
    return list(problem.value.diagnostics)


def rows(plan: Plan, place: int, chain: str = "train") -> list[list[Any]]:
    return plan["places"][place]["lists"][chain]


def at(plan: Plan, place: int, row: list[Any]) -> int:
    return rows(plan, place).index(row)


def channel(plan: Plan, name: str) -> dict[str, Any]:
    return next(c for c in plan["channels"] if c["name"] == name)


def chunk(plan: Plan, place: int, chain: str = "train") -> dict[str, Any]:
    return plan["places"][place]["chunks"][chain][0]


def buffers(plan: Plan, place: int, chain: str = "train") -> list[list[Any]]:
    """What rows number: the buffers of the place, then those of the chunk."""
    return [*plan["places"][place]["named"], *chunk(plan, place, chain)["buffers"]]


def buffer(plan: Plan, place: int, prefix: str) -> list[Any]:
    return next(b for b in buffers(plan, place) if b[0].startswith(prefix))


def region(plan: Plan, place: int, name: str) -> dict[str, Any]:
    return next(r for r in plan["places"][place]["regions"] if r["name"] == name)


def test_what_was_planned_holds(plan: Plan) -> None:
    proof = verify(plan)
    assert proof.actions == 2 * 4 * 2
    assert proof.messages["act.train.0"] == proof.messages["grad.train.0"] == 4
    assert "verified: 16 actions a step of a replica" in explain_proof(proof)


def shortened(planned: Planned, chain: str, count: int) -> Planned:
    """The plan with the lists of a round of `count` microbatches."""
    places = []
    for place in planned.places:
        kept = packed([e for e in place.lists[chain] if e.kind in ENDINGS or e.microbatch < count])
        places.append(replace(place, lists={**place.lists, chain: kept}))
    return replace(planned, places=tuple(places))


@pytest.mark.parametrize(
    "options",
    [
        Options(pp=2, dp=2, schedule="zb-h1", microbatches=8),
        Options(pp=2, schedule="zb-v", microbatches=5),
        Options(pp=3, chunks=2, schedule="interleaved", microbatches=6),
    ],
    ids=lambda o: o.schedule,
)
def test_a_whole_round_decides_for_every_shorter_one(options: Options, tmp_path: Path) -> None:
    """Of every chain, and of edited lists that pass; the runs of shorter rounds are not part of the proof."""
    compile_file(MODEL, tmp_path, DEFINES, replace(options, emit="plan"))
    content = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    rng = random.Random(1)
    passed: Counter[str] = Counter()
    mutants = [mutate(content, rng) for _ in range(200)]
    for plan in (content, *(mutant.plan for mutant in mutants if not mutant.rows)):
        planned = read_plan(plan)
        for chain, whole in planned.rounds.items():
            if not run_symbolic(planned, chain).faults:
                passed[chain] += 1
                for count in range(1, whole):
                    assert run_symbolic(shortened(planned, chain, count), chain).faults == ()
    assert passed["evaluate"] > 80
    assert passed["train"] > 20


# ------------------------------------------------------------------------------------------------------------------ not a plan


def no_version(plan: Plan) -> None:
    del plan["version"]


def no_lists(plan: Plan) -> None:
    del plan["places"][1]["lists"]


def unknown_kind(plan: Plan) -> None:
    rows(plan, 0)[0][0] = "G"


def no_kind(plan: Plan) -> None:
    plan["places"][0]["lists"]["train"][0][0] = None


def more_places_than_there_are(plan: Plan) -> None:
    plan["mesh"]["pp"] += 1


def names_twice(plan: Plan) -> None:
    plan["channels"].append(dict(plan["channels"][0]))


def half_a_slot(plan: Plan) -> None:
    channel(plan, "act.train.0")["slots"] = 1.5


# -------------------------------------------------------------------------------------------------------------------- deadlock


def gradient_before_activation(plan: Plan) -> None:
    """The first place wants the gradient of 0 before it sends the activation of 0."""
    receive = rows(plan, 0).pop(at(plan, 0, ["RECEIVE", "grad.train.0", 0]))
    rows(plan, 0).insert(at(plan, 0, ["SEND", "act.train.0", 0]), receive)


def waits_before_sending(plan: Plan) -> None:
    """The second place wants the activation of 2 before it sends the gradient of 0, without which the first does not make it."""
    for microbatch in (1, 2):
        receive = rows(plan, 1).pop(at(plan, 1, ["RECEIVE", "act.train.0", microbatch]))
        rows(plan, 1).insert(at(plan, 1, ["SEND", "grad.train.0", 0]), receive)


def no_slot_left(plan: Plan) -> None:
    """The second place keeps a message until it has the next one, for which its slot has no room."""
    free = rows(plan, 1).pop(at(plan, 1, ["FREE", "act.train.0", 0]))
    rows(plan, 1).insert(at(plan, 1, ["RECEIVE", "act.train.0", 1]) + 1, free)


# ------------------------------------------------------------------------------------------------------------------- transfers


def send_dropped(plan: Plan) -> None:
    rows(plan, 0).remove(["SEND", "act.train.0", 3])
    rows(plan, 0).remove(["SENT", "act.train.0", 3])


def receive_twice(plan: Plan) -> None:
    row = ["RECEIVE", "act.train.0", 1]
    rows(plan, 1).insert(at(plan, 1, row), list(row))


def sent_out_of_order(plan: Plan) -> None:
    list_0 = rows(plan, 0)
    a, b = at(plan, 0, ["SENT", "act.train.0", 0]), at(plan, 0, ["SENT", "act.train.0", 1])
    list_0[a], list_0[b] = list_0[b], list_0[a]


def another_channel(plan: Plan) -> None:
    rows(plan, 1)[at(plan, 1, ["SEND", "grad.train.0", 0])][1] = "act.train.0"


def no_such_channel(plan: Plan) -> None:
    rows(plan, 1)[at(plan, 1, ["RECEIVE", "act.train.0", 0])][1] = "act.train.7"


def no_tree(plan: Plan) -> None:
    plan["channels"] = [c for c in plan["channels"] if c["kind"] != "tree"]


def no_exchange(plan: Plan) -> None:
    plan["channels"] = [c for c in plan["channels"] if (c["kind"], c["from"]) != ("replicas", 1)]


def replicas_of_two_places(plan: Plan) -> None:
    """The exchange of replicas joins two places: what stands for one replica then does not for another."""
    channel(plan, "replicas.0")["to"] = 1


# -------------------------------------------------------------------------------------------------------------------- coverage


def forward_dropped(plan: Plan) -> None:
    rows(plan, 1).remove(["F", 0, 2])


def backward_twice(plan: Plan) -> None:
    row = ["B", 0, 2]
    rows(plan, 0).insert(at(plan, 0, row), list(row))


def descending(plan: Plan) -> None:
    list_0 = rows(plan, 0)
    a, b = at(plan, 0, ["F", 0, 0]), at(plan, 0, ["F", 0, 1])
    list_0[a], list_0[b] = list_0[b], list_0[a]


def weight_gradient_dropped(plan: Plan) -> None:
    rows(plan, 1)[at(plan, 1, ["B", 0, 3])][0] = "I"


def update_dropped(plan: Plan) -> None:
    rows(plan, 0).remove(["UPDATE", 0, 0])


def fold_of(plan: Plan) -> list[Any]:
    return next(row for row in rows(plan, 0) if row[0] == "FOLDW")


def fold_dropped(plan: Plan) -> None:
    rows(plan, 0).remove(fold_of(plan))


def folded_late(plan: Plan) -> None:
    """The next group has added to the sums."""
    fold = fold_of(plan)
    rows(plan, 0).remove(fold)
    rows(plan, 0).insert(at(plan, 0, ["B", 0, fold[2] + 1]) + 1, fold)


def reduced_twice(plan: Plan) -> None:
    rows(plan, 0).insert(at(plan, 0, ["REDUCE", 0, 0]), ["REDUCE", 0, 0])


def owned_twice(plan: Plan) -> None:
    plan["places"][1]["owned"].insert(0, dict(plan["places"][0]["owned"][0]))


def nobody_updates(plan: Plan) -> None:
    plan["places"][1]["owned"].pop()


def owned_in_another_order(plan: Plan) -> None:
    plan["places"][0]["owned"].reverse()


def cut_where_it_must_be_whole(plan: Plan) -> None:
    """Replicas would each update a part of what its rule wants whole."""
    plan["parameters"][plan["places"][0]["owned"][0]["parameter"]]["elementwise"] = False


def use_forgotten(plan: Plan) -> None:
    chunk(plan, 1)["uses"].pop()


def row_dropped(plan: Plan) -> None:
    chunk(plan, 0)["rows"]["F"].pop()


def row_given_another_buffer(plan: Plan) -> None:
    row = chunk(plan, 1)["rows"]["B"][0]
    row[3][0] = row[3][1]


def another_routine(plan: Plan) -> None:
    row = chunk(plan, 0, "evaluate")["rows"]["F"][0]
    wanted = plan["routines"][row[0]]["operands"]
    row[0] = len(plan["routines"])
    plan["routines"].append({"name": "other", "flops": 0, "scratch": 0, "flat": False, "operands": wanted})


def part_is_owned(plan: Plan) -> None:
    plan["places"][0]["owned"][0]["elements"] -= 1


def replicas_do_not_divide(plan: Plan) -> None:
    """Replicas are alike only where each has as many microbatches."""
    plan["mesh"]["dp"] = 3


def more_replicas_than_groups(plan: Plan) -> None:
    plan["mesh"]["dp"] = 10


def choices_of_other_calls(plan: Plan) -> None:
    plan["stages"][0]["recompute"] = ["full"] * 9


def more_groups_than_anyone_counts(plan: Plan) -> None:
    plan["groups"] = 1 << 61


# ------------------------------------------------------------------------------------------------------------------- lifetimes


def ring_too_small(plan: Plan) -> None:
    ring = region(plan, 0, "train.0.F-B")
    ring["slots"] -= 1


def gradient_in_a_ring(plan: Plan) -> None:
    """Rows add to a gradient in a slot of each microbatch, and not where the end of the step looks for it."""
    names = [r["name"] for r in plan["places"][0]["regions"]]
    gradient, every, of = buffer(plan, 0, "gradient of "), buffers(plan, 0), chunk(plan, 0)
    of["buffers"].append([gradient[0], names.index("train.0.F-B"), 0, gradient[3]])
    for row in [row for rows in of["rows"].values() for row in rows]:
        row[3] = [len(every) if every[number] is gradient else number for number in row[3]]


def freed_too_soon(plan: Plan) -> None:
    list_1 = rows(plan, 1)
    free = list_1.pop(at(plan, 1, ["FREE", "act.train.0", 1]))
    list_1.insert(at(plan, 1, ["F", 0, 1]), free)


def never_freed(plan: Plan) -> None:
    rows(plan, 1).remove(["FREE", "act.train.0", 3])


def sent_before_made(plan: Plan) -> None:
    list_0 = rows(plan, 0)
    send = list_0.pop(at(plan, 0, ["SEND", "act.train.0", 1]))
    list_0.insert(at(plan, 0, ["F", 0, 1]), send)


def read_before_received(plan: Plan) -> None:
    list_1 = rows(plan, 1)
    receive = list_1.pop(at(plan, 1, ["RECEIVE", "act.train.0", 0]))
    list_1.insert(at(plan, 1, ["F", 0, 0]) + 1, receive)


def outbox_overwritten(plan: Plan) -> None:
    """The sender fills a slot without waiting until the message that was there has left."""
    list_0 = rows(plan, 0)
    sent = list_0.pop(at(plan, 0, ["SENT", "act.train.0", 0]))
    list_0.insert(at(plan, 0, ["F", 0, 2]) + 1, sent)


# ---------------------------------------------------------------------------------------------------------------------- memory


def arena_too_small(plan: Plan) -> None:
    plan["places"][1]["arena_bytes"] -= 4096


def rings_overlap(plan: Plan) -> None:
    region(plan, 0, "train.0.F-B")["base"] -= 64


def slot_too_small(plan: Plan) -> None:
    ring = region(plan, 0, "train.0.F-B")
    ring["stride"] = ring["bytes"] - 64


def message_too_small(plan: Plan) -> None:
    row = channel(plan, "act.train.0")
    row["slot_bytes"] -= 64
    for place, side in ((0, "out"), (1, "in")):
        region(plan, place, f"{side}:act.train.0")["stride"] -= 64


def inbox_elsewhere(plan: Plan) -> None:
    region(plan, 1, "in:act.train.0")["base"] += 64


def inbox_not_shared(plan: Plan) -> None:
    plan["places"][1]["inbox_bytes"] -= 4096


def inbox_too_large(plan: Plan) -> None:
    plan["places"][0]["inbox_bytes"] += 4096


def states_overlap(plan: Plan) -> None:
    plan["places"][0]["shards"]["states"]["at"] -= 64


def states_of_the_largest_replica(plan: Plan) -> None:
    """One replica fits, another does not: one memory map is then not that of all."""
    plan["places"][0]["shards"]["states"]["bytes"] -= 64


def buffer_outside_its_slot(plan: Plan) -> None:
    buffer(plan, 0, "input.")[2] += 64


def result_over_an_operand(plan: Plan) -> None:
    """A block writes a saved value where another one of its own lies."""
    of = [b for b in chunk(plan, 0)["buffers"] if b[0].startswith("1.") and b[1] == buffer(plan, 0, "1.rsqrt")[1]]
    of[0][2] = of[1][2]


def parameter_elsewhere(plan: Plan) -> None:
    buffer(plan, 0, "parameter ")[2] += 64


def part_of_a_message_elsewhere(plan: Plan) -> None:
    parts = [b for b in chunk(plan, 1)["buffers"] if b[0].startswith("received.")]
    parts[0][2], parts[1][2] = parts[1][2], parts[0][2]


def saved_value_overwritten(plan: Plan) -> None:
    """The second block writes where the first has left what its backward reads."""
    buffer(plan, 0, "2.rsqrt")[2] = buffer(plan, 0, "1.rsqrt")[2]


def update_of_another_gradient(plan: Plan) -> None:
    next(one for one in plan["places"][0]["owned"] if one["update"] is not None)["gradient"] += 64


def update_reads_no_scalar(plan: Plan) -> None:
    next(one for one in plan["places"][0]["owned"] if one["reads"])["reads"][0] -= 1


def update_reads_another_scalar(plan: Plan) -> None:
    one = next(one for one in plan["places"][0]["owned"] if one["reads"])
    one["reads"][0] = plan["places"][0]["record"] + RECORD_HEAD_BYTES + 4  # steps


def another_initial_value(plan: Plan) -> None:
    """That of another parameter, by a routine with the same operands."""
    routines = plan["routines"]
    used = sorted({held["init"][0] for place in plan["places"] for held in place["held"]})
    kinds = [json.dumps([routines[n]["operands"], routines[n]["flat"]]) for n in used]
    of, other = next((a, b) for a, b in itertools.permutations(range(len(used)), 2) if kinds[a] == kinds[b])
    next(held for place in plan["places"] for held in place["held"] if held["init"][0] == used[of])["init"][0] = used[other]


def loss_is_a_metric(plan: Plan) -> None:
    plan["columns"]["train"]["losses"] = 0


def fed_by_nothing(plan: Plan) -> None:
    next(p for p in plan["parameters"] if p["fed"] == "loss")["fed"] = "none"


def column_of_another_stage(plan: Plan) -> None:
    plan["columns"]["train"]["columns"][0][1] -= 1


def logits_elsewhere(plan: Plan) -> None:
    """Where another value of that size lies."""
    of, every = chunk(plan, 1, "sample"), buffers(plan, 1, "sample")
    own = of["logits"]["buffer"]
    of["logits"]["buffer"] = next(n for n, of_n in enumerate(every) if of_n[3] == every[own][3] and n != own)


def logits_of_another_shape(plan: Plan) -> None:
    chunk(plan, 1, "sample")["logits"]["shape"][0] += 1


def logits_turned(plan: Plan) -> None:
    """As many bytes, but sampling would look for the last token's elsewhere."""
    chunk(plan, 1, "sample")["logits"]["shape"].reverse()


def chunk_of_another_stage(plan: Plan) -> None:
    chunk(plan, 0, "evaluate")["stage"] = 1


def states_of_another_shape(plan: Plan) -> None:
    next(p for p in plan["parameters"] if p["states"])["states"][0]["shape"][0] += 1


def update_of_another_rule(plan: Plan) -> None:
    next(p for p in plan["parameters"] if p["update"] is not None)["update"] += 1


def arena_that_ends_in_a_line(plan: Plan) -> None:
    plan["places"][1]["arena_bytes"] += 1


def scratch_that_ends_in_a_line(plan: Plan) -> None:
    plan["scratch_bytes_per_thread"] += 1


def nothing_between_lines(plan: Plan) -> None:
    """A program does not start with an area that it could not have, be it of no bytes."""
    assert plan["places"][1]["shards"]["work"]["bytes"] == 0
    plan["places"][1]["shards"]["work"]["at"] += 1


def nothing_behind_the_arena(plan: Plan) -> None:
    assert plan["places"][1]["shards"]["guests"]["bytes"] == 0
    plan["places"][1]["shards"]["guests"]["at"] = plan["places"][1]["arena_bytes"] + 64


def work_of_an_elementwise_update(plan: Plan) -> None:
    next(one for one in plan["places"][0]["owned"] if one["sharing"] == "sliced")["work"] = 64


def elements_of_no_shape(plan: Plan) -> None:
    plan["parameters"][0]["elements"] += 1


def more_losses_than_columns(plan: Plan) -> None:
    plan["columns"]["evaluate"]["losses"] = 7


def stages_misnumbered(plan: Plan) -> None:
    plan["stages"][1]["stage"] = 0


def logits_of_no_dtype(plan: Plan) -> None:
    chunk(plan, 1, "sample")["logits"]["dtype"] = "f8"


def work_memory_of_an_initial_value(plan: Plan) -> None:
    plan["places"][1]["held"][0]["init"][1][0] += 64


def loss_forgotten(plan: Plan) -> None:
    """The losses of two microbatches have one slot."""
    region(plan, 1, "train.0.values")["slots"] -= 1


def fixed(plan: Plan, place: int, prefix: str) -> dict[str, Any]:
    return next(f for f in plan["places"][place]["fixed"] if f["name"].startswith(prefix))


def more_memory(plan: Plan, area: dict[str, Any]) -> int:
    """The address of an area behind all others of place 0."""
    place = plan["places"][0]
    at = place["arena_bytes"]
    place["arena_bytes"] += -(-area["bytes"] // 64) * 64
    place["fixed"].insert(0, {**area, "at": at})
    return at


def read_where_nothing_is_written(plan: Plan) -> None:
    """Rows read a second master, which has no initial value and which no update touches."""
    operand = buffer(plan, 0, "parameter ")
    operand[2] = more_memory(plan, fixed(plan, 0, operand[0]))


def copy_that_nobody_rounds(plan: Plan) -> None:
    operand = buffer(plan, 0, "parameter ")
    operand[2] = more_memory(plan, {**fixed(plan, 0, operand[0]), "name": operand[0].replace("parameter", "copy of")})


def one_that_is_not_of_the_record(plan: Plan) -> None:
    operand = buffer(plan, 1, "one")
    plan["places"].reverse()
    operand[2] = more_memory(plan, {"name": "one", "bytes": operand[3]})
    plan["places"].reverse()


def gradient_that_nobody_reads(plan: Plan) -> None:
    operand = buffer(plan, 0, "gradient of ")
    operand[2] = more_memory(plan, fixed(plan, 0, operand[0]))


def accumulators_within_each_other(plan: Plan) -> None:
    """Sums of groups: the second is put into the first, which says that it is short."""
    use = chunk(plan, 0)["uses"][0]
    name = f"gradient of {plan['parameters'][use['parameter']]['name']} {use['index']}"
    fixed(plan, 0, f"{name} 0")["bytes"] = 0
    fixed(plan, 0, f"{name} 1")["at"] = use["levels"][1] = use["levels"][0]


def arena_of_two_slots(plan: Plan) -> None:
    """Odd microbatches would read parameters 64 bytes behind them."""
    region(plan, 0, "arena").update(slots=2, stride=64)


def inbox_between_lines(plan: Plan) -> None:
    found = channel(plan, "act.train.0")
    found["headers"] += 4


def nothing_held(plan: Plan) -> None:
    plan["places"][0]["held"] = []


def held_out_of_order(plan: Plan) -> None:
    held = plan["places"][0]["held"]
    held.insert(0, held.pop())


def held_twice(plan: Plan) -> None:
    plan["places"][0]["held"] *= 2


def column_that_nobody_leaves(plan: Plan) -> None:
    plan["columns"]["train"]["columns"].append(["loss", 1])
    plan["columns"]["train"]["losses"] += 1  # results have no unit more


def scratch_that_is_too_small(plan: Plan) -> None:
    plan["scratch_bytes_per_thread"] -= 64


def results_of_a_column_less(plan: Plan) -> None:
    fixed(plan, 0, "results")["bytes"] -= STATISTIC_BYTES


def results_elsewhere(plan: Plan) -> None:
    plan["places"][0]["results"] += 64


EDITS: dict[str, tuple[tuple[Edit, str], ...]] = {
    "E1201": (
        (more_places_than_there_are, "plan.json is damaged: 2 places for pp = 3"),
        (choices_of_other_calls, "says of 9 what is made again"),
        (no_version, "version"),
        (no_lists, "lists"),
        (unknown_kind, "'G'"),
        (no_kind, "lists.train[0] is a list of 3"),
        (names_twice, "one name"),
        (half_a_slot, "1.5"),
        (elements_of_no_shape, "its shape"),
        (more_losses_than_columns, "columns of evaluate"),
        (stages_misnumbered, "its stages are not 0 to 1"),
        (logits_of_no_dtype, "'f8' is no dtype"),
    ),
    "E1202": (
        (gradient_before_activation, "place 0 at action 1 (RECEIVE grad.train.0 0)"),
        (waits_before_sending, "place 1 at action 5 (RECEIVE act.train.0 2) waits for place 0 to send it"),
        (no_slot_left, "waits for one of its own 1 slots, to which place 0 can send it"),
    ),
    "E1203": (
        (send_dropped, "place 1 at action 23 (RECEIVE act.train.0 3) waits for place 0 to send it"),
        (receive_twice, "message 1 is received where message 2 is next in the order of place 0"),
        (sent_out_of_order, "message 1 is waited for where message 0 is next in the order of place 1"),
        (another_channel, "the sender of act.train.0 is place 0, not place 1"),
        (no_such_channel, "there is no channel act.train.7"),
        (no_tree, "no tree channel"),
        (no_exchange, "no replicas channel from place 1"),
        (replicas_of_two_places, "a replicas channel from place 0 to place 1"),
    ),
    "E1204": (
        (forward_dropped, "place 1, chunk 0: forward of microbatch 2 is done 0 times"),
        (backward_twice, "place 0, chunk 0: input gradient of microbatch 2 is done 2 times"),
        (descending, "place 0, action 2 (F 0 0): microbatch 0 comes after 1; each phase"),
        (weight_gradient_dropped, "place 1, chunk 0: weight gradient of microbatch 3 is done 0 times"),
        (update_dropped, "place 0: the list ends with"),
        (fold_dropped, "place 0, chunk 0: sums of W are folded behind microbatches [1, 2], not [0, 1, 2]"),
        (folded_late, "sums of a group are folded between microbatch 0 and the next"),
        (reduced_twice, "(REDUCE 0 0): turn 0 of chunk 0, but it has had all its turns"),
        (owned_twice, "are updated 2 times"),
        (nobody_updates, "are updated 0 times"),
        (owned_in_another_order, "not in the order of parameters"),
        (cut_where_it_must_be_whole, "its rule wants it whole"),
        (replicas_do_not_divide, "do not divide over 3 replicas"),
        (more_replicas_than_groups, "do not divide over 10 replicas"),
        (more_groups_than_anyone_counts, "in 2305843009213693952 groups do not divide"),
        (use_forgotten, "are summed, the model has"),
        (update_reads_another_scalar, "it does not compute what that of the model does"),
        (row_dropped, "train: place 0, chunk 0: its rows do not compute"),
        (row_given_another_buffer, "train: place 1, chunk 0: its rows do not compute"),
        (another_routine, "evaluate: place 0, chunk 0: its rows do not compute"),
        (part_is_owned, "elements are updated, it has"),
        (another_initial_value, "it is not that of the model"),
        (loss_is_a_metric, "train: place 1, chunk 0: its rows do not compute"),
        (fed_by_nothing, "it does not compute what that of the model does"),
        (states_of_another_shape, "it does not compute what that of the model does"),
        (update_of_another_rule, "it does not compute what that of the model does"),
        (column_of_another_stage, "which is of stage 0"),
        (logits_elsewhere, "sample: place 1, chunk 0: its rows do not compute"),
        (logits_turned, "sample: place 1, chunk 0: its rows do not compute"),
        (chunk_of_another_stage, "it is of stage 1, its place has [0]"),
        (nothing_held, "is held 0 times, not once"),
        (held_twice, "is held 2 times, not once"),
        (held_out_of_order, "place 0: what it holds is not in the order of parameters"),
        (column_that_nobody_leaves, "columns [0, 1] are counted on, [0] are left"),
    ),
    "E1205": (
        (ring_too_small, "(F 0 1): overwrites microbatch 0 in train.0.F-B (1 slots), which B 0 0 still reads"),
        (gradient_in_a_ring, "when a step ends"),
        (gradient_that_nobody_reads, "is one of 2 buffers of that name"),
        (freed_too_soon, "message 1 from place 0 is freed before"),
        (never_freed, "place 1 never frees message 3 of act.train.0 from place 0"),
        (sent_before_made, "(SEND act.train.0 1): reads microbatch 1 in out:act.train.0 (place 1), which holds nothing"),
        (read_before_received, "(place 0), which holds nothing"),
        (outbox_overwritten, "it may not have left for place 1"),
        (saved_value_overwritten, "reads 1.rsqrt, which does not lie there whole"),
        (loss_forgotten, "has no slot of its own for each microbatch"),
    ),
    "E1206": (
        (arena_too_small, "place 1: train.0.F-B ends at byte"),
        (buffer_outside_its_slot, "of train.0.inputs"),
        (result_over_an_operand, "share bytes, and one of them is written"),
        (parameter_elsewhere, "is no buffer of it"),
        (part_of_a_message_elsewhere, "was sent as"),
        (rings_overlap, "place 0: train.0.F-B"),
        (slot_too_small, "place 0: train.0.F-B puts"),
        (message_too_small, "into messages of"),
        (inbox_elsewhere, "place 1: in:act.train.0 is not the inbox of its channel"),
        (inbox_not_shared, "of an inbox of"),
        (inbox_too_large, "place 0: record begins at byte"),
        (states_overlap, "optimizer states"),
        (update_of_another_gradient, "its own is at"),
        (update_reads_no_scalar, "where no scalar of the record lies"),
        (work_memory_of_an_initial_value, "it is not written to its master"),
        (states_of_the_largest_replica, "the largest shard of a replica needs"),
        (logits_of_another_shape, "bytes in state."),
        (work_of_an_elementwise_update, "what it makes and uses up are 0 bytes, 64 are planned"),
        (read_where_nothing_is_written, "is one of 2 buffers of that name"),
        (copy_that_nobody_rounds, "is memory of nothing that this place has"),
        (one_that_is_not_of_the_record, "one, 4 bytes at"),
        (accumulators_within_each_other, "0 bytes at"),
        (arena_of_two_slots, "the first of its regions is not the arena"),
        (inbox_between_lines, "is no multiple of 64"),
        (arena_that_ends_in_a_line, "bytes is no multiple of 64"),
        (scratch_that_is_too_small, "bytes of scratch, a thread has"),
        (results_of_a_column_less, "place 0: results,"),
        (results_elsewhere, "place 0: results,"),
        (scratch_that_ends_in_a_line, "of scratch a thread are no multiple of 64"),
        (nothing_between_lines, "which is no multiple of 64"),
        (nothing_behind_the_arena, "place 1: sums of absent replicas end at byte"),
    ),
}


@pytest.mark.parametrize(("code", "edit", "words"), [(c, e, w) for c, edits in EDITS.items() for e, w in edits])
def test_each_fault_is_named(code: str, edit: Edit, words: str, plan: Plan) -> None:
    edit(plan)
    found = faults(plan)
    assert found[0].code == code, found
    assert any(words in f.message for f in found), found


def test_every_chain_is_proved(plan: Plan) -> None:
    """A fault of evaluation or of sampling is one too."""
    for chain, code in (("evaluate", "E1202"), ("sample", "E1205")):
        broken = copy.deepcopy(plan)
        kept = [row for row in rows(broken, 1, chain) if row[0] != "FREE"]
        broken["places"][1]["lists"][chain] = kept
        found = faults(broken)
        assert [f.code for f in found] == [code]
        assert found[0].message.startswith(chain)


def test_updates_that_are_not_elementwise_have_room(tmp_path: Path) -> None:
    """For their results beside what they read, and for their work memory."""
    compile_file(ROOT / "examples" / "muon.dsl", tmp_path, {}, Options(dp=2, microbatches=2, emit="plan"))
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    verify(plan)
    next(one for one in plan["places"][0]["owned"] if one["sharing"] == "whole")["work"] -= 64
    found = faults(plan)
    assert found[0].code == "E1206"
    assert "what it makes and uses up are" in found[0].message


def test_work_that_is_not_counted_is_explained(plan: Plan) -> None:
    plan["flops_per_microbatch"], plan["recomputed_flops_per_microbatch"] = 0, 10**9
    assert "1.000 GFLOP a microbatch are computed once more" in explain_plan(plan)


# --------------------------------------------------------------------------------------------- every check is wanted by some edit


def steps_of_another_length(plan: Plan) -> None:
    plan["rounds"]["train"] = 3


def no_list_of_a_chain(plan: Plan) -> None:
    del plan["places"][1]["lists"]["sample"]


def place_of_another_number(plan: Plan) -> None:
    plan["places"][1]["place"] = 0


def place_of_another_stage(plan: Plan) -> None:
    plan["places"][0]["stages"] = [1]


def stage_on_no_place(plan: Plan) -> None:
    plan["stages"][1]["place"] = 5


def action_of_no_chunk(plan: Plan) -> None:
    rows(plan, 0)[at(plan, 0, ["F", 0, 1])][1] = 1


def backward_of_an_evaluation(plan: Plan) -> None:
    rows(plan, 1, "evaluate").insert(2, ["B", 0, 0])


def sums_of_no_chunk(plan: Plan) -> None:
    fold_of(plan)[1] = 1


def backward_before_forward(plan: Plan) -> None:
    forward = rows(plan, 1).pop(at(plan, 1, ["F", 0, 3]))
    rows(plan, 1).insert(at(plan, 1, ["B", 0, 3]) + 1, forward)


def owner_on_no_place(plan: Plan) -> None:
    plan["parameters"][0]["owner"] = 7


def owner_of_a_later_use(plan: Plan) -> None:
    plan["parameters"][0]["owner"] = 1


def channel_to_no_place(plan: Plan) -> None:
    channel(plan, "act.train.0")["to"] = 5


def channel_from_no_place(plan: Plan) -> None:
    channel(plan, "act.train.0")["from"] = -1


def channel_of_no_outbox(plan: Plan) -> None:
    channel(plan, "replicas.0")["outbox_slots"] = 0


def sums_of_an_evaluation(plan: Plan) -> None:
    rows(plan, 1, "evaluate").insert(2, ["FOLDW", 0, 0])


def activations_of_no_chain(plan: Plan) -> None:
    channel(plan, "act.train.0")["chain"] = None


def channel_of_no_slots(plan: Plan) -> None:
    channel(plan, "replicas.0")["slots"] = 0


def record_elsewhere(plan: Plan) -> None:
    plan["places"][0]["record"] += 64


def work_of_an_initial_value_elsewhere(plan: Plan) -> None:
    """Its routine wants work memory, and gets the master of another parameter."""
    routine, other = plan["places"][0]["held"][0]["init"][0], plan["places"][0]["held"][3]
    for held in (held for place in plan["places"] for held in place["held"] if held["init"][0] == routine):
        held["init"][1].append(other["master"])
    plan["routines"][routine]["operands"].append("work 64")


def with_work(plan: Plan, operand: str, by: int) -> None:
    """The routine of an initial value wants an operand more, which is given it `by` bytes from where its work memory begins."""
    held = plan["places"][0]["held"][0]
    routine, name = held["init"][0], plan["parameters"][held["parameter"]]["name"]
    at = more_memory(plan, {"name": f"work of {name} init", "bytes": 128})
    plan["routines"].append({**plan["routines"][routine], "operands": [*plan["routines"][routine]["operands"], operand]})
    held["init"] = [len(plan["routines"]) - 1, [*held["init"][1], at + by]]


def work_that_ends_behind_its_memory(plan: Plan) -> None:
    with_work(plan, "work 128", 64)


def work_that_begins_before_its_memory(plan: Plan) -> None:
    with_work(plan, "work 64", -64)


def work_memory_that_is_read(plan: Plan) -> None:
    with_work(plan, "read 128", 0)


def test_an_initial_value_has_its_work_memory(plan: Plan) -> None:
    with_work(plan, "work 128", 0)
    verify(plan)


def action_behind_the_end(plan: Plan) -> None:
    rows(plan, 0).insert(at(plan, 0, ["REDUCE", 0, 0]), rows(plan, 0).pop(at(plan, 0, ["SENT", "act.train.0", 3])))


def statistics_behind_sums(plan: Plan) -> None:
    for place in (0, 1):
        of = rows(plan, place)
        of.insert(at(plan, place, ["REDUCE", 0, 0]), of.pop(at(plan, place, ["STATISTICS", 0, 0])))


def norm_of_a_number(plan: Plan) -> None:
    for place in (0, 1):
        rows(plan, place)[at(plan, place, ["NORM", 0, 0])][2] = 1


def norm_twice(plan: Plan) -> None:
    for place in (0, 1):
        rows(plan, place).insert(at(plan, place, ["UPDATE", 0, 0]), ["NORM", 0, 0])


def update_before_norm(plan: Plan) -> None:
    for place in (0, 1):
        of = rows(plan, place)
        of.insert(at(plan, place, ["NORM", 0, 0]), of.pop(at(plan, place, ["UPDATE", 0, 0])))


def verdict_before_update(plan: Plan) -> None:
    for place in (0, 1):
        of = rows(plan, place)
        of.insert(at(plan, place, ["UPDATE", 0, 0]), of.pop(at(plan, place, ["VERDICT", 0, 0])))


def gathered_before_update(plan: Plan) -> None:
    for place in (0, 1):
        of = rows(plan, place)
        of.insert(at(plan, place, ["UPDATE", 0, 0]), of.pop(at(plan, place, ["GATHER", 0, 0])))


def norm_of_parts(plan: Plan) -> None:
    for place in (0, 1):
        of = rows(plan, place)
        of.insert(at(plan, place, ["REDUCE", 0, 0]), of.pop(at(plan, place, ["NORM", 0, 0])))


def never_summed(plan: Plan) -> None:
    """Neither summed nor asked for before the list ends."""
    for place in (0, 1):
        for kind in ("REDUCE", "NORM"):
            rows(plan, place).remove([kind, 0, 0])


def fixed_between_lines(plan: Plan) -> None:
    plan["places"][0]["microbatches"] += 4
    fixed(plan, 0, "microbatches")["at"] += 4


def ring_between_lines(plan: Plan) -> None:
    region(plan, 1, "train.0.values").update(stride=68)


def ring_that_begins_between_lines(plan: Plan) -> None:
    """The last of its chain."""
    of = max((r for r in plan["places"][0]["regions"] if r.get("chain") == "train"), key=lambda r: r["base"])
    of["base"] += 4


def held_elsewhere(plan: Plan) -> None:
    """A program and the initial value would have a master where rows have something else."""
    held = plan["places"][0]["held"][0]
    held["master"] += 64
    held["init"][1][0] += 64


def tree_in_the_headers(plan: Plan) -> None:
    """What a rank sends to the others of its tree lies where those of another channel arrive."""
    tree = next(c for c in plan["channels"] if c["kind"] == "tree")
    tree["outbox"] = min(c["headers"] for c in plan["channels"] if c["to"] == 0 and c is not tree)


def headers_of_the_tree_in_its_inbox(plan: Plan) -> None:
    tree = next(c for c in plan["channels"] if c["kind"] == "tree")
    tree["headers"] = tree["inbox"]


def last_gradient(plan: Plan) -> dict[str, Any]:
    return max((area for area in plan["places"][0]["fixed"] if area["name"].startswith("gradient of ")), key=lambda area: area["at"])


def ring_within_what_lasts(plan: Plan) -> None:
    region(plan, 0, "train.0.inputs")["base"] = last_gradient(plan)["at"]


def ring_that_ends_within_what_lasts(plan: Plan) -> None:
    region(plan, 0, "train.0.F-B")["base"] = last_gradient(plan)["at"] - 64


def outbox_of_replicas_that_takes_turns(plan: Plan) -> None:
    """It is filled when a list has ended, whatever its slots."""
    replicas = channel(plan, "replicas.0")
    replicas["outbox_slots"] = 1
    replicas["outbox"] = channel(plan, "act.sample.0")["outbox"]


def slots_apart_in_an_inbox(plan: Plan) -> None:
    """Messages would be read 64 bytes behind where the first one lies, then 128."""
    region(plan, 1, "in:act.train.0")["stride"] += 64


def outbox_of_another_place(plan: Plan) -> None:
    """A channel has none where it ends: what its only microbatch puts there lies behind the arena."""
    place, of = plan["places"][1], channel(plan, "act.sample.0")
    own = {"name": "out:act.sample.0", "base": of["outbox"], "stride": of["slot_bytes"], "slots": 1, "bytes": of["slot_bytes"]}
    place["regions"].append({**own, "chain": "sample"})
    next(b for b in chunk(plan, 1, "sample")["buffers"] if b[0] == "state.join.1.y")[1:3] = len(place["regions"]) - 1, 0


def inputs_overwritten(plan: Plan) -> None:
    """The first of a chunk's own buffers."""
    assert chunk(plan, 0)["buffers"][0][0] == "input.tokens"
    region(plan, 0, "train.0.inputs")["slots"] -= 1


def region_of_no_channel(plan: Plan) -> None:
    region(plan, 0, "train.0.inputs")["name"] = "out:nothing"


def too_few_accumulators(plan: Plan) -> None:
    plan["places"][0]["levels"] = 1


def use_of_fewer_accumulators(plan: Plan) -> None:
    chunk(plan, 0)["uses"][0]["levels"].pop()


def outbox_in_the_inbox(plan: Plan) -> None:
    channel(plan, "act.train.0")["outbox"] = region(plan, 0, "out:act.train.0")["base"] = 0


def states_between_lines(plan: Plan) -> None:
    plan["places"][0]["shards"]["states"]["at"] += 4


def element_of_no_range(plan: Plan) -> None:
    plan["routines"][chunk(plan, 0)["rows"]["F"][1][0]]["operands"][0] = "read 1024 each"


def result_over_a_result(plan: Plan) -> None:
    operands = plan["routines"][chunk(plan, 0)["rows"]["B"][0][0]]["operands"]
    n = next(n for n, operand in enumerate(operands) if " over " in operand)
    operands[n] = f"{operands[n].partition(' over ')[0]} over {n + 1}"


def logits_of_another_stage(plan: Plan) -> None:
    plan["columns"]["sample"]["logits_stage"] = 0


def buffer_of_another_chain(plan: Plan) -> None:
    names = [r["name"] for r in plan["places"][0]["regions"]]
    buffer(plan, 0, "1.rsqrt")[1:3] = names.index("evaluate.0.inputs"), 0


def operand_of_another_size(plan: Plan) -> None:
    plan["routines"][chunk(plan, 0)["rows"]["F"][1][0]]["operands"][1] = "read 60"


def row_that_writes_a_parameter(plan: Plan) -> None:
    """Its routine says that it writes what it is given to read."""
    operands = plan["routines"][chunk(plan, 0)["rows"]["F"][1][0]]["operands"]
    assert buffers(plan, 0)[chunk(plan, 0)["rows"]["F"][1][3][1]][0].startswith("parameter ")
    operands[1] = operands[1].replace("read", "write")


def row_that_overwrites_a_gradient(plan: Plan) -> None:
    row = chunk(plan, 0)["rows"]["B"][1]
    operands = plan["routines"][row[0]]["operands"]
    n = next(n for n, operand in enumerate(operands) if operand.startswith("add "))
    operands[n] = operands[n].replace("add", "write")


def loss_overwritten(plan: Plan) -> None:
    """A value of the way back lies where the loss of the microbatch was left."""
    of, place = chunk(plan, 1), plan["places"][1]
    column = buffers(plan, 1)[of["values"][0][1]]
    other = next(b for b in of["buffers"] if ".pending." in b[0])
    region(plan, 1, "train.0.values").update(base=place["arena_bytes"], stride=other[3], bytes=other[3])
    place["arena_bytes"] += 4 * other[3]
    other[1:3] = column[1:3]


def message_overwritten(plan: Plan) -> None:
    """A block writes where the one before it has left what is sent behind both."""
    of = chunk(plan, 0, "evaluate")["buffers"]
    sent, other = (next(b for b in of if b[0].endswith(name)) for name in ("state.down.0.x", "forward.x.1"))
    other[1:3] = sent[1:3]


def kept_where_an_action_forgets(plan: Plan) -> None:
    """What forward leaves for backward lies among values of one action, where nothing overwrites it."""
    area = fixed(plan, 0, "transient.train")
    kept = buffer(plan, 0, "4.rsqrt")
    kept[1:3] = 0, area["at"] + area["bytes"] - kept[3]


def gradient_of_another_phase(plan: Plan) -> None:
    """Of the model and of the place alike."""
    use = chunk(plan, 0)["uses"][0]
    use["phase"] = plan["parameters"][use["parameter"]]["uses"][use["index"]]["phase"] = "F"


def never_awaited(plan: Plan) -> None:
    rows(plan, 0).remove(["SENT", "act.train.0", 3])


def awaited_before_sent(plan: Plan) -> None:
    of = rows(plan, 0)
    of.insert(at(plan, 0, ["SEND", "act.train.0", 0]), of.pop(at(plan, 0, ["SENT", "act.train.0", 0])))


def freed_before_received(plan: Plan) -> None:
    of = rows(plan, 1)
    of.insert(at(plan, 1, ["RECEIVE", "act.train.0", 3]), of.pop(at(plan, 1, ["FREE", "act.train.0", 3])))


def private_inbox(plan: Plan) -> None:
    """The buffers of an inbox lie in a ring, where nothing arrives."""
    place = plan["places"][1]
    region(plan, 1, "in:act.sample.0").update(name="x:act.sample.0", base=place["arena_bytes"])
    place["arena_bytes"] += 2048


def read_where_nothing_arrives(plan: Plan) -> None:
    private_inbox(plan)
    for place in plan["places"]:
        place["lists"]["sample"] = [row for row in place["lists"]["sample"] if row[1] != "act.sample.0"]


def channel_of_another_chain(plan: Plan) -> None:
    """It lies apart from those of its chain, and carries nothing."""
    of, end = channel(plan, "act.sample.0"), plan["places"][0]["arena_bytes"]
    of.update(chain="evaluate", inbox=of["inbox"] + 2048, outbox=end)
    region(plan, 1, "in:act.sample.0")["base"], region(plan, 0, "out:act.sample.0")["base"] = of["inbox"], end
    plan["places"][0]["arena_bytes"] += 2048
    for place in plan["places"]:
        place["lists"]["sample"] = [row for row in place["lists"]["sample"] if row[1] != "act.sample.0"]


def halves_that_have_no_rows(plan: Plan) -> None:
    of = rows(plan, 1)
    to = at(plan, 1, ["B", 0, 3])
    of[to : to + 1] = [["I", 0, 3], ["W", 0, 3]]


def sent_between_parts(plan: Plan) -> None:
    """The first part of a forward writes a part of the message, the second one the other."""
    chunk(plan, 0)["heads"]["F"] = 3
    of = rows(plan, 0)
    sends = [["SEND", "act.train.0", n] for n in range(4)]
    of[:] = [other for row in of for other in ([row, ["F+", *row[1:]]] if row[0] == "F" else [row])]
    of.remove(sends[3])
    of.insert(at(plan, 0, ["F", 0, 3]) + 1, sends[3])


def parameter_of_a_chain(plan: Plan) -> None:
    """Its memory would be free for the lists of all others."""
    fixed(plan, 0, "parameter ")["chain"] = "sample"


def transient_of_all_chains(plan: Plan) -> None:
    del fixed(plan, 0, "transient.sample")["chain"]


def tree_of_a_chain(plan: Plan) -> None:
    """The ranks use it while other lists run, which would have its inbox."""
    next(c for c in plan["channels"] if c["kind"] == "tree")["chain"] = "sample"


def make_transient(plan: Plan, place: int, chain: str, buffer: list[Any]) -> None:
    """Moves a buffer behind all transient values, where nothing overwrites it; they lie at the end of the arena from now on."""
    area, end = fixed(plan, place, f"transient.{chain}"), plan["places"][place]["arena_bytes"]
    for own in (own for own in chunk(plan, place, chain)["buffers"] if own[1] == 0):
        own[2] += end - area["at"]
    buffer[1:3] = 0, end + area["bytes"]
    area.update(at=end, bytes=area["bytes"] + buffer[3])
    plan["places"][place]["arena_bytes"] = -(-(end + area["bytes"]) // 64) * 64


def logits_where_an_action_forgets(plan: Plan) -> None:
    make_transient(plan, 1, "sample", buffers(plan, 1, "sample")[chunk(plan, 1, "sample")["logits"]["buffer"]])


def saved_value_overwritten_within(plan: Plan) -> None:
    """The second block writes into the middle of what the first has left."""
    buffer(plan, 0, "2.rsqrt")[2] = buffer(plan, 0, "1.h.3")[2] + 64


def gradient_of_the_first_microbatch(plan: Plan) -> None:
    """The end of a step looks where that of the first of four microbatches lies."""
    gradient_in_a_ring(plan)
    name, use = chunk(plan, 0)["buffers"][-1][0], chunk(plan, 0)["uses"]
    found = next(of for of in use if name == f"gradient of {plan['parameters'][of['parameter']]['name']} {of['index']} 0")
    found["levels"][0] = region(plan, 0, "train.0.F-B")["base"]
    next(one for one in plan["places"][0]["owned"] if one["parameter"] == found["parameter"])["gradient"] = found["levels"][0]


def result_where_an_operand_begins(plan: Plan) -> None:
    """A block reads it all the time."""
    buffer(plan, 0, "1.mul")[1:3] = buffer(plan, 0, "state.begin.x")[1:3]


def result_in_the_place_of_an_operand(plan: Plan) -> None:
    """It is as large, but the routine does not say that it may."""
    buffer(plan, 0, "1.h.3")[1:3] = buffer(plan, 0, "state.begin.x")[1:3]


def result_within_an_operand(plan: Plan) -> None:
    result_where_an_operand_begins(plan)
    buffer(plan, 0, "1.mul")[2] += 64


def result_beside_its_operand(plan: Plan) -> None:
    """It may lie where the operand does, but not a line further."""
    every, routines, first = buffers(plan, 0), plan["routines"], fixed(plan, 0, "transient.train")["at"]
    rows_of = [(numbers, routines[routine]["operands"]) for routine, _, _, numbers in chunk(plan, 0)["rows"]["B"]]
    pairs = [(n, numbers[int(of.partition(" over ")[2])]) for numbers, all in rows_of for n, of in zip(numbers, all) if " over " in of]
    result, operand = next((every[n], every[m]) for n, m in pairs if every[m][1] == 0 and every[m][2] > first)
    result[1:3] = 0, operand[2] - 64


def result_over_nothing(plan: Plan) -> None:
    operands = plan["routines"][chunk(plan, 0)["rows"]["B"][0][0]]["operands"]
    n = next(n for n, operand in enumerate(operands) if " over " in operand)
    operands[n] = f"{operands[n].partition(' over ')[0]} over 77"


def row_of_some_elements(plan: Plan) -> None:
    """Its routine runs over a range of elements, which rows do not give it."""
    routine = plan["routines"][chunk(plan, 0)["rows"]["F"][1][0]]
    routine["flat"] = True
    routine["operands"][0] += " each"


def shared_in_a_ring(plan: Plan) -> None:
    """Rows read at this address of a slot of each microbatch."""
    names = [r["name"] for r in plan["places"][0]["regions"]]
    buffer(plan, 0, "parameter ")[1] = names.index("train.0.F-B")


def use_of_no_gradient(plan: Plan) -> None:
    """Nothing of that name is there."""
    chunk(plan, 0)["uses"][0]["index"] = 7


MORE: tuple[tuple[Edit, str, str], ...] = (
    (steps_of_another_length, "E1204", "are not lists of 3"),
    (no_list_of_a_chain, "E1204", "sample: place 1 has no list"),
    (place_of_another_number, "E1204", "the places are [0, 0], not 0 to 1"),
    (place_of_another_stage, "E1204", "place 0 holds stages [1], the plan gives it [0]"),
    (stage_on_no_place, "E1204", "a stage lies on a place outside 0 to 1"),
    (action_of_no_chunk, "E1204", "this place has chunks 0 to 0 and microbatches 0 to 3"),
    (backward_of_an_evaluation, "E1204", "only forward passes are made here"),
    (sums_of_no_chunk, "E1204", "there are no such sums"),
    (backward_before_forward, "E1204", "F of its microbatch has not been done before"),
    (owner_on_no_place, "E1204", "its owner is place 7 of 2"),
    (owner_of_a_later_use, "E1204", "its owner is place 1, its first use is on place 0"),
    (owned_twice, "E1204", "place 1 updates it, its owner is place 0"),
    (cut_where_it_must_be_whole, "E1204", "runs over a range, its rule does not"),
    (channel_to_no_place, "E1203", "goes from place 0 to place 5 of 2"),
    (channel_from_no_place, "E1203", "goes from place -1 to place 1 of 2"),
    (channel_of_no_outbox, "E1206", "channel replicas.0: 2 slots, 0 outbox slots"),
    (sums_of_an_evaluation, "E1204", "(FOLDW 0 0): there are no such sums"),
    (activations_of_no_chain, "E1203", "in the chain None"),
    (channel_of_no_slots, "E1206", "channel replicas.0: 0 slots"),
    (record_elsewhere, "E1206", "are no memory of their own"),
    (work_of_an_initial_value_elsewhere, "E1206", "is no work memory of it"),
    (work_that_ends_behind_its_memory, "E1206", "is no work memory of it"),
    (work_that_begins_before_its_memory, "E1206", "is no work memory of it"),
    (work_memory_that_is_read, "E1206", "is no work memory of it"),
    (action_behind_the_end, "E1204", "(STATISTICS 0 0): comes before action"),
    (statistics_behind_sums, "E1204", "STATISTICS is done once, before all else"),
    (norm_of_a_number, "E1204", "it is of nothing that has a number"),
    (norm_twice, "E1204", "NORM is done once"),
    (update_before_norm, "E1204", "gradients are not scaled"),
    (verdict_before_update, "E1204", "nothing has been updated"),
    (gathered_before_update, "E1204", "the values of this place are not the new ones yet"),
    (norm_of_parts, "E1204", "(NORM 0 0): gradients of chunk 0 are not whole: turn 0 of REDUCE is missing"),
    (never_summed, "E1204", "train: place 0: gradients of chunk 0 are not whole"),
    (fixed_between_lines, "E1206", "microbatches, 32 bytes at 172164, does not begin at a multiple of 64"),
    (ring_between_lines, "E1206", "train.0.values, slots of 68 bytes"),
    (ring_that_begins_between_lines, "E1206", "does not begin at multiples of 64"),
    (held_elsewhere, "E1206", "it is not written to its master"),
    (tree_in_the_headers, "E1206", "overlaps outbox of tree"),
    (headers_of_the_tree_in_its_inbox, "E1206", "overlaps headers of tree"),
    (ring_within_what_lasts, "E1206", "overlaps gradient of up.0.down.bias 0 2"),
    (ring_that_ends_within_what_lasts, "E1206", "overlaps train.0.F-B, which ends at"),
    (outbox_of_replicas_that_takes_turns, "E1206", "overlaps outbox of act.sample.0"),
    (slots_apart_in_an_inbox, "E1206", "in:act.train.0 is not the inbox of its channel"),
    (outbox_of_another_place, "E1206", "out:act.sample.0 is the outbox of another place"),
    (inputs_overwritten, "E1205", "overwrites microbatch 0 in train.0.inputs (1 slots)"),
    (region_of_no_channel, "E1206", "out:nothing belongs to no channel"),
    (too_few_accumulators, "E1206", "1 accumulators a use"),
    (use_of_fewer_accumulators, "E1206", "has 2 accumulators for a tree of 3 levels"),
    (outbox_in_the_inbox, "E1206", "outbox of act.train.0 begins at byte 0, in the inbox"),
    (states_between_lines, "E1206", "which is no multiple of 64"),
    (element_of_no_range, "E1206", "and it does not run over a range of elements"),
    (result_over_a_result, "E1206", "takes the place of what is not read"),
    (logits_of_another_stage, "E1204", "logits are of stage 0, not of 1"),
    (buffer_of_another_chain, "E1206", "lies in evaluate.0.inputs, which is not of this chain"),
    (operand_of_another_size, "E1206", "has 64 bytes, block_forward wants read 60"),
    (row_that_writes_a_parameter, "E1205", "which is not its to write"),
    (row_that_overwrites_a_gradient, "E1205", "which is not its to write"),
    (loss_overwritten, "E1205", "is not there when the list has ended"),
    (message_overwritten, "E1205", "state.down.0.x is not whole in the message that carries it"),
    (kept_where_an_action_forgets, "E1205", "reads 4.rsqrt, which does not lie there whole"),
    (parameter_of_a_chain, "E1206", "is said to be of sample, and is of all chains"),
    (transient_of_all_chains, "E1206", "is said to be of no chain, and is of sample"),
    (tree_of_a_chain, "E1203", "a tree channel is of no chain, this one of sample"),
    (logits_where_an_action_forgets, "E1205", "has no slot of its own for each microbatch of the list"),
    (saved_value_overwritten_within, "E1205", "reads 1.h.3, which does not lie there whole"),
    (gradient_of_the_first_microbatch, "E1205", "when a step ends"),
    (result_where_an_operand_begins, "E1206", "1.mul and state.begin.x share bytes, and one of them is written"),
    (result_in_the_place_of_an_operand, "E1206", "state.begin.x and 1.h.3 share bytes, and one of them is written"),
    (result_within_an_operand, "E1206", "state.begin.x and 1.mul share bytes, and one of them is written"),
    (result_beside_its_operand, "E1206", "share bytes, and one of them is written"),
    (result_over_nothing, "E1206", "over 77 takes the place of what is not read"),
    (row_of_some_elements, "E1206", "wants read 1024 each"),
    (shared_in_a_ring, "E1206", "of train.0.F-B, is no buffer of it"),
    (use_of_no_gradient, "E1205", "gradient of embedding.weight 7 0 is not at"),
    (gradient_of_another_phase, "E1204", "F adds to gradient of embedding.weight 0 0 0 times, not 1"),
    (never_awaited, "E1205", "ends without waiting until message 3 of act.train.0 has left for place 1"),
    (awaited_before_sent, "E1203", "message 0 to place 1 was not sent before"),
    (freed_before_received, "E1205", "message 3 from place 0 was not received before"),
    (private_inbox, "E1205", "there is no region in:act.sample.0"),
    (read_where_nothing_arrives, "E1205", "reads microbatch 0 in x:act.sample.0, which holds nothing"),
    (channel_of_another_chain, "E1203", "is of no channel of the sample chain"),
    (halves_that_have_no_rows, "E1204", "this place has no rows for I0"),
    (sent_before_made, "E1205", "reads microbatch 1 in out:act.train.0 (place 1), which holds nothing"),
    (sent_between_parts, "E1205", "writes message 3 of act.train.0, which was sent before to place 1"),
)


@pytest.mark.parametrize(("edit", "code", "words"), MORE)
def test_no_check_can_be_left_out(edit: Edit, code: str, words: str, plan: Plan) -> None:
    edit(plan)
    assert any(f.code == code and words in f.message for f in faults(plan)), faults(plan)


def test_the_calls_of_a_plan_are_those_of_its_model(plan: Plan) -> None:
    calls = tuple(name for stage in plan["stages"] for name in stage["calls"])
    prove(read_plan(plan), calls)
    for other in (calls[1:], (*calls, "end"), (*calls[:2], "another", *calls[3:])):
        with pytest.raises(MlcError, match="they differ at call"):
            prove(read_plan(plan), other)


def test_a_message_is_received(plan: Plan) -> None:
    """By the run of the lists alone: what else is proved wants the work that reads it."""
    plan["places"][1]["lists"]["sample"] = []
    (fault,) = (f for f in run_symbolic(read_plan(plan), "sample").faults if f.code == "E1203")
    assert "message 0 of act.sample.0 from place 0 is never received by place 1" in fault.message


def test_a_buffer_lies_within_its_region(plan: Plan) -> None:
    """A plan that was made here is not read before it is proved."""
    whole = read_plan(plan)
    prove(whole)
    place = whole.places[0]
    of = place.chunks["train"][0]
    n = next(n for n, buffer in enumerate(of.buffers) if buffer.name == "1.rsqrt")
    buffers = (*of.buffers[:n], of.buffers[n]._replace(at=-64), *of.buffers[n + 1 :])
    chunks = {**place.chunks, "train": (replace(of, buffers=buffers),)}
    with pytest.raises(MlcError, match="has 64 bytes at -64"):
        prove(replace(whole, places=(replace(place, chunks=chunks), *whole.places[1:])))


@cache
def planned_copies(folder: Path) -> Plan:
    """Parameters in bf16, of which several microbatches read copies."""
    sizes = {"depth": 3, "vocab": 64, "context": 16, "embedded": 16, "width": 32, "heads": 2, "batch": 2}
    compile_file(ROOT / "examples" / "albert.dsl", folder, sizes, Options(microbatches=2, emit="plan"))
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


def test_a_copy_is_where_rows_read_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    plan = copy.deepcopy(planned_copies(tmp_path_factory.getbasetemp() / "copies"))
    verify(plan)
    next(held for held in plan["places"][0]["held"] if held["copy"] is not None)["copy"] += 64
    assert any(f.code == "E1206" and "its copy is not at" in f.message for f in faults(plan))


def test_a_weight_lasts_as_long_as_its_loss(tmp_path_factory: pytest.TempPathFactory) -> None:
    plan = copy.deepcopy(planned_copies(tmp_path_factory.getbasetemp() / "copies"))
    every = buffers(plan, 0)
    weight = every[chunk(plan, 0)["weight"]]
    later = next(of for of in every if of[1] != weight[1] and ".rsqrt" in of[0])
    weight[1:3] = later[1:3]
    assert any(f.code == "E1205" and "weight is not there when the list has ended" in f.message for f in faults(plan)), faults(plan)


def test_chunks_have_the_buffers_of_their_place_first(plan: Plan) -> None:
    """A plan that was made here is not read before it is proved: rows number what the place has."""
    whole = read_plan(plan)
    place = whole.places[0]
    other = (*place.named[1:], place.named[0])
    with pytest.raises(MlcError, match="buffers are not those of its place"):
        prove(replace(whole, places=(replace(place, named=other), *whole.places[1:])))


@cache
def planned_alone(folder: Path) -> Plan:
    """A step of one microbatch: gradients lie among values."""
    sizes = {"depth": 2, "context": 8, "width": 16, "heads": 2, "batch": 2}
    compile_file(ROOT / "examples" / "gpt.dsl", folder, sizes, Options(microbatches=1, emit="plan"))
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return copy.deepcopy(planned_alone(tmp_path_factory.getbasetemp() / "alone"))


def gradient_in_its_ring(plan: Plan, name: str) -> tuple[dict[str, Any], list[Any]]:
    """The use of a parameter whose gradient lies in the slot of the only microbatch, and the buffer."""
    use = next(of for of in chunk(plan, 0)["uses"] if plan["parameters"][of["parameter"]]["name"] == name)
    return use, next(of for of in chunk(plan, 0)["buffers"] if of[0] == f"gradient of {name} 0 0")


def test_a_gradient_among_values_is_where_the_end_of_the_step_looks(alone: Plan) -> None:
    verify(alone)
    use, _ = gradient_in_its_ring(alone, "head.weight")
    use["levels"][0] += 64
    next(one for one in alone["places"][0]["owned"] if one["parameter"] == use["parameter"])["gradient"] = use["levels"][0]
    (fault,) = faults(alone)
    assert fault.code == "E1205" and "gradient of head.weight 0 0 is not at" in fault.message


def test_a_gradient_among_values_lasts(alone: Plan) -> None:
    """The last row of the way back makes another one where it lies."""
    of, other = (gradient_in_its_ring(alone, name)[1] for name in ("head.weight", "embedding.weight"))
    other[1:3] = of[1:3]
    assert any(f.code == "E1205" and "gradient of head.weight 0 0 is not at" in f.message for f in faults(alone)), faults(alone)


# ------------------------------------------------------------------------------------------------------------------ several chunks


@cache
def planned_chunks(folder: Path, schedule: str) -> Plan:
    """Two places of two chunks each."""
    compile_file(MODEL, folder, DEFINES, Options(pp=2, chunks=2, schedule=schedule, microbatches=4, emit="plan"))
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


@pytest.fixture
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Stages 0 and 2, 1 and 3."""
    return copy.deepcopy(planned_chunks(tmp_path_factory.getbasetemp() / "chunks", "interleaved"))


@pytest.fixture
def folded(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Stages 0 and 3, 1 and 2: between these a message stays where it is."""
    return copy.deepcopy(planned_chunks(tmp_path_factory.getbasetemp() / "folded", "zb-v"))


def own(plan: Plan, place: int, number: int, name: str) -> list[Any]:
    """A buffer that a chunk has for itself."""
    return next(of for of in plan["places"][place]["chunks"]["train"][number]["buffers"] if of[0] == name)


def one_slot_of_two_chunks(plan: Plan) -> None:
    """What the second chunk saves for its backward pass lies where the first has what it saved of the same microbatch."""
    own(plan, 0, 1, "4.rsqrt")[1:3] = own(plan, 0, 0, "1.rsqrt")[1:3]


def inbox_of_two_chunks(plan: Plan) -> None:
    """It goes forward and backward while the first has a message that it reads once more."""
    own(plan, 1, 1, "6.rsqrt")[1:3] = own(plan, 1, 0, "received.down.0.x")[1:3]


def ring_of_two_chunks(plan: Plan) -> None:
    """Who reads a message writes over it what it saves, and who wrote it reads it once more."""
    own(plan, 1, 1, "4.rsqrt")[1:3] = own(plan, 1, 0, "state.down.0.x")[1:3]


def one_memory_of_two_chunks(plan: Plan) -> None:
    """Two layers keep what they know of other times in one buffer, of one name, and say that it is so in the model."""
    place = plan["places"][0]
    first, second = (next(of for of in found["buffers"] if of[0].startswith("kept ")) for found in place["chunks"]["decode"])
    place["fixed"].remove(next(area for area in place["fixed"] if area["name"] == second[0]))
    second[:] = first
    found = read_plan(plan)
    of = found.places[0].chunks["decode"][1]
    meaning = rows_meaning(found.routines, of.buffers, of.rows, bound_buffers(of, found.columns["decode"].losses))
    place["chunks"]["decode"][1]["meaning"] = meaning


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (one_slot_of_two_chunks, "chunks 0 and 1 both have values in train.0.F-B"),
        (inbox_of_two_chunks, "place 1: chunks 0 and 1 both have values in in:act.train.0"),
        (one_memory_of_two_chunks, "chunks 0 and 1 both have values in kept down.0.kept"),
    ],
)
def test_what_a_chunk_has_no_other_overwrites(edit: Edit, words: str, chunks: Plan) -> None:
    verify(chunks)
    edit(chunks)
    found = faults(chunks)
    assert [f.code for f in found] == ["E1205"], found
    assert words in found[0].message


def test_a_message_between_two_chunks_is_written_by_one(folded: Plan) -> None:
    verify(folded)
    ring_of_two_chunks(folded)
    assert faults(folded)[0].message == "train: place 1: chunks 0 and 1 both have values in act.train.1"


def test_what_is_kept_is_kept_once_a_list(chunks: Plan) -> None:
    """A list of two microbatches would bring it up to date twice; all else has a slot for each."""
    for place in chunks["places"]:
        place["lists"]["decode"] = [[kind, of, n] for n in range(2) for kind, of, _ in place["lists"]["decode"]]
    chunks["rounds"]["decode"] = 2
    assert any("kept down.0.kept is brought up to date 2 times, not once" in f.message for f in faults(chunks))


# ------------------------------------------------------------------------------------------------------------------ taking turns


@cache
def planned_turns(folder: Path) -> Plan:
    """Three places with some layers each: what the second one sends, either way, takes turns in one slot; its actions have two parts."""
    options = Options(pp=3, schedule="1f1b", microbatches=6, emit="plan")
    compile_file(ROOT / "examples" / "gpt.dsl", folder, {"depth": 12, "context": 8, "width": 16, "heads": 2}, options)
    return json.loads((folder / "plan.json").read_text(encoding="utf-8"))


@pytest.fixture
def turns(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return copy.deepcopy(planned_turns(tmp_path_factory.getbasetemp() / "turns"))


def test_what_a_place_sends_takes_turns_in_one_slot(turns: Plan) -> None:
    out, back = channel(turns, "act.train.1"), channel(turns, "grad.train.0")
    assert out["from"] == back["from"] == 1
    assert (out["outbox"], out["outbox_slots"]) == (back["outbox"], back["outbox_slots"]) == (out["outbox"], 1)
    assert set(chunk(turns, 1)["heads"]) == {"F", "B"}
    assert channel(turns, "act.train.0")["inbox"] == channel(turns, "act.evaluate.0")["inbox"]
    verify(turns)


def rest_dropped(plan: Plan) -> None:
    rows(plan, 1).remove(["B+", 0, 2])


def last_rest_dropped(plan: Plan) -> None:
    rows(plan, 1).remove(["B+", 0, 5])


def rest_of_nothing(plan: Plan) -> None:
    rows(plan, 1).insert(at(plan, 1, ["F+", 0, 1]) + 1, ["F+", 0, 1])


def rest_of_another(plan: Plan) -> None:
    rows(plan, 1)[at(plan, 1, ["F+", 0, 1])] = ["F+", 0, 2]


def work_between_parts(plan: Plan) -> None:
    forward = [rows(plan, 1).pop(at(plan, 1, [kind, 0, 3])) for kind in ("F", "F+")]
    to = at(plan, 1, ["B", 0, 1]) + 1
    rows(plan, 1)[to:to] = forward


def one_part(plan: Plan) -> None:
    del chunk(plan, 1)["heads"]["F"]


def no_such_part(plan: Plan) -> None:
    chunk(plan, 1)["heads"]["F"] = len(chunk(plan, 1)["rows"]["F"])


def weight_gradient_in_parts(plan: Plan) -> None:
    chunk(plan, 1)["heads"]["W"] = 1


def rest_reads_what_is_freed(plan: Plan) -> None:
    """The first part ends before the rows that read the gradient, and yet frees it."""
    chunk(plan, 1)["heads"]["B"] = 1


def turn_not_awaited(plan: Plan) -> None:
    """The gradient is written where an activation lies that may not have left."""
    sent = rows(plan, 1).pop(at(plan, 1, ["SENT", "act.train.1", 1]))
    rows(plan, 1).insert(at(plan, 1, ["B+", 0, 0]) + 1, sent)


def turns_of_two_slots(plan: Plan) -> None:
    channel(plan, "act.train.1")["outbox_slots"] = 2
    region(plan, 1, "out:act.train.1")["slots"] = 2


def turns_of_two_chains(plan: Plan) -> None:
    """An outbox over memory of its own chain that is no outbox."""
    channel(plan, "act.train.1")["outbox"] -= 64
    region(plan, 1, "out:act.train.1")["base"] -= 64


@pytest.mark.parametrize(
    ("edit", "code", "words"),
    [
        (rest_dropped, "E1204", "B+ 0 2 comes next, the rest of an action"),
        (last_rest_dropped, "E1204", "B+ 0 5 is missing, the rest of an action"),
        (rest_of_nothing, "E1204", "is the rest of no action before it"),
        (rest_of_another, "E1204", "F+ 0 1 comes next, the rest of an action"),
        (work_between_parts, "E1204", "B+ 0 1 comes next, the rest of an action"),
        (one_part, "E1204", "is the rest of no action before it"),
        (no_such_part, "E1201", "rows of 'F' are no part of it"),
        (weight_gradient_in_parts, "E1201", "rows of 'W' are no part of it"),
        (rest_reads_what_is_freed, "E1205", "from place 2 is freed before B+ 0 0 reads it"),
        (turn_not_awaited, "E1205", "shares its memory with out:act.train.1: its message may not have left"),
        (turns_of_two_slots, "E1206", "overlaps outbox of grad.train.0"),
        (turns_of_two_chains, "E1206", "overlaps transient.train"),
    ],
)
def test_each_fault_of_turns_is_named(edit: Edit, code: str, words: str, turns: Plan) -> None:
    edit(turns)
    found = faults(turns)
    assert code in {f.code for f in found}, found
    assert any(words in f.message for f in found), found


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON document."""
    rows = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [p for key, value in rows for p in ((*path, key), *leaves(value, (*path, key)))]


def test_damaged_plans_are_refused_or_harmless(plan: Plan) -> None:
    """Something missing, of another kind or far too large anywhere in the file is a diagnostic, never a crash."""
    rng = random.Random(1)
    paths = leaves(plan)
    for _ in range(120):
        damaged = copy.deepcopy(plan)
        *path, key = rng.choice([p for p in rng.sample(paths, 40) if len(p) < rng.randint(2, 8)] or [("pp",)])
        within = damaged
        for step in path:
            within = within[step]
        if rng.random() < 0.3:
            del within[key]
        else:
            within[key] = rng.choice([None, -1, 0, 3, "x", [], {}, 1.5, True, 1 << 70, [[]], [1, 2]])
        for judge in (verify, explain_plan):
            with contextlib.suppress(MlcError):
                judge(damaged)
