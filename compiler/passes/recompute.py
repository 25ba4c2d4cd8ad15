"""Recomputation: each layer function gets variants that keep less from forward to backward, and make the rest again.

before:  variant none        saved: %h.3, %y.1, %h.8
after:   variant none        the same
         variant selective   saved: the same   again(%x, %w.ln, %y.1) -> (%h.3, %h.8)
         variant full        saved: the same   again(%x, %w.ln, %w.qkv, ...) -> (%h.3, %y.1, %h.8)

Forward, input gradient and weight gradient are those of the first variant: only where saved values come from differs, so no bit does.
`selective` keeps what only contractions, attention and the like can make; `full` keeps nothing but the layer's arguments.
Random numbers are keyed by path, so they are drawn again as they were; what leaves the layer sideways is not made twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlc.ir.function import Function
from mlc.ir.op import Op
from mlc.ir.program import CHOICES, Step, Variant
from mlc.ir.types import Value
from mlc.passes.kinds import Graph, Kind


def recompute(step: Step, ops: Mapping[str, Op]) -> Step:
    """The step with a variant for every choice that makes something more again than the one before."""
    return replace(step, variants=tuple(choices_of(variants[0], ops) if variants else () for variants in step.variants))


def choices_of(variant: Variant, ops: Mapping[str, Op]) -> tuple[Variant, ...]:
    """The variant that keeps everything, and those that make more and more again."""
    found = [variant]
    most = 0
    for choice, remade in zip(CHOICES[1:], (cheap_values(variant, ops), frozenset(variant.saved)), strict=True):
        if len(remade) > most:
            most = len(remade)
            found.append(replace(variant, choice=choice, again=again_function(variant.forward, variant.saved, remade, ops)))
    return tuple(found)


def cheap_values(variant: Variant, ops: Mapping[str, Op]) -> frozenset[str]:
    """The saved values that are made of arguments and other saved values without contraction, library kernel, scatter or scan."""
    graph, saved = Graph(variant.forward.instructions, ops), set(variant.saved)
    made = {name: [graph.instructions[n] for n in graph.above([name], saved - {name})] for name in variant.saved}
    cheap = {name for name, above in made.items() if all(graph.kind(i) is not Kind.OPAQUE for i in above)}
    while beside := {name for name in cheap if any(v.name in saved - cheap for i in made[name] for v in i.results)}:
        cheap -= beside  # an instruction that makes it makes a kept value too
    return frozenset(cheap)


def again_function(forward: Function, saved: tuple[str, ...], remade: frozenset[str], ops: Mapping[str, Op]) -> Function:
    """What makes the values `remade` of the arguments of `forward` and its other saved values, with forward's own instructions."""
    graph = Graph(forward.instructions, ops)
    kept = frozenset(saved) - remade
    instructions = tuple(graph.instructions[n] for n in sorted(graph.above(sorted(remade), set(kept))))
    own = {v.name for i in instructions for v in i.results}
    read = {v.name for i in instructions for v in i.operands} - own
    sources: tuple[Value, ...] = (*forward.parameters, *(v for v in forward.results if v.name in kept))
    parameters = tuple(v for v in sources if v.name in read)
    results = tuple(v for v in forward.results if v.name in remade)
    return Function(f"{forward.name.removesuffix('.forward')}.again", parameters, instructions, results)
