"""What a target wants of lowering, as data: what it recomputes, how it wants loops, which kernels it has, what its machine sustains.

Lowering, planning and costs read these rules and know no target; `mlc.targets` holds a record of each target, which states them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mlc.frozen import frozen, frozen_by_name
from mlc.ir.op import Contraction, LibraryKernel, Lowering
from mlc.lower.arrangement import Arrange
from mlc.lower.library import RuntimeKernel, Scratch
from mlc.lower.loops import Kernel


@frozen_by_name
class Fusion:
    """Which instructions share a kernel, and what is computed again rather than kept.

    few_rows, small:  with fewer rows than this, a store of more elements than that is not shared out by rows
    expensive:        scalar functions whose values are kept where several kernels need them
    most_work:        operations of the emitted code for one of the function's meaning where nothing is kept for their sake
    most_work_kept:   the same where something is
    most_code:        locals of the emitted code for one instruction, with
    free_code:        some beside for a small function
    limits:           demands of a value, from many to few: the first number under which a function stays within both is taken
    most_pieces:      of a concatenation among which a reader chooses; with more it is written in place
    most_choices:     demands of a concatenation or a pad before it is kept
    """

    few_rows: int
    small: int
    expensive: frozenset[str]
    most_work: float
    most_work_kept: float
    most_code: int
    free_code: int
    limits: tuple[int, ...]
    most_pieces: int
    most_choices: int


@frozen_by_name
class Loops:
    """How loops are cut.

    least_inner:     iterations that must stay inside where a loop is split to remove a division
    column_rows:     rows that a sum of columns adds in one block before the block is added to the total
    column_block:    columns of one of its work items
    """

    least_inner: int
    column_rows: int
    column_block: int


@frozen
class Contractions:
    """The kernels of contractions: dtypes that they read, indices of a group that they walk, and by the dtype in which they sum their
    scratch, whatever the shape."""

    dtypes: tuple[str, ...]
    indices: int
    scratch: Mapping[str, Scratch]


@frozen
class Machine:
    """What a core, or a device as a whole, sustains: f32 operations of a contraction, and bytes to and from memory."""

    flops_per_second: float
    bytes_per_second: float


#: Makes work memory of a routine: (what for, dtype, elements) -> the buffer's name.
Reserve = Callable[[str, str, int], str]


@frozen_by_name
class Rules:
    """The rules of one target.

    target:        its name
    dtypes:        that a program for it may have
    lower_kinds:   the kernels of a routine as those that the target emits, in their order
    contractions:  how contractions are done
    kernels:       those of the runtime, by name
    sweeps:        by kernel of sweeps (mlc.parallel.sweeps.KERNELS), its function for a wide dtype
    scatters:      dtypes in which scatters add in memory; narrow ones are computed in their register's
    arrange:       how a value of a microbatch lies in memory, by dtype and shape, where the runtime itself does not read it
    keep:          the same of a parameter, its gradients and its copy, and of a state that an optimizer keeps whole
    alignment:     bytes to whose multiples buffers are aligned
    scratch:       bytes of scratch of a thread that the runtime takes whatever the kernels do
    rounds:        whether a copy of a parameter may be made for one microbatch alone: saves its memory, for one more pass over the master
    machine:       for costs
    """

    target: str
    dtypes: frozenset[str]
    fusion: Fusion
    loops: Loops
    lower_kinds: Callable[[Sequence[Kernel], Reserve], tuple[Kernel, ...]]
    contractions: Contractions
    kernels: Mapping[str, RuntimeKernel]
    sweeps: Mapping[str, Callable[[str], str]]
    scatters: tuple[str, ...]
    arrange: Arrange
    keep: Arrange
    alignment: int
    scratch: int
    rounds: bool
    machine: Machine


def is_dense(lowering: Lowering, rules: Rules) -> bool:
    """Whether an instruction does much with each number it reads: a contraction, and what the target says of its library kernels."""
    match lowering:
        case Contraction():
            return True
        case LibraryKernel(name):
            return name in rules.kernels and rules.kernels[name].dense
        case _:
            return False
