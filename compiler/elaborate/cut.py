"""The cut of a model into units and chains.

    trace of the model:   a = gather(wte, tokens)   b = call block(a)   c = b @ transpose(wte)   loss = cross_entropy(c, targets)
    chain:                begin(wte, tokens) -> a   block(a) -> b       end(b, wte, targets) -> loss

A value that depends on parameters and on inputs (or random numbers) is a state: it belongs to one unit and crosses cuts. All
others (positions, masks, targets; tied tables, position biases) are never sent: they are cloned into each unit that reads them.
State code between two calls joins the call before it when it has neither a parameter nor a contraction, else it is a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlc.elaborate.failures import Failure
from mlc.elaborate.scopes import join
from mlc.elaborate.trace import VIA, CallItem, EffectItem, Item, LayerBody, Leaf, Trace
from mlc.elaborate.units import Assembler, Binding, EffectName, UnitTable, hint_of
from mlc.frozen import frozen
from mlc.ir.function import Instruction
from mlc.ir.program import Call, Chain
from mlc.ir.types import Value

#: chain -> effects that its units keep
KEPT = {"train": ("add_loss", "report", "accumulate"), "evaluate": ("add_loss", "report"), "sample": ()}

PARAMETER, INPUT = 1, 2
STATE = PARAMETER | INPUT
CONTRACTIONS = ("contract", "attention")


@frozen
class ModelTrace:
    """The model elaborated once: its trace and what it returned."""

    trace: Trace
    loss: Value
    weight: Value | None
    logits: Value | None
    metrics: tuple[tuple[str, Value], ...]


@frozen
class Pruned:
    """The part of a layer body that some of its results and effects need."""

    items: tuple[Instruction | EffectItem, ...]
    read: frozenset[str]


@dataclass(slots=True)
class Draft:
    """A unit in the making: a call, then code of the model."""

    call: CallItem | None
    pruned: Pruned | None = None
    items: list[Instruction | EffectItem] = field(default_factory=list)

    def defined(self) -> list[Value]:
        made = list(self.call.results) if self.call is not None else []
        return [*made, *(r for i in self.items if isinstance(i, Instruction) for r in i.results)]


class Cutter:
    """Cuts one elaboration of the model into chains. `units` is shared between chains and elaborations."""

    def __init__(self, model: ModelTrace, units: UnitTable):
        self.model = model
        self.units = units
        self.leaves: dict[str, Leaf] = {leaf.value.name: leaf for leaf in model.trace.leaves.values()}
        self.definitions = {r.name: i for i in model.trace.items if isinstance(i, Instruction) for r in i.results}
        self.kinds = self._kinds()
        self._given: dict[int, tuple[str, ...]] = {}
        self._pruned: dict[tuple[int, frozenset[int], tuple[str, ...]], Pruned] = {}
        self._templates: dict[object, tuple[int, tuple[tuple[str, int | str], ...], tuple[EffectItem, ...]]] = {}

    # ----------------------------------------------------------------------------------------- what depends on what

    def _kinds(self) -> dict[str, int]:
        kinds = {name: {"param": PARAMETER, "input": INPUT}.get(leaf.role, 0) for name, leaf in self.leaves.items()}
        for item in self.model.trace.items:
            match item:
                case Instruction():
                    kind = INPUT if item.op.startswith("random_") else 0
                    for operand in item.operands:
                        kind |= kinds[operand.name]
                    kinds.update((r.name, kind) for r in item.results)
                case CallItem():
                    kinds.update((r.name, STATE) for r in item.results)
                case _:
                    pass
        return kinds

    def is_state(self, value: Value) -> bool:
        return self.kinds[value.name] == STATE

    # ----------------------------------------------------------------------------------------- chains

    def chain(self, kind: str) -> Chain:
        """The chain of one program: train, evaluate or sample."""
        roots = [self.model.logits] if kind == "sample" else [self.model.loss, *(v for _, v in self.model.metrics)]
        copies, roots = self._materialized([r for r in roots if r is not None])
        drafts = self._drafts([*self.model.trace.items, *copies], {r.name for r in roots}, KEPT[kind])
        named = self._calls(drafts, roots)
        states = [named.states[r.name] for r in roots]
        if kind == "sample":
            return Chain(tuple(named.calls), None, None, (), states[0])
        metrics = tuple((name, state) for (name, _), state in zip(self.model.metrics, states[1:], strict=True))
        return Chain(tuple(named.calls), states[0], self._weight(), metrics, None)

    def _materialized(self, roots: Sequence[Value]) -> tuple[list[Instruction], list[Value]]:
        """Roots that are no state are copied by the last unit."""
        copies: list[Instruction] = []
        made: list[Value] = []
        for root in roots:
            if self.is_state(root) and root.name not in [m.name for m in made]:
                made.append(root)
                continue
            span = self.definitions[root.name].span if root.name in self.definitions else self.model.trace.builder.span
            result = Value(self.model.trace.builder.fresh("result"), root.type)
            copies.append(Instruction("copy", (root,), (), (result,), span, VIA))
            self.kinds[result.name] = STATE
            made.append(result)
        return copies, made

    def _drafts(self, items: Sequence[Item], roots: set[str], kept: tuple[str, ...]) -> list[Draft]:
        live = self._live(items, roots, kept)
        drafts: list[Draft] = []
        group: list[Instruction | EffectItem] = []
        for item, pruned in live:
            match item:
                case CallItem():
                    self._close(drafts, group)
                    group = []
                    drafts.append(Draft(item, pruned))
                case EffectItem():
                    group.append(item)
                case Instruction() if self.is_state(item.results[0]):
                    group.append(item)
                case _:
                    pass
        self._close(drafts, group)
        return drafts

    def _live(self, items: Sequence[Item], roots: set[str], kept: tuple[str, ...]) -> list[tuple[Item, Pruned | None]]:
        """Items that the roots and kept effects need, in order."""
        live = set(roots)
        found: list[tuple[Item, Pruned | None]] = []
        for item in reversed(items):
            match item:
                case Instruction() if any(r.name in live for r in item.results):
                    live.update(o.name for o in item.operands)
                    found.append((item, None))
                case EffectItem() if item.kind in kept:
                    live.add(item.value.name)
                    found.append((item, None))
                case CallItem():
                    outs = frozenset(i for i, r in enumerate(item.results) if r.name in live)
                    pruned = self._prune(item.body, outs, kept)
                    if outs or any(isinstance(i, EffectItem) for i in pruned.items):
                        live.update(a.name for a, b in zip(item.arguments, item.body.arguments, strict=True) if b.name in pruned.read)
                        found.append((item, pruned))
                case _:
                    pass
        return found[::-1]

    def _prune(self, body: LayerBody, outs: frozenset[int], kept: tuple[str, ...]) -> Pruned:
        key = (id(body), outs, kept)
        if key not in self._pruned:
            self._pruned[key] = prune(body, outs, kept)
        return self._pruned[key]

    def _close(self, drafts: list[Draft], group: list[Instruction | EffectItem]) -> None:
        """The code after the last call: joined to it, or a unit of its own."""
        if not group:
            return
        if drafts and not self._heavy(group):
            drafts[-1].items.extend(group)
            return
        drafts.append(Draft(None, None, group))

    def _heavy(self, group: list[Instruction | EffectItem]) -> bool:
        """Does the code, with what is cloned into it, read a parameter or contract?"""
        seen: set[str] = set()
        waiting: list[Value] = []
        for item in group:
            if isinstance(item, EffectItem):
                waiting.extend([item.value] if item.target is None else [item.value, item.target])
                continue
            if item.op in CONTRACTIONS:
                return True
            waiting.extend(item.operands)
        while waiting:
            value = waiting.pop()
            if value.name in seen or self.is_state(value):
                continue
            seen.add(value.name)
            if value.name in self.leaves:
                if self.leaves[value.name].role == "param":
                    return True
                continue
            source = self.definitions[value.name]
            if source.op in CONTRACTIONS:
                return True
            waiting.extend(source.operands)
        return False

    # ----------------------------------------------------------------------------------------- units and calls

    def _calls(self, drafts: list[Draft], roots: Sequence[Value]) -> Named:
        needed = [self._needs(draft) for draft in drafts]
        later = {r.name for r in roots}
        outputs: list[list[Value]] = []
        for draft, needs in zip(reversed(drafts), reversed(needed), strict=True):
            outputs.append([v for v in draft.defined() if v.name in later])
            later |= needs
        outputs.reverse()
        named = Named()
        calls = [i for i, d in enumerate(drafts) if d.call is not None]
        for i, (draft, outs) in enumerate(zip(drafts, outputs, strict=True)):
            path = draft.call.path if draft.call is not None else _path(i, calls)
            self._call(draft, outs, path, named)
        return named

    def _needs(self, draft: Draft) -> set[str]:
        """States that the draft reads and does not make."""
        read: list[Value] = []
        if draft.call is not None and draft.pruned is not None:
            body = draft.call.body
            read.extend(a for a, b in zip(draft.call.arguments, body.arguments, strict=True) if b.name in draft.pruned.read)
        for item in draft.items:
            read.extend([item.value] if isinstance(item, EffectItem) else item.operands)
        made = {v.name for v in draft.defined()}
        return {v.name for v in read if v.name not in made and self.is_state(v)}

    def _call(self, draft: Draft, outs: list[Value], path: str, named: Named) -> None:
        key = self._key(draft, outs)
        if key is None or key not in self._templates:
            assembler = self._assembled(draft, outs)
            name = draft.call.body.name if draft.call is not None else path
            unit = self.units.add(name, assembler)
            sources = tuple(self._source(draft, binding) for binding in assembler.ordered())
            effects = assembler.effect_names()
            if key is not None and not assembler.cloned_parameters & self._own_parameters(draft):
                self._templates[key] = unit, sources, _effects_of(draft)
        else:
            unit, sources, items = self._templates[key]
            effects = self._effects(draft, items)
        arguments = self._bound(draft, sources, named)
        results = tuple(named.state(v, path, hint_of(v, self.model.trace.hints)) for v in outs)
        named.calls.append(Call(unit, path, arguments, results, tuple(named.effect(e) for e in effects)))

    def _effects(self, draft: Draft, effects: tuple[EffectItem, ...]) -> tuple[EffectName, ...]:
        """Names of the effects of a call that reuses a unit."""
        assert draft.call is not None
        call = draft.call
        return tuple(
            EffectName(join(call.scope, e.name), False) if e.target is None else EffectName(self._target(call, e.target), True)
            for e in effects
        )

    def _target(self, call: CallItem, target: Value) -> str:
        inside = {
            b.name: a for b, a in zip((*call.body.arguments, *call.body.parameter_values), (*call.arguments, *call.parameters), strict=True)
        }
        return self.leaves[inside[target.name].name].name

    def _own_parameters(self, draft: Draft) -> set[str]:
        return set() if draft.call is None else {self.leaves[p.name].name for p in draft.call.parameters}

    def _key(self, draft: Draft, outs: list[Value]) -> object:
        """What decides the unit of a call alone; None where code of the model takes part."""
        if draft.call is None or draft.pruned is None or draft.items:
            return None
        call = draft.call
        names = [a.name for a in call.arguments]
        described = tuple(
            self._described(a, names) if b.name in draft.pruned.read else None
            for a, b in zip(call.arguments, call.body.arguments, strict=True)
        )
        places = [r.name for r in call.results]
        parameters = [p.name for p in call.parameters]
        aliases = tuple(parameters.index(p) for p in parameters) + tuple(parameters.index(n) if n in parameters else -1 for n in names)
        return (id(call.body), id(draft.pruned), described, aliases, tuple(places.index(o.name) for o in outs))

    def _described(self, value: Value, names: list[str]) -> object:
        leaf = self.leaves.get(value.name)
        if self.is_state(value):
            return ("state", names.index(value.name))
        if leaf is None:
            return ("expression", value.name)
        return ("param", names.index(value.name)) if leaf.role == "param" else (leaf.role, leaf.name)

    def _assembled(self, draft: Draft, outs: list[Value]) -> Assembler:
        assembler = Assembler(self.leaves, self.definitions, self.kinds, self.model.trace.hints)
        if draft.call is not None and draft.pruned is not None:
            assembler.add_call(draft.call, draft.pruned.items)
        for item in draft.items:
            assembler.add_item(item)
        assembler.finish(outs)
        return assembler

    def _source(self, draft: Draft, binding: Binding) -> tuple[str, int | str]:
        """Where the argument of a unit's parameter comes from, said so that other calls of the unit can use it."""
        if draft.call is None:
            return (binding.role, binding.name)
        if binding.role == "state":
            names = [a.name for a in draft.call.arguments]
            return ("argument", names.index(binding.name)) if binding.name in names else ("state", binding.name)
        if binding.role == "param":
            names = [self.leaves[p.name].name for p in draft.call.parameters]
            if binding.name in names:
                return ("own", names.index(binding.name))
            given = [self.leaves[a.name].name if a.name in self.leaves else "" for a in draft.call.arguments]
            return ("argument", given.index(binding.name)) if binding.name in given else ("param", binding.name)
        return (binding.role, binding.name)

    def _bound(self, draft: Draft, sources: Sequence[tuple[str, int | str]], named: Named) -> tuple[str, ...]:
        """The arguments of a call."""
        states = named.states
        given: dict[str, Sequence[str]] = {}
        if draft.call is not None:
            names = [value.name for value in draft.call.arguments]
            arguments = [self.leaves[name].name if name in self.leaves else states.get(name, "") for name in names]
            given = {"own": self._parameter_names(draft.call), "argument": arguments}
        return tuple([given[role][at] if isinstance(at, int) else states[at] if role == "state" else at for role, at in sources])

    def _parameter_names(self, call: CallItem) -> tuple[str, ...]:
        """Of the parameters of a call, which all chains give it."""
        if id(call) not in self._given:
            leaves = self.leaves
            self._given[id(call)] = tuple([leaves[parameter.name].name for parameter in call.parameters])
        return self._given[id(call)]

    def _weight(self) -> tuple[int, tuple[str, ...]] | None:
        """The unit of the microbatch's weight, with the names of its arguments."""
        weight = self.model.weight
        if weight is None:
            return None
        if self.kinds[weight.name] & PARAMETER:
            span = self.definitions[weight.name].span if weight.name in self.definitions else self.model.trace.builder.span
            raise Failure("E0508", "the weight depends on parameters", span, "it may depend on inputs and random numbers only")
        assembler = Assembler(self.leaves, self.definitions, self.kinds, self.model.trace.hints)
        assembler.finish([weight])
        return self.units.add("weight", assembler), tuple(b.name for b in assembler.ordered())


@dataclass(slots=True)
class Named:
    """The calls of a chain so far, and the names of its states and effects."""

    calls: list[Call] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    effects: dict[str, int] = field(default_factory=dict)

    def state(self, value: Value, path: str, hint: str) -> str:
        name = base = f"{path}.{hint}"
        count = 0
        while name in self.taken:
            count += 1
            name = f"{base}.{count}"
        self.taken.add(name)
        self.states[value.name] = name
        return name

    def effect(self, effect: EffectName) -> str:
        """The full name, with "#k" for the k-th, k >= 1, effect of one shared path; a parameter keeps its own."""
        if effect.parameter:
            return effect.name
        count = self.effects.get(effect.name, 0)
        self.effects[effect.name] = count + 1
        return f"{effect.name}#{count}" if count else effect.name


def _effects_of(draft: Draft) -> tuple[EffectItem, ...]:
    """What leaves a call sideways."""
    return tuple(item for item in (draft.pruned.items if draft.pruned is not None else ()) if isinstance(item, EffectItem))


def _path(at: int, calls: list[int]) -> str:
    """The path of a unit that is no call."""
    if not calls or at < calls[0]:
        return "begin"
    if at > calls[-1]:
        return "end"
    return f"between.{sum(1 for i in range(calls[0], at + 1) if i not in calls)}"


def prune(body: LayerBody, outs: frozenset[int], kept: tuple[str, ...]) -> Pruned:
    """The items of the body that these results and the kept effects need, with the names they read."""
    live = {body.results[i].name for i in outs}
    items: list[Instruction | EffectItem] = []
    for item in reversed(body.items):
        if isinstance(item, EffectItem):
            if item.kind in kept:
                live.add(item.value.name)
                live.update([item.target.name] if item.target is not None else [])
                items.append(item)
        elif any(r.name in live for r in item.results):
            live.update(o.name for o in item.operands)
            items.append(item)
    return Pruned(tuple(reversed(items)), frozenset(live))
