"""plan.json in words: `mlc explain plan.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from mlc.ir.dtypes import dtype_of
from mlc.mesh import Cohort, Mesh
from mlc.parallel.cut_report import explain_stages
from mlc.parallel.entries import COMPUTE
from mlc.parallel.plan_reader import read_plan, reading
from mlc.parallel.planned import KEPT, Planned
from mlc.parallel.quantities import size_text
from mlc.plan.over_time import draw, moments, received_bytes

#: Tensors listed by size, and actions of a list that are spelled out; the others are summed up.
_LISTED = 12
_ACTIONS = 24
#: Of more places only the fullest is drawn over time.
_DRAWN = 8

Json = Mapping[str, Any]


def explain_plan(plan: Json) -> str:
    """Ranks, memory, stages, order and messages of a plan that `mlc compile` wrote. raises: E1201 where it is damaged"""
    planned = read_plan(plan)
    with reading():
        return _explained(plan, planned)


def _explained(plan: Json, planned: Planned) -> str:
    elements = sum(p["elements"] for p in plan["parameters"])
    arena = max(place["arena_bytes"] for place in plan["places"])
    lines = [
        f"{plan['model']}: {elements:,} parameters on {_ranks(plan)}",
        f"memory    {size_text(arena)} arena a rank, and {size_text(plan['scratch_bytes_per_thread'])} scratch a thread",
        f"work      {plan['flops_per_microbatch'] / 1e9:,.3f} GFLOP a microbatch, {plan['microbatches']} a step in {plan['groups']} groups",
        *_recomputed(plan),
        f"schedule  {plan['schedule']}, {plan['rounds']['train']} microbatches a replica",
        *_sampled(planned),
        "",
        *_stages(plan),
    ]
    fullest = max(planned.places, key=lambda place: place.arena_bytes)
    for place, of in zip(plan["places"], planned.places, strict=True):
        lines += ["", *_place(plan, place, received_bytes(planned, of))]
        if len(planned.places) <= _DRAWN or of is fullest:
            lines += [f"    {line}" for line in draw(moments(planned, of))]
    return "\n".join([*lines, *_channels(plan), "", *_tensors(plan)]) + "\n"


def _recomputed(plan: Json) -> list[str]:
    """What backward passes make again, which is no part of the model's work."""
    flops = plan.get("recomputed_flops_per_microbatch", 0)
    if not flops:
        return []
    part = flops / max(plan["flops_per_microbatch"], 1)
    return [f"again     {flops / 1e9:,.3f} GFLOP a microbatch are computed once more, {part:.1%} of it"]


def _sampled(planned: Planned) -> list[str]:
    """How the tokens of a text are made."""
    if "sample" not in planned.rounds:
        return []
    if "decode" not in planned.rounds:
        return [f"sampling  computes the whole context for each token: {planned.undecoded or 'the plan has no decode chain'}"]
    kept = max(sum(area.bytes for area in place.fixed if area.name.startswith(KEPT)) for place in planned.places)
    return [f"sampling  computes one time for each token, with {size_text(kept)} a rank kept of those before"]


def _ranks(plan: Json) -> str:
    pp, dp = plan["mesh"]["pp"], plan["mesh"]["dp"]
    ranks = Mesh(pp, dp).ranks
    return "one rank" if ranks == 1 else f"{ranks} ranks: {pp} place{'s' * (pp > 1)} of the pipeline, {dp} replica{'s' * (dp > 1)}"


def _stages(plan: Json) -> list[str]:
    """What each stage holds and costs, where the partition said so; else its calls."""
    if all(stage["cost"] for stage in plan["stages"]):
        return explain_stages(plan["stages"])
    return [f"stage {stage['stage']} on place {stage['place']}: {', '.join(stage['calls']) or 'no calls'}" for stage in plan["stages"]]


# ---- places ----


def _place(plan: Json, place: Json, received: int) -> list[str]:
    """Memory by what it is for, then the lists."""
    sizes = [(name, size) for name, size in _memory(plan, place, received).items() if size]
    width = max(len(size_text(size)) for _, size in sizes)
    lines = [f"place {place['place']}   {size_text(place['arena_bytes'])} arena, stages {', '.join(map(str, place['stages']))}"]
    lines += [f"    {name:13} {size_text(size):>{width}}" for name, size in sizes]
    return lines + [f"    {chain:13} {_order(entries)}" for chain, entries in place["lists"].items()]


def _memory(plan: Json, place: Json, received: int) -> dict[str, int]:
    """Bytes of a place: what lasts, and what the train chain uses. The other chains share the memory of the train chain.

    received: of values that rows read where they arrived; the inbox is what else lies where peers write
    """
    fixed = {area["name"]: area["bytes"] for area in place["fixed"] if area.get("chain", "train") == "train"}
    regions = [region for region in place["regions"] if region.get("chain") == "train"]

    def named(*prefixes: str) -> int:
        return sum(size for name, size in fixed.items() if name.startswith(prefixes))

    def rings(held: bool) -> int:
        own = [region for region in regions if not region["name"].startswith(("in:", "out:"))]
        return sum(region["slots"] * region["stride"] for region in own if region["name"].endswith(".inputs") != held)

    known = {
        "parameters": named("parameter ", "copy of "),
        "states": place["shards"]["states"]["bytes"],
        "gradients": named("gradient of "),
        "residuals": rings(True),
        "inputs": rings(False),
        "transient": named("transient."),
        "received": received,
        "inbox": place["inbox_bytes"] - received,
        "outbox": sum(dict(sorted(_outboxes(plan, place["place"]))).values()),
    }
    rest = sum(fixed.values()) + sum(place["shards"][name]["bytes"] for name in ("work", "guests"))
    return {**known, "others": rest - known["parameters"] - known["gradients"] - known["transient"]}


def _unit(parameter: Json) -> int:
    """Bytes of an element of its master."""
    return dtype_of(dtype_of(parameter["dtype"]).wide).bytes


def _outboxes(plan: Json, place: int) -> Iterator[tuple[int, int]]:
    """(address, bytes) of each outbox in the private memory of a place; that of the tree lies in its inbox."""
    for channel in plan["channels"]:
        if channel["from"] == place and channel["chain"] in ("train", None):
            peers = Cohort(plan["mesh"]["dp"]).blocks if channel["from"] == channel["to"] else 1
            yield channel["outbox"], peers * channel["outbox_slots"] * channel["slot_bytes"]


def _order(entries: Sequence[Sequence[Any]]) -> str:
    """The first compute actions of a list, and how many of each kind there are."""
    actions = [(kind, of, number) for kind, of, number in entries if kind in COMPUTE]
    several = len({of for _, of, _ in actions}) > 1
    names = [f"{kind}{of}.{number}" if several else f"{kind}{number}" for kind, of, number in actions]
    if len(names) <= _ACTIONS:
        return " ".join(names)
    counts = ", ".join(f"{sum(kind == k for k, _, _ in actions)} {kind}" for kind in COMPUTE if any(kind == k for k, _, _ in actions))
    return f"{' '.join(names[:_ACTIONS])} ... ({counts})"


# ---- channels and tensors ----


def _channels(plan: Json) -> Iterator[str]:
    """One line a channel."""
    width = max((len(channel["name"]) for channel in plan["channels"]), default=0)
    for n, channel in enumerate(plan["channels"]):
        if n == 0:
            yield ""
        slots = f"{channel['slots']} slots, {channel['outbox_slots']} at the sender"
        yield f"channel {channel['name']:{width}}  {_ends(channel):22}  {size_text(channel['slot_bytes'])} a message, {slots}"


def _ends(channel: Json) -> str:
    if channel["from"] < 0:
        return "all ranks"
    if channel["from"] == channel["to"]:
        return f"replicas of place {channel['from']}"
    return f"place {channel['from']} to place {channel['to']}"


def _tensors(plan: Json) -> list[str]:
    """The largest parameters; layers of one kind in one line."""
    kinds = [(_kind(p["name"]), p["name"], _unit(p) * p["elements"], p["shape"]) for p in plan["parameters"]]
    grouped = [list(rows) for _, rows in groupby(sorted(kinds, key=lambda row: row[0]), key=lambda row: (row[0], row[3]))]
    sizes = sorted(((sum(row[2] for row in rows), rows) for rows in grouped), key=lambda row: (-row[0], row[1][0][1]))
    names = [rows[0][1] if len(rows) == 1 else f"{rows[0][0]} ({len(rows)})" for _, rows in sizes]
    width = max((len(name) for name in names[:_LISTED]), default=0)
    lines = [f"{name:{width}}  {size_text(size):>10}  {rows[0][3]}" for name, (size, rows) in zip(names[:_LISTED], sizes, strict=False)]
    rest = sizes[_LISTED:]
    if rest:
        lines.append(f"and {sum(len(rows) for _, rows in rest)} others  {size_text(sum(size for size, _ in rest))}")
    return lines


def _kind(name: str) -> str:
    """A name without its numbers."""
    return ".".join("#" if part.isdigit() else part for part in name.split("."))
