"""A chain cut into stages: which calls each has, and which states and cotangents cross each cut."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from mlc.frozen import frozen
from mlc.ir.program import Call, Chain, Program, Step
from mlc.lower.arrangement import Stored
from mlc.lower.program import Lowered
from mlc.plan.layout import Layout


@frozen
class StagedChain:
    """A chain with its stages.

    kind:        one of parallel.planned.CHAINS
    calls:       per stage, the numbers of its calls
    states:      per cut s|s+1, the states made before it and read behind it, in the order they are made
    cotangents:  per cut s|s+1, those of them whose gradient somebody behind the cut adds to and their maker reads
    types:       of every state, with how it lies in memory
    """

    kind: str
    chain: Chain
    calls: tuple[range, ...]
    states: tuple[tuple[str, ...], ...]
    cotangents: tuple[tuple[str, ...], ...]
    types: Mapping[str, Stored]

    def received(self, stage: int) -> tuple[str, ...]:
        """The states that arrive at a stage."""
        return self.states[stage - 1] if stage > 0 else ()

    def sent(self, stage: int) -> tuple[str, ...]:
        """The states that leave a stage."""
        return self.states[stage] if stage + 1 < len(self.calls) else ()

    def gradients_received(self, stage: int) -> tuple[str, ...]:
        return self.cotangents[stage] if stage + 1 < len(self.calls) else ()

    def gradients_sent(self, stage: int) -> tuple[str, ...]:
        return self.cotangents[stage - 1] if stage > 0 else ()


def staged_chains(lowered: Lowered, layout: Layout) -> tuple[StagedChain, ...]:
    """The chains of a program on the stages of a layout, in the order of parallel.planned.CHAINS; those that there are."""
    program = lowered.step.program
    train = _staged(lowered, "train", program.train, layout.cuts)
    forward = program.chains[1:]
    return (train, *(_staged(lowered, kind, chain, _followed(program, layout, chain)) for kind, chain in forward))


def _staged(lowered: Lowered, kind: str, chain: Chain, calls: tuple[range, ...]) -> StagedChain:
    step = lowered.step
    units = step.program.units
    stage_of = [stage for stage, numbers in enumerate(calls) for _ in numbers]
    types: dict[str, Stored] = {}
    made: dict[str, int] = {}
    read: dict[str, int] = {}
    for stage, call in zip(stage_of, chain.calls, strict=True):
        unit = units[call.unit]
        read.update(dict.fromkeys(unit.bound("state", call.arguments), stage))
        for name, result in zip(call.results, unit.function.results[: unit.outputs], strict=True):
            types[name], made[name] = lowered.stored(call.unit, result), stage
    added = _gradient_stages(step, chain, stage_of) if kind == "train" else {}
    return StagedChain(kind, chain, calls, _crossing(made, read, len(calls)), _crossing(made, added, len(calls)), types)


def _crossing(made: Mapping[str, int], last: Mapping[str, int], stages: int) -> tuple[tuple[str, ...], ...]:
    """Per cut, the states made before it whose last stage lies behind it."""
    cuts: list[list[str]] = [[] for _ in range(stages - 1)]
    for name, stage in made.items():
        for cut in range(stage, last.get(name, stage)):
            cuts[cut].append(name)
    return tuple(map(tuple, cuts))


def _gradient_stages(step: Step, chain: Chain, stage_of: list[int]) -> dict[str, int]:
    """The last stage that adds to the gradient of each state whose maker reads it."""
    last: dict[str, int] = {}
    wanted: set[str] = set()
    for stage, call in zip(stage_of, chain.calls, strict=True):
        variant = step.variant(call.unit)
        if variant is None:
            continue
        names = dict(zip((p.name for p in step.program.units[call.unit].function.parameters), call.arguments, strict=True))
        last.update((names[parameter], stage) for parameter, _ in variant.d_states)
        made = zip(call.results, variant.d_results, strict=False)
        wanted.update(name for name, cotangent in made if cotangent is not None and name != chain.loss)
    return {name: stage for name, stage in last.items() if name in wanted}


def _followed(program: Program, layout: Layout, chain: Chain) -> tuple[range, ...]:
    """The stages of a forward chain: a call goes where the train chain's call of its path is, others where their parameters are.

    Stages never go back: a call that belongs before the one it follows stays with that one, whose place then holds its parameters too.
    """
    paths: dict[str, int] = {}
    held: list[set[str]] = [set() for _ in range(layout.pp)]
    for stage, numbers in enumerate(layout.cuts):
        for call in (program.train.calls[n] for n in numbers):
            paths.setdefault(call.path, stage)
            held[layout.schedule.placement[stage]].update(parameters_of(program, call))
    counts = [0] * layout.stages
    stage = 0
    for call in chain.calls:
        wanted = paths.get(call.path) if call.path else None
        if wanted is None:
            needs = set(parameters_of(program, call))
            holders = (s for s in range(stage, layout.stages) if needs <= held[layout.schedule.placement[s]])
            wanted = next(holders, stage)
        stage = max(stage, wanted)
        counts[stage] += 1
    ends = list(accumulate(counts))
    return tuple(range(end - count, end) for end, count in zip(ends, counts, strict=True))


def parameters_of(program: Program, call: Call) -> list[str]:
    """The model parameters a call is given, in order."""
    return program.units[call.unit].bound("param", call.arguments)
