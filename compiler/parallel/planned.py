"""plan.json as data: what the verifier and the emitter of action tables read, and nothing they would have to guess."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError
from mlc.ir.dtypes import dtype_of
from mlc.mesh import AXES, TREE_NEIGHBOURS, Cohort, Mesh
from mlc.parallel.entries import Entries, packed
from mlc.parallel.plan_schema import fault
from mlc.parallel.shards import SHARINGS, Owned, Sharing
from mlc.resources import read_text

VERSION = 3
CHAINS = ("train", "evaluate", "sample")
#: A plan of a hundred places has some tens of megabytes, whatever the replicas.
MOST_PLAN_BYTES = 1 << 30
#: More microbatches of one replica than any step has.
MOST_ROUNDS = 1 << 20
#: Bytes of the header that a channel has for each sender.
HEADER_BYTES = 256
CHANNEL_KINDS = ("activation", "gradient", "reduction", "parameter", "replicas", "tree")


@dataclass(frozen=True, slots=True)
class Area:
    """Bytes [at, at + bytes) of a place's arena; of one chain, or None: in use in all."""

    name: str
    at: int
    bytes: int
    chain: str | None

    @property
    def end(self) -> int:
        return self.at + self.bytes


@dataclass(frozen=True, slots=True)
class Region:
    """A ring of slots, one a live microbatch; a slot holds `bytes` of its `stride`."""

    name: str
    base: int
    stride: int
    slots: int
    bytes: int
    chain: str | None


@dataclass(frozen=True, slots=True)
class Channel:
    """A directed edge between two places; `source` and `target` are -1 for the tree of all ranks.

    inbox, headers, outbox:  addresses; inbox and headers in the receiver's arena, outbox in the sender's
    """

    name: str
    kind: str
    chain: str | None
    source: int
    target: int
    slot_bytes: int
    slots: int
    outbox_slots: int
    inbox: int
    headers: int
    outbox: int

    def peers(self, replicas: int) -> int:
        """Blocks of slots that a receiver has, one for each sender, and a sender for each receiver."""
        if self.kind == "tree":
            return TREE_NEIGHBOURS
        return Cohort(replicas).blocks if self.kind == "replicas" else 1


@dataclass(frozen=True, slots=True)
class Touch:
    """The regions that a phase of a chunk reads and writes."""

    reads: frozenset[str]
    writes: frozenset[str]


@dataclass(frozen=True, slots=True)
class OwnedParameter:
    """A parameter that the replicas of the place share out; `work`: bytes that its update makes and uses up, where it is whole."""

    parameter: int
    elements: int
    sharing: str
    work: int


@dataclass(frozen=True, slots=True)
class Use:
    """The gradient of one use of a parameter by a chunk of the place; `levels` are addresses of accumulators."""

    parameter: int
    index: int
    chunk: int
    phase: str
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """All that the ranks of one pipeline coordinate have in common. The first inbox_bytes of its arena are what peers write into."""

    number: int
    arena_bytes: int
    inbox_bytes: int
    levels: int
    fixed: tuple[Area, ...]
    regions: Mapping[str, Region]
    phases: Mapping[str, Mapping[str, Touch]]
    lists: Mapping[str, Entries]
    stages: tuple[int, ...]
    owned: tuple[OwnedParameter, ...]
    states: Area
    work: Area
    guests: Area
    uses: tuple[Use, ...]

    def sharing(self, replicas: int, unit: int) -> Sharing:
        """How the replicas share out what the place owns, of elements of `unit` bytes."""
        return Sharing([Owned(one.parameter, one.elements, one.sharing) for one in self.owned], replicas, unit)


@dataclass(frozen=True, slots=True)
class PlannedParameter:
    """`states` are the sizes of its optimizer states in elements; `uses` are (stage, phase)."""

    name: str
    dtype: str
    elements: int
    fed: str
    owner: int
    uses: tuple[tuple[int, str], ...]
    states: tuple[int, ...]
    elementwise: bool
    updated: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """A whole plan. `rounds` are the microbatches of a list of each chain, for one replica; `recompute`: per stage, of each call."""

    model: str
    mesh: Mesh
    microbatches: int
    groups: int
    stages: tuple[int, ...]
    calls: tuple[tuple[str, ...], ...]
    parameters: tuple[PlannedParameter, ...]
    channels: Mapping[str, Channel]
    places: tuple[Place, ...]
    rounds: Mapping[str, int]
    recompute: tuple[tuple[str, ...], ...]

    @property
    def unit(self) -> int:
        """Bytes of an element of a master: the same of all parameters."""
        return max((dtype_of(dtype_of(p.dtype).wide).bytes for p in self.parameters), default=1)

    @property
    def pp(self) -> int:
        """Places of the pipeline."""
        return self.mesh.pp

    @property
    def dp(self) -> int:
        """Replicas."""
        return self.mesh.dp


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
    return json.loads(text, object_hook=_with_packed_lists)


def _with_packed_lists(content: dict[str, Any]) -> dict[str, Any]:
    """What is no list of rows stays as it is, and is refused with its place in the file."""
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
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        raise refusal("E1201", f"plan.json is damaged: {type(problem).__name__} {problem}") from problem


def _read(content: Mapping[str, Any]) -> Planned:
    planned = Planned(
        model=str(content["model"]),
        mesh=Mesh(**{axis: _count(content["mesh"][axis]) for axis in AXES}),
        microbatches=_count(content["microbatches"]),
        groups=_count(content["groups"]),
        stages=tuple(_whole(s["place"]) for s in content["stages"]),
        calls=tuple(tuple(map(str, s["calls"])) for s in content["stages"]),
        parameters=tuple(map(_parameter, content["parameters"])),
        channels={c["name"]: _channel(c) for c in content["channels"]},
        places=tuple(map(_place, content["places"])),
        rounds={chain: _count(content["rounds"][chain]) for chain in CHAINS if chain in content["rounds"]},
        recompute=tuple(tuple(map(str, s.get("recompute", ()))) for s in content["stages"]),
    )
    if len(planned.channels) != len(content["channels"]):
        raise ValueError("two channels have one name")
    if len(planned.places) != planned.pp:
        raise ValueError(f"{len(planned.places)} places for pp = {planned.pp}")
    return planned


def _check_references(planned: Planned) -> None:
    """Numbers of parameters, chunks and stages are of some that there are."""
    for place in planned.places:
        for one in place.owned:
            _below(one.parameter, len(planned.parameters), "parameters")
        for use in place.uses:
            _below(use.parameter, len(planned.parameters), "parameters")
            _below(use.chunk, len(place.stages), "chunks")
    for parameter in planned.parameters:
        for stage, _ in parameter.uses:
            _below(stage, len(planned.stages), "stages")
    for chain, rounds in planned.rounds.items():
        _below(rounds, MOST_ROUNDS + 1, f"microbatches of {chain}")


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


def _names(values: Any) -> frozenset[str]:
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r} are not names")
    return frozenset(values)


def _count(value: Any) -> int:
    if _whole(value) < 1:
        raise ValueError(f"{value} is not at least 1")
    return value


def _parameter(p: Mapping[str, Any]) -> PlannedParameter:
    sizes = []
    for state in p["states"]:
        size = 1
        for extent in state["shape"]:
            size *= _count(extent)
        sizes.append(size)
    uses = tuple((_whole(u["stage"]), str(u["phase"])) for u in p["uses"])
    flags = bool(p["elementwise"]), bool(p["updated"])
    texts = str(p["name"]), str(p["dtype"])
    return PlannedParameter(*texts, _count(p["elements"]), str(p["fed"]), _whole(p["owner"]), uses, tuple(sizes), *flags)


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
    return Place(
        number=_whole(p["place"]),
        arena_bytes=_count(p["arena_bytes"]),
        inbox_bytes=_whole(p["inbox_bytes"]),
        levels=_whole(p["levels"]),
        fixed=tuple(Area(str(f["name"]), _whole(f["at"]), _whole(f["bytes"]), _chain(f.get("chain"))) for f in p["fixed"]),
        regions=regions,
        phases={chain: {name: _touch(t) for name, t in of.items()} for chain, of in p["phases"].items()},
        lists={chain: rows if isinstance(rows, Entries) else packed(rows) for chain, rows in p["lists"].items()},
        stages=tuple(map(_whole, p["stages"])),
        owned=tuple(map(_owned, p["owned"])),
        states=_area("optimizer states", p["shards"]["states"]),
        work=_area("work of updates", p["shards"]["work"]),
        guests=_area("sums of absent replicas", p["shards"]["guests"]),
        uses=tuple(map(_use, p["uses"])),
    )


def _touch(t: Mapping[str, Any]) -> Touch:
    return Touch(_names(t["reads"]), _names(t["writes"]))


def _area(name: str, a: Mapping[str, Any]) -> Area:
    return Area(name, _whole(a["at"]), _whole(a["bytes"]), None)


def _owned(o: Mapping[str, Any]) -> OwnedParameter:
    if o["sharing"] not in SHARINGS:
        raise ValueError(f"{o['sharing']!r} is no way to share out a parameter")
    return OwnedParameter(_whole(o["parameter"]), _count(o["elements"]), str(o["sharing"]), _whole(o["work"]))


def _use(u: Mapping[str, Any]) -> Use:
    return Use(_whole(u["parameter"]), _whole(u["index"]), _whole(u["chunk"]), str(u["phase"]), tuple(map(_whole, u["levels"])))
