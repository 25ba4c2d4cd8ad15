"""Passes between differentiation and lowering: what --dump-passes writes is what lowering gets."""

from __future__ import annotations

from pathlib import Path

from conftest import EXAMPLES

from mlc.cli import run_command
from mlc.driver import Options, load_program
from mlc.ir.program import Step
from mlc.ir.text import parse_program
from mlc.ir.verify import verify
from mlc.ops import OPS
from mlc.passes import PASSES, prepared

GPT2 = EXAMPLES / "gpt2.dsl"
SMALL = {"vocab": "64", "context": "32", "width": "32", "heads": "2", "batch": "4", "depth": "2"}


def test_passes_are_dumped_as_text_that_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "passes"
    defines = [word for name, value in SMALL.items() for word in ("-D", f"{name}={value}")]
    assert run_command(["compile", str(GPT2), *defines, "--emit", "plan", "-o", str(tmp_path), "--dump-passes", str(folder)]) == 0
    names = ["differentiate", *(row.name for row in PASSES)]
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:02}-{name}.ir" for n, name in enumerate(names)]
    before = None
    for path in sorted(folder.iterdir()):
        text = path.read_text()
        if text == "unchanged\n":
            assert before is not None
            continue
        step = parse_program(text, path.name)
        assert isinstance(step, Step) and step != before
        for function in step.functions():
            verify(function, OPS)
        before = step
    assert before == prepared(load_program(GPT2, SMALL, Options())[0], OPS)
