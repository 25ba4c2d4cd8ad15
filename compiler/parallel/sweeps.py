"""Sweeps: what happens to gradients and parameters, as kernels that go over all of them by a rule.

A sweep takes parameters, or uses of them, and calls its kernels in their order on some elements of each. What runs it, what it goes
over, which elements and what its kernels are given are words; `runtime/include/mlc_abi.h` has the same words for a program.

Sweep     one of them
KERNELS   what they call; a target has a function for each
operands  what a word stands for, of a parameter on a place: several buffers, one or none
"""

from __future__ import annotations

from typing import NamedTuple

from mlc.frozen import frozen

#: What runs a sweep: the actions of a list, STATISTICS and NORM before they exchange something; what they have exchanged (WEIGH, CLIP); the
#: start of a run; new masters for another reason than an update; the search for a gradient that is not finite, behind compute actions of a
#: second walk.
MOMENTS = ("FOLD", "STATISTICS", "WEIGH", "REDUCE", "SHARE", "NORM", "CLIP", "UPDATE", "START", "COPIES", "SEARCH")

#: Moments at which sweeps may go over the rank itself; and, of these, those of nothing else.
OF_RANK = ("STATISTICS", "WEIGH", "NORM", "CLIP", "UPDATE")
OF_RANK_ALONE = ("STATISTICS", "WEIGH", "CLIP")

#: What a sweep goes over: uses of the action's chunk in its phases; the use that SHARE is of; the pieces of a shard;
#: all that a place holds; the rank itself, once. And the elements that there are of it, beside whole tensors.
OVER = {"uses": "whole", "use": "shard", "pieces": "shard", "held": "whole", "rank": "whole"}

#: Which elements, and how: all kernels on some elements before the next ones; "tensor": each kernel on the whole before the next one.
RANGES = ("whole", "shard", "tensor")

#: Conditions, all of which hold of what a sweep takes: what feeds it; whether all its uses are on its owner's place; whether its update, or
#: the initial value of what is held, runs over ranges of elements; whether it is a use behind the first on the owner's place.
CONDITIONS = ("loss", "accumulated", "here", "spread", "elementwise", "whole", "further")

#: What an operand is: of the wide dtype, a copy in the dtype of the forward pass, a scalar of the record or that a microbatch left, or what
#: there is one of: numbers of microbatches, the share of a microbatch in weights, `held` of the record, and what a step finds, for other
#: ranks and for the host to read when it has ended (`runtime/src/model/results.h`).
OPERANDS = {
    "sum": "wide",
    "waiting": "wide",
    "kept": "wide",
    "gradient": "wide",
    "further": "wide",
    "master": "wide",
    "copy": "narrow",
    "state": "wide",
    "new master": "wide",
    "new state": "wide",
    "scale": "scalar",
    "clip": "scalar",
    "mean": "scalar",
    "limit": "scalar",
    "value": "scalar",
    "weight": "scalar",
    "number": "number",
    "share": "share",
    "held": "held",
    "statistics": "statistics",
    "squares": "squares",
    "norm": "norm",
    "flaw": "flaw",
}


@frozen
class SweepKernel:
    """A kernel of sweeps, elementwise but for what it notes of values.

    doc:       its meaning, of its operands x and y
    operands:  what it does with each, and what that is, as in OPERANDS; `own`: those of the parameter's routine
    """

    name: str
    doc: str
    operands: tuple[tuple[str, str], ...]


_CHANGE, _WRITE, _READ, _SCALAR = (("change", "wide"), ("write", "wide"), ("read", "wide"), ("read", "scalar"))

#: By name. A target has a function for each but those in OWN.
KERNELS = {
    kernel.name: kernel
    for kernel in (
        SweepKernel("add", "x + y into x", (_CHANGE, _READ)),
        SweepKernel("copy", "y into x", (_WRITE, _READ)),
        SweepKernel("scale", "x * y into x", (_CHANGE, _SCALAR)),
        SweepKernel("squares", "x * x is noted, as a term of the exact sum; the parameter is noted where one is not finite", (_READ,)),
        SweepKernel("finite", "the parameter is noted where x * x is not finite", (_READ,)),
        SweepKernel("round", "y, rounded, into x", (("write", "narrow"), _READ)),
        SweepKernel("inspect", "x is noted where it is not finite", (_READ,)),
        SweepKernel("inspect_copy", "x is noted where it is not finite", (("read", "narrow"),)),
        SweepKernel("refusals", "whether an input is missing or an index out of range, into the notes of x", (("change", "statistics"),)),
        SweepKernel(
            "account",
            "what microbatch n left in a column, y with weight z, into the sums of x",
            (("change", "statistics"), _SCALAR, _SCALAR, ("read", "number"), ("read", "share")),
        ),
        SweepKernel(
            "weigh",
            "of statistics z: 1 / the sum of weights into x; whether the step is to change nothing, into y",
            (("write", "scalar"), ("write", "held"), ("read", "statistics")),
        ),
        SweepKernel("total", "of what was noted of gradients: the exact sum and the first parameter, into x", (("write", "squares"),)),
        SweepKernel(
            "norm",
            "of squares: their root into x; what loss gradients are to be multiplied by, so that it is at most the limit, into y; whether "
            "a gradient is not finite, into z",
            (("write", "norm"), ("write", "scalar"), ("change", "held"), ("read", "squares"), _SCALAR),
        ),
        SweepKernel("first", "the first of what was noted of an update, into x", (("write", "flaw"),)),
        SweepKernel("update", "new values and states of a parameter, by its rule", ()),
        SweepKernel("initial", "the initial values of a parameter", ()),
    )
}

#: Routines of the parameter itself.
OWN = ("update", "initial")


class SweepCall(NamedTuple):
    """A kernel and what it is given; called for each of the operand that there are the most of, not at all where there is none of one."""

    kernel: str
    operands: tuple[str, ...]


@frozen
class Sweep:
    """Kernels in their order.

    moment:   what runs it, of MOMENTS; over: what it goes over; only: conditions; range: which elements
    gated:  it does nothing where the record is `held`; what it would note was not noted then
    """

    moment: str
    over: str
    only: tuple[str, ...]
    range: str
    gated: bool
    calls: tuple[SweepCall, ...]
