"""What ranks of one axis of the mesh do together: collectives, and what cuts and joins for them.

They stand in functions of ranks only (ir/forms.py), beside the ops of the table. A factor of a dim is given by `dim`, `inner` (elements
of the dim within one step of it) and `size` (steps of it in the whole value); `parts` is the number of ranks of `axis`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mlc.diagnostics import InternalError
from mlc.frozen import frozen
from mlc.ir.forms import Cut, scaled
from mlc.ir.op import Attributes
from mlc.ir.types import TensorType

Types = tuple[TensorType, ...]
Array = np.ndarray

#: Of every rank, its operands or results.
OfRanks = Sequence[tuple[Array, ...]]


@frozen
class MeshOp:
    """meaning(operands of every rank, attributes, types of results) -> results of every rank; sums are rounded to these types."""

    name: str
    doc: str
    attributes: tuple[str, ...]
    type_rule: Callable[[Types, Attributes], Types]
    meaning: Callable[[OfRanks, Attributes, Callable[[Array], Array]], list[tuple[Array, ...]]]


def cut_of(attributes: Attributes, prefix: str = "") -> Cut:
    """The factor that attributes speak of."""
    return Cut(attributes[f"{prefix}dim"], attributes[f"{prefix}inner"], attributes[f"{prefix}size"])


FACTOR = ("dim", "inner", "size")


def _resized(kind: TensorType, cut: Cut, before: int, after: int) -> TensorType:
    """A type that has `before` steps of a factor, with `after`."""
    fits = 0 <= cut.dim < len(kind.dims) and min(cut.inner, before, after) > 0
    if not fits or kind.shape[cut.dim] % (cut.inner * before):
        raise InternalError(f"{kind} has not {before} steps of {cut}")
    return scaled(kind, Cut(cut.dim, cut.inner, before), after)


def unfolded(array: Array, cut: Cut, steps: int) -> Array:
    """The dim of a factor as three: outside of it, its steps, inside."""
    return array.reshape((*array.shape[: cut.dim], -1, steps, cut.inner, *array.shape[cut.dim + 1 :]))


def runs_of(array: Array, cut: Cut, steps: int, count: int) -> list[Array]:
    """Equal runs of the steps of a factor, in order."""
    runs = np.split(unfolded(array, cut, steps), count, axis=cut.dim + 1)
    return [run.reshape((*array.shape[: cut.dim], -1, *array.shape[cut.dim + 1 :])) for run in runs]


def joined(runs: Sequence[Array], cut: Cut, steps: int) -> Array:
    """Runs of a factor, one after the other; each has so many steps."""
    whole = np.concatenate([unfolded(run, cut, steps) for run in runs], axis=cut.dim + 1)
    return whole.reshape((*runs[0].shape[: cut.dim], -1, *runs[0].shape[cut.dim + 1 :]))


def tree(terms: Sequence[Array], join: str, rounded: Callable[[Array], Array]) -> Array:
    """The bottom-up pairwise tree: (0, 1), (2, 3), ...; an odd last one moves up. Every sum is rounded."""
    if join == "max":
        return np.maximum.reduce(list(terms))
    while len(terms) > 1:
        pairs = [(terms[n], terms[n + 1] if n + 1 < len(terms) else None) for n in range(0, len(terms), 2)]
        terms = [a if b is None else rounded(a + b) for a, b in pairs]
    return terms[0]


def _positive(rule: Callable[[Types, Attributes], Types]) -> Callable[[Types, Attributes], Types]:
    """The rule, of operands and attributes that there are: whatever is counted is at least 1."""

    def checked(types: Types, a: Attributes) -> Types:
        if not types or any(value < 1 for key, value in a.items() if key not in ("axis", "join", "dim", "to_dim")):
            raise InternalError(f"{dict(a)} of {len(types)} operands")
        return rule(types, a)

    return checked


def _one(types: Types) -> TensorType:
    if len(types) != 1:
        raise InternalError(f"{len(types)} operands, wants 1")
    return types[0]


def _every(ranks: OfRanks) -> list[Array]:
    """The operands of all ranks in order: strips of rank 0, then of rank 1, and so on."""
    return [array for operands in ranks for array in operands]


def _alike(types: Types) -> TensorType:
    first = types[0]
    if any(not t.same(first) for t in types):
        raise InternalError(f"terms differ in type: {', '.join(map(str, types))}")
    return first


def _gather_rule(types: Types, a: Attributes) -> Types:
    return (_resized(_one(types), cut_of(a), a["size"] // a["parts"], a["size"]),)


def _gather_meaning(ranks: OfRanks, a: Attributes, _rounded: Callable[[Array], Array]) -> list[tuple[Array, ...]]:
    whole = joined(_every(ranks), cut_of(a), a["size"] // a["parts"])
    return [(whole,)] * len(ranks)


def _part_rule(types: Types, a: Attributes) -> Types:
    return (_resized(_one(types), cut_of(a), a["size"], a["size"] // a["parts"]),)


def _part_meaning(ranks: OfRanks, a: Attributes, _rounded: Callable[[Array], Array]) -> list[tuple[Array, ...]]:
    cut = cut_of(a)
    return [(runs_of(x, cut, cut.size, len(ranks))[rank],) for rank, (x,) in enumerate(ranks)]


def _reduce_rule(types: Types, _a: Attributes) -> Types:
    return (_alike(types),)


def _reduce_meaning(ranks: OfRanks, a: Attributes, rounded: Callable[[Array], Array]) -> list[tuple[Array, ...]]:
    return [(tree(_every(ranks), a["join"], rounded),)] * len(ranks)


def _scatter_rule(types: Types, a: Attributes) -> Types:
    return _part_rule((_alike(types),), a)


def _scatter_meaning(ranks: OfRanks, a: Attributes, rounded: Callable[[Array], Array]) -> list[tuple[Array, ...]]:
    return _part_meaning(_reduce_meaning(ranks, a, rounded), a, rounded)


def _turned(a: Attributes) -> dict[str, object]:
    """The attributes of the part that an all_to_all makes."""
    return {**a, **{key: a[f"to_{key}"] for key in FACTOR}}


def _all_to_all_rule(types: Types, a: Attributes) -> Types:
    return _part_rule(_gather_rule(types, a), _turned(a))


def _all_to_all_meaning(ranks: OfRanks, a: Attributes, rounded: Callable[[Array], Array]) -> list[tuple[Array, ...]]:
    return _part_meaning(_gather_meaning(ranks, a, rounded), _turned(a), rounded)


def _strips_rule(types: Types, a: Attributes) -> Types:
    own = a["strips"] // a["parts"]
    return (_resized(_one(types), cut_of(a), a["size"] // a["parts"], a["size"] // a["strips"]),) * own


def _strips_meaning(ranks: OfRanks, a: Attributes, _rounded: Callable[[Array], Array]) -> list[tuple[Array, ...]]:
    return [tuple(runs_of(x, cut_of(a), a["size"] // a["parts"], a["strips"] // a["parts"])) for (x,) in ranks]


def _joined_rule(types: Types, a: Attributes) -> Types:
    if len(types) * a["parts"] != a["strips"]:
        raise InternalError(f"joined: {len(types)} strips of {a['strips']} on {a['parts']} ranks")
    return (_resized(_alike(types), cut_of(a), a["size"] // a["strips"], a["size"] // a["parts"]),)


def _joined_meaning(ranks: OfRanks, a: Attributes, _rounded: Callable[[Array], Array]) -> list[tuple[Array, ...]]:
    return [(joined(strips, cut_of(a), a["size"] // a["strips"]),) for strips in ranks]


def _position_rule(_types: Types, _a: Attributes) -> Types:
    return (TensorType("i32"),)


def _position_meaning(ranks: OfRanks, a: Attributes, _rounded: Callable[[Array], Array]) -> list[tuple[Array, ...]]:
    return [(np.asarray(rank * a["step"] + a["start"], np.int32),) for rank in range(len(ranks))]


_MESH_OPS = (
    MeshOp("all_gather", "the runs of all ranks, one after the other", ("axis", *FACTOR, "parts"), _gather_rule, _gather_meaning),
    MeshOp("part", "the rank's own run of what all have", ("axis", *FACTOR, "parts"), _part_rule, _part_meaning),
    MeshOp("all_reduce", "the sum or maximum of the terms of all ranks", ("axis", "join", "parts"), _reduce_rule, _reduce_meaning),
    MeshOp(
        "reduce_scatter",
        "the rank's own run of the sum or maximum of the terms of all ranks",
        ("axis", *FACTOR, "join", "parts"),
        _scatter_rule,
        _scatter_meaning,
    ),
    MeshOp(
        "all_to_all",
        "runs of one factor exchanged for runs of another",
        ("axis", *FACTOR, "parts", *(f"to_{key}" for key in FACTOR)),
        _all_to_all_rule,
        _all_to_all_meaning,
    ),
    MeshOp("strips", "the rank's strips of its run", (*FACTOR, "parts", "strips"), _strips_rule, _strips_meaning),
    MeshOp("joined", "the rank's run, of its strips", (*FACTOR, "parts", "strips"), _joined_rule, _joined_meaning),
    MeshOp("position", "start + step for each rank before this one", ("axis", "start", "step"), _position_rule, _position_meaning),
)

#: By name, in the order of the documentation.
MESH_OPS: dict[str, MeshOp] = {
    op.name: replace(op, type_rule=_positive(op.type_rule)) if "parts" in op.attributes else op for op in _MESH_OPS
}

#: Those that move something between ranks.
COLLECTIVES = ("all_gather", "all_reduce", "reduce_scatter", "all_to_all")
