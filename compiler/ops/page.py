"""The page spec/ops.md, made from the op table."""

from __future__ import annotations

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
    Scan,
    Scatter,
)
from mlc.ops import ALL

HEAD = """# Ops

Generated from the op table (`compiler/ops/`); do not edit.

Broadcasts are explicit instructions: operands of elementwise ops have equal sizes. Axes count from 0. Floats are f32, bf16 and
f16; arithmetic is done in f32 and rounded when stored. *Lowering* names the shape a target lowers; *gradient* says whether
a derivative passes, or why none does.

| op | attributes | meaning | lowering | gradient |
|---|---|---|---|---|
"""


def lowering_name(lowering: Lowering) -> str:
    match lowering:
        case Pointwise():
            return "pointwise"
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


def _row(op: Op) -> str:
    attributes = ", ".join(f"`{a}`" for a in op.attributes) or "none"
    gradient = f"no: {op.vjp.why}" if isinstance(op.vjp, NoGradient) else "yes"
    return f"| `{op.name}` | {attributes} | {op.doc.replace('|', chr(92) + '|')} | {lowering_name(op.lowering)} | {gradient} |"


def ops_page() -> str:
    """The text of spec/ops.md."""
    return HEAD + "\n".join(_row(op) for op in ALL) + "\n"
