"""Passes between differentiation and lowering: what --dump-passes writes is what lowering gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import EXAMPLES

from mlc.cli import run_command
from mlc.driver import Options, load_program
from mlc.ir.program import Step
from mlc.ir.text import parse_program
from mlc.ir.verify import verify
from mlc.ops import OPS
from mlc.passes import PASSES, prepared
from mlc.passes.decode import with_decoding
from mlc.targets.c import C

GPT2 = EXAMPLES / "gpt2.dsl"
MODEL = (EXAMPLES / "mlp.dsl").read_text()
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
    program, _ = load_program(GPT2, SMALL, Options())
    assert before == prepared(with_decoding(program, OPS, C.rules.kernels), OPS)


def test_what_is_no_dump_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "passes"
    source = tmp_path / "00-differentiate.ir"  # a model may be called so
    source.write_text(MODEL)
    command = ["compile", str(source), "--emit", "plan", "-o", str(tmp_path / "out"), "--dump-passes"]
    assert run_command([*command, str(tmp_path)]) == 1 and "E0804" in capsys.readouterr().err and source.read_text() == MODEL
    assert run_command([*command, str(folder)]) == 0
    theirs, second, pipe = tmp_path / "theirs", folder / "01-expand.ir", folder / "02-simplify.ir"
    theirs.write_bytes(second.read_bytes())
    second.unlink()
    for link in (second.symlink_to, second.hardlink_to):
        link(theirs)
        theirs.write_text("Step {\n  of theirs")
        assert run_command([*command, str(folder)]) == 0 and theirs.read_text() == "Step {\n  of theirs"
        assert second.stat().st_nlink == 1 and not second.is_symlink()
        second.unlink()
    second.symlink_to(theirs)
    theirs.write_text("mine")
    assert run_command([*command, str(folder)]) == 1 and theirs.read_text() == "mine"
    second.unlink()
    pipe.unlink()
    os.mkfifo(pipe)
    assert run_command([*command, str(folder)]) == 1 and pipe.is_fifo()  # nobody reads it
    assert "02-simplify.ir: what is there is no file" in capsys.readouterr().err
