"""Passes on the tensor IR: functions to functions, and a program to its step.

simplify(function, ops) -> function      simplify.py: equal values once, moves of moves, known numbers (algebra.py, places.py)
expand(function, ops) -> function        expand.py: compositions written out, after differentiation
differentiate(program, ops) -> Step      differentiate.py, with reverse.py, saved.py, split.py
factored_step(step, ops) -> Step         factor.py: dims as products of what reshapes, splits and heads make of them
"""

from collections.abc import Callable, Mapping

from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.passes.differentiate import differentiate as differentiate
from mlc.passes.expand import expand as expand
from mlc.passes.simplify import simplify as simplify

#: What a function goes through between differentiation and lowering, in this order; tests/passes/ has a folder for each.
PASSES: dict[str, Callable[[Function, Mapping[str, Op]], Function]] = {"expand": expand, "simplify": simplify}
