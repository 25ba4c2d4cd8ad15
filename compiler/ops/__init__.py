"""The op table: one record an op, a file a family. To add an op, write its record and name it in its family's tuple."""

from __future__ import annotations

from mlc.ir.op import Op
from mlc.ops.attention import ATTENTION, ATTENTION_VJP
from mlc.ops.binary import BINARY
from mlc.ops.contraction import CONTRACT
from mlc.ops.decoding import DECODING
from mlc.ops.generators import GENERATORS
from mlc.ops.indexing import INDEXING
from mlc.ops.losses import LOSSES
from mlc.ops.moves import MOVES
from mlc.ops.normalizers import NORMALIZERS
from mlc.ops.picked import PICKED_PARTS
from mlc.ops.reductions import REDUCTIONS
from mlc.ops.unary import UNARY

ALL: tuple[Op, ...] = (
    *GENERATORS,
    *UNARY,
    *BINARY,
    *REDUCTIONS,
    *NORMALIZERS,
    CONTRACT,
    *MOVES,
    *INDEXING,
    *PICKED_PARTS,
    ATTENTION,
    ATTENTION_VJP,
    *DECODING,
    *LOSSES,
)

#: Every op by name, in the order of the documentation.
OPS: dict[str, Op] = {op.name: op for op in ALL}
