"""A rewrite of functions as a pass on the whole step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.ir.program import Step, Variant

#: A function of the same parameters and results that computes the same.
Rewrite = Callable[[Function, Mapping[str, Op]], Function]


def every(rewrite: Rewrite) -> Callable[[Step, Mapping[str, Op]], Step]:
    """The pass that rewrites each function of a step; those that were one object stay one."""

    def run(step: Step, ops: Mapping[str, Op]) -> Step:
        made = {id(function): rewrite(function, ops) for function in step.functions()}

        def of(function: Function) -> Function:
            return made[id(function)]

        def rewritten(variant: Variant) -> Variant:
            return replace(
                variant,
                forward=of(variant.forward),
                input_gradient=of(variant.input_gradient),
                weight_gradient=of(variant.weight_gradient),
                again=None if variant.again is None else of(variant.again),
            )

        return replace(
            step,
            variants=tuple(tuple(map(rewritten, variants)) for variants in step.variants),
            plain=tuple(None if function is None else of(function) for function in step.plain),
            inits=tuple(map(of, step.inits)),
            updates=tuple(map(of, step.updates)),
        )

    return run
