"""A plan as C tables: parameters, the rows of every place, and the model that names them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from operator import mod, or_

from mlc.emit import tree as c
from mlc.emit.dtypes import register, stored
from mlc.emit.items import model_items
from mlc.emit.literals import Pools, c_string, c_strings, columns, formatted, packed, write_array
from mlc.emit.printer import braced, designated, initializer
from mlc.ir.program import TIME_SCALAR, Following, Input, Program, path_hashes
from mlc.ir.types import TensorType
from mlc.lower.arrangement import Arrangement
from mlc.lower.program import Lowered
from mlc.parallel.planned import CHAINS, FED, Buffer, Chunk, Columns, Held, OwnedParameter, ParameterKind, Place, Planned, Row, Use
from mlc.parallel.sweeps import OWN, Sweep, SweepCall
from mlc.resources import VERSION

#: An operand of a row: the number of a region above this bit, the offset in its slot below. Region 0 is the arena.
REGION_SHIFT = 48

_PHASES = {"F": "MLC_FORWARD", "I": "MLC_INPUT_GRADIENT", "W": "MLC_WEIGHT_GRADIENT"}

#: Phases of a chunk with the field of mlc_chunk that holds their rows.
_ROWS = {"F": "forward", "I": "input_gradient", "W": "weight_gradient", "B": "backward"}

_NO_TENSOR = initializer((c_string(""), "MLC_F32", 0, "NULL", "MLC_NONE"))


class Tables:
    """Makes the tables of one plan of a program.

    nodes: the tables so far, but for the pools they point into, which come first
    paths: the hash of each call path and parameter name, which keys random numbers, as a literal
    alike: what parameters of equal layers have alike; updates: what their owners have alike
    """

    def __init__(self, lowered: Lowered, plan: Planned):
        self.nodes: list[c.Node] = []
        self.pools = Pools()
        self.lowered = lowered
        self.program = lowered.step.program
        self.plan = plan
        self.paths: dict[str, str] = {}
        self.domains = "NULL"
        self.arranged = False
        self.tensors: dict[tuple[str, str, tuple[int, ...], int | str], str] = {}
        self.alike: dict[tuple[int, int, int], str] = {}
        self.updates: dict[tuple[str, int | None, tuple[int, ...], int], str] = {}

    def made(self) -> list[c.Node]:
        """All tables; the model, which names them, comes last."""
        plan, program = self.plan, self.program
        self.paths = _path_literals(plan)
        self._array("mlc_parameter", "parameters", self._parameters())
        self.arranged = self._arranged()
        names = [i.name for i in program.inputs]
        self._array("mlc_input", "inputs", [self._input(value, names) for value in program.inputs])
        self.domains = self._array("mlc_domain", "domains", [row for n, i in enumerate(program.inputs) for row in _domains(n, i)])
        self._scalars()
        columns = {kind: self._columns(kind, of) for kind, of in plan.columns.items()}
        self._array("mlc_sweep", "sweeps", [self._sweep(number, sweep) for number, sweep in enumerate(plan.sweeps)])
        self._array("mlc_role", "roles", [self._role(place) for place in plan.places])
        self._model(columns)
        return [*self.pools.made(), *self.nodes]

    def _array(self, kind: str, name: str, rows: Sequence[str]) -> str:
        """Define an array; returns its name, NULL when it is empty."""
        return write_array(self.nodes, kind, name, rows)

    def _tensor(self, name: str, dtype: str, shape: tuple[int, ...], at: int | str) -> str:
        """An mlc_tensor."""
        key = (name, dtype, shape, at)
        if key not in self.tensors:
            self.tensors[key] = initializer((c_string(name), stored(dtype).name, len(shape), self._shape(shape), at))
        return self.tensors[key]

    def _shape(self, shape: Sequence[int]) -> str:
        return self.pools.array("int64_t", [str(extent) for extent in shape])

    # ---- what holds for all places ----

    def _parameters(self) -> list[str]:
        """The mlc_parameters; fed: 0 by the loss, 1 by accumulate, 2 by nothing."""
        names = [parameter.name for parameter in self.plan.parameters]
        rest = [self._of_kind(kind, len(uses), owner) for _, kind, owner, uses in self.plan.parameters]
        return formatted(braced("%s, %s, %s"), c_strings(names), rest, map(self.paths.__getitem__, names))

    def _of_kind(self, kind: ParameterKind, uses: int, owner: int) -> str:
        """The members that parameters of equal layers have alike."""
        key = id(kind), uses, owner
        if key not in self.alike:
            tensors = [self._tensor(name, self.program.wide, of, "MLC_NONE") for name, of in kind.states]
            pool = self.pools.array("mlc_tensor", tensors)
            fields = (len(kind.shape), self._shape(kind.shape), FED.index(kind.fed), uses, owner, pool, len(kind.states))
            self.alike[key] = ", ".join(map(str, fields))
        return self.alike[key]

    def _arranged(self) -> bool:
        """Define how parameters lie where some are not canonical; each arrangement once."""
        plan = self.plan.parameters
        if all(parameter.kind.arranged is None for parameter in plan):
            return False
        made: dict[tuple[Arrangement, tuple[int, ...]], int] = {}
        rows = [self._lies(parameter.kind, made) for parameter in plan]
        panels = [initializer((of.dim, of.size, of.stride)) for arrangement, _ in made for of in arrangement.panels]
        self._array("mlc_panels", "panels", panels)
        first = 0
        arrangements: list[str] = []
        for arrangement, shape in made:
            arrangements.append(self._arrangement(arrangement, shape, first))
            first += len(arrangement.panels)
        self._array("mlc_arrangement", "arrangements", arrangements)
        states = [state for *_, of in rows for state in of]
        self._array("mlc_arrangement *const", "arranged_states", states)
        starts = accumulate((len(of) for *_, of in rows), initial=0)
        places = [f"arranged_states + {start}" if of else "NULL" for start, (*_, of) in zip(starts, rows, strict=False)]
        self._array("mlc_arranged", "arranged", [initializer((*of[:2], place)) for of, place in zip(rows, places, strict=True)])
        return True

    def _lies(
        self, kind: ParameterKind, made: dict[tuple[Arrangement, tuple[int, ...]], int]
    ) -> tuple[str, str, tuple[str, ...]]:
        """Pointers to the arrangements of master, copy and states; no states where all are canonical. made: numbers of arrangements"""
        if kind.arranged is None:
            return "NULL", "NULL", ()
        shapes = (kind.shape, kind.shape, *(shape for _, shape in kind.states))
        every = (kind.arranged.master, kind.arranged.copy, *kind.arranged.states)
        pairs = zip(every, shapes, strict=True)
        numbers = [None if of is None else made.setdefault((of, shape), len(made)) for of, shape in pairs]
        master, copy, *states = ("NULL" if number is None else f"arrangements + {number}" for number in numbers)
        return master, copy, tuple(states) if any(state != "NULL" for state in states) else ()

    def _arrangement(self, arrangement: Arrangement, shape: tuple[int, ...], panels: int) -> str:
        """An mlc_arrangement, whose panels begin at a number of the table of all."""
        strides = self.pools.array("int64_t", list(map(str, arrangement.strides)))
        count = len(arrangement.panels)
        table = f"panels + {panels}" if count else "NULL"
        return initializer((len(shape), self._shape(shape), strides, table, count, arrangement.elements))

    def _input(self, value: Input, names: list[str]) -> str:
        limit = -1 if value.limit is None else value.limit
        match value.default:
            case Following(of, shift):
                source, other, by = "MLC_SOURCE_FOLLOWING", names.index(of), shift
            case _:
                source, other, by = "MLC_SOURCE_DATA", 0, 0
        tensor = self._tensor(value.name, value.type.dtype, value.type.shape, "MLC_NONE")
        return designated({"tensor": tensor, "source": source, "of": other, "shift": by, "limit": limit})

    def _scalars(self) -> None:
        literal = register(self.program.wide).literal
        rows = [initializer((c_string(name), literal(0.0), 0)) for name in ("step", "steps")]
        read = _read_outside_training(self.program)
        for scalar in self.program.scalars:
            value = 0.0 if scalar.value is None else scalar.value
            option = 0 if not scalar.option else 1 if scalar.name in read else 2
            rows.append(initializer((c_string(scalar.name), literal(value), option)))
        self._array("mlc_scalar", "scalars", rows)

    def _columns(self, kind: str, columns: Columns) -> str:
        """Define the columns of a chain; returns its mlc_chain."""
        rows = [initializer((c_string(name), stage)) for name, stage in columns.columns]
        table = self._array("mlc_column", f"{kind}_columns", rows)
        return designated({"columns": table, "column_count": len(rows), "losses": columns.losses, "logits_stage": columns.logits_stage})

    def _sweep(self, number: int, sweep: Sweep) -> str:
        """Define the calls of a sweep; returns its mlc_sweep."""
        only = " | ".join(f"MLC_ONLY_{word.upper()}" for word in sweep.only) or "0"
        calls = self._array("mlc_sweep_call", f"sweep{number}_calls", [self._sweep_call(call) for call in sweep.calls])
        words = f"MLC_AT_{sweep.moment}", f"MLC_OVER_{sweep.over.upper()}", only, f"MLC_RANGE_{sweep.range.upper()}"
        return initializer((*words, int(sweep.gated), calls, len(sweep.calls)))

    def _sweep_call(self, call: SweepCall) -> str:
        function = "NULL" if call.kernel in OWN else self.lowered.rules.sweeps[call.kernel](self.program.wide)
        operands = [f"MLC_OPERAND_{word.upper().replace(' ', '_')}" for word in call.operands]
        return initializer((c_string(call.kernel), function, initializer(operands or ["MLC_OPERAND_NONE"])))

    # ---- places ----

    def _role(self, place: Place) -> str:
        """Define the tables of a place; returns its mlc_role."""
        prefix = f"place{place.number}"
        regions = {region: number for number, region in enumerate(place.regions)}
        named = _operands(place.named, regions)
        chunks = [self._chunks(prefix, kind, place, regions, named) for kind in CHAINS]
        areas = {"states": place.states, "work": place.work, "guests": place.guests}
        return designated(
            {
                "arena_bytes": place.arena_bytes,
                "inbox_bytes": place.inbox_bytes,
                "record": place.record,
                "microbatches": place.microbatches,
                "results": place.results,
                "levels": place.levels,
                "chunks": initializer(chunks),
                "chunk_count": len(place.stages),
                "held": self._array("mlc_held", f"{prefix}_held", self._held(place.held)),
                "held_count": len(place.held),
                "owned": self._array("mlc_own", f"{prefix}_owned", [self._owned(one) for one in place.owned]),
                "owned_count": len(place.owned),
                **{name: initializer((area.at, area.bytes)) for name, area in areas.items()},
            }
        )

    def _chunks(self, prefix: str, kind: str, place: Place, regions: Mapping[str, int], named: Sequence[str]) -> str:
        """Define the chunks of a chain on a place; a chain that does not exist has none."""
        rows = [self._chunk(f"{prefix}_{kind}{n}", chunk, regions, named) for n, chunk in enumerate(place.chunks.get(kind, ()))]
        return self._array("mlc_chunk", f"{prefix}_{kind}", rows)

    def _chunk(self, name: str, chunk: Chunk, regions: Mapping[str, int], named: Sequence[str]) -> str:
        """Define the tables of a chunk; returns its mlc_chunk. named: operands of the buffers that its place has for all chunks"""
        operands = [*named, *_operands(chunk.buffers[len(named) :], regions)]
        rows = {field: self._rows(f"{name}_{field}", chunk, phase, operands) for phase, field in _ROWS.items()}
        inputs = [initializer((number, operands[buffer])) for number, buffer in chunk.inputs]
        values = [initializer((column, operands[buffer])) for column, buffer in chunk.values]
        uses = self._array("mlc_use", f"{name}_uses", self._uses(chunk.uses))
        logits = chunk.logits
        return designated(
            {
                "stage": chunk.stage,
                **rows,
                "inputs": self.pools.array("mlc_binding", inputs),
                "input_count": len(inputs),
                "weight_at": "MLC_NONE" if chunk.weight is None else operands[chunk.weight],
                "values": self.pools.array("mlc_value", values),
                "value_count": len(values),
                "uses": uses,
                "use_count": len(chunk.uses),
                "logits": _NO_TENSOR if logits is None else self._tensor("logits", logits.dtype, logits.shape, operands[logits.buffer]),
            }
        )

    def _rows(self, name: str, chunk: Chunk, phase: str, operands: Sequence[str]) -> str:
        """Define the rows of a phase; returns an mlc_rows initialiser. operands: of the buffers of the chunk."""
        words: list[str] = []
        entries: list[str] = []
        for number, path, said, buffers in chunk.rows.get(phase, ()):
            routine = self.plan.routines[number]
            place = f"{name}_at + {len(words)}" if buffers else "NULL"
            words += map(operands.__getitem__, buffers)
            flops = float(routine.flops)
            entries.append(braced(f"{routine.name}, {place}, {len(buffers)}, {self.paths[path]}, {c_string(said)}, {flops!r}"))
        self._array("uint64_t", f"{name}_at", packed(words))
        return initializer((self._array("mlc_row", f"{name}_rows", entries), len(entries), chunk.heads.get(phase, 0)))

    def _uses(self, uses: Sequence[Use]) -> list[str]:
        parameters, indices, phases, levels = columns(uses, 4)
        return formatted(braced("%d, %d, %s, %s"), parameters, indices, map(_PHASES.__getitem__, phases), self._addresses(levels))

    def _addresses(self, of: Iterable[Iterable[int]]) -> list[str]:
        """Pointers to lists of addresses."""
        return self.pools.arrays("uint64_t", [list(map(str, at)) for at in of])

    def _held(self, held: Sequence[Held]) -> list[str]:
        parameters, masters, kept, inits, _ = columns(held, 5)
        copies = ["MLC_NONE" if copy is None else copy for copy in kept]
        routines, at = columns(inits, 2)
        functions = {number: self._functions(number) for number in set(routines)}
        initial = map(functions.__getitem__, routines)
        return formatted(braced("%d, %d, %s, %s, %s"), parameters, masters, copies, initial, self._addresses(at))

    def _owned(self, one: OwnedParameter) -> str:
        """An mlc_own."""
        key = one.sharing, one.update, one.reads, one.work
        if key not in self.updates:
            reads = self.pools.array("uint64_t", [str(at) for at in one.reads])
            functions = "NULL, NULL" if one.update is None else self._functions(one.update)
            self.updates[key] = f"MLC_{one.sharing.upper()}, {functions}, {reads}, {len(one.reads)}, {one.work}"
        return braced(f"{one.parameter}, {self.updates[key]}")

    def _functions(self, number: int) -> str:
        """The function of a routine over a range, and over the whole."""
        routine = self.plan.routines[number]
        return f"{routine.name}, NULL" if routine.flat else f"NULL, {routine.name}"

    # ---- the model ----

    def _model(self, columns: dict[str, str]) -> None:
        chains = [columns.get(kind, designated({"logits_stage": -1})) for kind in CHAINS]
        rows = [initializer((c_string(name), repr(value))) for name, value in self.program.constants]
        constants = self._array("mlc_constant", "constants", rows)
        fields: dict[str, object] = {
            "abi_version": "MLC_ABI_VERSION",
            "name": c_string(self.program.name),
            **self._identity(),
            **self._mesh(),
            **self._tables(),
            "chains": initializer(chains),
            "samples": int("sample" in columns),
            **({"time": self.plan.scalars.index(TIME_SCALAR)} if "decode" in columns else {}),
            "microbatches": self.plan.microbatches,
            "groups": self.plan.groups,
            **self._work(),
            "compiler": c_string(VERSION),
            "constants": constants,
            "constant_count": len(self.program.constants),
        }
        lines = tuple(f".{field} = {value}" for field, value in fields.items())
        model = c.Constant("const mlc_model", "mlc_emitted_model", lines)
        self.nodes += [c.Define("extern const mlc_schedule", "mlc_emitted_schedule"), c.Blank(), model]

    def _identity(self) -> dict[str, object]:
        items = model_items(self.lowered, self.plan)
        return {"hash": c_string(hashlib.sha256(items.encode()).hexdigest()), "description": c_string(items)}

    def _mesh(self) -> dict[str, object]:
        plan = self.plan
        mesh = f"MLC_MESH({plan.pp}, {plan.dp})"
        return {"mesh": mesh, "stages": len(plan.stages), "roles": "roles", "schedule": "&mlc_emitted_schedule"}

    def _tables(self) -> dict[str, object]:
        plan, program = self.plan, self.program
        called = {row.routine for place in plan.places for of in place.chunks.values() for chunk in of for row in chunk_rows(chunk)}
        return {
            "sweeps": "sweeps",
            "sweep_count": len(plan.sweeps),
            "scratch_bytes_per_thread": plan.scratch_bytes_per_thread,
            "operands": max((len(plan.routines[number].operands) for number in called), default=0),
            "parameters": "parameters" if plan.parameters else "NULL",
            "parameter_count": len(plan.parameters),
            **({"arranged": "arranged"} if self.arranged else {}),
            "inputs": "inputs" if program.inputs else "NULL",
            "input_count": len(program.inputs),
            "domains": self.domains,
            "domain_count": sum(len(value.bounds) for value in program.inputs),
            "scalars": "scalars",
            "scalar_count": len(plan.scalars),
            "set_scalars": "set_scalars",
            "rate": rate_index(program, plan.scalars),
            "wide": stored(program.wide).name,
        }

    def _work(self) -> dict[str, object]:
        """What a microbatch is in numbers: its clipping, operations, examples and tokens."""
        inputs = self.program.inputs
        first = inputs[0].type if inputs else TensorType("f32")
        batch = first.shape[0] if first.dims else 1
        return {
            "clip": register(self.program.wide).literal(self.program.recipe.clip or 0.0),
            "flops": repr(float(self.plan.flops)),
            "recomputed_flops": repr(float(self.plan.recomputed_flops)),
            "batch": batch,
            "tokens": first.size if first.dtype == "i32" and len(first.dims) == 2 else batch,
        }


def _path_literals(plan: Planned) -> dict[str, str]:
    """The hashes of all call paths and parameter names."""
    chunks = [chunk for place in plan.places for of in place.chunks.values() for chunk in of]
    paths = dict.fromkeys([row.path for chunk in chunks for of in chunk.rows.values() for row in of])
    names = [*paths | dict.fromkeys([parameter.name for parameter in plan.parameters])]
    return dict(zip(names, map("%#018xu".__mod__, path_hashes(names)), strict=True))


def _domains(number: int, value: Input) -> list[str]:
    """The mlc_domains of an input."""
    return [initializer((number, b.end, b.low, b.high, "MLC_NO_VALUE" if b.passed is None else b.passed)) for b in value.bounds]


def _read_outside_training(program: Program) -> set[str]:
    """Scalars that evaluation or sampling depends on."""
    read: set[str] = set()
    for _, chain in program.chains[1:]:
        calls = [(call.unit, call.arguments) for call in chain.calls] + ([chain.weight] if chain.weight is not None else [])
        bound = [pair for unit, names in calls for pair in zip(program.units[unit].roles, names, strict=True)]
        read.update(name for role, name in bound if role == "record")
    for scalar in reversed(program.scalars):
        if scalar.curve is not None and scalar.name in read:
            read.update(value.name for value in scalar.curve.parameters)
    return read


def _operands(buffers: Sequence[Buffer], regions: Mapping[str, int]) -> list[str]:
    """Buffers as operands of rows: in a region, in hex, the region's number before twelve digits of the offset."""
    _, within, at, _ = columns(buffers, 4)
    forms = {region: "%#x" if number else "%d" for region, number in regions.items()}
    bases = {region: number << REGION_SHIFT for region, number in regions.items()}
    return list(map(mod, map(forms.__getitem__, within), map(or_, map(bases.__getitem__, within), at)))


def chunk_rows(chunk: Chunk) -> list[Row]:
    """Every row of a chunk."""
    return [row for of in chunk.rows.values() for row in of]


def rate_index(program: Program, scalars: Sequence[str]) -> int:
    """The scalar that metrics print as the rate: the first curve an optimizer reads, else an option named rate, else none."""
    curves = {s.name for s in program.scalars if s.curve is not None}
    for update in program.updates:
        for name in update.scalars:
            if name in curves:
                return scalars.index(name)
    return scalars.index("rate") if "rate" in scalars else -1
