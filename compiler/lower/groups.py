"""A contraction by its letters, and the strided indices that its kernel walks."""

from __future__ import annotations

from mlc.frozen import frozen
from mlc.ir.function import Instruction
from mlc.ir.types import Value

#: (extent, stride in a, stride in b) of each index of a group; strides in elements.
Group = tuple[tuple[int, int, int], ...]


@frozen
class Spec:
    """An einsum by letters; `b` has the last letter of the output, so that rows of the result are rows of b."""

    a: Value
    b: Value
    letters_a: str
    letters_b: str
    output: str

    @property
    def orders(self) -> tuple[str, str]:
        """The letters of a and of b group by group: in this order each group is one index."""
        groups = self.groups
        return groups["batch"] + groups["m"] + groups["k"], groups["batch"] + groups["k"] + groups["n"]

    @property
    def extents(self) -> dict[str, int]:
        a = dict(zip(self.letters_a, self.a.type.shape, strict=True))
        return a | dict(zip(self.letters_b, self.b.type.shape, strict=True))

    @property
    def groups(self) -> dict[str, str]:
        """The letters of the batch, of the rows and columns of the result, and of the sum."""
        a, b, output = self.letters_a, self.letters_b, self.output
        return {
            "batch": "".join(c for c in output if c in a and c in b),
            "m": "".join(c for c in output if c in a and c not in b),
            "n": "".join(c for c in output if c not in a),
            "k": "".join(c for c in a if c not in output),
        }


def spec_of(instruction: Instruction) -> Spec:
    """The spec of a contraction."""
    inputs, output = str(instruction.attribute("spec")).split("->")
    letters_a, letters_b = inputs.split(",")
    a, b = instruction.operands
    if output and output[-1] in letters_a and output[-1] not in letters_b:
        return Spec(b, a, letters_b, letters_a, output)
    return Spec(a, b, letters_a, letters_b, output)


def index_groups(spec: Spec, strides_a: tuple[int, ...], strides_b: tuple[int, ...]) -> tuple[Group, ...]:
    """The groups of batch, m, n and k of operands that lie so."""
    of_a, of_b = dict(zip(spec.letters_a, strides_a, strict=True)), dict(zip(spec.letters_b, strides_b, strict=True))
    extents = spec.extents
    return tuple(_merged([(extents[c], of_a.get(c, 0), of_b.get(c, 0)) for c in group]) for group in spec.groups.values())


def _merged(group: list[tuple[int, int, int]]) -> Group:
    """Index groups with neighbours joined where one index walks through both."""
    out: list[tuple[int, int, int]] = []
    for extent, a, b in group:
        if extent == 1:
            continue
        if out and out[-1][1] == a * extent and out[-1][2] == b * extent:
            out[-1] = (out[-1][0] * extent, a, b)
        else:
            out.append((extent, a, b))
    return tuple(out)
