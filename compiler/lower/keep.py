"""Which values are kept although they could be computed where they are read: work and code of a function stay small.

Left alone, a value that is only elementwise and moves is computed in every reader, and its operands again in every reader of
those: work and code can grow with the number of paths. So readers are walked before what they read, with all that is demanded
of each value (demand.py), and a value is kept that is demanded more often than a limit allows. The limit is the first of the target's
`limits` under which the function as a whole stays within `most_work` times its own operations and `most_code` locals an instruction.
In the first a value may also be computed any number of times over a larger space that it is broadcast to; later no more often than it
may be demanded. spec/lowering.md promises 4 times the operations.

    before:  %h = add %x, %s    %t = pad %h    %i = add %h, %t    %u = pad %i ...     every %h is computed once a path: 2^depth
    after:   every second %h lies in memory
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mlc.ir.function import Instruction
from mlc.ir.op import Generate, Move, Pointwise, Reduction, View
from mlc.ir.types import Value
from mlc.lower import index as ix
from mlc.lower.demand import Demand, is_guard, operand_demands, own_ops, root_demand
from mlc.lower.graph import Graph, base_of, reduction_order, scalar_dtype
from mlc.lower.rules import Fusion
from mlc.lower.storage import Chooser

#: Most atoms in the coordinates of a demand: each move that does not simplify makes them longer.
MOST_ATOMS = 64

#: Most instructions between a root and what it reads: builders of expressions are recursive.
MOST_DEPTH = 100


@dataclass(slots=True)
class Account:
    """What a function costs under a choice.

    own:   scalar operations of its meaning
    work:  those of the emitted code
    code:  locals of the emitted code
    """

    own: float = 0.0
    work: float = 0.0
    code: int = 0
    instructions: int = 0

    def fits(self, fusion: Fusion, limit: int) -> bool:
        most_work = fusion.most_work if limit == fusion.limits[0] else fusion.most_work_kept
        return self.work <= most_work * self.own and self.code <= fusion.most_code * self.instructions + fusion.free_code


def keep_costly(chooser: Chooser) -> Chooser:
    """The chooser with what must be kept so that work and code stay within their bounds; the one given is not changed."""
    tried, fusion = chooser, chooser.graph.rules.fusion
    for limit in fusion.limits:
        tried = chooser.copy()
        account = _Walk(tried, limit).run()
        if account.fits(fusion, limit):
            break
    return tried


@dataclass(slots=True)
class _Walk:
    """One walk from the results of a function to its parameters, under one limit.

    wanted:  demands of values that are yet to be walked, by name; under a guard each is one of its own
    roots:   stores and reductions so far
    """

    chooser: Chooser
    limit: int
    wanted: dict[str, dict[object, Demand]] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    roots: int = 0

    @property
    def graph(self) -> Graph:
        return self.chooser.graph

    @property
    def fusion(self) -> Fusion:
        return self.graph.rules.fusion

    def run(self) -> Account:
        """Keep values; returns what the function then costs."""
        function = self.graph.function
        self.account.instructions = len(function.instructions)
        for name in list(self.chooser.storage.copies):
            self._copied(name)
        for instruction in reversed(function.instructions):
            match self.graph.lowering(instruction):
                case Pointwise() | View() | Move() | Generate():
                    for number, result in enumerate(instruction.results):
                        self._computed(instruction, number, result)
                case Reduction():
                    self._reduced(instruction)
                case _:
                    pass
        return self.account

    def _copied(self, name: str) -> None:
        """Copies that take the place of a value in the order read what they copy."""
        for value, _, _ in self.chooser.storage.copies.get(name, ()):
            self._want(value, self._root(value.type.shape))

    def _root(self, shape: tuple[int, ...], order: tuple[int, ...] | None = None) -> Demand:
        self.roots += 1
        return root_demand(self.roots, shape, order)

    def _reduced(self, reduction: Instruction) -> None:
        (operand,) = reduction.operands
        order = reduction_order(reduction)
        self.account.own += operand.type.size
        self.account.work += operand.type.size
        self.account.code += 1
        self._want(operand, self._root(tuple(operand.type.shape[d] for d in order), order))

    def _want(self, value: Value, demand: Demand) -> None:
        """Note a demand of a value that does not lie in memory; beyond the greatest limit they are not told apart."""
        if value.name in self.chooser.storage.memory:
            self.account.code += 1
            return
        wanted = self.wanted.setdefault(value.name, {})
        key = len(wanted) if demand.guarded else (demand.root, demand.at)
        if key in wanted:
            wanted[key] = max(demand, wanted[key], key=lambda d: d.depth)
        elif len(wanted) <= self.fusion.limits[0]:
            wanted[key] = demand

    def _computed(self, instruction: Instruction, number: int, result: Value) -> None:
        """Decide whether a result is kept, and hand on what is demanded of its operands."""
        wanted = list(self.wanted.pop(result.name, {}).values())
        ops = own_ops(instruction, self.graph.lowering(instruction))
        if self._is_much(instruction, result, wanted, ops):
            self._keep(instruction, result)
            wanted = []
        demands = [*self._stored(result), *wanted]
        self.account.own += ops * result.type.size
        self.account.work += ops * sum(self._times(d) for d in demands)
        self.account.code += len(demands) if ops else 0
        for demand in demands:
            for operand, of_operand in operand_demands(self.graph, instruction, number, demand):
                self._want(operand, of_operand)

    def _stored(self, result: Value) -> Iterator[Demand]:
        return (self._root(result.type.shape) for _ in self.chooser.storage.stores.get(result.name, ()))

    def _is_much(self, instruction: Instruction, result: Value, wanted: list[Demand], ops: int) -> bool:
        """Whether so much is demanded of a value that it is kept."""
        if result.name in self.chooser.storage.memory or not wanted or (isinstance(self.graph.lowering(instruction), Generate) and not ops):
            return False
        if any(d.depth > MOST_DEPTH or ix.length(d.at) > MOST_ATOMS for d in wanted):
            return True
        choices = is_guard(self.graph.lowering(instruction))
        if choices and (len(instruction.operands) > self.fusion.most_pieces or len(wanted) > self.fusion.most_choices):
            return True
        if not ops:
            return False
        often = self.limit < self.fusion.limits[0] and sum(map(self._times, wanted)) > self.limit * result.type.size
        return often or len(wanted) > self.limit

    def _times(self, demand: Demand) -> float:
        return demand.times(self.graph.rules.loops.least_inner)

    def _keep(self, instruction: Instruction, result: Value) -> None:
        """Give a value a place. A narrow value stays as wide as it is inside a kernel, unless it lies in memory rounded."""
        rounded = base_of(self.graph, result).name in self.chooser.storage.memory
        self.chooser.keep(result, dtype=None if rounded else scalar_dtype(result.type.dtype))
        self.chooser.storage.costly.add(result.name)
        self._copied(result.name)
