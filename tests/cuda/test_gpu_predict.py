"""The prediction of a step counts what the plan counts."""

from __future__ import annotations

from pathlib import Path

import gpu_predict
import pytest
from shim_library import lack

from mlc.diagnostics import MlcError
from mlc.lower import index as ix
from mlc.lower.expression import Counter, Read
from mlc.lower.loops import Accumulator, Fold, Loop, Nest
from mlc.nvcc import find_nvcc


def test_a_thread_that_adds_alone_takes_its_time() -> None:
    """However few bytes a kernel moves, it is not over before its longest thread."""
    row, line = Counter(1, 4096), Counter(0, 8)
    fold = Fold("sum", "sum", Read("x", ix.linear([ix.counter(line), ix.counter(row)], [row.extent, 1])))
    alone = Nest("", (), line, (Accumulator("sum", "f32", "sum"), Loop(row, (fold,), False)), True)
    shared = Nest("", (), line, (Accumulator("sum", "f32", "sum"), Loop(row, (fold,), True)), False)
    assert gpu_predict.chain_of(alone, 256) == 4096 / gpu_predict.TOGETHER
    assert gpu_predict.chain_of(shared, 8 * 256) == 4096 / 256 / gpu_predict.TOGETHER
    assert gpu_predict.chain_of(shared, 2 * 256) == 4 * gpu_predict.chain_of(shared, 8 * 256)


@pytest.mark.slow
def test_a_prediction_has_the_work_of_the_plan(tmp_path: Path) -> None:
    try:
        _ = find_nvcc()
    except MlcError as problem:
        lack(problem.diagnostics[0].message)
    dims = {"batch": 2, "context": 128, "width": 128, "heads": 2, "depth": 2, "vocab": 512}
    figures, planned = gpu_predict.predict(dims, tmp_path)
    attended = [f for f in figures if f.kind == "attention"]
    assert [f.launches for f in attended] == [2] * 3
    # Scores and weights are made once more for each of two gradients: 4 and 3 products beside the 4 of the plan.
    counted = sum(f.flops * f.launches for f in figures) - sum(f.flops * f.launches for f in attended) * 3 / 9
    assert counted == pytest.approx(planned.flops, rel=0.02)
    updates, norms = ([f for f in figures if f.name.startswith(start)] for start in ("UPDATE update", "NORM mlc_sweep_squares"))
    parameters = sum(p.kind.elements for p in planned.parameters)
    copied = sum(p.kind.elements for p in planned.parameters if p.kind.dtype == "bf16")
    # Gradients, masters and two states are read and written, copies written.
    assert sum(f.bytes * f.launches for f in updates) == pytest.approx(32 * parameters + 2 * copied)
    assert sum(f.bytes * f.launches for f in norms) == pytest.approx(8 * parameters, rel=0.2)
    assert 0 < sum(f.launches for f in updates) < 8
    assert all(f.seconds > 0 for f in figures)
    assert all(f.spills == 0 for f in figures)
