"""The command: verbs, exit codes, error formats, and options that cannot be honoured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from mlc.cli import run_command
from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file, differentiated, load_program, with_factors
from mlc.ir.text import parse_program

WRONG = """from mlc.optim import sgd

batch: dim = 4


@model
def wrong(x: real[batch, 8]):
    return mean(x @ param("w", [7, 3], init=zeros()))


@train()
def recipe():
    return sgd(rate=0.1)
"""


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.dsl"
    path.write_text(WRONG)
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "mlc"),
        (["--help"], 0, "compile"),
        ([], 2, "Usage"),
        (["compil"], 2, "compile"),
        (["compile"], 2, "FILE"),
        (["compile", "none.dsl"], 1, "E0806"),
        (["compile", "none.dsl", "--target", "sm_60"], 1, "E0808"),
        (["compile", "none.dsl", "--plan", "plan.json", "--pp", "2"], 1, "E0808"),
        (["compile", "none.dsl", "--plan", "plan.json", "--schedule", "1f1b"], 1, "E0808"),
        (["compile", "none.dsl", "--emit", "ir", "--pp", "2"], 1, "E0808"),
        (["compile", "none.dsl", "--emit", "ir", "--plan", "plan.json"], 1, "E0808"),
        (["compile", "none.dsl", "--tp", "2"], 2, "--tp"),
        (["compile", "none.dsl", "--pp", "0"], 2, "--pp"),
        (["compile", "none.dsl", "-D", "depth"], 2, "name=value"),
        (["compile", "none.dsl", "-Ddepth=1", "-D", "depth=2"], 2, "twice"),
        (["compile", "none.dsl", "-MF", "x.d"], 2, "-MD"),
        (["run", "none.dsl", "--data", "x"], 2, "behind --"),
        (["explain", "E0203"], 0, "E0203: "),
        (["explain", "E0230"], 1, "E0811"),
        (["doctor"], 0, "-march="),
        (["doctor", "--march", "nonsense"], 1, "E0803"),
        (["tokenize", "none.txt", "-o", "out"], 1, "E0806"),
        (["tokenize", __file__, "-o", "/proc/none"], 1, "E0804"),
        (["tokenize", "none.txt", "-o", "out", "--validation", "1.0"], 2, "--validation"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_code(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == code
    out, err = capsys.readouterr()
    assert said in out + err
    assert "Traceback" not in err


def test_wrong_model_is_shown_with_its_line(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(wrong)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{wrong}:8:") and "error[E0203]" in lines[0]
    assert "x @ param" in lines[1] and "^" in lines[2]


def test_wrong_model_as_json(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(wrong), "--error-format", "json"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert record["code"]["code"] == "E0203" and record["level"] == "error"
    assert record["spans"][0]["line_start"] == 8


def test_define_of_unknown_name_names_the_nearest(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(tiny), "-D", "bach=3"]) == 1
    assert "batch" in capsys.readouterr().err


def test_dimension_of_zero(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(tiny), "-D", "batch=0"]) == 1
    assert "at least 1" in capsys.readouterr().err


def test_dimension_beyond_an_index(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(tiny), "-D", "batch=2147483648"]) == 1
    assert "at most 2147483647" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "-inf", "1e999", "fast", ""])
def test_numbers_are_finite(value: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(tiny), "-D", f"rate={value}"]) == 1
    assert "E0602" in capsys.readouterr().err


def test_groups_must_divide_microbatches(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["compile", str(tiny), "--microbatches", "6", "--groups", "4"]) == 1
    assert "E0809" in capsys.readouterr().err


def test_compile_leaves_what_the_contract_names(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_command(["compile", str(tiny), "-o", str(out), "-MD", "-v"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out / "line")
    assert "elaborate" in said.err and " ms" in said.err
    for name in ("line", "libline.so", "line.h", "plan.json", "src/Makefile", "line.d"):
        assert (out / name).exists(), name
    rule = (out / "line.d").read_text()
    assert str(tiny) in rule and "optim.dsl" in rule


def test_a_depfile_that_cannot_be_written(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["compile", str(tiny), "-o", str(tmp_path), "--emit", "plan", "-MD", "-MF", "/proc/none/x.d"]) == 1
    assert "cannot write /proc/none/x.d" in capsys.readouterr().err


def test_same_bytes_wherever_the_file_lies_and_however_python_hashes(tiny: Path, tmp_path: Path) -> None:
    texts = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / tiny.name).write_text(tiny.read_text())
        command = [sys.executable, "-m", "mlc", "compile", str(folder / tiny.name), "-o", str(folder / "out"), "--emit", "c"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        files = sorted(path for path in (folder / "out").rglob("*") if path.is_file())
        texts.append([(path.relative_to(folder), path.read_bytes()) for path in files])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("stem", ["src", "plan.json", "libmlc_mpi.so", "mlc", "mlc_kernel", "-x", ".x", "a b", "a\nb", "a$b", "\u00e9"])
def test_stems_that_cannot_name_a_program(stem: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{stem}.dsl").write_text(tiny.read_text())
    assert run_command(["compile", str(tmp_path / f"{stem}.dsl"), "-o", str(tmp_path / "out")]) == 1
    assert "E0807" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "out", "code"),
    [("a b.dsl", "out", "E0807"), ("a.dsl", "/proc/none", "E0804"), ("folder.dsl", "out", "E0806"), ("binary.dsl", "out", "E0806")],
)
def test_files_that_cannot_be(name: str, out: str, code: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.dsl").mkdir()
    (tmp_path / "binary.dsl").write_bytes(b"\xff\xfe\x00")
    if not (tmp_path / name).exists():
        (tmp_path / name).write_text(tiny.read_text())
    assert run_command(["compile", str(tmp_path / name), "-o", str(tmp_path / out)]) == 1
    assert code in capsys.readouterr().err


def test_a_failing_build_shows_what_the_compiler_said(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text('#!/bin/sh\ncase "$*" in *-dM*|*--version*) exec cc "$@";; esac\necho "no luck today" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(MlcError) as problem:
        compile_file(tiny, tmp_path / "out", {}, Options())
    (diagnostic,) = problem.value.diagnostics
    assert diagnostic.code == "E0805" and any("no luck today" in note.message for note in diagnostic.notes)


def test_unchanged_outputs_are_not_rewritten(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_command(["compile", str(tiny), "-o", str(out)]) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run_command(["compile", str(tiny), "-o", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("emit", ["ir", "plan", "c"])
def test_emit_stops_early(emit: str, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_command(["compile", str(tiny), "-o", str(out), "--emit", emit]) == 0
    expected = {"ir": ["line.ir"], "plan": ["plan.json"], "c": ["line.h", "plan.json", "src"]}[emit]
    assert sorted(path.name for path in out.iterdir()) == expected


def test_ir_names_the_nearest_unit(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["ir", str(tiny), "--unit", "nothing"]) == 2
    assert run_command(["ir", str(tiny), "--stage", "input_gradient"]) == 0
    assert "func @" in capsys.readouterr().out


def test_ir_parses_back(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["ir", str(tiny)]) == 0
    step = with_factors(differentiated(load_program(tiny, {}, Options())[0]))
    assert parse_program(capsys.readouterr().out) == step.program


def test_ir_shows_factors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["ir", str(ROOT / "examples" / "gpt2.dsl"), "--unit", "block"]) == 0
    shown = capsys.readouterr().out
    assert "%attn.c_attn.weight: f32[width=768, 3*heads=12*" in shown
    assert "%attn.c_proj.weight: f32[heads=12*" in shown


def test_explain_plan(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["compile", str(tiny), "-o", str(tmp_path), "--emit", "plan"]) == 0
    assert run_command(["explain", str(tmp_path / "plan.json")]) == 0
    assert "arena" in capsys.readouterr().out
    (tmp_path / "other.json").write_text("[1]")
    assert run_command(["explain", str(tmp_path / "other.json")]) == 1


def test_run_ends_with_the_programs_exit_code(tiny: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal(64).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", 3 * x + 1)
    base = [sys.executable, "-m", "mlc", "run", str(tiny), "-o", str(tmp_path / "out"), "--"]
    data = ["--data", f"x={tmp_path}/x.npy", "--data", f"y={tmp_path}/y.npy"]
    done = subprocess.run([*base, *data, "--steps", "50", "--hash"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("digest: ")
    assert subprocess.run([*base, "--nonsense"], capture_output=True, check=False).returncode == 2


def test_format_is_idempotent_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.dsl"
    path.write_text("x:dim=3\n")
    assert run_command(["fmt", "--check", str(path)]) == 1
    assert "would be formatted" in capsys.readouterr().err
    assert run_command(["fmt", str(path)]) == 0
    assert run_command(["fmt", "--check", str(path)]) == 0
    assert path.read_text() == "x: dim = 3\n"


def test_tokenize_characters(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abracadabra\n")
    assert run_command(["tokenize", str(text), "-o", str(tmp_path / "out"), "--level", "characters", "--validation", "0.25"]) == 0
    assert json.loads((tmp_path / "out" / "vocabulary.json").read_text()) == ["\n", "a", "b", "c", "d", "r"]
    words = np.frombuffer((tmp_path / "out" / "train.bin").read_bytes(), "<i4", 3)
    assert words.tolist() == [20240520, 1, 9]
    tokens = np.frombuffer((tmp_path / "out" / "train.bin").read_bytes(), "<u2", offset=1024)
    assert tokens.tolist() == [1, 2, 5, 1, 3, 1, 4, 1, 2]
    assert len(np.frombuffer((tmp_path / "out" / "validation.bin").read_bytes(), "<u2", offset=1024)) == 3


def test_a_fault_of_the_compiler_asks_for_a_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(march: str) -> None:
        raise AssertionError("no such case")

    monkeypatch.setattr("mlc.cli.find_toolchain", fail)
    assert run_command(["doctor"]) == 70
    said = capsys.readouterr().err
    assert "internal error" in said and "Traceback" in said and "mlc doctor" in said


UNREAD = WRONG.replace('mean(x @ param("w", [7, 3], init=zeros()))', 'mean(x * param("w", [8], init=ones()))').replace(
    "    return mean(x", '    spare = param("spare", [8], init=zeros())\n    return mean(x'
)


@pytest.mark.parametrize("verb", ["check", "ir", "compile"])
def test_warnings_are_printed_and_stop_nothing(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "unread.dsl"
    path.write_text(UNREAD)
    options = ["--emit", "plan", "-o", str(tmp_path / "out")] if verb == "compile" else []
    assert run_command([verb, str(path), *options]) == 0
    assert f'{path}:8:13: warning[W0501]: ' in capsys.readouterr().err
    assert run_command([verb, str(path), "--error-format", "json", *options]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "warning"


GOOD = WRONG.replace("[7, 3]", "[8, 3]")


@pytest.mark.parametrize("name", ["model", "model.h", "libmodel.so", "src/model.c", "src/Makefile", "model.ir"])
def test_a_source_is_not_written_over(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / name
    source.parent.mkdir(exist_ok=True)
    source.write_text(GOOD)
    stem = {"src/Makefile": "Makefile"}.get(name, "model")
    asked = ["--emit", "ir"] if name.endswith(".ir") else ["--emit", "c"]
    if name == "libmodel.so":
        (tmp_path / "model.dsl").symlink_to(source)
        source = tmp_path / "model.dsl"
    assert run_command(["compile", str(source), "-o", str(tmp_path), *asked]) == 1, stem
    assert "E0804" in capsys.readouterr().err and source.read_text() == GOOD
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("name", ["src/Makefile", "src/main.c", "src/runtime/include/mlc.h", "plan.json", "good", "good.h"])
def test_what_mlc_did_not_make_stays(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.dsl").write_text(GOOD)
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    command = ["compile", str(tmp_path / "good.dsl"), "-o", str(tmp_path / "out"), "--emit", "c"]
    assert run_command(command) == 1
    said = capsys.readouterr().err
    assert "E0804" in said and str(theirs) in said and theirs.read_text() == "mine"
    theirs.unlink()
    for emit in ("plan", "c", "c"):
        assert run_command([*command[:-1], emit]) == 0
    edited = tmp_path / "out" / "src" / "main.c"
    (tmp_path / "elsewhere").write_text("mine")
    edited.unlink()
    edited.symlink_to(tmp_path / "elsewhere")
    assert run_command(command) == 0 and not edited.is_symlink() and (tmp_path / "elsewhere").read_text() == "mine"
    edited.unlink()
    edited.hardlink_to(tmp_path / "elsewhere")
    assert run_command(command) == 0 and (tmp_path / "elsewhere").read_text() == "mine"
    edited.unlink()
    os.mkfifo(edited)
    assert run_command(command) == 1 and edited.is_fifo() and "E0804" in capsys.readouterr().err


def test_names_that_are_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.dsl").write_text(GOOD)
    assert run_command(["compile", str(tmp_path / "good.dsl"), "-o", str(tmp_path / ("x" * 256))]) == 1
    assert "E0804" in capsys.readouterr().err
    source = tmp_path / f"{'x' * 245}.dsl"
    source.write_text(GOOD)
    assert run_command(["compile", str(source), "-o", str(tmp_path / "out")]) == 1
    assert "E0807" in capsys.readouterr().err


def test_tokenize_keeps_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, foreign = tmp_path / "train.bin", tmp_path / "out" / "validation.bin"
    text.write_text("some text")
    foreign.parent.mkdir()
    foreign.write_text("mine")
    assert run_command(["tokenize", str(text), "-o", str(tmp_path)]) == 1
    assert run_command(["tokenize", str(text), "-o", str(foreign.parent), "--validation", "0.5"]) == 1
    assert capsys.readouterr().err.count("E0804") == 2
    assert (text.read_text(), foreign.read_text()) == ("some text", "mine")
    foreign.unlink()
    assert [run_command(["tokenize", str(text), "-o", str(foreign.parent), "--validation", "0.5"]) for _ in range(2)] == [0, 0]


def test_a_full_disk_leaves_what_was_formatted(tmp_path: Path) -> None:
    source = tmp_path / "good.dsl"
    source.write_text(GOOD.replace(" = ", "=") + "# long\n" * 2000)
    source.chmod(0o640)
    before = source.read_text()
    limited = "import resource, sys; from mlc.cli import run_command; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    code = f"{limited} sys.exit(run_command(['fmt', {str(source)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "E0804" in done.stderr and source.read_text() == before
    assert list(tmp_path.iterdir()) == [source]
    assert run_command(["fmt", str(source)]) == 0 and source.stat().st_mode & 0o777 == 0o640 and source.read_text() != before


def test_names_that_a_terminal_would_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "\x1b[31m.dsl"
    source.write_text(GOOD)
    assert run_command(["compile", str(source)]) == 1
    said = capsys.readouterr().err
    assert "`?[31m` cannot name a program" in said and "\x1b" not in said


def test_an_output_that_is_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "good.dsl").write_text(GOOD)
    command = [sys.executable, "-m", "mlc", "compile", "good.dsl", "-o", "out", "-MD", "-MF", "/dev/stdout"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "out/plan.json" in done.stdout and "good.dsl" in done.stdout, done.stderr
