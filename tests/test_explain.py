"""`mlc explain plan.json`: what a person reads about a plan, from plans that nothing is built of; carets under `--split`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES

from mlc.cli import run_command
from mlc.driver import Options, compile_file
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.quantities import size_text
from mlc.plan.over_time import received_bytes

DEFINES = {"depth": 4, "width": 32, "heads": 2, "context": 16, "vocab": 64, "batch": 2}


def explained(folder: Path, capsys: pytest.CaptureFixture[str], options: Options, **defines: int) -> tuple[dict[str, Any], str]:
    """The plan of a small GPT, and what is said of it."""
    build = compile_file(EXAMPLES / "gpt2.dsl", folder, DEFINES | defines, options)
    assert run_command(["explain", str(build.plan)]) == 0
    return json.loads(build.plan.read_text()), capsys.readouterr().out


def block(text: str, head: str) -> str:
    """The line that begins with `head`, and the indented ones under it."""
    found = re.search(rf"^{re.escape(head)}.*(\n .*)*", text, re.MULTILINE)
    assert found, f"no line begins with {head} in:\n{text}"
    return found[0]


def test_two_places_of_two_replicas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = explained(tmp_path, capsys, Options(emit="plan", pp=2, dp=2, schedule="1f1b", microbatches=8))
    assert "4 ranks: 2 places of the pipeline, 2 replicas\n" in text
    assert block(text, "schedule").endswith(" 1f1b, 4 microbatches a replica")
    first, second = block(text, "stage 0 on place 0"), block(text, "stage 1 on place 1")
    for stage in (first, second):
        for said in ("as modelled", "parameters, ", " optimizer states, ", " a microbatch for its backward, ", "    why    moving h."):
            assert said in stage
    assert "    sends  " in first
    assert "    sends  " not in second
    assert "to stage 1" in first


def test_memory_of_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, text = explained(tmp_path, capsys, Options(emit="plan", pp=2, dp=2, microbatches=8))
    planned = read_plan(plan)
    for place in plan["places"]:
        said = block(text, f"place {place['place']}")
        assert f"{size_text(place['arena_bytes'])} arena, stages {place['place']}\n" in said
        sizes = dict(re.findall(r"^    (\w+) +([0-9.,]+ [KMG]?i?B)$", said, re.MULTILINE))
        kinds = {"parameters", "states", "gradients", "residuals", "inputs", "transient", "received", "inbox", "outbox"}
        assert kinds <= sizes.keys()
        received = received_bytes(planned, planned.places[place["place"]])
        assert (sizes["received"], sizes["inbox"]) == (size_text(received), size_text(place["inbox_bytes"] - received))
        assert sizes["states"] == size_text(place["shards"]["states"]["bytes"])
        assert place["shards"]["states"]["bytes"] >= 2 * 4 * sum(one["elements"] for one in place["owned"]) / 2
        assert re.search(r"^    train +F0 ", said, re.MULTILINE)
        assert re.search(r"^    evaluate +F0 F1$", said, re.MULTILINE)


def test_channels_and_their_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, text = explained(tmp_path, capsys, Options(emit="plan", pp=2, dp=2, microbatches=8))
    for channel in plan["channels"]:
        said = block(text, f"channel {channel['name']} ")
        assert f"{size_text(channel['slot_bytes'])} a message, {channel['slots']} slots, {channel['outbox_slots']} at the sender" in said
    assert "place 0 to place 1" in block(text, "channel act.train.0 ")
    assert "place 1 to place 0" in block(text, "channel grad.train.0 ")
    assert "replicas of place 1" in block(text, "channel replicas.1 ")
    assert "all ranks" in block(text, "channel tree ")


def test_one_rank_has_no_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = explained(tmp_path, capsys, Options(emit="plan"))
    assert " parameters on one rank\n" in text
    assert "channel" not in text
    assert "inbox" not in text


def test_an_empty_stage_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = explained(tmp_path, capsys, Options(emit="plan", pp=4, microbatches=4), depth=1)
    assert "no calls\n    why    3 calls for 4 stages: this one passes the state on" in re.sub(r"\n    sends.*", "", text)


def test_chunks_are_named_in_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = explained(tmp_path, capsys, Options(emit="plan", pp=2, schedule="zb-v", microbatches=4))
    assert "stages 0, 3\n" in block(text, "place 0 ")
    assert re.search(r"^    train +F0\.0 ", block(text, "place 0 "), re.MULTILINE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "holds no plan"),
        ("{", "is not JSON"),
        ('{"version": 1}', "has version 1, this mlc reads version 10"),
        ('{"version": 10}', "is damaged"),
    ],
)
def test_what_is_no_plan(content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    assert run_command(["explain", str(path)]) == 1
    error = capsys.readouterr().err
    assert "error[E1201]" in error
    assert said in error


SPLIT = "embed block*3 | blok head"


def test_a_wrong_split_has_a_caret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compile", str(EXAMPLES / "gpt2.dsl"), "-o", str(tmp_path), "--emit", "plan", "--pp", "2", "--split", SPLIT]
    assert run_command(command) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "--split:1:17: error[E1004]: no call of the chain is called `blok`",
        f"    {SPLIT}",
        "                    ^~~~",
        "help: did you mean `block`?",
    ]
    assert run_command([*command, "--error-format", "json"]) == 1
    (span,) = json.loads(capsys.readouterr().err)["spans"]
    assert span["text"] == [{"text": SPLIT, "highlight_start": 17, "highlight_end": 21}]


def test_names_that_a_terminal_would_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = explained(tmp_path, capsys, Options(emit="plan"))
    (tmp_path / "edited.json").write_text(json.dumps({**plan, "model": "\x1b[31mred"}))
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    assert run_command(["explain", str(tmp_path / "edited.json")]) == 0
    assert capsys.readouterr().out.startswith("?[31mred: ")
