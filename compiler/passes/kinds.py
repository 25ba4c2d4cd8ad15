"""What differentiation needs to know of an op: whether its result is worth keeping, or is made again where it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from mlc.ir.function import Instruction
from mlc.ir.op import Apply, ByAttribute, Composite, Contraction, Generate, Move, Op, Pointwise, Reduction, Scalar, Scatter, View


class Kind(Enum):
    VIEW = "reads the elements of its operand where they lie"
    MOVE = "puts elements elsewhere"
    GENERATE = "needs no operand"
    POINTWISE = "is computed element by element"
    REDUCTION = "sums or takes the largest; may be fused with the work around it"
    OPAQUE = "needs its operands, and makes its results, as whole tensors"


#: Scalar functions that cost more than reading an element again.
COSTLY = ("exp", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow")


def kind_of(op: Op) -> Kind:
    match op.lowering:
        case View():
            return Kind.VIEW
        case Move():
            return Kind.MOVE
        case Generate():
            return Kind.GENERATE
        case Pointwise():
            return Kind.POINTWISE
        case Reduction() | Composite():
            return Kind.REDUCTION
        case _:
            return Kind.OPAQUE


def is_costly(op: Op) -> bool:
    """Its results are not computed twice in the backward pass."""
    match op.lowering:
        case Pointwise(scalar):
            return _has_costly(scalar)
        case Generate():
            return op.name.startswith("random_")
        case View() | Move():
            return False
        case _:
            return True


def _has_costly(scalar: Scalar) -> bool:
    match scalar:
        case Apply(fn, args):
            return fn in COSTLY or any(_has_costly(a) for a in args)
        case ByAttribute(_, cases):
            return any(_has_costly(s) for _, s in cases)
        case _:
            return False


def is_weight_op(op: Op) -> bool:
    """An op that makes the gradient of a weight: put off to the weight gradient where nothing else waits for it."""
    return isinstance(op.lowering, Contraction | Scatter)


class Graph:
    """The instructions of a function by what they make and read.

    made:   the instruction that makes a value
    reads:  the instructions that read a value, in order
    place:  the position of the instruction that makes a value
    """

    def __init__(self, instructions: Iterable[Instruction], ops: Mapping[str, Op]):
        self.instructions = tuple(instructions)
        self.ops = ops
        self.made: dict[str, Instruction] = {}
        self.reads: dict[str, list[Instruction]] = {}
        self.place: dict[str, int] = {}
        for number, instruction in enumerate(self.instructions):
            for name in dict.fromkeys(v.name for v in instruction.operands):
                self.reads.setdefault(name, []).append(instruction)
            for result in instruction.results:
                self.made[result.name] = instruction
                self.place[result.name] = number

    def kind(self, instruction: Instruction) -> Kind:
        return kind_of(self.ops[instruction.op])

    def base(self, name: str) -> str:
        """The value that a chain of views looks at."""
        while name in self.made and self.kind(self.made[name]) is Kind.VIEW:
            name = self.made[name].operands[0].name
        return name

    def stored(self, instructions: Iterable[Instruction]) -> set[str]:
        """Bases of the values that opaque ones among `instructions` read or make: they lie in memory whatever is fused."""
        opaque = [i for i in instructions if self.kind(i) is Kind.OPAQUE]
        bases = {self.base(v.name) for i in opaque for v in (*i.operands, *i.results)}
        return {name for name in bases if name in self.made and self.kind(self.made[name]) is not Kind.GENERATE}

    def above(self, names: Iterable[str], leaves: set[str]) -> set[int]:
        """Positions of the instructions that the named values depend on, looking no further than `leaves`."""
        found: set[int] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            place = self.place.get(name)
            if name in leaves or place is None or place in found:
                continue
            found.add(place)
            waiting += [v.name for v in self.instructions[place].operands]
        return found
