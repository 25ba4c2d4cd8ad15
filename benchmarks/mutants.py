"""Random edits of a plan's lists, collectives, rows, buffers and sweeps, each with the reasons for which it may be refused."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Plan = dict[str, Any]

TRANSFERS = ("RECEIVE", "FREE", "SEND", "SENT")
COMPUTE = ("F", "I", "W", "B", "F+", "I+", "B+")

#: Codes of the verifier: deadlock, transfers, coverage, lifetimes, memory.
DEADLOCK, MESSAGES, COVERAGE, LIFETIMES, MEMORY = "E1202", "E1203", "E1204", "E1205", "E1206"
#: A row whose operands are not those of its routine is no row.
NO_PLAN = "E1201"


@dataclass(frozen=True, slots=True)
class Mutant:
    """An edited plan. `reasons`: the codes that fit the edit; another code is a wrong reason. `rows`: it is not in lists alone."""

    plan: Plan
    edit: str
    reasons: frozenset[str]
    rows: bool


def mutate(plan: Plan, rng: random.Random) -> Mutant:
    """One random edit of a copy of the plan."""
    edit = rng.choice(EDITS)
    copied = copy.deepcopy(plan)
    text, reasons = edit(copied, rng)
    return Mutant(copied, text, frozenset(reasons), edit in ROW_EDITS)


def _list(plan: Plan, rng: random.Random) -> tuple[int, list[list[Any]]]:
    """A list of some place: of training as often as of all else."""
    place = rng.randrange(plan["mesh"]["pp"])
    lists = plan["places"][place]["lists"]
    chain = rng.choice(["train", *(chain for chain in lists for _ in range(3 - (chain == "train")) if len(lists[chain]) > 1)])
    return place, lists[chain]


def _reasons(*rows: list[Any]) -> set[str]:
    """What may be wrong when these rows are missing, doubled or elsewhere."""
    found: set[str] = set()
    for kind, _, _ in rows:
        if kind in COMPUTE:
            found |= {COVERAGE, LIFETIMES, DEADLOCK, MESSAGES}
        elif kind in TRANSFERS:
            found |= {MESSAGES, LIFETIMES, DEADLOCK, COVERAGE}
        else:
            found |= {COVERAGE, DEADLOCK, LIFETIMES}
    return found


def drop(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """One action is missing."""
    place, rows = _list(plan, rng)
    row = rows.pop(rng.randrange(len(rows)))
    reasons = {COVERAGE} if row[0] not in TRANSFERS else {MESSAGES, LIFETIMES, DEADLOCK}
    return f"place {place} drops {row}", reasons


def duplicate(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """One action is done again at once or later."""
    place, rows = _list(plan, rng)
    at = rng.randrange(len(rows))
    to = rng.choice([at + 1, rng.randrange(at + 1, len(rows) + 1)])
    rows.insert(to, list(rows[at]))
    reasons = {COVERAGE} if rows[at][0] not in TRANSFERS else {MESSAGES, LIFETIMES, COVERAGE}
    return f"place {place} repeats {rows[at]} at {to}", reasons


def swap(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """Two actions change places, neighbours or any."""
    place, rows = _list(plan, rng)
    at = rng.randrange(len(rows) - 1)
    to = rng.choice([at + 1, rng.randrange(len(rows))])
    rows[at], rows[to] = rows[to], rows[at]
    return f"place {place} swaps {rows[to]} and {rows[at]}", _reasons(rows[at], rows[to])


def reorder(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """One action moves."""
    place, rows = _list(plan, rng)
    row = rows.pop(rng.randrange(len(rows)))
    to = rng.randrange(len(rows) + 1)
    rows.insert(to, row)
    return f"place {place} moves {row} to {to}", _reasons(row)


def repeer(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """A transfer names another channel, or a channel another end."""
    channels = [c for c in plan["channels"] if c["chain"] is not None]
    if channels and rng.random() < 0.3:
        channel, end = rng.choice(channels), rng.choice(["from", "to"])
        channel[end] = (channel[end] + 1) % plan["mesh"]["pp"]
        return f"{channel['name']} goes {end} {channel[end]}", {MESSAGES, LIFETIMES, MEMORY, DEADLOCK}
    place, rows = _list(plan, rng)
    transfers = [r for r in rows if r[0] in TRANSFERS]
    if not transfers or len(channels) < 2:
        return drop(plan, rng)
    row = rng.choice(transfers)
    before = row[1]
    row[1] = rng.choice([c["name"] for c in channels if c["name"] != before])
    return f"place {place}: {row[0]} {before} {row[2]} names {row[1]}", {MESSAGES, LIFETIMES, DEADLOCK}


def renumber(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """An action names another microbatch, another chunk or another kind."""
    place, rows = _list(plan, rng)
    row = rng.choice([r for r in rows if r[0] in (*COMPUTE, *TRANSFERS)] or [rows[0]])
    before = list(row)
    if row[0] in COMPUTE and rng.random() < 0.4:
        row[0] = rng.choice([k for k in COMPUTE if k != row[0]])
    elif row[0] in TRANSFERS and rng.random() < 0.3:
        row[0] = rng.choice([k for k in TRANSFERS if k != row[0]])
    else:
        row[2] = abs(row[2] + rng.choice([-1, 1]))
    return f"place {place}: {before} becomes {row}", _reasons(before, row)


def edit_ending(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """What ends a list of training: an action is missing, done twice, elsewhere, of another turn, use, parameter, place or kind.

    Now and then on all places alike: all ranks then agree on it.
    """
    places = range(plan["mesh"]["pp"])
    chosen = places if rng.random() < 0.2 else [rng.choice(places)]
    way, seed = rng.randrange(6), rng.random()
    texts = [_edit_ending(plan["places"][place]["lists"]["train"], way, random.Random(seed)) for place in chosen]
    return f"places {list(chosen)}: {'; '.join(texts)}", {COVERAGE, DEADLOCK, LIFETIMES, MESSAGES}


def _edit_ending(rows: list[list[Any]], way: int, rng: random.Random) -> str:
    first = next(at for at, row in enumerate(rows) if row[0] == "STATISTICS")
    at, to = rng.randrange(first, len(rows)), rng.randrange(first, len(rows))
    before = list(rows[at])
    match way:
        case 0:
            rows.pop(at)
        case 1:
            rows.insert(to, list(rows[at]))
        case 2:
            rows[at], rows[to] = rows[to], rows[at]
        case 3:
            rows.insert(to, rows.pop(at))
        case 4:
            rows[at][rng.choice([1, 2])] += rng.choice([-1, 1])
        case _:
            rows[at][0] = rng.choice(sorted({row[0] for row in rows[first:]}))
    return f"{before} at {at} is edited in way {way}, to {to}"


def shrink(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """A buffer loses a slot or bytes."""
    place = rng.choice(plan["places"])
    shrinkable: list[Callable[[], str]] = []
    for region in place["regions"]:
        name = region["name"]
        if region.get("chain") is not None and not name.startswith(("in:", "out:")):
            if region["slots"] > 1:
                shrinkable.append(lambda r=region: _less(r, "slots", 1))
            if region["stride"] >= 64:
                shrinkable.append(lambda r=region: _less(r, "stride", 64))
    for channel in plan["channels"]:
        if channel["chain"] is None:
            shrinkable += [lambda c=channel, k=key: _less(c, k, 1) for key in ("slots", "outbox_slots")]
            shrinkable.append(lambda c=channel: _less(c, "slot_bytes", rng.choice([32, 64, c["slot_bytes"] - 64])))
        else:
            for key, side in (("slots", "in"), ("outbox_slots", "out")):
                if channel[key] > 1:
                    shrinkable.append(lambda c=channel, k=key, s=side: _shrink_channel(plan, c, k, s))
            shrinkable.append(lambda c=channel: _less(c, "slot_bytes", 64))
    shrinkable.append(lambda: _less(place, "arena_bytes", 4096))
    shrinkable.append(lambda: _less(place, "inbox_bytes", 4096))
    shrinkable.append(lambda: _move_fixed(place, rng))
    shrinkable.append(lambda: _move_outbox(plan, rng))
    shrinkable += [lambda area=area: _less(area, "bytes", 64) for area in place["shards"].values() if area["bytes"]]
    return rng.choice(shrinkable)(), {LIFETIMES, MEMORY, DEADLOCK}


def _less(row: dict[str, Any], key: str, by: int) -> str:
    row[key] -= by
    return f"{row.get('name', 'place')}: {key} becomes {row[key]}"


def _shrink_channel(plan: Plan, channel: dict[str, Any], key: str, side: str) -> str:
    """A channel and the region of its end lose a slot alike."""
    for place in plan["places"]:
        for region in place["regions"]:
            if region["name"] == f"{side}:{channel['name']}":
                region["slots"] -= 1
    return _less(channel, key, 1)


def _move_fixed(place: dict[str, Any], rng: random.Random) -> str:
    """A buffer lies 64 bytes lower than it did."""
    region = rng.choice([r for r in place["regions"] if r["name"] != "arena" and not r["name"].startswith(("in:", "out:"))] or [None])
    return _less(region, "base", 64) if region else _less(place, "arena_bytes", 4096)


def _move_outbox(plan: Plan, rng: random.Random) -> str:
    """A channel's outbox lies 64 bytes lower, or where another one of its place and chain does."""
    channel = rng.choice([c for c in plan["channels"] if c["chain"] is not None])
    others = [c for c in plan["channels"] if c["chain"] == channel["chain"] and c["from"] == channel["from"] and c is not channel]
    channel["outbox"] = rng.choice([channel["outbox"] - 64, *(other["outbox"] for other in others)])
    for region in plan["places"][channel["from"]]["regions"]:
        if region["name"] == f"out:{channel['name']}":
            region["base"] = channel["outbox"]
    return f"{channel['name']}: outbox becomes {channel['outbox']}"


def _chunk(plan: Plan, rng: random.Random) -> tuple[str, dict[str, Any], list[list[Any]]]:
    """The name of a chunk that has rows, the chunk, and the buffers that its rows number: of its place, then its own."""
    found = [
        (f"rank {place['place']}, {chain}, chunk {number}", chunk, [*place["named"], *chunk["buffers"]])
        for place in plan["places"]
        for chain, chunks in place["chunks"].items()
        for number, chunk in enumerate(chunks)
        if any(chunk["rows"].values()) and chunk["buffers"]
    ]
    return rng.choice(found)


def move_buffer(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """A buffer of rows lies elsewhere in its region, in another region, where one of any chunk of its place does, or has other bytes."""
    where, _, buffers = _chunk(plan, rng)
    buffer = rng.choice(buffers)
    before = list(buffer)
    match rng.randrange(5):
        case 0:
            buffer[2] = max(0, buffer[2] + rng.choice([-64, 64]))
        case 1:
            buffer[1:3] = rng.choice(buffers)[1:3]
        case 2:
            buffer[3] = max(0, buffer[3] + rng.choice([-4, 4]))
        case 3:
            buffer[1] = rng.choice(buffers)[1]
        case _:
            place = next(place for place in plan["places"] if where.startswith(f"rank {place['place']},"))
            buffer[1:3] = rng.choice([other for of in place["chunks"].values() for chunk in of for other in chunk["buffers"]])[1:3]
    return f"{where}: {before} becomes {buffer}", {MEMORY, LIFETIMES, COVERAGE}


def edit_rows(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """A row is missing, done twice, elsewhere, of another routine, or is given another buffer."""
    where, chunk, buffers = _chunk(plan, rng)
    rows = rng.choice([of for of in chunk["rows"].values() if of])
    at = rng.randrange(len(rows))
    text = f"{where}: row {rows[at]}"
    match rng.randrange(5):
        case 0:
            rows.pop(at)
        case 1:
            rows.insert(at, copy.deepcopy(rows[at]))
        case 2:
            rows.insert(rng.randrange(len(rows)), rows.pop(at))
        case 3:
            rows[at][0] = rng.randrange(len(plan["routines"]))
        case _:
            rows[at][3][rng.randrange(len(rows[at][3]))] = rng.randrange(len(buffers))
    return f"{text} becomes {rows[at : at + 1]}", {COVERAGE, LIFETIMES, MEMORY, NO_PLAN}


def edit_head(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """A phase in two parts has another first part, or one part; or one part becomes two."""
    where, chunk, _ = _chunk(plan, rng)
    phase = rng.choice([*chunk["heads"], *chunk["rows"]])
    before = dict(chunk["heads"])
    head = chunk["heads"].pop(phase, 0) + rng.choice([-1, 1])
    if phase not in before or rng.random() < 0.7:
        chunk["heads"][phase] = head
    return f"{where}: first parts {before} become {chunk['heads']}", {COVERAGE, LIFETIMES, NO_PLAN}


def move_operand(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """An update or an initial value is given other memory."""
    place = rng.choice(plan["places"])
    operands = rng.choice([*(held["init"][1] for held in place["held"]), *(one["reads"] for one in place["owned"] if one["reads"])])
    at = rng.randrange(len(operands))
    before = operands[at]
    operands[at] = max(0, before + rng.choice([-64, -4, 4, 64])) if rng.random() < 0.7 else rng.choice(operands)
    return f"place {place['place']}: operand {at} of a call moves from {before} to {operands[at]}", {MEMORY, COVERAGE}


def edit_sweep(plan: Plan, rng: random.Random) -> tuple[str, set[str]]:
    """A sweep or a call of one is missing, done twice, elsewhere, of other words, or is given something else."""
    before = copy.deepcopy(plan["sweeps"])
    while True:
        text = _edit_sweep(plan["sweeps"], rng)
        if plan["sweeps"] != before:
            return text, {COVERAGE, MEMORY, NO_PLAN}


def _edit_sweep(sweeps: list[dict[str, Any]], rng: random.Random) -> str:
    n, m = rng.randrange(len(sweeps)), rng.randrange(len(sweeps))
    sweep, calls = sweeps[n], sweeps[n]["calls"]
    at, to = rng.randrange(len(calls)), rng.randrange(len(calls))
    before = copy.deepcopy(sweep)
    match rng.randrange(8):
        case 0:
            sweeps.pop(n)
        case 1:
            sweeps.insert(m, copy.deepcopy(sweep))
        case 2:
            sweeps[n], sweeps[m] = sweeps[m], sweeps[n]
        case 3:
            calls.pop(at)
        case 4:
            calls.insert(to, list(calls[at]))
        case 5:
            calls.insert(to, calls.pop(at))
        case 6:
            key = rng.choice(["moment", "over", "only", "range", "gated"])
            sweep[key] = copy.deepcopy(sweeps[m][key])
        case _:
            other = rng.choice(sweeps[m]["calls"])
            word = rng.randrange(len(calls[at]))
            calls[at][word] = other[min(word, len(other) - 1)]
    return f"sweep {n}: {before} becomes {sweep}, near {m}"


ROW_EDITS = (move_buffer, edit_rows, edit_head, move_operand, edit_sweep)
EDITS = (drop, duplicate, swap, reorder, repeer, renumber, edit_ending, shrink, *ROW_EDITS)
