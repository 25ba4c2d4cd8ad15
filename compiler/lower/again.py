"""Routines that make saved values again: kernels of the forward routine as they stand, without those that only make what is not wanted.

    before:  forward  [norm -> mul, rsqrt, h.3] [contract h.3 -> y.1] [attention y.1 -> a] [contract a -> y]      saved: mul rsqrt h.3 y.1 a
    after:   again    [norm -> mul, rsqrt, h.3] [contract h.3 -> y.1] [attention y.1 -> a]

The same kernel on the same operands leaves the same bits, whatever the dtype and however much it fuses. Where a choice must not repeat
a kernel, because it contracts or attends, a value that this kernel writes beside a kept one is computed from that by a loop of its own
when no rounding lies between them; else it is kept too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlc.frozen import frozen
from mlc.ir.function import Function
from mlc.ir.op import Op, Reduction
from mlc.ir.program import CHOICES, Variant
from mlc.lower.arrangement import Arrangement
from mlc.lower.dead import drop_dead
from mlc.lower.loops import Columns, Contract, Fold, Kernel, Loop, Nest, Select, Statement, Store, Whole
from mlc.lower.names import routine_name
from mlc.lower.routine import Routine, lower_function, of_kernels
from mlc.lower.rules import Rules, is_dense
from mlc.lower.uses import kernel_uses
from mlc.passes.kinds import Graph, Kind
from mlc.passes.recompute import again_function

#: Dtypes that are rounded when they are stored: a kernel may have gone on with more than memory holds.
ROUNDED = ("bf16", "f16")


@frozen
class Again:
    """The saved values that a choice does not keep, and the routine that makes them."""

    remade: tuple[str, ...]
    routine: Routine


def remade(
    forward: Routine, variant: Variant, ops: Mapping[str, Op], rules: Rules, arranged: Mapping[str, Arrangement]
) -> Again | None:
    """What makes the values again that a variant does not keep, or those of them that kernels of forward can make; None without any.

    forward:  the routine of the variant's forward function
    arranged: its parameters and results that are not canonical
    """
    cut = _Cut(forward, variant, ops, rules, arranged)
    wanted = [] if variant.again is None else [v.name for v in variant.again.results]
    while wanted:
        made = {name: cut.kernels({name}, set(wanted)) for name in wanted}
        possible = [name for name in wanted if made[name] is not None]
        if possible == wanted:
            return cut.again(tuple(wanted))
        wanted = possible
    return None


class _Cut:
    """A forward routine that is to be cut.

    uses:    what each kernel reads and writes
    whole:   whether every kernel may be repeated
    opaque:  values that no kernel may make again where not every kernel may be repeated
    """

    def __init__(self, forward: Routine, variant: Variant, ops: Mapping[str, Op], rules: Rules, arranged: Mapping[str, Arrangement]):
        self.forward, self.variant, self.ops, self.rules, self.arranged = forward, variant, ops, rules, arranged
        self.whole = variant.choice == CHOICES[-1]
        self.graph = Graph(forward.function.instructions, ops)
        self.saved = set(variant.saved)
        self.uses = [kernel_uses(kernel) for kernel in forward.kernels]
        self.opaque = {v.name for i in forward.function.instructions if self.graph.kind(i) is Kind.OPAQUE for v in i.results}

    def again(self, names: tuple[str, ...]) -> Again:
        """The routine that makes the saved values `names` of the others and the arguments."""
        kernels = self.kernels(set(names), set(names)) or ()
        function = again_function(self.forward.function, self.variant.saved, frozenset(names), self.ops)
        touched = frozenset().union(*(reads | writes for reads, writes in map(kernel_uses, kernels)))
        sources = [v for v in (*self.forward.function.parameters, *self.forward.function.results) if v.name in touched - set(names)]
        kept = self.saved - set(names)
        parameters = tuple(v for v in sources if v in self.forward.function.parameters or v.name in kept)
        function = replace(function, parameters=parameters)
        bound = {v.name: "parameter" for v in parameters} | dict.fromkeys(names, "result")
        buffers = [replace(b, kind=bound.get(b.name, "work")) for b in self.forward.buffers.values()]
        flops = sum(self.ops[i.op].flops(i) for i in function.instructions)
        dense = sum(self.ops[i.op].flops(i) for i in function.instructions if is_dense(self.ops[i.op].lowering, self.rules))
        name = routine_name(f"{function.name}_{self.variant.choice}")
        return Again(names, of_kernels(name, function, kernels, buffers, frozenset(), None, (flops, dense, 0), self.rules))

    def kernels(self, names: set[str], remade: set[str]) -> tuple[Kernel, ...] | None:
        """Kernels that make the saved values `names`, which need no others than those in `remade`; None where some may not be repeated."""
        kept = (self.saved - remade) | {p.name for p in self.forward.function.parameters}
        wanted, found = set(names), list[Kernel]()
        for kernel, (reads, writes) in zip(reversed(self.forward.kernels), reversed(self.uses), strict=True):
            makes = writes & wanted
            if not makes:
                continue
            own = reads & writes - kept
            made = [trimmed(kernel, makes | own)] if self._is_repeated(kernel, writes) else self._beside(sorted(makes), kept)
            if made is None:
                return None
            found += reversed(made)
            wanted |= frozenset().union(*(kernel_uses(k)[0] for k in made)) - kept
        return tuple(reversed(found))

    def _is_repeated(self, kernel: Kernel, writes: frozenset[str]) -> bool:
        """Whether a kernel may be run again as it is."""
        return self.whole or (isinstance(kernel, Nest | Whole | Columns) and not writes & self.opaque)

    def _beside(self, names: list[str], kept: set[str]) -> list[Kernel] | None:
        """Loops that compute values element by element from kept ones, each as its kernel did; None where they cannot."""
        found: list[Kernel] = []
        for name in names:
            kernel = self._loop(name, kept)
            if kernel is None:
                return None
            found.append(kernel)
        return found

    def _loop(self, name: str, kept: set[str]) -> Kernel | None:
        instructions = tuple(self.graph.instructions[n] for n in sorted(self.graph.above([name], kept)))
        values = [v for i in instructions for v in (*i.operands, *i.results)]
        apart = [i for i in instructions if isinstance(self.ops[i.op].lowering, Reduction) or self.graph.kind(i) is Kind.OPAQUE]
        result = next((v for v in self.forward.function.results if v.name == name), None)
        if result is None or apart or any(v.type.dtype in ROUNDED for v in values):
            return None
        own = {v.name for i in instructions for v in i.results}
        parameters = tuple({v.name: v for v in values if v.name not in own}.values())
        routine = lower_function(Function(name, parameters, instructions, (result,)), self.ops, self.rules, arranged=self.arranged)
        if len(routine.kernels) != 1 or not isinstance(routine.kernels[0], Nest) or routine.work:
            return None
        return routine.kernels[0]


def trimmed(kernel: Kernel, wanted: frozenset[str]) -> Kernel:
    """The kernel without stores to other buffers. A scatter, a scan and a kernel of the runtime make all that they make."""
    match kernel:
        case Nest() | Whole():
            return drop_dead(replace(kernel, body=_stored(kernel.body, wanted)))
        case Contract(body=body, sums=sums):
            return drop_dead(replace(kernel, body=_stored(body, wanted), sums=sums if sums in wanted else None))
        case Columns():
            return drop_dead(replace(kernel, results=tuple(r for r in kernel.results if r[0] in wanted)))
        case Select():
            return replace(kernel, values=kernel.values if kernel.values is not None and kernel.values[0] in wanted else None)
        case _:
            return kernel


def _stored(statements: tuple[Statement, ...], wanted: frozenset[str]) -> tuple[Statement, ...]:
    """The statements without stores to other buffers, and without loops that then do nothing."""
    found: list[Statement] = []
    for statement in statements:
        match statement:
            case Store(buffer=buffer) if buffer not in wanted:
                pass
            case Loop(body=body):
                inner = replace(statement, body=_stored(body, wanted))
                if _acts(inner.body):
                    found.append(inner)
            case _:
                found.append(statement)
    return tuple(found)


def _acts(statements: tuple[Statement, ...]) -> bool:
    """Whether statements leave something behind."""
    return any(isinstance(s, Store | Fold) or (isinstance(s, Loop) and _acts(s.body)) for s in statements)
