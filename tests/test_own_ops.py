"""An op of any kind is one record: those of the table, under names that nothing in the tree knows, become the same code."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from op_samples import case_id, sample_cases, sample_function
from routines import Library

from mlc.emit.printer import c_text
from mlc.emit.routines import routine_function
from mlc.ir.function import Function, Instruction
from mlc.ir.interpret import interpret
from mlc.ir.op import Attributes, Coordinates, Keys, Op, Sample, View
from mlc.ir.text import parse_function
from mlc.lower.routine import lower_function
from mlc.ops import OPS
from mlc.passes.expand import expand
from mlc.targets.c import C

#: The op table twice: every op is there under a name of its own too.
DOUBLED = {**OPS, **{f"own_{name}": replace(op, name=f"own_{name}") for name, op in OPS.items()}}


def code(function: Function) -> str:
    """What a function becomes, without the names of values."""
    text = c_text(routine_function(lower_function(expand(function, DOUBLED), DOUBLED, C.rules), "f"))
    names: dict[str, str] = {}
    return re.sub(r"\w+_[mv](_\d+)?\b", lambda m: names.setdefault(m[0], f"n{len(names)}"), re.sub(r"/\*.*?\*/", "", text))


@pytest.mark.parametrize(("op", "sample"), sample_cases(), ids=case_id)
def test_lowering_knows_no_op_by_its_name(op: Op, sample: Sample) -> None:
    function = sample_function(op, sample)
    own = replace(function, instructions=tuple(replace(i, op=f"own_{i.op}") for i in function.instructions))
    assert code(own) == code(function)


def _flipped(operands: tuple[np.ndarray, ...], _attributes: Attributes, _keys: Keys) -> tuple[np.ndarray, ...]:
    return (operands[0][:, ::-1],)


def _flipped_at(flip: Instruction, _result: int, at: Coordinates) -> Coordinates:
    row, column = at
    return (row, flip.results[0].type.shape[1] - 1 - column)


FLIP = replace(OPS["copy"], name="flip", doc="rows from their end", meaning=_flipped, lowering=View("flip", _flipped_at, _flipped_at, True))


def test_a_move_that_the_tree_has_not(tmp_path: Path) -> None:
    """Its places are all that lowering needs: it costs nothing where it is read, and a contraction walks it backwards."""
    text = """func @f(%x: f32[5, 7], %w: f32[7, 3]) -> (%y, %z) {
      %a = flip %x : f32[5, 7]  @<t>:1:1-1:2 via test
      %y = mul %a, %x : f32[5, 7]  @<t>:1:1-1:2 via test
      %z = contract %a, %w {spec="ij,jk->ik"} : f32[5, 3]  @<t>:1:1-1:2 via test
    }"""
    function, ops = parse_function(text), {**OPS, "flip": FLIP}
    library = Library([function], tmp_path, ops=ops)
    assert not library.routines[0].work
    rng = np.random.default_rng(5)
    values = [rng.standard_normal(p.type.shape).astype(np.float32) for p in function.parameters]
    for want, got in zip(interpret(function, values, ops, Keys()), library.run(0, values, threads=2), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
