"""Drafts become kernels of the loop IR: loops, locals, stores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath

from mlc.diagnostics import InternalError, Span
from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.body import Graph, Scope, indices_of, locals_of, reads_of, scalar_dtype
from mlc.lower.form import Draft, Root
from mlc.lower.index import Counter, Index
from mlc.lower.loops import (
    Accumulator,
    Attention,
    Columns,
    Contract,
    Fold,
    Kernel,
    Let,
    Loop,
    Nest,
    Number,
    Operand,
    Ref,
    Select,
    Statement,
    Store,
)  # fmt: skip
from mlc.lower.storage import Storage, view_of

#: A loop is split to remove a division from it only when at least so many iterations stay inside.
LEAST_INNER = 8


class Builder:
    """Builds the kernels of one function."""

    def __init__(self, graph: Graph, storage: Storage):
        self.graph = graph
        self.storage = storage

    def build(self, draft: Draft) -> Kernel:
        match draft.kind:
            case "nest":
                return self._rows(draft) if draft.rows is not None else self._flat(draft)
            case "columns":
                return self._columns(draft)
            case "contract":
                return self._contract(draft)
        assert draft.instruction is not None
        match draft.instruction.op:
            case "attention" | "attention_vjp":
                return self._attention(draft.instruction)
            case "scatter_add":
                return self._scatter_add(draft.instruction)
            case "put_along":
                return self._put_along(draft.instruction)
            case "cumsum":
                return self._cumsum(draft.instruction)
            case "top_k" | "argmax":
                return self._select(draft.instruction)
        raise InternalError(f"lower: no kernel for {draft.instruction.op}")

    def _note(self, draft: Draft) -> str:
        values = [r.value for r in draft.roots]
        if draft.instruction is not None:
            values = [*draft.instruction.results, *values]
        names = ", ".join(dict.fromkeys(f"{v.name} {v.type}" for v in values))
        spans = [self.graph.producers[v.name][0].span for v in values if v.name in self.graph.producers]
        return f"{in_model(spans[0])}  {names}" if spans else names

    def _scope(self, leaves: dict[str, Ref], needs: dict[str, frozenset[int]], taken: set[str], parent: Scope | None = None) -> Scope:
        return Scope(self.graph, self.storage.memory, leaves, needs, taken, parent)

    # Elementwise kernels.

    def _flat(self, draft: Draft) -> Nest:
        total = math.prod(draft.shape)
        extents = [total]
        while True:
            counters = [Counter(n, e) for n, e in enumerate(extents)]
            flat = ix.linear([ix.counter(c) for c in counters], ix.row_major(extents))
            scope = self._scope({}, {}, set())
            statements = [self._store(scope, root, ix.unflatten(flat, draft.shape)) for root in draft.roots]
            inner = self._split(counters[-1], scope.lets, statements)
            if inner is None:
                break
            extents[-1:] = [extents[-1] // inner, inner]
        prologue = tuple(let for let in scope.lets if not let.needs)
        lets = [let for let in scope.lets if let.needs]
        body = _nest(counters[1:], lets, statements, ())
        return Nest(self._note(draft), prologue, counters[0], body, len(counters) == 1)

    def _store(self, scope: Scope, root: Root, at: Sequence[Index]) -> Store:
        value = scope.value(root.value, tuple(at)) if root.copy else scope.define(root.value, tuple(at))
        assert root.placement is not None
        return Store(root.placement.buffer, root.placement.index(at), value, root.mode)

    def _split(self, counter: Counter, lets: Sequence[Let], statements: Sequence[Statement]) -> int | None:
        """The inner extent to split a loop by so that a division leaves it; None when none helps."""
        found: set[int] = set()
        nodes = [let.value for let in lets] + [s.value for s in statements if isinstance(s, Store | Fold)]
        for index in [i for node in nodes for i in indices_of(node)] + [s.index for s in statements if isinstance(s, Store)]:
            inner = ix.splits(index).get(counter.number)
            if inner is not None and inner >= LEAST_INNER:
                found.add(inner)
        return min(found, default=None)

    # Kernels over rows.

    def _rows(self, draft: Draft) -> Nest:
        rows = draft.rows or ()
        item = Counter(0, math.prod(rows))
        leading = ix.unflatten(ix.counter(item), rows)
        taken: set[str] = set()
        outer = self._scope({}, {}, taken)
        body: list[Statement] = []
        for group in self._groups(draft, len(rows)):
            self._group(group, leading, item, outer, body, taken)
        written = {p.buffer for r in draft.roots for p, _ in self.storage.stores.get(r.value.name, ())} | {
            r.placement.buffer for r in draft.roots if r.placement
        }
        prologue, rest = _prologue(body, written)
        return Nest(self._note(draft), prologue, item, rest, False)

    def _groups(self, draft: Draft, rows: int) -> list[list[Root]]:
        """Consecutive roots that share one inner loop."""
        groups: list[list[Root]] = []
        made: set[str] = set()
        for root in draft.roots:
            same = groups and groups[-1][0].shape[rows:] == root.shape[rows:]
            if not same or any(name in made and self._conflict(groups[-1], name, at, root) for name, at in root.loads):
                groups.append([])
                made = set()
            groups[-1].append(root)
            made.add(root.value.name)
        return groups

    def _conflict(self, group: list[Root], name: str, at: tuple[Index, ...], root: Root) -> bool:
        """Whether reading `name`, made by this group, needs the group's loop to be over."""
        maker = next(r for r in group if r.value.name == name)
        return maker.kind == "row" or at != tuple(ix.counter(Counter(n, e)) for n, e in enumerate(root.shape))

    def _group(
        self, group: list[Root], leading: tuple[Index, ...], item: Counter, outer: Scope, body: list[Statement], taken: set[str]
    ) -> None:
        columns = group[0].shape[len(leading) :]
        extents = [math.prod(columns)] if math.prod(columns) > 1 else []
        folds = self._accumulators(group, outer, body, taken, item)
        while True:
            names = set(taken)
            counters = [Counter(n + 1, e) for n, e in enumerate(extents)]
            flat = ix.linear([ix.counter(c) for c in counters], ix.row_major(extents))
            scope = self._scope({}, {}, names, outer)
            at = (*leading, *ix.unflatten(flat, columns)) if columns else leading
            statements = [self._row_statement(scope, root, at, folds) for root in group]
            inner = self._split(counters[-1], scope.lets, statements) if counters else None
            if inner is None:
                break
            extents[-1:] = [extents[-1] // inner, inner]
        taken |= names
        numbers = {c.number for c in counters}
        hoisted = [let for let in scope.lets if not let.needs & numbers]
        outer.adopt(scope, hoisted)
        body.extend(hoisted)
        body.extend(_nest(counters, [let for let in scope.lets if let.needs & numbers], statements, tuple(folds.values())))
        for root in group:
            if root.kind == "row":
                body.extend(self._reduction_stores(root, leading, folds[root.value.name][0]))
                outer.leaf(root.value.name, Ref(folds[root.value.name][0]), frozenset([item.number]))

    def _accumulators(
        self, group: list[Root], outer: Scope, body: list[Statement], taken: set[str], item: Counter
    ) -> dict[str, tuple[str, str]]:
        folds: dict[str, tuple[str, str]] = {}
        for root in group:
            if root.kind != "row":
                continue
            combine = self.graph.lowering(self.graph.producers[root.value.name][0]).combine
            name = outer.fresh(root.value.name)
            folds[root.value.name] = (name, combine)
            body.append(Accumulator(name, scalar_dtype(root.value.type.dtype), combine))
        return folds

    def _row_statement(self, scope: Scope, root: Root, at: tuple[Index, ...], folds: dict[str, tuple[str, str]]) -> Statement:
        if root.kind == "store":
            return self._store(scope, root, at)
        operand = self.graph.producers[root.value.name][0].operands[0]
        source = dict(zip(root.order, at, strict=True))
        name, combine = folds[root.value.name]
        return Fold(name, combine, scope.value(operand, tuple(source[d] for d in range(len(root.order)))))

    def _reduction_stores(self, root: Root, kept: tuple[Index, ...], name: str) -> list[Store]:
        at = self._result_coordinates(root, kept)
        return [Store(p.buffer, p.index(at), Ref(name), mode) for p, mode in self.storage.stores.get(root.value.name, ())]

    def _result_coordinates(self, root: Root, kept: tuple[Index, ...]) -> tuple[Index, ...]:
        """Coordinates of a reduction's result: those of its kept dims, 0 where reduced dims are kept as 1."""
        instruction = self.graph.producers[root.value.name][0]
        if not instruction.attribute("keepdims"):
            return kept
        rank = len(instruction.operands[0].type.dims)
        reduced = {a % rank for a in instruction.attribute("axes")}
        rest = iter(kept)
        return tuple(ix.ZERO if d in reduced else next(rest) for d in range(rank))

    # Sums over columns.

    def _columns(self, draft: Draft) -> Columns:
        first = self.graph.producers[draft.roots[0].value.name][0]
        rank = len(first.operands[0].type.dims)
        reduced = {a % rank for a in first.attribute("axes")}
        order, shape = draft.roots[0].order, draft.shape
        outer_rank = next(n for n, d in enumerate(order) if d in reduced)
        column_start = outer_rank + len(reduced)
        parts = (shape[:outer_rank], shape[outer_rank:column_start], shape[column_start:])
        counters = [Counter(n, math.prod(p)) for n, p in enumerate(parts)]
        split = [ix.unflatten(ix.counter(c), p) for c, p in zip(counters, parts, strict=True)]
        source = dict(zip(order, (*split[0], *split[1], *split[2]), strict=True))
        at = tuple(source[d] for d in range(rank))
        scope = self._scope({}, {}, set())
        results = []
        for root in draft.roots:
            value = scope.value(self.graph.producers[root.value.name][0].operands[0], at)
            result_at = self._result_coordinates(root, (*split[0], *split[2]))
            for place, mode in self.storage.stores.get(root.value.name, ()):
                results.append((place.buffer, place.index(result_at), mode, value))
        combine = self.graph.lowering(first).combine
        return Columns(self._note(draft), *counters, tuple(scope.lets), combine, tuple(results))

    # Contractions.

    def _operand(self, value: Value) -> Operand:
        place = view_of(self.graph, self.storage.memory, value)
        if place is None:
            raise InternalError(f"lower: {value} has no strided place")
        return Operand(place.buffer, place.offset, place.strides)

    def _contract(self, draft: Draft) -> Contract:
        instruction = draft.instruction
        assert instruction is not None
        inputs, output = str(instruction.attribute("spec")).split("->")
        letters_a, letters_b = inputs.split(",")
        value_a, value_b = instruction.operands
        if output and output[-1] in letters_a and output[-1] not in letters_b:
            letters_a, letters_b, value_a, value_b = letters_b, letters_a, value_b, value_a
        a, b = self._operand(value_a), self._operand(value_b)
        extents = dict(zip(letters_a, value_a.type.shape, strict=True)) | dict(zip(letters_b, value_b.type.shape, strict=True))
        strides_a = dict(zip(letters_a, a.strides, strict=True))
        strides_b = dict(zip(letters_b, b.strides, strict=True))
        groups = {
            "batch": [c for c in output if c in letters_a and c in letters_b],
            "m": [c for c in output if c in letters_a and c not in letters_b],
            "n": [c for c in output if c not in letters_a],
            "k": [c for c in letters_a if c not in output],
        }
        index = {k: _merged([(extents[c], strides_a.get(c, 0), strides_b.get(c, 0)) for c in g]) for k, g in groups.items()}
        counters = tuple(Counter(n, math.prod(extents[c] for c in groups[k])) for n, k in enumerate(("batch", "m", "n")))
        place: dict[str, Index] = {}
        for counter, key in zip(counters, ("batch", "m", "n"), strict=True):
            place |= dict(zip(groups[key], ix.unflatten(ix.counter(counter), [extents[c] for c in groups[key]]), strict=True))
        at = tuple(place[c] for c in output)
        row_body, body = self._epilogue(draft, at)
        return Contract(
            self._note(draft), a, b, index["batch"], index["m"], index["n"], index["k"], counters, row_body, body
        )  # fmt: skip

    def _epilogue(self, draft: Draft, at: tuple[Index, ...]) -> tuple[tuple[Let, ...], tuple[Statement, ...]]:
        assert draft.instruction is not None
        result = draft.instruction.results[0]
        scope = self._scope({result.name: Ref("acc")}, {"acc": frozenset([0, 1, 2])}, {"acc"})
        statements: list[Statement] = []
        for place, mode in self.storage.stores.get(result.name, ()):
            statements.append(Store(place.buffer, place.index(at), Ref("acc"), mode))
        statements.extend(self._store(scope, root, at) for root in draft.roots)
        inner = [let for let in scope.lets if 2 in let.needs]
        return tuple(let for let in scope.lets if 2 not in let.needs), (*inner, *statements)

    # Library kernels, scatters, scans.

    def _attention(self, instruction: Instruction) -> Attention:
        vjp = instruction.op == "attention_vjp"
        operands = list(instruction.operands)
        has_mask = len(operands) == (7 if vjp else 4)
        mask = operands.pop(3) if has_mask else None
        values = [*operands[:3], mask, *operands[3:], *instruction.results]
        q, k, v = (o.type.shape for o in operands[:3])
        dims = (q[0], q[1], k[1], q[2], k[2], q[3], v[3])
        places = tuple(None if o is None else self._operand(o) for o in values)
        return Attention(
            self._instruction_note(instruction), vjp, dims, places, instruction.attribute("scale"), instruction.attribute("causal"),
            operands[0].type.dtype,
        )  # fmt: skip

    def _stores(self, value: Value) -> list[tuple]:
        return self.storage.stores.get(value.name, [])

    def _instruction_note(self, instruction: Instruction) -> str:
        return f"{in_model(instruction.span)}  {', '.join(f'{r.name} {r.type}' for r in instruction.results)}"

    def _scatter_add(self, instruction: Instruction) -> Nest:
        rows, indices = instruction.operands
        (result,) = instruction.results
        index_shape = indices.type.shape
        rest = result.type.shape[1:]
        width = math.prod(rest)
        chunk = _chunk(width)
        item = Counter(0, width // chunk)
        clear, column, token, column_2 = (
            Counter(1, result.type.shape[0]),
            Counter(2, chunk),
            Counter(3, math.prod(index_shape)),
            Counter(4, chunk),
        )
        scope = self._scope({}, {}, set())
        token_at = ix.unflatten(ix.counter(token), index_shape)
        place = scope.value(indices, token_at)
        row_lets = list(scope.lets)
        scope.lets = []
        rest_at = ix.unflatten(ix.linear([ix.counter(item), ix.counter(column_2)], [chunk, 1]), rest)
        value = scope.value(rows, (*token_at, *rest_at))
        datum = Index(((ix.Datum(place, result.type.shape[0]), 1),))
        zero = Number(0, scalar_dtype(result.type.dtype))
        zero_at = ix.unflatten(ix.linear([ix.counter(item), ix.counter(column)], [chunk, 1]), rest)
        zeros, adds = [], []
        for p, mode in self._stores(result):
            zeros.append(Store(p.buffer, p.index((ix.counter(clear), *zero_at)), zero, mode))
            adds.append(Store(p.buffer, p.index((datum, *rest_at)), value, "add"))
        body = (
            Loop(clear, (Loop(column, tuple(zeros), True),), False),
            Loop(token, (*row_lets, Loop(column_2, (*scope.lets, *adds), True)), False),
        )
        return Nest(self._instruction_note(instruction), (), item, body, False)

    def _put_along(self, instruction: Instruction) -> Nest:
        rows, indices = instruction.operands
        (result,) = instruction.results
        axis = instruction.attribute("axis") % len(rows.type.dims)
        other = [e for d, e in enumerate(rows.type.shape) if d != axis]
        item, clear, along = Counter(0, math.prod(other)), Counter(1, result.type.shape[axis]), Counter(2, rows.type.shape[axis])
        kept = list(ix.unflatten(ix.counter(item), other))

        def at(place: Index) -> tuple[Index, ...]:
            return (*kept[:axis], place, *kept[axis:])

        scope = self._scope({}, {}, set())
        place = scope.value(indices, at(ix.counter(along)))
        value = scope.value(rows, at(ix.counter(along)))
        datum = Index(((ix.Datum(place, result.type.shape[axis]), 1),))
        zero = Number(0, scalar_dtype(result.type.dtype))
        zeros = tuple(Store(p.buffer, p.index(at(ix.counter(clear))), zero, mode) for p, mode in self._stores(result))
        adds = tuple(Store(p.buffer, p.index(at(datum)), value, "add") for p, mode in self._stores(result))
        body = (Loop(clear, zeros, False), Loop(along, (*scope.lets, *adds), False))
        return Nest(self._instruction_note(instruction), (), item, body, False)

    def _cumsum(self, instruction: Instruction) -> Nest:
        (operand,) = instruction.operands
        (result,) = instruction.results
        axis = instruction.attribute("axis") % len(operand.type.dims)
        extent = operand.type.shape[axis]
        other = [e for d, e in enumerate(operand.type.shape) if d != axis]
        item, along = Counter(0, math.prod(other)), Counter(1, extent)
        place = ix.counter(along)
        if instruction.attribute("reverse"):
            place = ix.add(ix.number(extent - 1), ix.scale(place, -1))
        kept = ix.unflatten(ix.counter(item), other)
        at = (*kept[:axis], place, *kept[axis:])
        scope = self._scope({}, {}, set())
        name = scope.fresh(result.name)
        value = scope.value(operand, at)
        stores = tuple(Store(p.buffer, p.index(at), Ref(name), mode) for p, mode in self._stores(result))
        body = (
            Accumulator(name, scalar_dtype(result.type.dtype), "sum"),
            Loop(along, (*scope.lets, Fold(name, "sum", value), *stores), False),
        )
        return Nest(self._instruction_note(instruction), (), item, body, False)

    def _select(self, instruction: Instruction) -> Select:
        (operand,) = instruction.operands
        top = instruction.op == "top_k"
        rank = len(operand.type.dims)
        axis = rank - 1 if top else instruction.attribute("axis") % rank
        k = instruction.results[0].type.shape[-1] if top else 1
        other = [e for d, e in enumerate(operand.type.shape) if d != axis]
        item, along, chosen = Counter(0, math.prod(other)), Counter(1, operand.type.shape[axis]), Counter(2, k)
        kept = ix.unflatten(ix.counter(item), other)
        scope = self._scope({}, {}, set())
        value = scope.value(operand, (*kept[:axis], ix.counter(along), *kept[axis:]))
        result_at = (*kept, ix.counter(chosen)) if top else kept

        def place(v: Value) -> tuple[str, Index]:
            (p, _) = self._stores(v)[0]
            return p.buffer, p.index(result_at)

        values = place(instruction.results[0]) if top else None
        return Select(
            self._instruction_note(instruction), item, along, tuple(scope.lets), value, scalar_dtype(operand.type.dtype), k,
            values, place(instruction.results[-1]), chosen,
        )  # fmt: skip


def _prologue(body: Sequence[Statement], written: set[str]) -> tuple[tuple[Let, ...], tuple[Statement, ...]]:
    """The lets that are the same for every row, and the rest. What reads a buffer the kernel writes stays in its place."""
    prologue: list[Let] = []
    rest: list[Statement] = []
    names: set[str] = set()
    for s in body:
        if isinstance(s, Let) and not s.needs and not reads_of(s.value) & written and locals_of(s.value) <= names:
            prologue.append(s)
            names.add(s.name)
        else:
            rest.append(s)
    return tuple(prologue), tuple(rest)


def in_model(span: Span) -> str:
    """The innermost place outside the standard library; of a file only its name, wherever it lies."""
    while span.caller is not None and span.file.startswith("<"):
        span = span.caller
    return f"{PurePath(span.file).name}:{span.line}:{span.column}"


def _chunk(width: int) -> int:
    """Columns of one work item: a divisor of the width near 64 that leaves several items where it can."""
    divisors = [d for d in range(1, min(width, 128) + 1) if width % d == 0]
    several = [d for d in divisors if width // d >= 8 and d >= 16]
    return max(several) if several else max((d for d in divisors if width // d >= 2 and d >= 16), default=divisors[-1])


def _merged(group: list[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Index groups with neighbours joined where one index walks through both."""
    out: list[tuple[int, int, int]] = []
    for extent, a, b in group:
        if extent == 1:
            continue
        if out and out[-1][1] == a * extent and out[-1][2] == b * extent:
            out[-1] = (out[-1][0] * extent, a, b)
        else:
            out.append((extent, a, b))
    return tuple(out)


def _nest(
    counters: Sequence[Counter], lets: Sequence[Let], statements: Sequence[Statement], folds: tuple[tuple[str, str], ...]
) -> tuple[Statement, ...]:
    """Statements inside nested loops; each let stands in the outermost loop that has its counters."""
    if not counters:
        return (*lets, *statements)
    numbers = [c.number for c in counters]

    def level(let: Let) -> int:
        return max((n for n, number in enumerate(numbers) if number in let.needs), default=0)

    body: tuple[Statement, ...] = tuple(statements)
    for n in reversed(range(len(counters))):
        own = tuple(let for let in lets if level(let) == n)
        body = (Loop(counters[n], (*own, *body), n == len(counters) - 1, folds),)
    return body
