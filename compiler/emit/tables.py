"""A plan as C tables: rows, parameters, chains, and the model that names them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from mlc.emit.expressions import float_literal
from mlc.emit.writer import Writer
from mlc.ir.program import Following, Input, path_hash
from mlc.ir.types import TensorType
from mlc.plan.placed import PlacedChain, PlacedParameter, PlacedRow, Plan


def c_string(text: str) -> str:
    """A C string literal of UTF-8 text."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    if plain.isascii() and plain.isprintable():
        return f'"{plain}"'
    return '"' + "".join(chr(b) if 32 <= b < 127 else f"\\{b:03o}" for b in plain.encode()) + '"'


class Tables:
    """Writes the tables of one plan."""

    def __init__(self, writer: Writer, plan: Plan):
        self.writer = writer
        self.plan = plan

    def write(self) -> None:
        """All tables; the model, which names them, comes last."""
        plan = self.plan
        self._array("mlc_parameter", "parameters", [self._parameter(p) for p in plan.parameters])
        self._inputs()
        self._scalars()
        for name, chain in (("train", plan.train), ("evaluate", plan.evaluate), ("sample", plan.sample)):
            if chain is not None:
                self._chain(name, chain)
        self._rows("backward", plan.backward)
        self._actions()
        self._model()

    def _array(self, kind: str, name: str, rows: Sequence[str]) -> str:
        """Define an array; returns its name, NULL when it is empty."""
        if not rows:
            return "NULL"
        with self.writer.block(f"static const {kind} {name}[] =", "};"):
            for row in rows:
                self.writer.line(f"{row},")
        self.writer.line()
        return name

    def _rows(self, name: str, rows: Sequence[PlacedRow]) -> str:
        """Define the rows of a list; returns an mlc_rows initialiser."""
        addresses: list[str] = []
        entries = []
        for row in rows:
            start = len(addresses)
            addresses.extend(map(str, row.at))
            place = f"{name}_at + {start}" if row.at else "NULL"
            entries.append(
                f"{{{row.routine.name}, {place}, {path_hash(row.path):#018x}u, {c_string(row.name)}, {float(row.routine.flops)!r}}}"
            )
        self._array("uint64_t", f"{name}_at", list(_lines(addresses)))
        return f"{{{self._array('mlc_row', f'{name}_rows', entries)}, {len(rows)}}}"

    def _tensor(self, name: str, kind: TensorType, at: int | str, dtype: str | None = None) -> str:
        """An mlc_tensor; `dtype` where it lies in another than its type's."""
        shape = _compound("int64_t", [str(extent) for extent in kind.shape])
        return f"{{{c_string(name)}, MLC_{(dtype or kind.dtype).upper()}, {len(kind.dims)}, {shape}, {at}}}"

    def _parameter(self, p: PlacedParameter) -> str:
        """An mlc_parameter; fed: 0 by the loss, 1 by accumulate, 2 by nothing."""
        flat = self.plan.lowered.flat
        accumulators = [str(at) for use in p.accumulators for at in use]
        states = [self._tensor(name, kind, at) for name, kind, at in p.states]
        fields = [
            self._tensor(p.parameter.name, p.parameter.type, p.master, "f32"),
            "MLC_NONE" if p.copy is None else str(p.copy),
            accumulators[0] if accumulators else "MLC_NONE",
            str({"loss": 0, "accumulate": 1, "none": 2}[p.parameter.gradient] if p.accumulators else 2),
            str(len(p.accumulators)),
            _compound("uint64_t", accumulators),
            _compound("mlc_tensor", states),
            str(len(states)),
            *_function(p.init, flat),
            *_function(p.update, flat),
            f"{path_hash(p.parameter.name):#018x}u",
        ]
        return "{" + ", ".join(fields) + "}"

    def _inputs(self) -> None:
        names = [i.name for i in self.plan.program.inputs]
        rows = []
        for value, at in zip(self.plan.program.inputs, self.plan.inputs, strict=True):
            rows.append(self._input(value, at, names))
        self._array("mlc_input", "inputs", rows)

    def _input(self, value: Input, at: int, names: list[str]) -> str:
        limit = -1 if value.limit is None else value.limit
        match value.default:
            case Following(of, shift):
                source, other, by = "MLC_SOURCE_FOLLOWING", names.index(of), shift
            case _:
                source, other, by = "MLC_SOURCE_DATA", 0, 0
        return f"{{{self._tensor(value.name, value.type, at)}, {source}, {other}, {by}, {limit}}}"

    def _scalars(self) -> None:
        rows = ['{"step", 0.0f, 0}', '{"steps", 0.0f, 0}']
        for scalar in self.plan.program.scalars:
            value = 0.0 if scalar.value is None else scalar.value
            rows.append(f"{{{c_string(scalar.name)}, {float_literal(value)}, {int(scalar.option)}}}")
        self._array("mlc_scalar", "scalars", rows)

    def _metrics(self, name: str, metrics: Iterable[tuple[str, int]]) -> str:
        return self._array("mlc_metric", name, [f"{{{c_string(n)}, {at}}}" for n, at in metrics])

    def _chain(self, name: str, chain: PlacedChain) -> None:
        forward = self._rows(f"{name}_forward", chain.rows)
        losses = self._metrics(f"{name}_losses", chain.losses)
        metrics = self._metrics(f"{name}_metrics", chain.metrics)
        weight = self._rows(f"{name}_weight", [chain.weight]) if chain.weight else "{NULL, 0}"
        logits = self._tensor("logits", *chain.logits) if chain.logits else '{"", MLC_F32, 0, NULL, MLC_NONE}'
        with self.writer.block(f"static const mlc_chain {name} =", "};"):
            self.writer.line(f".forward = {forward},")
            self.writer.line(f".loss = {'MLC_NONE' if chain.loss is None else chain.loss},")
            self.writer.line(f".losses = {losses}, .loss_count = {len(chain.losses)},")
            self.writer.line(f".metrics = {metrics}, .metric_count = {len(chain.metrics)},")
            self.writer.line(f".weight = {weight}, .weight_at = {chain.weight_at},")
            self.writer.line(f".logits = {logits},")
        self.writer.line()

    def _actions(self) -> None:
        rows = [f"{{{kind}, 0, {m}}}" for m in range(self.plan.microbatches) for kind in ("MLC_FORWARD", "MLC_BACKWARD")]
        self._array("mlc_action", "actions", rows)

    def _model(self) -> None:
        fields = {
            "abi_version": "MLC_ABI_VERSION",
            "name": c_string(self.plan.program.name),
            **self._identity(),
            **self._addresses(),
            **self._tables(),
            **self._schedule(),
            **self._work(),
        }
        with self.writer.block("const mlc_model mlc_emitted_model =", "};"):
            for field, value in fields.items():
                self.writer.line(f".{field} = {value},")

    def _identity(self) -> dict[str, object]:
        items = model_items(self.plan)
        return {"hash": c_string(hashlib.sha256(items.encode()).hexdigest()), "description": c_string(items)}

    def _addresses(self) -> dict[str, object]:
        plan = self.plan
        return {
            "arena_bytes": plan.arena_bytes,
            "scratch_bytes_per_thread": plan.scratch_bytes_per_thread,
            "record": plan.record,
            "seed_at": plan.seed,
        }

    def _tables(self) -> dict[str, object]:
        plan, program = self.plan, self.plan.program
        return {
            "parameters": "parameters" if plan.parameters else "NULL",
            "parameter_count": len(plan.parameters),
            "inputs": "inputs" if program.inputs else "NULL",
            "input_count": len(program.inputs),
            "scalars": "scalars",
            "scalar_count": len(plan.scalar_names),
            "set_scalars": "set_scalars",
            "rate": rate_index(plan),
            "train": "&train",
            "evaluate": "&evaluate",
            "sample": "&sample" if plan.sample else "NULL",
            "backward": f"{{{'backward_rows' if plan.backward else 'NULL'}, {len(plan.backward)}}}",
        }

    def _schedule(self) -> dict[str, object]:
        plan = self.plan
        return {
            "actions": "actions",
            "action_count": 2 * plan.microbatches,
            "microbatches": plan.microbatches,
            "groups": plan.groups,
            "levels": plan.levels,
        }

    def _work(self) -> dict[str, object]:
        """What a microbatch is in numbers: its clipping, operations, examples and tokens."""
        inputs = self.plan.program.inputs
        first = inputs[0].type if inputs else TensorType("f32")
        batch = first.shape[0] if first.dims else 1
        return {
            "clip": float_literal(self.plan.program.recipe.clip or 0.0),
            "flops": repr(float(self.plan.flops)),
            "batch": batch,
            "tokens": first.size if first.dtype == "i32" and len(first.dims) == 2 else batch,
        }


def _compound(kind: str, items: Sequence[str]) -> str:
    """A compound literal of an array; NULL when it is empty."""
    return f"(const {kind}[]){{{', '.join(items)}}}" if items else "NULL"


def _function(row: PlacedRow | None, flat: frozenset[str]) -> tuple[str, str, str]:
    """The function of a row over a range, or over the whole, and its addresses."""
    if row is None:
        return "NULL", "NULL", "NULL"
    name, at = row.routine.name, _compound("uint64_t", [str(a) for a in row.at])
    return (name, "NULL", at) if name in flat else ("NULL", name, at)


def _lines(words: Sequence[str], width: int = 12) -> Iterable[str]:
    for n in range(0, len(words), width):
        yield ", ".join(words[n : n + width])


def model_items(plan: Plan) -> str:
    """What a checkpoint must match, one item a line."""
    program = plan.program
    lines = [f"parameter.{p.name}={'x'.join(map(str, p.type.shape))}" for p in program.parameters]
    lines += [f"precision={program.recipe.precision}", f"clip={program.recipe.clip}"]
    lines += [f"update.{p.parameter.name}={p.update.routine.function.name if p.update else None}" for p in plan.parameters]
    lines += [f"input.{i.name}={i.type.dtype}[{'x'.join(map(str, i.type.shape))}]" for i in program.inputs]
    lines += [f"microbatches={plan.microbatches}", f"groups={plan.groups}"]
    return "\n".join(lines) + "\n"


def rate_index(plan: Plan) -> int:
    """The scalar that metrics print as the rate: the first curve an optimizer reads, else an option named rate, else none."""
    program = plan.program
    curves = {s.name for s in program.scalars if s.curve is not None}
    for update in program.updates:
        for name in update.scalars:
            if name in curves:
                return plan.scalar_names.index(name)
    return plan.scalar_names.index("rate") if "rate" in plan.scalar_names else -1


def plan_json(plan: Plan) -> str:
    """plan.json: the memory of a rank and what lies where."""
    tensors = []
    for p in plan.parameters:
        tensors.append({"name": p.parameter.name, "dtype": "f32", "shape": list(p.parameter.type.shape), "offset": p.master})
        tensors += [{"name": f"{p.parameter.name}/{n}", "dtype": "f32", "shape": list(k.shape), "offset": at} for n, k, at in p.states]
    fields = {
        "version": 1,
        "model": plan.program.name,
        "arena_bytes": plan.arena_bytes,
        "scratch_bytes_per_thread": plan.scratch_bytes_per_thread,
        "microbatches": plan.microbatches,
        "groups": plan.groups,
        "parameters": sum(p.parameter.type.size for p in plan.parameters),
        "flops_per_microbatch": plan.flops,
    }
    lists = {
        "tensors": tensors,
        "actions": [["F" if half == 0 else "B", 0, m] for m in range(plan.microbatches) for half in (0, 1)],
        "forward": [r.name for r in plan.train.rows],
        "backward": [r.name for r in plan.backward],
    }
    lines = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items()]
    for key, rows in lists.items():
        inner = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        lines.append(f" {json.dumps(key)}: [\n{inner}\n ]")
    return "{\n" + ",\n".join(lines) + "\n}\n"
