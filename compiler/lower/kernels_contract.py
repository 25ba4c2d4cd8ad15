"""Contractions: strided index groups for the runtime's kernel, and an epilogue for each element of its blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Index, Ref
from mlc.lower.form import Draft
from mlc.lower.loops import Contract, Let, Statement, Store
from mlc.lower.scope import Scope
from mlc.lower.sources import Sources, draft_note, root_stores

#: (extent, stride in a, stride in b) of each index of a group; strides in elements.
Group = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Spec:
    """An einsum by letters; `b` has the last letter of the output, so that rows of the result are rows of b."""

    a: Value
    b: Value
    letters_a: str
    letters_b: str
    output: str

    @property
    def extents(self) -> dict[str, int]:
        a = dict(zip(self.letters_a, self.a.type.shape, strict=True))
        return a | dict(zip(self.letters_b, self.b.type.shape, strict=True))

    @property
    def groups(self) -> dict[str, str]:
        """The letters of the batch, of the rows and columns of the result, and of the sum."""
        a, b, output = self.letters_a, self.letters_b, self.output
        return {
            "batch": "".join(c for c in output if c in a and c in b),
            "m": "".join(c for c in output if c in a and c not in b),
            "n": "".join(c for c in output if c not in a),
            "k": "".join(c for c in a if c not in output),
        }


def _spec_of(instruction: Instruction) -> _Spec:
    inputs, output = str(instruction.attribute("spec")).split("->")
    letters_a, letters_b = inputs.split(",")
    a, b = instruction.operands
    if output and output[-1] in letters_a and output[-1] not in letters_b:
        return _Spec(b, a, letters_b, letters_a, output)
    return _Spec(a, b, letters_a, letters_b, output)


def contract_kernel(sources: Sources, draft: Draft, instruction: Instruction) -> Contract:
    """The contraction of a draft with its roots, stores of the same shape, as the epilogue."""
    spec = _spec_of(instruction)
    extents, groups = spec.extents, spec.groups
    a, b = sources.operand(spec.a), sources.operand(spec.b)
    strides_a = dict(zip(spec.letters_a, a.strides, strict=True))
    strides_b = dict(zip(spec.letters_b, b.strides, strict=True))
    batch, m, n, k = (_merged([(extents[c], strides_a.get(c, 0), strides_b.get(c, 0)) for c in g]) for g in groups.values())
    counters, place = _places(groups, extents)
    row_body, body = _epilogue(sources, draft, instruction.results[0], tuple(place[c] for c in spec.output))
    return Contract(draft_note(sources.graph, draft), a, b, batch, m, n, k, counters, row_body, body)


def _merged(group: list[tuple[int, int, int]]) -> Group:
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


def _places(groups: Mapping[str, str], extents: Mapping[str, int]) -> tuple[tuple[Counter, Counter, Counter], dict[str, Index]]:
    """The counters of batch, m and n, and by letter the coordinate of the result they mean."""
    place: dict[str, Index] = {}

    def counter_of(number: int, letters: str) -> Counter:
        shape = [extents[c] for c in letters]
        counter = Counter(number, math.prod(shape))
        place.update(zip(letters, ix.unflatten(ix.counter(counter), shape), strict=True))
        return counter

    return (counter_of(0, groups["batch"]), counter_of(1, groups["m"]), counter_of(2, groups["n"])), place


def _epilogue(sources: Sources, draft: Draft, result: Value, at: tuple[Index, ...]) -> tuple[tuple[Let, ...], tuple[Statement, ...]]:
    """What is done with each element of the result: locals of its row, then the rest."""
    needs = {"acc": frozenset([0, 1, 2])}
    scope = Scope(sources.graph, sources.storage.memory, {result.name: Ref("acc")}, needs, {"acc"})
    statements: list[Statement] = [Store(p.buffer, p.index(at), Ref("acc"), mode) for p, mode in sources.stores(result)]
    statements.extend(store for root in draft.roots for store in root_stores(scope, root, at))
    inner = [let for let in scope.lets if 2 in let.needs]
    return tuple(let for let in scope.lets if 2 not in let.needs), (*inner, *statements)
