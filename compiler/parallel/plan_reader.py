"""plan.json -> Planned; nothing that the proof or the tables of a program would have to guess."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError
from mlc.ir.dtypes import DTYPES
from mlc.lower.arrangement import arrangement_of
from mlc.mesh import AXES, Mesh
from mlc.parallel.entries import COMPUTE, RESTS, Entries, packed
from mlc.parallel.plan_schema import fault
from mlc.parallel.planned import (
    CHAINS,
    CHANNEL_KINDS,
    FED,
    MOST_ROUNDS,
    VERSION,
    Area,
    Arranged,
    Buffer,
    Call,
    Channel,
    Chunk,
    Columns,
    Held,
    Logits,
    Operand,
    OwnedParameter,
    ParameterKind,
    Place,
    Planned,
    PlannedParameter,
    Region,
    Row,
    Signature,
    StageNote,
    Use,
)
from mlc.parallel.shards import SHARINGS
from mlc.parallel.sweeps import CONDITIONS, KERNELS, MOMENTS, OPERANDS, OVER, RANGES, Sweep, SweepCall
from mlc.resources import read_text

#: A plan of a thousand ranks has some tens of megabytes.
MOST_PLAN_BYTES = 1 << 30

_OPERAND = re.compile(r"(read|write|add|work) (\d{1,18})( each)?(?: over (\d{1,6}))?(?: as (.{1,1000}))?")


def load_plan(path: Path) -> dict[str, Any]:
    """The content of a plan.json. raises: E1201"""
    try:
        content = parse_plan(read_text(path, MOST_PLAN_BYTES))
    except OSError as problem:
        raise refusal("E1201", f"cannot read {path}: {problem.strerror or problem}") from problem
    except RecursionError as problem:
        raise refusal("E1201", f"{path} is no plan: it nests too deeply") from problem
    except ValueError as problem:
        raise refusal("E1201", f"{path} is not JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise refusal("E1201", f"{path} holds no plan")
    return content


def parse_plan(text: str) -> Any:
    """The content of plan.json. The lists of a place are packed as soon as they are read: of a large plan they are the most by far."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What is no list of rows stays as it is, and is refused with its place in the file. raises: ValueError for a key twice"""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"an object has {twice!r} twice")
    lists = content.get("lists")
    if isinstance(lists, dict) and all(isinstance(rows, list) for rows in lists.values()):
        with suppress(TypeError, ValueError):
            content["lists"] = {chain: packed(rows) for chain, rows in lists.items()}
    return content


def refusal(code: str, message: str) -> MlcError:
    """One diagnostic that points at no source."""
    return MlcError([Diagnostic(code, message, NO_SPAN)])


def read_plan(content: Mapping[str, Any]) -> Planned:
    """The plan in a parsed plan.json. raises: E1201 where something is missing or not of its kind"""
    if content.get("version") != VERSION:
        raise refusal("E1201", f"plan.json has version {content.get('version')!r}, this mlc reads version {VERSION}")
    if found := fault(content):
        raise refusal("E1201", f"plan.json is damaged: {found}")
    with reading():
        planned = _read(content)
        _check_references(planned)
    return planned


@contextmanager
def reading() -> Iterator[None]:
    """Whatever goes wrong inside is the fault of the plan.json that is read. raises: E1201"""
    try:
        yield
    except ValueError as problem:  # what a reader refuses, in its words
        raise refusal("E1201", f"plan.json is damaged: {problem}") from problem
    except (KeyError, TypeError, IndexError, AttributeError) as problem:
        raise refusal("E1201", f"plan.json is damaged: {type(problem).__name__} {problem}") from problem


def _read(content: Mapping[str, Any]) -> Planned:
    stages = content["stages"]
    planned = Planned(
        model=str(content["model"]),
        mesh=Mesh(**{axis: _count(content["mesh"][axis]) for axis in AXES}),
        schedule=str(content["schedule"]),
        microbatches=_count(content["microbatches"]),
        groups=_count(content["groups"]),
        scratch_bytes_per_thread=_whole(content["scratch_bytes_per_thread"]),
        flops=_whole(content["flops_per_microbatch"]),
        recomputed_flops=_whole(content.get("recomputed_flops_per_microbatch", 0)),
        stages=tuple(_whole(s["place"]) for s in stages),
        calls=tuple(tuple(map(str, s["calls"])) for s in stages),
        recompute=tuple(tuple(map(str, s.get("recompute", ()))) for s in stages),
        notes=tuple(StageNote(s["cost"], s["why"]) for s in stages),
        parameters=_parameters(content["parameters"]),
        scalars=tuple(map(str, content["scalars"])),
        routines=tuple(map(_routine, content["routines"])),
        sweeps=tuple(map(_sweep, content["sweeps"])),
        columns={chain: _columns(of) for chain, of in content["columns"].items()},
        channels={c["name"]: _channel(c) for c in content["channels"]},
        places=tuple(map(_place, content["places"])),
        rounds={chain: _count(content["rounds"][chain]) for chain in CHAINS if chain in content["rounds"]},
        undecoded=str(content.get("undecoded", "")),
    )
    if set(planned.columns) != set(planned.rounds):
        raise ValueError(f"columns are of {', '.join(sorted(planned.columns))}, rounds of {', '.join(sorted(planned.rounds))}")
    if planned.undecoded and "decode" in planned.rounds:
        raise ValueError("undecoded says why there is no chain decode, and there is one")
    if len(planned.channels) != len(content["channels"]):
        raise ValueError("two channels have one name")
    if len(planned.places) != planned.pp:
        raise ValueError(f"{len(planned.places)} places for pp = {planned.pp}")
    if len(stages) != content["chunks"] * planned.pp or [s["stage"] for s in stages] != list(range(len(stages))):
        raise ValueError(f"its stages are not 0 to {content['chunks'] * planned.pp - 1}")
    for parameter, p in zip(planned.parameters, content["parameters"], strict=True):
        if p["elements"] != parameter.kind.elements:
            raise ValueError(f"{parameter.name} has {p['elements']} elements, its shape {parameter.kind.elements}")
    return planned


def _check_references(planned: Planned) -> None:
    """Numbers of parameters, chunks, stages, routines and buffers are of some that there are; choices are of the calls of their stage."""
    for calls, choices in zip(planned.calls, planned.recompute, strict=True):
        if choices and len(choices) != len(calls):
            raise ValueError(f"a stage of {len(calls)} calls says of {len(choices)} what is made again")
    for place in planned.places:
        for one in place.owned:
            _below(one.parameter, len(planned.parameters), "parameters")
            if one.update is not None:
                _below(one.update, len(planned.routines), "routines")
        for held in place.held:
            _below(held.parameter, len(planned.parameters), "parameters")
            _check_call(planned, held.init)
        for chain, chunks in place.chunks.items():
            _below(len(chunks), len(place.stages) + 1, f"chunks of {chain}")
            for chunk in chunks:
                _check_chunk(planned, chain, chunk)
    for parameter in planned.parameters:
        for stage, _ in parameter.uses:
            _below(stage, len(planned.stages), "stages")
    for chain, rounds in planned.rounds.items():
        _below(rounds, MOST_ROUNDS + 1, f"microbatches of {chain}")
    for chain, columns in planned.columns.items():
        _below(columns.losses, len(columns.columns) + 1, f"columns of {chain}")
        _below(columns.logits_stage + 1, len(planned.stages) + 1, "stages")
        for _, stage in columns.columns:
            _below(stage, len(planned.stages), "stages")


def _check_call(planned: Planned, call: Call) -> None:
    routine = planned.routines[_below(call.routine, len(planned.routines), "routines")]
    _same(len(call.at), len(routine.operands), f"operands of {routine.name}")


def _check_chunk(planned: Planned, chain: str, chunk: Chunk) -> None:
    rows = [row for of in chunk.rows.values() for row in of]
    for row in rows:
        routine = planned.routines[_below(row.routine, len(planned.routines), "routines")]
        _same(len(row.buffers), len(routine.operands), f"operands of {routine.name}")
        for buffer in row.buffers:
            _below(buffer, len(chunk.buffers), "buffers")
    columns = planned.columns[chain].columns
    for column, buffer in chunk.values:
        _below(column, len(columns), f"columns of {chain}")
        _below(buffer, len(chunk.buffers), "buffers")
    if chunk.weight is not None:
        _below(chunk.weight, len(chunk.buffers), "buffers")
    for _, buffer in chunk.inputs:
        _below(buffer, len(chunk.buffers), "buffers")
    if chunk.logits is not None:
        _below(chunk.logits.buffer, len(chunk.buffers), "buffers")
    for use in chunk.uses:
        _below(use.parameter, len(planned.parameters), "parameters")


def _same(value: int, wanted: int, what: str) -> None:
    if value != wanted:
        raise ValueError(f"{value} {what}, which wants {wanted}")


def _below(value: int, count: int, what: str) -> int:
    if not 0 <= value < count:
        raise ValueError(f"{value} is outside of {count} {what}")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= 1 << 62:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _chain(value: Any) -> str | None:
    if value is not None and value not in CHAINS:
        raise ValueError(f"{value!r} is no chain")
    return value


def _count(value: Any) -> int:
    if _whole(value) < 1:
        raise ValueError(f"{value} is not at least 1")
    return value


def _optional(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _parameters(of: Iterable[Mapping[str, Any]]) -> tuple[PlannedParameter, ...]:
    kinds: dict[ParameterKind, ParameterKind] = {}
    return tuple([_parameter(p, kinds) for p in of])


def _parameter(p: Mapping[str, Any], kinds: dict[ParameterKind, ParameterKind]) -> PlannedParameter:
    """kinds: those that there are already"""
    kind = ParameterKind(
        dtype=str(p["dtype"]),
        shape=tuple(map(_count, p["shape"])),
        fed=_fed(p["fed"]),
        states=tuple((str(s["name"]), tuple(map(_count, s["shape"]))) for s in p["states"]),
        elementwise=bool(p["elementwise"]),
        update=_optional(p["update"]),
        arranged=None if p.get("arranged") is None else _arranged(p["arranged"]),
    )
    uses = tuple((_whole(u["stage"]), str(u["phase"])) for u in p["uses"])
    return PlannedParameter(str(p["name"]), kinds.setdefault(kind, kind), _whole(p["owner"]), uses)


def _arranged(a: Mapping[str, Any]) -> Arranged:
    master, copy, *states = [None if text is None else arrangement_of(text) for text in (a["master"], a["copy"], *a["states"])]
    return Arranged(master, copy, tuple(states))


def _fed(value: str) -> str:
    if value not in FED:
        raise ValueError(f"{value!r} feeds no parameter")
    return value


def _routine(r: Mapping[str, Any]) -> Signature:
    return Signature(str(r["name"]), _whole(r["flops"]), _whole(r["scratch"]), bool(r["flat"]), tuple(map(_operand, r["operands"])))


def _operand(text: str) -> Operand:
    match = _OPERAND.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no operand of a routine")
    use, size, each, over, arranged = match.groups()
    lies = None if arranged is None else arrangement_of(arranged)
    return Operand(use, int(size), -1 if over is None else int(over), each is not None, lies)


def _sweep(s: Mapping[str, Any]) -> Sweep:
    only = tuple(_word(word, CONDITIONS, "condition") for word in s["only"])
    words = _word(s["moment"], MOMENTS, "moment of sweeps"), _word(s["over"], OVER, "set"), only, _word(s["range"], RANGES, "range")
    return Sweep(*words, bool(s["gated"]), tuple(map(_sweep_call, s["calls"])))


def _sweep_call(call: list[str]) -> SweepCall:
    kernel, *operands = call
    wanted = KERNELS[_word(kernel, KERNELS, "kernel of sweeps")]
    _same(len(operands), len(wanted.operands), f"operands of {kernel}")
    return SweepCall(kernel, tuple(_word(word, OPERANDS, "operand of sweeps") for word in operands))


def _word(word: str, words: Container[str], what: str) -> str:
    if word not in words:
        raise ValueError(f"{word!r} is no {what}")
    return word


def _columns(c: Mapping[str, Any]) -> Columns:
    return Columns(tuple((str(name), _whole(stage)) for name, stage in c["columns"]), _whole(c["losses"]), _whole(c["logits_stage"]))


def _channel(c: Mapping[str, Any]) -> Channel:
    if c["kind"] not in CHANNEL_KINDS:
        raise ValueError(f"{c['kind']!r} is no kind of channel")
    numbers = [_whole(c[key]) for key in ("from", "to", "slot_bytes", "slots", "outbox_slots", "inbox", "headers", "outbox")]
    return Channel(str(c["name"]), str(c["kind"]), _chain(c["chain"]), *numbers)


def _region(r: Mapping[str, Any]) -> Region:
    return Region(str(r["name"]), _whole(r["base"]), _whole(r["stride"]), _count(r["slots"]), _whole(r["bytes"]), _chain(r.get("chain")))


def _place(p: Mapping[str, Any]) -> Place:
    regions = {r["name"]: _region(r) for r in p["regions"]}
    if len(regions) != len(p["regions"]):
        raise ValueError("two regions of a place have one name")
    names = list(regions)
    named = _buffers(p["named"], names)
    return Place(
        number=_whole(p["place"]),
        arena_bytes=_count(p["arena_bytes"]),
        inbox_bytes=_whole(p["inbox_bytes"]),
        record=_whole(p["record"]),
        microbatches=_whole(p["microbatches"]),
        results=_whole(p["results"]),
        levels=_whole(p["levels"]),
        stages=tuple(map(_whole, p["stages"])),
        fixed=tuple(Area(str(f["name"]), _whole(f["at"]), _whole(f["bytes"]), _chain(f.get("chain"))) for f in p["fixed"]),
        regions=regions,
        named=named,
        lists={chain: rows if isinstance(rows, Entries) else packed(rows) for chain, rows in p["lists"].items()},
        chunks={chain: tuple(_chunk(c, names, named) for c in of) for chain, of in p["chunks"].items()},
        held=tuple(map(_held, p["held"])),
        owned=tuple(map(_owned, p["owned"])),
        states=_area("optimizer states", p["shards"]["states"]),
        work=_area("work of updates", p["shards"]["work"]),
        guests=_area("sums of absent replicas", p["shards"]["guests"]),
    )


def _buffers(of: Iterable[Any], regions: list[str]) -> tuple[Buffer, ...]:
    return tuple(Buffer(name, regions[_below(region, len(regions), "regions")], at, size) for name, region, at, size in of)


def _chunk(c: Mapping[str, Any], regions: list[str], named: tuple[Buffer, ...]) -> Chunk:
    """named: the buffers of its place that it has first"""
    logits = c.get("logits")
    return Chunk(
        stage=_whole(c["stage"]),
        buffers=(*named, *_buffers(c["buffers"], regions)),
        rows={phase: tuple(map(_row, of)) for phase, of in c["rows"].items() if _known(phase)},
        heads={phase: _head(c, phase, head) for phase, head in c["heads"].items()},
        weight=_optional(c["weight"]),
        inputs=tuple((_whole(number), _whole(buffer)) for number, buffer in c["inputs"]),
        values=tuple((_whole(column), _whole(buffer)) for column, buffer in c["values"]),
        uses=tuple(Use(_whole(u["parameter"]), _whole(u["index"]), str(u["phase"]), tuple(map(_whole, u["levels"]))) for u in c["uses"]),
        logits=None if logits is None else Logits(_dtype(logits["dtype"]), tuple(map(_count, logits["shape"])), _whole(logits["buffer"])),
        meaning=str(c["meaning"]),
    )


def _dtype(name: str) -> str:
    if name not in DTYPES:
        raise ValueError(f"{name!r} is no dtype")
    return name


def _head(c: Mapping[str, Any], phase: str, head: Any) -> int:
    if phase not in RESTS or not 0 < _whole(head) < len(c["rows"].get(phase, ())):
        raise ValueError(f"{head!r} rows of {phase!r} are no part of it")
    return head


def _known(phase: str) -> bool:
    if phase not in COMPUTE:
        raise ValueError(f"{phase!r} is no phase of a chunk")
    return True


def _row(row: Any) -> Row:
    routine, path, name, buffers = row
    return Row(routine, path, name, tuple(buffers))


def _held(h: Mapping[str, Any]) -> Held:
    return Held(_whole(h["parameter"]), _whole(h["master"]), _optional(h["copy"]), _call(h["init"]), str(h["meaning"]))


def _call(call: Any) -> Call:
    routine, at = call
    return Call(_whole(routine), tuple(map(_whole, at)))


def _area(name: str, a: Mapping[str, Any]) -> Area:
    return Area(name, _whole(a["at"]), _whole(a["bytes"]), None)


def _owned(o: Mapping[str, Any]) -> OwnedParameter:
    if o["sharing"] not in SHARINGS:
        raise ValueError(f"{o['sharing']!r} is no way to share out a parameter")
    numbers = _whole(o["parameter"]), _count(o["elements"])
    reads = tuple(map(_whole, o["reads"]))
    places = _optional(o["gradient"]), _optional(o["update"]), reads, _whole(o["work"])
    return OwnedParameter(*numbers, str(o["sharing"]), *places, str(o["meaning"]))
