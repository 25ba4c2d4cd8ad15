"""`mlc schedule`: tables, drawings and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc.cli import run_command
from mlc.parallel.csv import read_csv, write_csv
from mlc.parallel.schedules import SCHEDULES, schedule


def test_one_schedule(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [str(tmp_path / "out.csv"), str(tmp_path / "out.svg")]
    assert run_command(["schedule", "--pp", "4", "--schedule", "1f1b", "--width", "200", "--csv", files[0], "--svg", files[1]]) == 0
    table, drawing = capsys.readouterr().out.split("\n\n")
    assert table.split("\n")[1].split() == ["1f1b", "1", "33", "9", "27.3%", "4", "4", "48"]
    assert [line.split()[:2] for line in drawing.splitlines()] == [["rank", str(r)] for r in range(4)]
    assert Path(files[0]).read_text() == write_csv(schedule("1f1b", 4, 8))
    assert Path(files[1]).read_text().startswith("<svg ")


def test_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    """Bubbles and residuals as closed forms have them; auto with one chunk and with two."""
    assert run_command(["schedule", "--pp", "8", "--microbatches", "32", "--compare", "--schedule", "gpipe"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]]
    assert [row[0] for row in rows] == [*SCHEDULES, "auto"]
    found = {(row[0], int(row[1])): (float(row[3]), int(row[5]), int(row[7])) for row in rows}
    assert found["gpipe", 1] == (21, 32, 448)
    assert found["1f1b", 1] == (21, 8, 448)
    assert found["interleaved", 2] == (10.5, 23, 960)
    assert found["bfs", 2] == (10.5, 64, 960)
    assert found["zb-h1", 1] == (7, 8, 448)
    assert found["zb-h2", 1] == (7, 15, 448)
    assert found["zb-v", 2] == (3.5, 16, 896)
    assert found["dualpipe-v", 2] == (3.5, 17, 896)
    assert found["auto", 1][:2] == (7, 8) and found["auto", 2][:2] == (3.5, 16)


def test_comparison_of_more_chunks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["schedule", "--pp", "2", "--microbatches", "4", "--chunks", "3", "--compare", "--schedule", "bfs"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]]
    assert ["interleaved", "3"] in rows and ["zb-v", "2"] in rows and ["auto", "3"] in rows and ["1f1b", "1"] in rows


def test_times_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    times = ["--forward", "2", "--input-gradient", "3", "--weight-gradient", "1"]
    for memory, makespan in (("2", "28"), ("3", "27")):
        assert run_command(["schedule", "--pp", "2", "--microbatches", "4", *times, "--memory", memory]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["auto", "1", makespan]
    assert run_command(["schedule", "--pp", "2", "--microbatches", "1", "--schedule", "gpipe", *times, "--transfer", "0.25"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[2] == "12.5"


def test_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("0F0,0F1,,,0B1,0B0\n,1F0,1F1,1B1,1B0\n")
    assert run_command(["schedule", "--read", str(path), "--csv", str(tmp_path / "out.csv")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:3] == ["1", "9"]
    assert read_csv((tmp_path / "out.csv").read_text(), "x") == read_csv(path.read_text(), "x")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--schedule", "zbv"], "E1101"),
        (["--schedule", "1f1b", "--chunks", "2"], "E1102"),
        (["--chunks", "2", "--memory", "1"], "E1107"),
        (["--read", "none.csv"], "E0806"),
        (["--read", __file__], "E1106"),
        (["--svg", "/proc/none.svg"], "E0804"),
    ],
)
def test_errors(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["schedule", *arguments]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--pp", "0"], ["--microbatches", "0"], ["--transfer", "-1"], ["--memory", "0"]])
def test_usage(arguments: list[str]) -> None:
    assert run_command(["schedule", *arguments]) == 2
