"""Passes on the tensor IR: functions to functions, a program to its step, steps to steps.

differentiate(program, ops) -> Step      differentiate.py, with reverse.py, slopes.py, saved.py, split.py
factored_step(step, ops) -> Step         factor.py: dims as products of what reshapes, splits and heads make of them
PASSES, steps to steps, in order         expand.py, simplify.py (algebra.py, places.py), recompute.py; every.py lifts rewrites of functions
"""

from collections.abc import Callable, Mapping

from mlc.frozen import frozen
from mlc.ir.op import Op
from mlc.ir.program import Program, Step
from mlc.passes.differentiate import differentiate as differentiate
from mlc.passes.every import every
from mlc.passes.expand import expand
from mlc.passes.recompute import recompute
from mlc.passes.simplify import simplify


@frozen
class Pass:
    """What a step goes through: a name, what holds after it in one sentence, and the function."""

    name: str
    sentence: str
    run: Callable[[Step, Mapping[str, Op]], Step]


#: Between differentiation and lowering, in this order; tests/passes/ has a folder for each that rewrites functions.
PASSES = (
    Pass("expand", "Ops that are compositions of others are written out.", every(expand)),
    Pass("simplify", "Equal values are computed once, in the simplest known way.", every(simplify)),
    Pass("recompute", "Each layer function has a variant for every choice of what its backward pass makes again.", recompute),
)


def prepared(program: Program, ops: Mapping[str, Op]) -> Step:
    """What lowering takes: the step of a program after every pass."""
    step = differentiate(program, ops)
    for row in PASSES:
        step = row.run(step, ops)
    return step
