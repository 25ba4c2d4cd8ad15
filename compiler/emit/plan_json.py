"""plan.json: what a plan decides, for people, `mlc verify` and the tables of actions (spec/plan.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlc.parallel.planned import VERSION, Channel, Region
from mlc.plan.placed import Owned, Place, Plan

#: Indents of the lists of a place, and of the lists in those.
_INNER = "   "
_DEEP = "    "
#: What no name holds.
_MARK = "\0"


def plan_json(plan: Plan) -> str:
    """The text of plan.json: one line for each stage, parameter, channel, buffer, region, phase, action and owned parameter."""
    layout = plan.layout
    fields: dict[str, Any] = {
        "version": VERSION,
        "model": plan.program.name,
        "mesh": {axis: getattr(layout.mesh, axis) for axis in ("pp", "dp", "ep", "tp", "cp")},
        "chunks": layout.chunks,
        "schedule": layout.schedule.name,
        "microbatches": plan.microbatches,
        "groups": plan.groups,
        "scratch_bytes_per_thread": plan.scratch_bytes_per_thread,
        "flops_per_microbatch": plan.flops,
        "recomputed_flops_per_microbatch": plan.recomputed_flops,
        "rounds": json.dumps(dict(plan.rounds)),
        "stages": _list(_stages(plan), " "),
        "parameters": _list([_parameter(plan, n) for n in range(len(plan.parameters))], " "),
        "channels": _list([_channel(c) for c in plan.channels], " "),
        "places": _nested([_place(plan, place) for place in plan.places], " "),
    }
    ready = {"rounds", "stages", "parameters", "channels", "places"}
    return _object({key: value if key in ready else json.dumps(value) for key, value in fields.items()}, "") + "\n"


def _object(fields: Mapping[str, str], indent: str) -> str:
    """A JSON object of values that are text already, one a line."""
    rows = (f"{indent} {json.dumps(key)}: {value}" for key, value in fields.items())
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def _list(items: Iterable[Any], indent: str) -> str:
    """A JSON list, one item a line."""
    # One call of the encoder for all, which takes longer to begin than for an item; a mark shows where they part.
    marked = [part for item in items for part in (_MARK, item)][1:]
    text = json.dumps(marked)[1:-1].replace(f", {json.dumps(_MARK)}, ", f",\n{indent} ")
    return f"[\n{indent} {text}\n{indent}]" if marked else "[]"


def _nested(items: Sequence[str], indent: str) -> str:
    """A JSON list of items that are text already."""
    return f"[\n{indent} " + f",\n{indent} ".join(items) + f"\n{indent}]" if items else "[]"


def _stages(plan: Plan) -> list[dict[str, Any]]:
    layout = plan.layout
    rows: list[dict[str, Any]] = []
    for stage, place in enumerate(layout.schedule.placement):
        note = layout.notes[stage] if layout.notes else None
        cost = dict(note.cost) if note else {}
        choices = [layout.choices[number] for number in layout.cuts[stage]]
        why = note.why if note else ""
        calls = list(plan.calls[stage])
        rows.append({"stage": stage, "place": place, "calls": calls, "recompute": choices, "cost": cost, "why": why})
    return rows


def _parameter(plan: Plan, number: int) -> dict[str, Any]:
    parameter, planned = plan.program.parameters[number], plan.parameters[number]
    return {
        "name": parameter.name,
        "dtype": parameter.type.dtype,
        "shape": list(parameter.type.shape),
        "elements": parameter.type.size,
        "fed": planned.fed,
        "owner": planned.owner,
        "uses": [{"stage": stage, "phase": phase} for stage, phase in planned.uses],
        "states": [{"name": name, "shape": list(kind.shape)} for name, kind in planned.states],
        "elementwise": planned.elementwise,
        "updated": planned.update is not None,
    }


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "name": channel.name,
        "kind": channel.kind,
        "chain": channel.chain,
        "from": channel.source,
        "to": channel.target,
        "slot_bytes": channel.slot_bytes,
        "slots": channel.slots,
        "outbox_slots": channel.outbox_slots,
        "inbox": channel.inbox,
        "headers": channel.headers,
        "outbox": channel.outbox,
    }


def _place(plan: Plan, place: Place) -> str:
    shards = {"states": place.states, "work": place.work, "guests": place.guests}
    phases = {chain: {name: {"reads": r, "writes": w} for name, (r, w) in of.items()} for chain, of in place.phases.items()}
    plain = {
        "place": place.place,
        "arena_bytes": place.arena_bytes,
        "inbox_bytes": place.inbox_bytes,
        "record": place.record,
        "levels": plan.levels,
        "stages": place.stages,
        "shards": {name: {"at": area.at, "bytes": area.bytes} for name, area in shards.items()},
    }
    rows = {
        "fixed": _list((_of_chain({"name": a.name, "at": a.at, "bytes": a.bytes}, a.chain) for a in place.fixed), _INNER),
        "regions": _list((_region(region) for region in place.regions), _INNER),
        "phases": _by_chain({chain: _object({k: json.dumps(v) for k, v in of.items()}, _DEEP) for chain, of in phases.items()}),
        "lists": _by_chain({chain: _nested(list(entries.json_rows()), _DEEP) for chain, entries in place.lists.items()}),
        "owned": _list((_owned(plan, one) for one in place.owned), _INNER),
        "uses": _list(_uses(place), _INNER),
    }
    return _object({**{key: json.dumps(value) for key, value in plain.items()}, **rows}, "  ")


def _by_chain(rows: Mapping[str, str]) -> str:
    return _object(rows, _INNER)


def _region(region: Region) -> dict[str, Any]:
    fields = {"name": region.name, "base": region.base, "stride": region.stride, "slots": region.slots, "bytes": region.bytes}
    return _of_chain(fields, region.chain)


def _owned(plan: Plan, one: Owned) -> dict[str, Any]:
    elements = plan.program.parameters[one.parameter].type.size
    return {"parameter": one.parameter, "elements": elements, "sharing": one.sharing, "gradient": one.gradient, "work": one.work}


def _uses(place: Place) -> list[dict[str, Any]]:
    return [
        {"parameter": use.parameter, "index": use.index, "chunk": chunk, "phase": use.phase, "levels": list(use.levels)}
        for chunk, of in enumerate(place.chunks["train"])
        for use in of.uses
    ]


def _of_chain(fields: dict[str, Any], chain: str | None) -> dict[str, Any]:
    return fields if chain is None else {**fields, "chain": chain}
