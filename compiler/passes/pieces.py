"""The sum of gradients that each fill a piece of a value and are zero elsewhere is made by putting the pieces together.

before:  %a = pad %x {starts=(0,)}   %b = pad %y {starts=(1,)} ...   %s = add %a, %b   %t = add %s, %c ...       n pads, n sums
after:   %j = concat %x, %y, %z ...   %t = add %j, 0.0

A value that is read slice by slice (a loop over time) gets its gradient so; the sum would go over the whole once for each slice.
No bit changes: an element is in one piece, all else that is added to it is 0.0, and that turns -0.0 into 0.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from mlc.frozen import frozen
from mlc.ir.builder import Builder
from mlc.ir.function import Instruction
from mlc.ir.types import Dim, Value, dim
from mlc.ops.broadcasting import constant_like

#: Fewer pieces are added as they are.
LEAST_PIECES = 4


@frozen
class _Piece:
    """A value and where its elements lie: from `starts` by `steps`."""

    value: Value
    starts: tuple[int, ...]
    steps: tuple[int, ...]

    def place(self, axis: int) -> tuple[int, int]:
        """The closed range of the piece along an axis."""
        return self.starts[axis], self.starts[axis] + (self.value.type.shape[axis] - 1) * self.steps[axis]

    def across(self, axis: int) -> tuple[tuple[int, ...], ...]:
        """Where it lies along the other axes."""
        return tuple((*self.place(a), self.steps[a]) for a in range(len(self.starts)) if a != axis)


def joined(b: Builder, parts: Sequence[Value], makers: Sequence[Instruction]) -> Value | None:
    """The sum of parts, each the result of a pad, as one value; None where the pieces are few, overlap or form no box.

    makers: the pad that makes each part
    """
    if len(parts) < LEAST_PIECES:
        return None
    pieces = [_Piece(m.operands[0], tuple(m.attribute("starts")), _steps(m)) for m in makers]
    for axis in range(len(parts[0].type.dims)):
        groups = _groups(pieces, axis)
        if not all(_fit(group, axis) for group in groups):
            return None
        pieces = [_concatenated(b, group, axis) for group in groups]
    if len(pieces) != 1:
        return None
    (piece,) = pieces
    total = b.one("add", piece.value, constant_like(b, 0.0, piece.value.type))
    dims = parts[0].type.dims
    if total.type.shape == parts[0].type.shape:
        return b.one("reshape", total, dims=dims)
    return b.one("pad", total, dims=dims, starts=piece.starts, steps=piece.steps)


def _steps(pad: Instruction) -> tuple[int, ...]:
    """The steps of a pad, 1 along an axis of one element."""
    return tuple(1 if n == 1 else s for s, n in zip(pad.attribute("steps"), pad.operands[0].type.shape, strict=True))


def _groups(pieces: Sequence[_Piece], axis: int) -> list[list[_Piece]]:
    """The pieces that lie in one line along an axis, in their order there."""
    lines: dict[object, list[_Piece]] = {}
    for piece in pieces:
        lines.setdefault(piece.across(axis), []).append(piece)
    return [sorted(line, key=lambda p: p.starts[axis]) for line in lines.values()]


def _fit(line: Sequence[_Piece], axis: int) -> bool:
    """Whether pieces of a line can stand one after the other."""
    if len(line) == 1:
        return True
    apart = all(a.place(axis)[1] < b.place(axis)[0] for a, b in pairwise(line))
    return apart and all(p.steps[axis] == 1 for p in line)


def _concatenated(b: Builder, line: Sequence[_Piece], axis: int) -> _Piece:
    """The pieces of a line as one, with zeros between them."""
    if len(line) == 1:
        return line[0]
    values: list[Value] = []
    end = line[0].starts[axis]
    for piece in line:
        gap = piece.starts[axis] - end
        if gap:
            values.append(_zeros(b, piece.value, axis, dim(gap)))
        values.append(piece.value)
        end = piece.place(axis)[1] + 1
    return replace(line[0], value=b.one("concat", *values, axis=axis))


def _zeros(b: Builder, like: Value, axis: int, size: Dim) -> Value:
    dims = like.type.dims
    zero = b.one("constant", dtype=like.type.dtype, value=0.0)
    return b.one("broadcast", zero, dims=(*dims[:axis], size, *dims[axis + 1 :]), axes=())
