"""The page spec/ops.md, made from the op table."""

from __future__ import annotations

import math
from typing import Any

from mlc.diagnostics import NO_SPAN
from mlc.ir.builder import Builder
from mlc.ir.factors import Join, Letter, Offset, values_of
from mlc.ir.function import Instruction
from mlc.ir.op import (
    Composite,
    Contraction,
    Generate,
    LibraryKernel,
    Lowering,
    Move,
    NoGradient,
    Op,
    Pointwise,
    Reduction,
    Sample,
    Scan,
    Scatter,
    View,
)
from mlc.ir.text import parse_type
from mlc.ir.types import TensorType, Value
from mlc.ops import ALL, OPS

HEAD = """# Ops

Generated from the op table (`compiler/ops/`); do not edit.

Broadcasts are explicit instructions: operands of elementwise ops have equal sizes. Axes count from 0. Floats are f32, bf16, f16
and f64; 16-bit ones are computed with in f32 and rounded when stored. *Lowering* names the shape a target lowers; *gradient* says whether
a derivative passes, or why none does.

*Factors* shows, of one sample, how dims of operands and results correspond ([ir.md](ir.md)). A letter is one index wherever it stands,
and may be divided among parts; `.` is whole. Of the parts of a letter behind *sum* or *max*, results without it are the sum or the
maximum; letters behind *whole* must be whole. Behind *position*: a part must be told where it lies; behind *index*: the numbers of
operand 1 count along it. *Linear in* names operands (from 0) that may be given as terms of a sum, those joined by + only together.

| op | attributes | meaning | factors | lowering | gradient |
|---|---|---|---|---|---|
"""


def lowering_name(lowering: Lowering) -> str:
    match lowering:
        case Pointwise():
            return "pointwise"
        case View(name):
            return f"move ({name})"
        case Move(kind):
            return f"move ({kind})"
        case Generate(kind):
            return f"generate ({kind})"
        case Reduction(combine):
            return f"reduction ({combine})"
        case Contraction():
            return "contraction"
        case Scatter(kind):
            return f"scatter ({kind})"
        case Scan(kind):
            return f"scan ({kind})"
        case LibraryKernel(name):
            return f"kernel ({name})"
        case Composite():
            return "composite"


def factors_text(op: Op) -> str:
    """The correspondence of the sample that shows most of it."""
    return max((_notation(op, _instruction(op, sample)) for sample in op.samples), key=_shown)


def _shown(text: str) -> tuple[int, ...]:
    """Letters, those of results, notes; and then the fewer dots the better."""
    arrow, *notes = text.split("; ")
    letters, kept = (len({c for c in part if c.isalpha()}) for part in (arrow, arrow.partition("->")[2]))
    return letters, kept, len(notes), -text.count(".")


def _instruction(op: Op, sample: Sample) -> Instruction:
    operands = tuple(Value(f"x{n}", parse_type(text)) for n, text in enumerate(sample.operands))
    b = Builder(OPS, "page", NO_SPAN, [v.name for v in operands])
    attributes: dict[str, Any] = dict(sample.attributes)
    b.emit(op.name, *operands, **attributes)
    return b.instructions[0]


def _notation(op: Op, instruction: Instruction) -> str:
    """`a b, b c -> a c; sum b; linear in 0, 1`"""
    letters = op.factors.letters(instruction)
    slots = [_slot(slot, v.type, letters) for slot, v in enumerate(values_of(instruction))]
    count = len(instruction.operands)
    arrow = f"{', '.join(slots[:count])} -> {', '.join(slots[count:])}".strip()
    notes = [(join.name.lower(), [x.name for x in letters if x.join is join]) for join in (Join.SUM, Join.MAX, Join.WHOLE)]
    notes += [(offset.name.lower(), [x.name for x in letters if x.offset is offset]) for offset in (Offset.POSITION, Offset.INDEX)]
    notes.append(("linear in", [",".join("+".join(map(str, sorted(s))) for s in op.factors.linear(instruction))]))
    return "; ".join([arrow, *(f"{word} {' '.join(names)}" for word, names in notes if any(names))])


def _slot(slot: int, kind: TensorType, letters: tuple[Letter, ...]) -> str:
    return " ".join(_dim(slot, d, n, letters) for d, n in enumerate(kind.shape)) or "1"


def _dim(slot: int, d: int, size: int, letters: tuple[Letter, ...]) -> str:
    """The letters of a dim, outer to inner; a dot for what is in none."""
    sites = sorted((site.inner, x) for x in letters for site in x.sites if (site.slot, site.dim) == (slot, d))
    names = [x.name for _, x in sites[::-1]]
    if math.prod(x.size for _, x in sites) < size:
        names.insert(0, ".")
    return f"({' '.join(names)})" if len(names) > 1 else "".join(names) or "."


def _row(op: Op) -> str:
    attributes = ", ".join(f"`{a}`" for a in op.attributes) or "none"
    gradient = f"no: {op.vjp.why}" if isinstance(op.vjp, NoGradient) else "yes"
    doc = op.doc.replace("|", chr(92) + "|")
    return f"| `{op.name}` | {attributes} | {doc} | `{factors_text(op)}` | {lowering_name(op.lowering)} | {gradient} |"


def ops_page() -> str:
    """The text of spec/ops.md."""
    return HEAD + "\n".join(_row(op) for op in ALL) + "\n"
