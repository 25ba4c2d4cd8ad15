"""The arena of a place: every buffer an address, every row its operands.

    inbox      at 0: the tree's headers, slots and outbox, which lie alike on every place; headers of all other channels, then the slots
               of those that are of no chain, then those of each chain, for itself
    lasting    record, numbers of microbatches, results, parameters, accumulators, outboxes towards replicas and holders, optimizer state
    chains     each lays out the rest for itself: transient values, what one of its lists keeps for the next, rings, outboxes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from operator import add, itemgetter

from mlc.diagnostics import InternalError
from mlc.frozen import frozen, tuples_of
from mlc.ir.dtypes import dtype_of
from mlc.lower.layout import ALIGNMENT, aligned
from mlc.lower.program import Lowered
from mlc.mesh import Cohort
from mlc.parallel.meaning import bound_buffers, init_meaning, rows_meaning, update_meaning
from mlc.parallel.planned import (
    HEADER_BYTES,
    KEPT,
    NUMBER_BYTES,
    RECORD_HEAD_BYTES,
    RECORD_ONE,
    Area,
    Buffer,
    Call,
    Channel,
    Chunk,
    Held,
    Logits,
    OwnedParameter,
    ParameterKind,
    Place,
    PlannedParameter,
    Region,
    Use,
    results_bytes,
)
from mlc.parallel.planned import Row as PlannedRow
from mlc.parallel.shards import Sharing, line_bytes
from mlc.parallel.tree import most_roots
from mlc.plan.boxes import Edge, ring_slots
from mlc.plan.chains import PlannedChain
from mlc.plan.layout import Layout
from mlc.plan.lists import window
from mlc.plan.regions import BOXES, TRANSIENT, VALUES, StageMemory
from mlc.plan.routines import Routines
from mlc.plan.rows import Row, StageRows, input_buffer
from mlc.plan.uses import Use as ParameterUse

PAGE_BYTES = 4096

#: Of an OwnedParameter: update, reads, work, meaning.
_Updated = tuple[int | None, tuple[int, ...], int, str]


@frozen
class Sketch:
    """A plan before addresses.

    uses:      per call of the train chain; numbers: of parameters by name
    held:      per place, numbers of parameters
    rounded:   per place, those of which microbatches have copies of their own
    sharings:  per place
    """

    lowered: Lowered
    layout: Layout
    chains: tuple[PlannedChain, ...]
    uses: Mapping[int, Sequence[ParameterUse]]
    numbers: Mapping[str, int]
    parameters: tuple[PlannedParameter, ...]
    held: Sequence[Sequence[int]]
    rounded: Sequence[frozenset[str]]
    sharings: Sequence[Sharing]
    levels: int
    scalars: tuple[str, ...]
    routines: Routines


def place_inboxes(channels: Sequence[Channel], layout: Layout) -> tuple[list[Channel], list[int]]:
    """Channels with the addresses of their inboxes, and of the tree's outbox; and per place, the bytes of its inbox."""
    tree = next((c for c in channels if c.kind == "tree"), None)
    bytes_of = [0] * layout.pp
    placed: dict[str, Channel] = {}
    if tree is not None:
        slots = aligned(tree.peers(layout.dp) * HEADER_BYTES)
        outbox = slots + tree.peers(layout.dp) * tree.slots * tree.slot_bytes
        placed[tree.name] = replace(tree, headers=0, inbox=slots, outbox=outbox)
        bytes_of = [outbox + tree.peers(layout.dp) * tree.outbox_slots * tree.slot_bytes] * layout.pp
    others = [c for c in channels if c.kind != "tree"]
    for channel in others:
        placed[channel.name] = replace(channel, headers=bytes_of[channel.target])
        bytes_of[channel.target] += channel.peers(layout.dp) * HEADER_BYTES
    _place_slots((placed[c.name] for c in others if c.chain is None), layout, bytes_of, placed)
    lasting = tuple(bytes_of)
    for chain in dict.fromkeys(c.chain for c in others if c.chain is not None):
        of_chain = list(lasting)
        _place_slots((placed[c.name] for c in others if c.chain == chain), layout, of_chain, placed)
        bytes_of = list(map(max, bytes_of, of_chain))
    return [placed[c.name] for c in channels], [aligned(size, PAGE_BYTES) for size in bytes_of]


def _place_slots(channels: Iterable[Channel], layout: Layout, bytes_of: list[int], placed: dict[str, Channel]) -> None:
    """Gives the inboxes of channels their addresses, each behind what its place has already."""
    for channel in list(channels):
        placed[channel.name] = replace(channel, inbox=bytes_of[channel.target])
        bytes_of[channel.target] += channel.peers(layout.dp) * channel.slots * channel.slot_bytes


class PlacePlanner:
    """Lays out one place. After `run`, `channels` have the addresses of this place's outboxes.

    fixed:    what lies at one address for all microbatches
    unit:     bytes of a number of the wide dtype
    named:    address and bytes of each buffer that rows name and that lasts; shared: the buffers; numbers: by name
    kept:     the same of each that one list leaves to the next, for its chain alone
    inits:    number and meaning of each routine of an initial value
    regions:  the first is the arena
    """

    def __init__(self, sketch: Sketch, place: int, channels: Sequence[Channel], inbox_bytes: int):
        self.sketch = sketch
        self.place = place
        self.program = sketch.lowered.step.program
        self.unit = dtype_of(self.program.wide).bytes
        self.channels = {c.name: c for c in channels}
        self.inbox_bytes = inbox_bytes
        self.bytes = inbox_bytes
        self.fixed: list[tuple[str, int, int, str | None]] = []
        self.named: dict[str, tuple[int, int]] = {}
        self.shared: tuple[Buffer, ...] = ()
        self.numbers: dict[str, int] = {}
        self.kept: dict[str, tuple[int, int]] = {}
        self.inits: dict[str, tuple[int, str]] = {}
        self.regions = {"arena": Region("arena", 0, 0, 1, 0, None)}
        self.stages = tuple(s for s, p in enumerate(sketch.layout.schedule.placement) if p == place)

    def run(self) -> Place:
        """Give everything its address."""
        scalars = self.sketch.scalars
        record = self._take("record", RECORD_HEAD_BYTES + self.unit * len(scalars))
        first = record + RECORD_HEAD_BYTES
        self.named.update((f"scalar {name}", (first + self.unit * n, self.unit)) for n, name in enumerate(scalars))
        self.named["one"] = record + RECORD_ONE, self.unit
        most = max(chain.table.schedule.microbatches for chain in self.sketch.chains)
        microbatches = self._take("microbatches", NUMBER_BYTES * most)
        results = self._take("results", results_bytes(chain.columns for chain in self.sketch.chains))
        held = tuple(tuples_of(Held, [self._hold(number) for number in self.sketch.held[self.place]]))
        uses = self._accumulators()
        for channel in list(self.channels.values()):
            if channel.source == self.place and channel.chain is None:
                self._outbox(channel)
        states, work, guests = self._states(), self._work_of_updates(), self._guests(uses)
        rows = [row for chain in self.sketch.chains for stage in self.stages for row in chain.rows[stage].rows]
        read = set[str]().union(*(row.buffers for row in rows))
        shared = [(name, "arena", at, size) for name, (at, size) in self.named.items() if name in read]
        self.shared = tuple(tuples_of(Buffer, shared))
        self.numbers = {buffer.name: number for number, buffer in enumerate(self.shared)}
        base = end = self.bytes
        chunks: dict[str, tuple[Chunk, ...]] = {}
        for chain in self.sketch.chains:
            self.bytes = base
            chunks[chain.staged.kind] = self._chain(chain, uses)
            end = max(end, self.bytes)
        return Place(
            number=self.place,
            arena_bytes=end,
            inbox_bytes=self.inbox_bytes,
            record=record,
            microbatches=microbatches,
            results=results,
            levels=self.sketch.levels,
            stages=self.stages,
            fixed=tuple(tuples_of(Area, self.fixed)),
            regions=self.regions,
            named=self.shared,
            lists={chain.staged.kind: chain.lists[self.place] for chain in self.sketch.chains},
            chunks=chunks,
            held=held,
            owned=self._owned(uses),
            states=states,
            work=work,
            guests=guests,
        )

    # ---- memory that lasts ----

    def _take(self, name: str, size: int, chain: str | None = None) -> int:
        """An address for `size` bytes more."""
        at = self.bytes
        self.bytes = at - -size // ALIGNMENT * ALIGNMENT
        self.fixed.append((name, at, size, chain))
        return at

    def _hold(self, number: int) -> tuple[int, int, int | None, Call, str]:
        """A parameter in the memory of the place, as a Held: its master, and its copy where rows read a narrower dtype."""
        name, routine = self.program.parameters[number].name, self.sketch.lowered.inits[number]
        stored, read = self.sketch.lowered.parameters[name], f"parameter {name}"
        master, copy = self._take(read, stored.master.bytes), None
        self.named[read] = master, stored.master.bytes
        if stored.copy is not None and name not in self.sketch.rounded[self.place]:
            copy = self._take(f"copy of {name}", stored.copy.bytes)
            self.named[read] = copy, stored.copy.bytes
        at = (master, self._take(f"work of {name} init", routine.work_bytes)) if routine.work_bytes else (master,)
        if routine.name not in self.inits:
            called = self.sketch.routines.number(routine)
            self.inits[routine.name] = called, init_meaning(self.sketch.routines.signatures[called])
        called, meaning = self.inits[routine.name]
        return number, master, copy, Call(called, at), meaning

    def _accumulators(self) -> dict[int, list[Use]]:
        """The uses of each stage of the place, with memory for all levels, but for those that a microbatch has for itself."""
        train, of_call = self.sketch.chains[0], self.sketch.uses
        found: dict[int, list[Use]] = {stage: [] for stage in self.stages}
        for stage in self.stages:
            alone = frozenset(train.rows[stage].gradients)
            made: list[tuple[int, int, str, tuple[int, ...]]] = []
            for use in [use for call in train.staged.calls[stage] for use in of_call.get(call, ())]:
                name, index, _, _, phase, buffer = use
                areas = () if buffer in alone else self._levels(use)
                made.append((self.sketch.numbers[name], index, phase, areas))
            found[stage] = tuples_of(Use, made)
        return found

    def _levels(self, use: ParameterUse) -> tuple[int, ...]:
        """Memory of its own for each level of a use."""
        size = self.sketch.lowered.parameters[use.parameter].master.bytes
        areas = tuple([self._take(use.level(level), size) for level in range(self.sketch.levels)])
        self.named[use.buffer] = areas[0], size
        return areas

    def _outbox(self, channel: Channel) -> None:
        size = channel.peers(self.sketch.layout.dp) * channel.outbox_slots * channel.slot_bytes
        self.channels[channel.name] = replace(channel, outbox=self.bytes)
        self.bytes += aligned(size)

    # ---- optimizer ----

    def _owned(self, uses: Mapping[int, list[Use]]) -> tuple[OwnedParameter, ...]:
        """The parameters of the place's own, each with what updates it."""
        parameters, owned = self.sketch.parameters, self.sketch.sharings[self.place].owned
        kinds = {id(kind): kind for kind in [parameters[number].kind for number, _, _ in owned]}
        updates = {number: self._updated(kind) for number, kind in kinds.items()}
        gradients = {use.parameter: use.levels[0] for of in uses.values() for use in of if use.ordinal == 0}
        made = [(number, *rest, gradients.get(number), *updates[id(parameters[number].kind)]) for number, *rest in owned]
        return tuple(tuples_of(OwnedParameter, made))

    def _updated(self, kind: ParameterKind) -> _Updated:
        if kind.update is None:
            return None, (), 0, update_meaning(kind, None, ())
        scalars = self.program.updates[kind.update].scalars
        reads = tuple([self.named[f"scalar {scalar}"][0] for scalar in scalars])
        update = self.sketch.routines.number(self.sketch.lowered.updates[kind.update])
        meaning = update_meaning(kind, self.sketch.routines.signatures[update], scalars)
        return update, reads, self._work_bytes(kind), meaning

    def _shared(self, name: str, size: int) -> Area:
        """Memory that each replica lays out for itself; the largest fits."""
        at = self.bytes
        self.bytes += aligned(size)
        return Area(name, at, size, None)

    def _states(self) -> Area:
        """Optimizer states."""
        sharing = self.sketch.sharings[self.place]
        kinds = {one.parameter: self.sketch.parameters[one.parameter].kind for one in sharing.owned}
        buffers = {number: len(kind.states) for number, kind in kinds.items()}
        apart = {number: kind for number, kind in kinds.items() if kind.sharing == "whole"}
        whole = {number: sum(line_bytes(of.stored_state(n), self.unit) for n in range(len(of.states))) for number, of in apart.items()}
        return self._shared("optimizer states", sharing.most(buffers, whole))

    def _work_of_updates(self) -> Area:
        """The results of rules that are not elementwise, which lie beside what they read, and their work memory."""
        sharing = self.sketch.sharings[self.place]
        apart = [one.parameter for one in sharing.owned if one.sharing == "whole"]
        sizes = {number: self._work_bytes(self.sketch.parameters[number].kind) for number in apart}
        return self._shared("work of updates", sharing.most({}, sizes))

    def _work_bytes(self, kind: ParameterKind) -> int:
        """What the update of a parameter that is not sliced makes and uses up."""
        if kind.update is None:
            return 0
        work = self.sketch.lowered.updates[kind.update].work_bytes
        if kind.sharing == "sliced" and work:
            raise InternalError(f"plan: the elementwise update {kind.update} wants work memory")
        if kind.sharing != "whole":
            return aligned(work)
        results = [kind.stored, *map(kind.stored_state, range(len(kind.states)))]
        return sum(line_bytes(size, self.unit) for size in results) + aligned(work)

    def _guests(self, uses: Mapping[int, list[Use]]) -> Area:
        """Sums of absent replicas, chunk by chunk, where the replicas are no power of two."""
        layout = self.sketch.layout
        width = Cohort(layout.dp).most_hosted
        most = max((self._hosted(of, width) for of in uses.values()), default=0) if width else 0
        return self._shared("sums of absent replicas", most * most_roots(layout.groups, layout.dp))

    def _hosted(self, uses: Sequence[Use], width: int) -> int:
        """The most bytes that a run of so many portions has of the gradients of a chunk."""
        total = 0
        for place in {self.sketch.parameters[use.parameter].owner for use in uses}:
            sharing = self.sketch.sharings[place]
            count = Counter(use.parameter for use in uses)
            whole = {number: times * line_bytes(self.program.parameters[number].type.size, self.unit) for number, times in count.items()}
            total += sharing.most(count, whole, width)
        return total

    # ---- chains ----

    def _chain(self, chain: PlannedChain, uses: dict[int, list[Use]]) -> tuple[Chunk, ...]:
        """The chunks of a chain, and all memory that is only its own."""
        kind = chain.staged.kind
        size = max((chain.memories[stage].transient for stage in self.stages), default=0)
        transient = self._take(f"{TRANSIENT}.{kind}", size, kind) if size else 0
        for stage in self.stages:
            for name, size in chain.rows[stage].kept.items():
                self.kept[name] = self._take(name, size, kind), size
        self._shared_outboxes(chain)
        for edge in chain.edges[self.place]:
            self._edge(chain, edge)
        for chunk, stage in enumerate(self.stages):
            memory = chain.memories[stage]
            for name, ring in memory.rings.items():
                if name not in BOXES:
                    times = [chain.table.times[stage, phase].positions for phase in (ring.phases[0], ring.phases[-1])]
                    slots = chain.table.schedule.microbatches if name == VALUES else window(*times)
                    self._region(f"{kind}.{chunk}.{name}", ring.bytes, slots, kind)
            self._own_gradients(chain, chunk, uses)
        return tuple([self._chunk(chain, chunk, transient, uses) for chunk in range(len(self.stages))])

    def _own_gradients(self, chain: PlannedChain, chunk: int, uses: dict[int, list[Use]]) -> None:
        """Addresses of accumulators that lie in the only slot of a ring."""
        stage = self.stages[chunk]
        rows, spots = chain.rows[stage], chain.memories[stage].spots
        if not rows.gradients:
            return
        bases = {ring: self.regions[f"{chain.staged.kind}.{chunk}.{ring}"].base for ring in {spots[name][0] for name in rows.gradients}}
        for name in rows.gradients:
            ring, offset = spots[name]
            self.named[name] = bases[ring] + offset, rows.sizes[name]
        found = [use for call in chain.staged.calls[stage] for use in self.sketch.uses.get(call, ())]
        pairs = zip(found, uses[stage], strict=True)
        uses[stage] = tuples_of(Use, [(*use[:3], (self.named[of.buffer][0],)) for of, use in pairs])

    def _shared_outboxes(self, chain: PlannedChain) -> None:
        """One slot for each group of channels whose messages take turns in it."""
        for group in chain.boxes.turns[self.place].groups:
            turns = [self.channels[name] for name in group]
            self.channels.update((channel.name, replace(channel, outbox=self.bytes)) for channel in turns)
            self.bytes += max(aligned(channel.slot_bytes) for channel in turns)

    def _edge(self, chain: PlannedChain, edge: Edge) -> None:
        """The region of an edge that begins or ends here: the inbox or outbox of its channel, or a ring."""
        placement = self.sketch.layout.schedule.placement
        source, target = placement[edge.source], placement[edge.target]
        if source == target == self.place:
            self._region(edge.name, edge.bytes, ring_slots(edge, chain.table), edge.chain)
        elif source == self.place:
            if edge.name not in chain.boxes.turns[self.place].channels:
                self._outbox(self.channels[edge.name])
            channel = self.channels[edge.name]
            self._add(Region(f"out:{edge.name}", channel.outbox, channel.slot_bytes, channel.outbox_slots, edge.bytes, edge.chain))
        elif target == self.place:
            channel = self.channels[edge.name]
            self._add(Region(f"in:{edge.name}", channel.inbox, channel.slot_bytes, channel.slots, edge.bytes, edge.chain))

    def _region(self, name: str, size: int, slots: int, chain: str) -> None:
        """A ring in the memory of a chain."""
        self._add(Region(name, self.bytes, size, slots, size, chain))
        self.bytes += size * slots

    def _add(self, region: Region) -> None:
        self.regions[region.name] = region

    def _ring_regions(self, chain: PlannedChain, chunk: int) -> dict[str, str]:
        """The region of each ring of a chunk; boxes are those of the edges of its stage."""
        stage, kind = self.stages[chunk], chain.staged.kind
        names = {ring: f"{kind}.{chunk}.{ring}" for ring in chain.memories[stage].rings if ring not in BOXES}
        received, sent, gradients_received, gradients_sent = BOXES
        for edge in chain.edges[self.place]:
            state = edge.kind == "activation"
            if edge.source == stage:
                names[sent if state else gradients_sent] = self._side("out", edge)
            if edge.target == stage:
                names[received if state else gradients_received] = self._side("in", edge)
        return names

    def _side(self, side: str, edge: Edge) -> str:
        return edge.name if edge.name in self.regions else f"{side}:{edge.name}"

    def _chunk(self, chain: PlannedChain, chunk: int, transient: int, uses: Mapping[int, list[Use]]) -> Chunk:
        stage, staged = self.stages[chunk], chain.staged
        rows, memory, logits = chain.rows[stage], chain.memories[stage], staged.chain.logits
        regions = {**self._ring_regions(chain, chunk), TRANSIENT: "arena"}
        buffers = _Buffers(rows, memory, regions, transient, self.numbers, self.kept)
        inputs = {i.name: n for n, i in enumerate(self.program.inputs)}
        routines = self.sketch.routines

        def placed(row: Row) -> PlannedRow:
            return PlannedRow(routines.number(row.routine), row.path, row.name, tuple(map(buffers.number, row.buffers)))

        filled = tuple((inputs[name], buffers.number(input_buffer(name))) for name in rows.inputs)
        weight = None if rows.weight is None else buffers.number(rows.weight)
        once = {id(row): placed(row) for row in rows.rows}
        shown = logits is not None and chain.columns.logits_stage == stage
        kind = staged.types[logits].type if logits is not None and shown else None
        by_phase = {phase: tuple([once[id(row)] for row in of]) for phase, of in memory.rows.items()}
        values = tuple((column, buffers.number(name)) for column, name in chain.values[stage])
        left = None if kind is None else Logits(kind.dtype, kind.shape, buffers.number(f"state.{logits}"))
        made = Chunk(
            stage=stage,
            rows=by_phase,
            heads=chain.boxes.heads[stage],
            weight=weight,
            inputs=filled,
            values=values,
            uses=tuple(uses[stage]) if staged.kind == "train" else (),
            logits=left,
            buffers=(*self.shared, *buffers.own()),
            meaning="",
        )
        bound = bound_buffers(made, chain.columns.losses)
        return replace(made, meaning=rows_meaning(routines.signatures, made.buffers, by_phase, bound))


class _Numbers(dict[str, int]):
    """Of what is met, in that order."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number


class _Buffers:
    """The buffers that the rows of a chunk name: behind those of the place, numbered as they are met.

    named: numbers of those of the place
    kept:  address and bytes of what one list leaves to the next
    """

    def __init__(
        self,
        rows: StageRows,
        memory: StageMemory,
        regions: Mapping[str, str],
        transient: int,
        named: Mapping[str, int],
        kept: Mapping[str, tuple[int, int]],
    ):
        self.rows = rows
        self.memory = memory
        self.regions = regions
        self.transient = transient
        self.first = len(named)
        self.kept = kept
        self.numbers = _Numbers(named)
        self.number = self.numbers.__getitem__

    def own(self) -> list[Buffer]:
        """Those that are not the place's."""
        sizes = {**self.rows.sizes, **{name: size for name, (_, size) in self.kept.items()}}
        regions = {**self.regions, KEPT: "arena"}
        bases = {**dict.fromkeys(regions, 0), TRANSIENT: self.transient}
        spots = {**self.memory.spots, **{name: (KEPT, at) for name, (at, _) in self.kept.items()}}
        names = list(islice(self.numbers, self.first, None))
        rings = list(map(itemgetter(0), map(spots.__getitem__, names)))
        at = map(add, map(bases.__getitem__, rings), map(itemgetter(1), map(spots.__getitem__, names)))
        return tuples_of(Buffer, zip(names, map(regions.__getitem__, rings), at, map(sizes.__getitem__, names), strict=True))
