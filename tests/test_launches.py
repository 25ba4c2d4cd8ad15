"""--print-launches: a step is a fixed list, the one that plan.json says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from swept import Swept

from mlc.driver import Options, compile_file
from mlc.parallel.collectives import Collectives
from mlc.parallel.entries import COMPUTE, ENDINGS, FOLDS, RESTS, Entry
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.planned import Place, Planned
from mlc.parallel.sweeps import OWN

MODEL = ROOT / "benchmarks" / "models" / "skips.dsl"
DEFINES = {"depth": 4, "context": 8, "width": 16}
SCHEDULES = ("gpipe", "1f1b", "interleaved", "bfs", "zb-h1", "zb-h2", "zb-v", "dualpipe-v", "auto")
STEPS = (1, 2, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launches")


def built(folder: Path, schedule: str) -> Path:
    """The program of a schedule on two places and two replicas."""
    return made(folder / schedule, Options(pp=2, dp=2, schedule=schedule, microbatches=16, emit="c"))


def made(out: Path, options: Options, **also: bool) -> Path:
    """A program; it begins with the objects of another beside it: the runtime is compiled once."""
    other = next(out.parent.iterdir(), None)
    if other is not None:
        shutil.copytree(other, out)
    compile_file(MODEL, out, {**DEFINES, **also}, options)
    subprocess.run(["make", "-s", "-j2", "-C", str(out / "src"), "OPTIMIZE=-O0", "../skips"], check=True, capture_output=True)
    return out / "skips"


def launched(program: Path, step: int) -> list[list[str]]:
    """What each rank launches in a step."""
    fixed = ["--data", str(MODEL), "--steps", "7", "--threads", "1", "--transport", "threads", "--timeout", "20"]
    done = subprocess.run([program, *fixed, "--print-launches", str(step)], check=True, capture_output=True, text=True)
    parts = re.split(rf"^launches of step {step}, rank \d+ \(place \d+, replica \d+\)\n", done.stdout, flags=re.MULTILINE)
    return [re.sub(r"^trained .*\n", "", part, flags=re.MULTILINE).splitlines() for part in parts[1:]]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_is_the_same_list(schedule: str, folder: Path) -> None:
    program = built(folder, schedule)
    check_refusal(program)
    first, *others = (launched(program, step) for step in STEPS)
    assert len(first) == 4
    assert others == [first, first]
    planned = read_plan(json.loads((program.parent / "plan.json").read_text(encoding="utf-8")))
    for rank, lines in enumerate(first):
        place = planned.places[rank % 2]
        expected = list(expected_lines(planned, place, rank))
        until = lines.index("STATISTICS")
        check_collectives(planned, rank, lines[until:])
        functions = check_lines([line for line in lines[:until] if ", elements " not in line], expected)
        assert len(set(functions.values())) == len(functions)
        check_sweeps(planned, rank, lines)


def test_messages_between_replicas_are_those_that_are_proved(folder: Path) -> None:
    """Of five replicas: some stand in for absent ones, some have two sums of groups to send; two chunks, an embedding of both places."""
    program = made(folder / "five", Options(pp=2, dp=5, schedule="interleaved", chunks=2, microbatches=15, groups=15, emit="c"), tied=True)
    planned = read_plan(json.loads((program.parent / "plan.json").read_text(encoding="utf-8")))
    first, second = (launched(program, step) for step in (1, 3))
    assert first == second
    assert len(first) == 10
    for rank, lines in enumerate(first):
        check_collectives(planned, rank, lines[lines.index("STATISTICS") :])
        check_sweeps(planned, rank, lines)
    kinds = {entry.kind for place in planned.places for entry in place_endings(place.lists["train"])}
    assert kinds == set(ENDINGS)


def check_sweeps(planned: Planned, rank: int, lines: list[str]) -> None:
    """All that goes over gradients and parameters, on addresses that follow from the plan; a function for each kernel."""
    swept = Swept(planned, rank)
    expected = [line for entry in swept.place.lists["train"] if entry.kind in (*FOLDS, *ENDINGS) for line in swept.lines(entry)]
    found = [re.fullmatch(r"  (0x[0-9a-f]+) (.*)", line).groups() for line in lines if ", elements " in line]
    assert [said for _, said in found] == expected
    kernels = {(address, said.split()[0]) for address, said in found if said.split()[0] not in OWN}
    assert len({kernel for _, kernel in kernels}) == len(kernels)


def check_collectives(planned: Planned, rank: int, lines: list[str]) -> None:
    """What ends a step: the actions of the list, with the messages that the compiler derives for them, and no others."""
    collectives = Collectives(planned)
    place = planned.mesh.coordinate(rank).pp
    expected: list[str] = []
    for entry in place_endings(planned.places[place].lists["train"]):
        expected.append(said_of(planned, entry))
        for move in collectives.moves("train", rank, entry):
            own, theirs = collectives.slots(rank, move)
            if move.does == "post":
                size = planned.channels[move.channel].slot_bytes
                expected.append(f"  {move.channel} {move.message} to rank {move.peer}: {own} -> {theirs}, {size} bytes")
            if move.does == "release":
                expected.append(f"  {move.channel} {move.message} of rank {move.peer}: {own}")
    assert [line for line in lines if not re.match("  0x", line)] == expected


def place_endings(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.kind in ENDINGS]


def said_of(planned: Planned, entry: Entry) -> str:
    """An action that ends a step, as a program names it."""
    match entry.kind:
        case "REDUCE":
            return f"REDUCE {entry.of} {entry.microbatch}"
        case "GATHER":
            return f"GATHER {entry.microbatch}"
        case "SHARE" | "SPREAD":
            return f"{entry.kind} {entry.of} {planned.parameters[entry.microbatch].name}"
    return entry.kind


def check_refusal(program: Path) -> None:
    """A step that is not taken has no launches."""
    command = [program, "--data", str(MODEL), "--steps", "2", "--print-launches", "3"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--print-launches 3: this run takes steps 1 to 2" in done.stderr


def check_lines(lines: list[str], expected: list[tuple[int, str]]) -> dict[int, str]:
    """Lines but for the addresses of functions, which are one for each routine; routine -> address."""
    functions: dict[int, str] = {}
    assert len(lines) == len(expected)
    for line, (routine, text) in zip(lines, expected, strict=True):
        address, said = re.fullmatch(r"  (0x[0-9a-f]+) (.*)", line).groups() if routine >= 0 else ("", line)
        assert said == text
        if routine >= 0:
            assert functions.setdefault(routine, address) == address
    return functions


def expected_lines(planned: Planned, place: Place, rank: int) -> Iterator[tuple[int, str]]:
    """(routine, line) of each row, (-1, line) of all else, up to the end of the step."""
    for kind, of, number in place.lists["train"]:
        if kind in (*COMPUTE, *RESTS.values()):
            yield -1, f"{kind}{of} {number}" if len(place.stages) > 1 else f"{kind} {number}"
            yield from rows_of(planned, place, kind, int(of), number)
        elif kind in FOLDS:
            yield -1, f"{kind}{of} {number}" if len(place.stages) > 1 else f"{kind} {number}"
        elif isinstance(of, str):
            yield -1, f"{kind} {of} {number}"
            yield from message_of(planned, of, kind, number, rank)


def rows_of(planned: Planned, place: Place, kind: str, of: int, number: int) -> Iterator[tuple[int, str]]:
    chunk = place.chunks["train"][of]
    for row in chunk.part(kind):
        operands: list[Any] = []
        for buffer in (chunk.buffers[at] for at in row.buffers):
            region = place.regions[buffer.region]
            operands.append(region.base + number % region.slots * region.stride + buffer.at)
        yield row.routine, f"{row.name}: {' '.join(map(str, operands))}"


def message_of(planned: Planned, name: str, kind: str, number: int, rank: int) -> Iterator[tuple[int, str]]:
    channel = planned.channels[name]
    inbox = channel.inbox + number % channel.slots * channel.slot_bytes
    outbox = channel.outbox + number % channel.outbox_slots * channel.slot_bytes
    peer = rank // 2 * 2 + (channel.target if kind == "SEND" else channel.source)
    if kind == "SEND":
        yield -1, f"  {name} {number} to rank {peer}: {outbox} -> {inbox}, {channel.slot_bytes} bytes"
    if kind == "FREE":
        yield -1, f"  {name} {number} of rank {peer}: {inbox}"
