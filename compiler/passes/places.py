"""Rules of ops that move elements: moves of moves are one move, and what moves nothing is no instruction."""

from __future__ import annotations

import math

from mlc.diagnostics import OpError
from mlc.ir.types import Value
from mlc.passes.rewrite import Call, Rewriter, Rule, call


def _unchanged(_s: Rewriter, wanted: Call) -> Value | None:
    """A move to the dims that are there already. Labels count: a reshape may be there for them."""
    (x,) = wanted.operands
    return x if x.type.dims == wanted["dims"] else None


def _of_number(s: Rewriter, wanted: Call) -> Call | None:
    """A move of equal elements is a broadcast of one of them."""
    (x,) = wanted.operands
    if x.name not in s.number or not x.type.dims:
        return None
    return s.filled(s.number[x.name], s.type_of(wanted))


def _alias(_s: Rewriter, wanted: Call) -> Value:
    return wanted.operands[0]


def _reshape_of_reshape(s: Rewriter, wanted: Call) -> Call | None:
    maker = s.maker(wanted.operands[0], "reshape")
    return call("reshape", maker.operands[0], dims=wanted["dims"]) if maker else None


def _transpose_in_place(s: Rewriter, wanted: Call) -> Call | Value | None:
    """No transpose, or a reshape when only axes of one element change their place."""
    (x,) = wanted.operands
    permutation = wanted["permutation"]
    if permutation == tuple(range(len(permutation))):
        return x
    moved = [p for p in permutation if x.type.dims[p].size != 1]
    return call("reshape", x, dims=s.type_of(wanted).dims) if moved == sorted(moved) else None


def _transpose_of_transpose(s: Rewriter, wanted: Call) -> Call | None:
    maker = s.maker(wanted.operands[0], "transpose")
    if maker is None:
        return None
    first = Call(maker.op, maker.operands, maker.attributes)["permutation"]
    return call("transpose", maker.operands[0], permutation=tuple(first[p] for p in wanted["permutation"]))


def _transpose_of_contract(s: Rewriter, wanted: Call) -> Call | None:
    """A contraction that only its transpose reads is made in that order."""
    (x,) = wanted.operands
    maker = s.maker(x, "contract")
    if maker is None or s.uses.get(x.name) != 1:
        return None
    inputs, output = str(maker.attribute("spec")).split("->")
    order = "".join(output[p] for p in wanted["permutation"])
    return call("contract", *maker.operands, spec=f"{inputs}->{order}")


def _contract_of_transpose(s: Rewriter, wanted: Call) -> Call | None:
    """A contraction reads its operands in any order."""
    makers = [s.maker(v, "transpose") for v in wanted.operands]
    if makers == [None, None]:
        return None
    inputs, output = wanted["spec"].split("->")
    letters = list(inputs.split(","))
    operands = list(wanted.operands)
    for place, maker in enumerate(makers):
        if maker is not None:
            permutation = Call(maker.op, maker.operands, maker.attributes)["permutation"]
            letters[place] = "".join(letters[place][permutation.index(a)] for a in range(len(permutation)))
            operands[place] = maker.operands[0]
    return call("contract", *operands, spec=f"{','.join(letters)}->{output}")


def _broadcast_as_reshape(_s: Rewriter, wanted: Call) -> Call | None:
    """A broadcast that repeats nothing."""
    (x,) = wanted.operands
    repeated = math.prod(d.size for d in wanted["dims"]) != x.type.size
    return None if repeated else call("reshape", x, dims=wanted["dims"])


def _broadcast_of_broadcast(s: Rewriter, wanted: Call) -> Call | None:
    maker = s.maker(wanted.operands[0], "broadcast")
    if maker is None:
        return None
    inner = Call(maker.op, maker.operands, maker.attributes)["axes"]
    return _if_valid(s, call("broadcast", maker.operands[0], dims=wanted["dims"], axes=tuple(wanted["axes"][a] for a in inner)))


def _broadcast_of_reshape(s: Rewriter, wanted: Call) -> Call | None:
    """A reshape that adds or drops axes of one element, then a broadcast, is one broadcast."""
    maker = s.maker(wanted.operands[0], "reshape")
    if maker is None:
        return None
    (x,) = maker.operands
    axes = [a for a, d in zip(wanted["axes"], wanted.operands[0].type.dims, strict=True) if d.size != 1]
    if list(x.type.shape) != [n for n in wanted.operands[0].type.shape if n != 1]:
        return None
    return _if_valid(s, call("broadcast", x, dims=wanted["dims"], axes=tuple(axes)))


def _if_valid(s: Rewriter, wanted: Call) -> Call | None:
    """A named dim of one element does not stretch, a literal 1 does: the joined move may not be allowed."""
    try:
        s.types_of(wanted)
    except OpError:
        return None
    return wanted


def _bounds(wanted: Call) -> list[tuple[int, int, int]]:
    return list(zip(wanted["starts"], wanted["stops"], wanted["steps"], strict=True))


def _slice_of_all(_s: Rewriter, wanted: Call) -> Value | None:
    (x,) = wanted.operands
    return x if _bounds(wanted) == [(0, n, 1) for n in x.type.shape] else None


def _slice_of_slice(s: Rewriter, wanted: Call) -> Call | None:
    maker = s.maker(wanted.operands[0], "slice")
    if maker is None:
        return None
    bounds = zip(_bounds(Call(maker.op, maker.operands, maker.attributes)), _bounds(wanted), strict=True)
    joined = [(a + b * step, a + (b + ((e - 1 - b) // t) * t) * step + 1, step * t) for (a, _, step), (b, e, t) in bounds]
    starts, stops, steps = (tuple(column) for column in zip(*joined, strict=True))
    return call("slice", maker.operands[0], starts=starts, stops=stops, steps=steps)


def _concat_of_split(s: Rewriter, wanted: Call) -> Value | None:
    """One operand, or the parts of a split in their order."""
    if len(wanted.operands) == 1:
        return wanted.operands[0]
    maker = s.maker(wanted.operands[0], "split")
    whole = maker is not None and maker.results == wanted.operands and maker.attribute("axis") == wanted["axis"]
    return maker.operands[0] if maker and whole else None


def _split_in_one(_s: Rewriter, wanted: Call) -> Value | None:
    return wanted.operands[0] if len(wanted["sizes"]) == 1 else None


def _reduction_of_one(s: Rewriter, wanted: Call) -> Call | None:
    """A reduction over axes of one element only moves."""
    (x,) = wanted.operands
    alone = all(x.type.dims[a].size == 1 for a in wanted["axes"])
    return call("reshape", x, dims=s.type_of(wanted).dims) if alone else None


def _gather_in_order(s: Rewriter, wanted: Call) -> Call | None:
    """Rows 0, 1, 2, ... are a slice."""
    x, index = wanted.operands
    counted = s.maker(index, "iota")
    if counted is None or counted.operands or index.type.size > x.type.shape[wanted["axis"]]:
        return None
    stops = tuple(index.type.size if a == wanted["axis"] else n for a, n in enumerate(x.type.shape))
    return call("slice", x, starts=(0,) * len(stops), stops=stops, steps=(1,) * len(stops))


RULES: dict[str, tuple[Rule, ...]] = {
    "copy": (_alias,),
    "reshape": (_unchanged, _of_number, _reshape_of_reshape),
    "transpose": (_transpose_in_place, _of_number, _transpose_of_transpose, _transpose_of_contract),
    "broadcast": (_unchanged, _of_number, _broadcast_as_reshape, _broadcast_of_broadcast, _broadcast_of_reshape),
    "slice": (_slice_of_all, _of_number, _slice_of_slice),
    "pad": (_unchanged,),
    "concat": (_concat_of_split,),
    "split": (_split_in_one,),
    "sum": (_reduction_of_one,),
    "max": (_reduction_of_one,),
    "gather": (_gather_in_order,),
    "contract": (_contract_of_transpose,),
}
