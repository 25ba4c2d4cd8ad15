"""What asks for too much, or is not what it should be, is told so at once: models, options, files, plans."""

from __future__ import annotations

import copy
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc.cli import run_command
from mlc.diagnostics import MlcError
from mlc.driver import Options, check_options, compile_file, load_program
from mlc.mesh import Cohort
from mlc.parallel.limits import MOST_ACTIONS, check_extent
from mlc.parallel.plan_schema import fault
from mlc.render import MOST_SHOWN


@pytest.mark.parametrize(
    "options",
    [
        {"microbatches": 2_000_000_000},
        {"pp": 1_000_000},
        {"dp": 10**9},
        {"chunks": 10**9},
        {"pp": 4096, "microbatches": 4096},
        {"pp": 64, "chunks": 64, "microbatches": 1024},
    ],
    ids=str,
)
def test_layouts_that_nothing_runs(options: dict[str, int], tiny: Path, tmp_path: Path) -> None:
    """Refused before the model is read: a file that is not there is no matter."""
    with pytest.raises(MlcError) as problem:
        compile_file(tmp_path / "none.dsl", None, {}, Options(**options))
    assert problem.value.diagnostics[0].code == "E1108"


def test_the_largest_layouts_pass() -> None:
    check_extent(64, 64, 4, 64 * 1024)
    check_extent(1, 1, 1, MOST_ACTIONS)
    check_extent(64, 1 << 20, 1, 1 << 21)
    check_options(Options(pp=64, dp=16, microbatches=1024))


def test_a_schedule_that_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["schedule", "--pp", "1000000", "--microbatches", "1000000000"]) == 1
    assert "E1108" in capsys.readouterr().err


def test_inputs_of_any_size_are_followed_in_little_memory(tmp_path: Path) -> None:
    """What indexes is told apart by element up to a size, whose elements are marked and not sorted."""
    path = tmp_path / "wide.dsl"
    text = """
from mlc.optim import sgd
batch: dim = 2
@model
def wide(tokens: i32[batch, 4]):
    return mean(gather(param("w", [8, 2], init=zeros()), tokens))
@train()
def recipe():
    return sgd(rate=0.1)
"""
    path.write_text(text)
    for batch in ("2147483647", "2000000"):
        tracemalloc.start()
        program, _ = load_program(path, {"batch": batch}, Options(emit="plan"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 30
        assert program.inputs[0].limit == (8 if batch == "2000000" else None)


def test_a_recipe_of_too_many_microbatches(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.dsl"
    path.write_text(tiny.read_text().replace("@train()", "@train(microbatches=2000000000)"))
    with pytest.raises(MlcError, match="E1108"):
        compile_file(path, tmp_path / "out", {}, Options(emit="plan"))


def test_a_long_chain_of_elementwise_code_compiles(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.dsl"
    path.write_text(tiny.read_text().replace("    error = ", "    for i in range(1500):\n        a = a + 1.0\n    error = "))
    assert compile_file(path, tmp_path / "out", {}, Options(emit="plan")).plan.exists()


def test_a_long_line_is_shown_in_part(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "long.dsl"
    path.write_text(tiny.read_text().replace("    error = ", f"    long = [{'1, ' * 1000} unknown{', 1' * 1000}]\n    error = "))
    assert run_command(["check", str(path)]) == 1
    said = capsys.readouterr().err
    assert "unknown" in said and max(map(len, said.splitlines())) < MOST_SHOWN + 150


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "socketless", "large"])
@pytest.mark.parametrize("verb", [["check"], ["compile"], ["fmt"], ["ir"], ["run"], ["bench"], ["verify"], ["explain"], ["plan"]], ids=str)
def test_special_files_are_not_read(
    kind: str, verb: list[str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("plan.json" if verb[0] in ("verify", "explain", "plan") else "model.dsl")
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "socketless":
            path.symlink_to("/proc/self/mem")
        case "large":
            with path.open("wb") as file:
                file.truncate(1 << 40)
    command = ["compile", str(tiny), "--plan", str(path)] if verb == ["plan"] else [*verb, str(path)]
    code = run_command(command)
    said = capsys.readouterr().err
    assert code in (1, 2) and "Traceback" not in said, said


@pytest.mark.parametrize("value", ["9" * 6000, "nan", "inf", "1e999", "-1", "0x10", "", "1" * 100_000, "\n", "\0", "2.5", "None", "\u00e9"])
@pytest.mark.parametrize("name", ["batch", "rate", "none"])
def test_hostile_defines(name: str, value: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command(["check", str(tiny), "-D", f"{name}={value}"])
    said = capsys.readouterr().err
    assert code in (0, 1) and "Traceback" not in said and len(said) < 300_000


@pytest.fixture(scope="module")
def plan(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    options = Options(pp=2, dp=2, microbatches=4, groups=2, emit="plan")
    path = tmp_path_factory.mktemp("chain") / "chain.dsl"
    path.write_text(
        tiny.read_text()
        .replace("    error = ", "    x = layer(x, name='l')\n    error = ")
        .replace("@model", "@layer\ndef layer(x: real[batch]):\n    return x * param('c', [1], init=ones())\n\n\n@model")
    )
    return {"file": path, **json.loads(compile_file(path, path.parent / "out", {}, options).plan.read_text())}


#: What an editor, a script or a broken disk leaves in the place of a value.
WRONG = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 2, 3, 2**31, 2**62, 2**64, 10**400, 1.5, float("nan"), float("inf"), "", "x", "F", "train", [], {}]
    ),
    st.sampled_from([[0], [[]], {"x": 1}, ["F", 0, 0], ["SEND", "x", 0], "in:x", "\0", "9" * 50]),
)


@given(data=st.data())
@settings(max_examples=120, suppress_health_check=list(HealthCheck))
def test_edited_plans_are_refused_or_understood(
    data: st.DataObject, plan: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is edited: verify, explain and compile --plan end with a diagnostic, or do what they are asked."""
    edited = copy.deepcopy({key: value for key, value in plan.items() if key != "file"})
    for _ in range(data.draw(st.integers(1, 2))):
        _edit(data, edited)
    path = tmp_path_factory.getbasetemp() / "edited" / "plan.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(edited))
    source = ["compile", str(plan["file"]), "-o", str(path.parent / "out"), "--emit", "plan", "--plan", str(path)]
    for command in (["verify", str(path)], ["explain", str(path)], source):
        assert run_command(command) in (0, 1), command


def _edit(data: st.DataObject, value: Any) -> None:
    """Changes, removes, repeats or swaps one value somewhere below."""
    while isinstance(value, (dict, list)) and value:
        key = data.draw(st.sampled_from(sorted(value))) if isinstance(value, dict) else data.draw(st.integers(0, len(value) - 1))
        inner = value[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.integers(0, 5)) == 0:
            match data.draw(st.sampled_from(["change", "change", "remove", "repeat", "swap"])):
                case "remove":
                    del value[key]
                case "repeat" if isinstance(value, list):
                    value.insert(key, copy.deepcopy(inner))
                case "swap" if isinstance(value, list):
                    other = data.draw(st.integers(0, len(value) - 1))
                    value[key], value[other] = value[other], value[key]
                case _:
                    value[key] = copy.deepcopy(data.draw(WRONG))
            return
        value = inner


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "NaN", "", "{}", "[]", "\ufeff{}"], ids=range(8))
def test_texts_that_are_no_plan(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    for verb in ("verify", "explain"):
        assert run_command([verb, str(path)]) == 1
        assert "E1201" in capsys.readouterr().err


def test_a_fault_of_a_plan_is_named_with_its_path(plan: dict[str, Any]) -> None:
    edited = copy.deepcopy({key: value for key, value in plan.items() if key != "file"})
    assert fault(edited) is None
    edited["places"][1]["regions"][0]["slots"] = "two"
    assert fault(edited) == "places[1].regions[0].slots is 'two', and must be a whole number from 1"
    edited = copy.deepcopy({key: value for key, value in plan.items() if key != "file"})
    del edited["parameters"][0]["states"]
    assert fault(edited) == "parameters[0] has no `states`"
    edited["parameters"][0] = {**plan["parameters"][0], "sahpe": [1]}
    assert fault(edited) == "parameters[0] has 'sahpe', which no plan has"


@pytest.mark.parametrize(
    ("old", "value", "words"),
    [
        ('"groups": 2', '"groups": 2, "groups": 4', "an object has 'groups' twice"),
        ('"scratch_bytes_per_thread"', '"flops": 1, "scratch_bytes_per_thread"', "has 'flops', which no plan has"),
        ('"recomputed_flops_per_microbatch": 0', f'"recomputed_flops_per_microbatch": 1{"0" * 400}', "a number of many digits"),
        ('"scalars": ["', '"scalars": ["\\ud800', "scalars[0] is"),
        ('"stage": 0, "place"', '"stage": 5, "place"', "its stages are not 0 to 1"),
        ('"elements": 1, "fed"', '"elements": 2, "fed"', "elements, its shape"),
        ('"columns": {"train"', '"columns": {"other"', "columns are of"),
    ],
    ids=range(7),
)
def test_plans_that_say_two_things(
    old: str, value: str, words: str, plan: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key twice, one that nothing reads, a number that no float holds, half a character: none is silently passed over."""
    text = json.dumps({key: one for key, one in plan.items() if key != "file"})
    assert old in text
    path = tmp_path / "plan.json"
    path.write_text(text.replace(old, value, 1))
    assert run_command(["verify", str(path)]) == 1
    said = capsys.readouterr().err
    assert "E1201" in said and words in said


@pytest.mark.parametrize("name", [None, "in:nothing", "out:nothing", "in:", "out:tree"])
def test_regions_that_no_channel_or_place_has(
    name: str | None, plan: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each region in turn is left out, or is called, everywhere on its place, as one of a channel that there is not."""
    whole = {key: value for key, value in plan.items() if key != "file"}
    for place, content in enumerate(whole["places"]):
        for region, given_name in enumerate(r["name"] for r in content["regions"]):
            if given_name == "arena":  # of fixed addresses: no action touches it as a whole
                continue
            edited = copy.deepcopy(whole)
            if name is None:
                del edited["places"][place]["regions"][region]
            else:
                edited["places"][place] = json.loads(json.dumps(content).replace(json.dumps(given_name), json.dumps(name)))
            path = tmp_path / "plan.json"
            path.write_text(json.dumps(edited))
            assert run_command(["verify", str(path)]) == 1, given_name
            assert "error[E12" in capsys.readouterr().err


def test_nothing_grows_with_replicas(tmp_path: Path) -> None:
    """A million ranks: plan, tables, lists, memory for messages and proof are those of a few replicas."""
    sizes: dict[int, tuple[int, int]] = {}
    for replicas in (1, 3, 1000, 1 << 19):
        options = Options(pp=2, dp=replicas, microbatches=2 * replicas, groups=2 * replicas, emit="c")
        compile_file(EXAMPLES / "gpt2.dsl", tmp_path / str(replicas), {"depth": 4, "width": 64, "heads": 2, "context": 32}, options)
        files = [tmp_path / str(replicas) / name for name in ("plan.json", "src/tables.h", "src/actions.c")]
        plan = json.loads(files[0].read_text())
        sizes[replicas] = files[0].stat().st_size, sum(path.stat().st_size for path in files[1:])
        boxes = [place["inbox_bytes"] + sum(outbox_bytes(plan, place["place"], c) for c in plan["channels"]) for place in plan["places"]]
        assert max(boxes) < 48 << 20
    for replicas, found in sizes.items():
        assert all(size <= 1.1 * least for size, least in zip(found, sizes[1], strict=True)), (replicas, sizes)


def outbox_bytes(plan: dict[str, Any], place: int, channel: dict[str, Any]) -> int:
    blocks = Cohort(plan["mesh"]["dp"]).blocks if channel["kind"] == "replicas" else 1
    return blocks * channel["outbox_slots"] * channel["slot_bytes"] if channel["from"] == place else 0
