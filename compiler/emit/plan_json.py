"""plan.json: what a plan decides, for people, `mlc verify` and another compilation (spec/plan.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlc.mesh import AXES
from mlc.parallel.planned import (
    VERSION,
    Call,
    Channel,
    Chunk,
    Columns,
    Held,
    OwnedParameter,
    Place,
    Planned,
    PlannedParameter,
    Region,
    Row,
    Signature,
    Use,
)
from mlc.parallel.sweeps import Sweep

#: Indents of the lists of a place, of the lists in those, and of what these hold.
_INNER = "   "
_DEEP = "    "
_DEEPER = "      "
#: What no name holds.
_MARK = "\0"


def plan_json(plan: Planned) -> str:
    """The text of plan.json: one line for each stage, parameter, routine, channel, buffer, region, row, action and piece."""
    fields: dict[str, str] = {
        "version": json.dumps(VERSION),
        "model": json.dumps(plan.model),
        "mesh": json.dumps({axis: getattr(plan.mesh, axis) for axis in AXES}),
        "chunks": json.dumps(plan.chunks),
        "schedule": json.dumps(plan.schedule),
        "microbatches": json.dumps(plan.microbatches),
        "groups": json.dumps(plan.groups),
        "scratch_bytes_per_thread": json.dumps(plan.scratch_bytes_per_thread),
        "flops_per_microbatch": json.dumps(plan.flops),
        "recomputed_flops_per_microbatch": json.dumps(plan.recomputed_flops),
        "rounds": json.dumps(dict(plan.rounds)),
        "stages": _list(_stages(plan), " "),
        "parameters": _list(map(_parameter, plan.parameters), " "),
        "scalars": json.dumps(plan.scalars),
        "routines": _list(map(_routine, plan.routines), " "),
        "sweeps": _list(map(_sweep, plan.sweeps), " "),
        "columns": json.dumps({chain: _columns(columns) for chain, columns in plan.columns.items()}),
        "channels": _list(map(_channel, plan.channels.values()), " "),
        "places": _nested([_place(place) for place in plan.places], " "),
    }
    return _object(fields, "") + "\n"


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


def _stages(plan: Planned) -> list[dict[str, Any]]:
    rows = enumerate(zip(plan.stages, plan.calls, plan.recompute, plan.notes, strict=True))
    return [
        {"stage": stage, "place": place, "calls": calls, "recompute": choices, "cost": dict(note.cost), "why": note.why}
        for stage, (place, calls, choices, note) in rows
    ]


def _parameter(parameter: PlannedParameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "dtype": parameter.dtype,
        "shape": parameter.shape,
        "elements": parameter.elements,
        "fed": parameter.fed,
        "owner": parameter.owner,
        "uses": [{"stage": stage, "phase": phase} for stage, phase in parameter.uses],
        "states": [{"name": name, "shape": shape} for name, shape in parameter.states],
        "elementwise": parameter.elementwise,
        "update": parameter.update,
    }


def _routine(routine: Signature) -> dict[str, Any]:
    plain = {"name": routine.name, "flops": routine.flops, "scratch": routine.scratch, "flat": routine.flat}
    return {**plain, "operands": list(map(str, routine.operands))}


def _sweep(sweep: Sweep) -> dict[str, Any]:
    calls = [[call.kernel, *call.operands] for call in sweep.calls]
    return {"moment": sweep.moment, "over": sweep.over, "only": sweep.only, "range": sweep.range, "gated": sweep.gated, "calls": calls}


def _columns(columns: Columns) -> dict[str, Any]:
    return {"columns": columns.columns, "losses": columns.losses, "logits_stage": columns.logits_stage}


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


def _place(place: Place) -> str:
    shards = {"states": place.states, "work": place.work, "guests": place.guests}
    plain = {
        "place": place.number,
        "arena_bytes": place.arena_bytes,
        "inbox_bytes": place.inbox_bytes,
        "record": place.record,
        "microbatches": place.microbatches,
        "results": place.results,
        "levels": place.levels,
        "stages": place.stages,
        "shards": {name: {"at": area.at, "bytes": area.bytes} for name, area in shards.items()},
    }
    regions = {name: number for number, name in enumerate(place.regions)}
    chunks = {chain: _nested([_chunk(chunk, regions) for chunk in of], _DEEP) for chain, of in place.chunks.items()}
    rows = {
        "fixed": _list((_of_chain({"name": a.name, "at": a.at, "bytes": a.bytes}, a.chain) for a in place.fixed), _INNER),
        "regions": _list(map(_region, place.regions.values()), _INNER),
        "lists": _by_chain({chain: _nested(list(entries.json_rows()), _DEEP) for chain, entries in place.lists.items()}),
        "chunks": _by_chain(chunks),
        "held": _list(map(_held, place.held), _INNER),
        "owned": _list(map(_owned, place.owned), _INNER),
    }
    return _object({**{key: json.dumps(value) for key, value in plain.items()}, **rows}, "  ")


def _by_chain(rows: Mapping[str, str]) -> str:
    return _object(rows, _INNER)


def _region(region: Region) -> dict[str, Any]:
    fields = {"name": region.name, "base": region.base, "stride": region.stride, "slots": region.slots, "bytes": region.bytes}
    return _of_chain(fields, region.chain)


def _chunk(chunk: Chunk, regions: Mapping[str, int]) -> str:
    fields = {
        "stage": json.dumps(chunk.stage),
        "meaning": json.dumps(chunk.meaning),
        "buffers": _list(((b.name, regions[b.region], b.at, b.bytes) for b in chunk.buffers), _DEEPER),
        "weight": json.dumps(chunk.weight),
        "rows": _object({phase: _list(map(_row, of), _DEEPER + " ") for phase, of in chunk.rows.items()}, _DEEPER),
        "heads": json.dumps(chunk.heads),
        "inputs": json.dumps(chunk.inputs),
        "values": json.dumps(chunk.values),
        "uses": _list(map(_use, chunk.uses), _DEEPER),
    }
    if chunk.logits is not None:
        fields["logits"] = json.dumps({"dtype": chunk.logits.dtype, "shape": chunk.logits.shape, "buffer": chunk.logits.buffer})
    return _object(fields, _DEEP + " ")


def _row(row: Row) -> tuple[Any, ...]:
    return (row.routine, row.path, row.name, row.buffers)


def _use(use: Use) -> dict[str, Any]:
    return {"parameter": use.parameter, "index": use.index, "phase": use.phase, "levels": use.levels}


def _held(held: Held) -> dict[str, Any]:
    return {"parameter": held.parameter, "master": held.master, "copy": held.copy, "init": _call(held.init), "meaning": held.meaning}


def _owned(one: OwnedParameter) -> dict[str, Any]:
    return {
        "parameter": one.parameter,
        "elements": one.elements,
        "sharing": one.sharing,
        "gradient": one.gradient,
        "update": one.update,
        "reads": one.reads,
        "work": one.work,
        "meaning": one.meaning,
    }


def _call(call: Call) -> tuple[Any, ...]:
    return (call.routine, call.at)


def _of_chain(fields: dict[str, Any], chain: str | None) -> dict[str, Any]:
    return fields if chain is None else {**fields, "chain": chain}
