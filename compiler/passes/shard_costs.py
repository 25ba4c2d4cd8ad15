"""What the search for forms counts: seconds of a microbatch on a rank, modelled. They decide the order of sums, so they are no
measurements: figures of one large GPU, the same wherever a model is compiled."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlc.frozen import frozen
from mlc.ir.forms import Cut, Form, Term, Whole
from mlc.ir.function import Instruction
from mlc.ir.op import Contraction, LibraryKernel, Op, View
from mlc.ir.types import TensorType


@frozen
class Figures:
    """link_bytes, memory_bytes, flops: a second, of a rank. saved_bytes: what a byte kept from forward to backward is worth, as if
    so many a second were to be saved. microbatches: of a step, over which what is done at its end is spread."""

    link_bytes: float = 3e11
    message_seconds: float = 8e-6
    memory_bytes: float = 2.5e12
    flops: float = 4.5e14
    saved_bytes: float = 1e11
    microbatches: int = 8


FIGURES = Figures()


def work_seconds(instruction: Instruction, ops: Mapping[str, Op], figures: Figures) -> float:
    """Of the whole instruction: by its arithmetic if it is a contraction or a kernel, else by the bytes that it writes."""
    record = ops[instruction.op]
    match record.lowering:
        case View():
            return 0.0
        case Contraction() | LibraryKernel():
            return record.flops(instruction) / figures.flops
        case _:
            return sum(v.type.bytes for v in instruction.results) / figures.memory_bytes


def conversion_seconds(have: Form, want: Form, kind: TensorType, ranks: int, figures: Figures) -> float:
    """From one form to another; infinite where there is no way."""
    share = kind.bytes * (ranks - 1) / ranks / figures.link_bytes
    match have, want:
        case _ if have == want:
            return 0.0
        case Whole(), Cut():
            return 0.0
        case _, Term():
            return math.inf
        case Term(), Whole():
            return figures.message_seconds + 2 * share
        case Term(), Cut():
            return figures.message_seconds + share
        case Cut(), Whole():
            return figures.message_seconds + share
        case _:
            return figures.message_seconds + share / ranks


def saved_seconds(form: Form, kind: TensorType, ranks: int, figures: Figures) -> float:
    """What it is worth not to keep a value in this form."""
    return kind.bytes / (ranks if isinstance(form, Cut) else 1) / figures.saved_bytes
