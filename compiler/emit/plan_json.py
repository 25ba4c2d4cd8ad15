"""plan.json: what a plan decides, for people, `mlc verify` and another compilation (spec/plan.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from mlc.emit.literals import columns, formatted
from mlc.mesh import AXES
from mlc.parallel.planned import (
    VERSION,
    Area,
    Arranged,
    Buffer,
    Channel,
    Chunk,
    Columns,
    Held,
    OwnedParameter,
    ParameterKind,
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

#: Text in parts: put together once, for what is put together at each level is copied as often as there are levels.
_Parts = list[str]


def plan_json(plan: Planned) -> str:
    """The text of plan.json: one line for each stage, parameter, routine, channel, buffer, region, row, action and piece."""
    fields: dict[str, str | _Parts] = {
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
        **({"undecoded": json.dumps(plan.undecoded)} if plan.undecoded else {}),
        "stages": _list(_stages(plan), " "),
        "parameters": _nested(_parameters(plan.parameters), " "),
        "scalars": json.dumps(plan.scalars),
        "routines": _list(map(_routine, plan.routines), " "),
        "sweeps": _list(map(_sweep, plan.sweeps), " "),
        "columns": json.dumps({chain: _columns(columns) for chain, columns in plan.columns.items()}),
        "channels": _list(map(_channel, plan.channels.values()), " "),
        "places": _objects(map(_place, plan.places), " "),
    }
    return "".join([*_object(fields, ""), "\n"])


def _object(fields: Mapping[str, str | _Parts], indent: str) -> _Parts:
    """A JSON object of values that are text already, one a line."""
    parts = ["{"]
    for key, value in fields.items():
        parts.append(f"{',' if len(parts) > 1 else ''}\n{indent} {json.dumps(key)}: ")
        parts += (value,) if isinstance(value, str) else value
    parts.append(f"\n{indent}}}")
    return parts


def _list(items: Iterable[Any], indent: str) -> str:
    """A JSON list, one item a line."""
    # One call of the encoder for all, which takes longer to begin than for an item; a mark shows where they part.
    marked = [part for item in items for part in (_MARK, item)][1:]
    text = json.dumps(marked)[1:-1].replace(f", {json.dumps(_MARK)}, ", f",\n{indent} ")
    return f"[\n{indent} {text}\n{indent}]" if marked else "[]"


def _nested(items: Sequence[str], indent: str) -> _Parts:
    """A JSON list of items that are text already."""
    if not items:
        return ["[]"]
    parts = [f",\n{indent} "] * (2 * len(items) + 1)
    parts[1::2] = items
    parts[0], parts[-1] = f"[\n{indent} ", f"\n{indent}]"
    return parts


def _objects(items: Iterable[_Parts], indent: str) -> _Parts:
    """The same of objects."""
    parts = ["["]
    for item in items:
        parts.append(f"{',' if len(parts) > 1 else ''}\n{indent} ")
        parts += item
    parts.append(f"\n{indent}]" if len(parts) > 1 else "]")
    return parts


def _stages(plan: Planned) -> list[dict[str, Any]]:
    rows = enumerate(zip(plan.stages, plan.calls, plan.recompute, plan.notes, strict=True))
    return [
        {"stage": stage, "place": place, "calls": calls, "recompute": choices, "cost": dict(note.cost), "why": note.why}
        for stage, (place, calls, choices, note) in rows
    ]


# What a plan has many of is text from the first; the rest is values for the encoder.


def _numbers(of: Iterable[int]) -> str:
    return str([*of])


def _maybe(numbers: Iterable[int | None]) -> list[int | str]:
    return ["null" if number is None else number for number in numbers]


def _lists(of: Iterable[Iterable[int]]) -> Iterator[str]:
    return map(str, map(list, of))


def _parameters(of: Iterable[PlannedParameter]) -> list[str]:
    """All but the name is made once for parameters of equal layers."""
    alike: dict[tuple[int, int, tuple[tuple[int, str], ...]], str] = {}
    made: list[str] = []
    for name, kind, owner, uses in of:
        rest = alike.get((id(kind), owner, uses))
        if rest is None:
            rest = alike[id(kind), owner, uses] = _of_parameter(kind, owner, uses)
        made.append(f'{{"name": {quoted(name)}, {rest}')
    return made


def _of_parameter(kind: ParameterKind, owner: int, uses: tuple[tuple[int, str], ...]) -> str:
    fields = {
        "dtype": kind.dtype,
        "shape": kind.shape,
        "elements": kind.elements,
        "fed": kind.fed,
        "owner": owner,
        "uses": [{"stage": stage, "phase": phase} for stage, phase in uses],
        "states": [{"name": name, "shape": of} for name, of in kind.states],
        "elementwise": kind.elementwise,
        "update": kind.update,
        **({} if kind.arranged is None else {"arranged": _arranged(kind.arranged)}),
    }
    return json.dumps(fields)[1:]


def _arranged(arranged: Arranged) -> dict[str, Any]:
    master, copy, *states = [None if of is None else str(of) for of in (arranged.master, arranged.copy, *arranged.states)]
    return {"master": master, "copy": copy, "states": states}


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


def _place(place: Place) -> _Parts:
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
    named = len(place.named)
    chunks = {chain: _objects([_chunk(chunk, named, regions) for chunk in of], _DEEP) for chain, of in place.chunks.items()}
    rows = {
        "fixed": _nested(_areas(place.fixed), _INNER),
        "regions": _list(map(_region, place.regions.values()), _INNER),
        "named": _nested(_buffers(place.named, regions), _INNER),
        "lists": _by_chain({chain: _nested(list(entries.json_rows()), _DEEP) for chain, entries in place.lists.items()}),
        "chunks": _by_chain(chunks),
        "held": _nested(_held(place.held), _INNER),
        "owned": _nested(_owned(place.owned), _INNER),
    }
    return _object({**{key: json.dumps(value) for key, value in plain.items()}, **rows}, "  ")


def _by_chain(rows: Mapping[str, _Parts]) -> _Parts:
    return _object(rows, _INNER)


def _region(region: Region) -> dict[str, Any]:
    fields = {"name": region.name, "base": region.base, "stride": region.stride, "slots": region.slots, "bytes": region.bytes}
    return _of_chain(fields, region.chain)


def _chunk(chunk: Chunk, named: int, regions: Mapping[str, int]) -> _Parts:
    """named: how many of its buffers are those of its place"""
    fields: dict[str, str | _Parts] = {
        "stage": json.dumps(chunk.stage),
        "meaning": json.dumps(chunk.meaning),
        "buffers": _nested(_buffers(chunk.buffers[named:], regions), _DEEPER),
        "weight": json.dumps(chunk.weight),
        "rows": _object({phase: _nested(list(map(_row, of)), _DEEPER + " ") for phase, of in chunk.rows.items()}, _DEEPER),
        "heads": json.dumps(chunk.heads),
        "inputs": json.dumps(chunk.inputs),
        "values": json.dumps(chunk.values),
        "uses": _nested(_uses(chunk.uses), _DEEPER),
    }
    if chunk.logits is not None:
        fields["logits"] = json.dumps({"dtype": chunk.logits.dtype, "shape": chunk.logits.shape, "buffer": chunk.logits.buffer})
    return _object(fields, _DEEP + " ")


def _buffers(of: Sequence[Buffer], regions: Mapping[str, int]) -> list[str]:
    names, within, at, sizes = columns(of, 4)
    return formatted("[%s, %d, %d, %d]", map(quoted, names), map(regions.__getitem__, within), at, sizes)


def _row(row: Row) -> str:
    routine, path, name, buffers = row
    return f"[{routine}, {quoted(path)}, {quoted(name)}, {_numbers(buffers)}]"


def _uses(of: Sequence[Use]) -> list[str]:
    parameters, indices, phases, levels = columns(of, 4)
    form = '{"parameter": %d, "index": %d, "phase": %s, "levels": %s}'
    return formatted(form, parameters, indices, map(quoted, phases), _lists(levels))


def _areas(of: Sequence[Area]) -> list[str]:
    names, at, sizes, chains = columns(of, 4)
    said = {chain: "" if chain is None else f', "chain": {quoted(chain)}' for chain in set(chains)}
    return formatted('{"name": %s, "at": %d, "bytes": %d%s}', map(quoted, names), at, sizes, map(said.__getitem__, chains))


def _held(of: Sequence[Held]) -> list[str]:
    parameters, masters, copies, inits, meanings = columns(of, 5)
    routines, at = columns(inits, 2)
    form = '{"parameter": %d, "master": %d, "copy": %s, "init": [%d, %s], "meaning": %s}'
    return formatted(form, parameters, masters, _maybe(copies), routines, _lists(at), map(quoted, meanings))


def _owned(of: Sequence[OwnedParameter]) -> list[str]:
    parameters, elements, sharings, gradients, updates, reads, work, meanings = columns(of, 8)
    form = (
        '{"parameter": %d, "elements": %d, "sharing": %s, "gradient": %s, "update": %s, "reads": %s, "work": %d, "meaning": %s}'
    )
    how = _maybe(gradients), _maybe(updates), _lists(reads), work, map(quoted, meanings)
    return formatted(form, parameters, elements, map(quoted, sharings), *how)


def _of_chain(fields: dict[str, Any], chain: str | None) -> dict[str, Any]:
    return fields if chain is None else {**fields, "chain": chain}
