"""How values lie in memory changes no bit: a target from outside the tree gives them pitch and panels, and trains to the same digests."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import RandomProgram, programs
from routines import Library
from test_bounded_code import SAMPLES, arguments, derandomized

from mlc.driver import Options, compile_file, load_program
from mlc.ir.function import Function
from mlc.lower import index as ix
from mlc.lower import lower
from mlc.lower.arrangement import Arrangement, canonical, in_panels, ordered, pitched, placed
from mlc.ops import OPS
from mlc.passes import prepared
from mlc.targets import TARGETS
from mlc.targets.c import C

shapes = st.lists(st.integers(1, 7), max_size=4).map(tuple)


def loosely(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    """Rows with gaps; of some shapes panels, whose last has gaps too."""
    if len(shape) > 1 and sum(shape) % 3 == 0:
        return in_panels(shape, sum(shape) % len(shape), 4)
    return pitched(shape, 5)


def reversed_dims(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    """The first dim varies first, so no kernel of the runtime can walk the rows of a value."""
    return ordered(shape, range(len(shape) - 1, -1, -1))


ARRANGED = {"loosely": loosely, "reversed": reversed_dims}


@given(shapes, st.integers(1, 9), st.data())
def test_every_element_has_a_place_of_its_own(shape: tuple[int, ...], size: int, data: st.DataObject) -> None:
    chosen = [canonical(shape), pitched(shape, size), reversed_dims("f32", shape)]
    if shape:
        chosen.append(in_panels(shape, data.draw(st.integers(0, len(shape) - 1)), size))
    for arrangement in chosen:
        place = placed("x", arrangement)
        indices = [place.index([ix.number(i) for i in at]) for at in itertools.product(*map(range, shape))]
        found = [index.constant for index in indices]
        assert not any(index.terms for index in indices)
        assert len(set(found)) == np.prod(shape) and min(found) >= 0 and max(found) < arrangement.elements


def test_panels_are_what_they_say() -> None:
    """[64][8] in panels of 32 of the first dim: [2][8][32]."""
    place = placed("x", in_panels((64, 8), 0, 32))
    assert place.index([ix.number(33), ix.number(5)]) == ix.number(8 * 32 + 5 * 32 + 1)


def same_bits(functions: Sequence[Function], given_values: Sequence[Sequence[np.ndarray]]) -> None:
    """Values inside functions, arranged in every way, are the same."""
    with tempfile.TemporaryDirectory() as folder:
        libraries = []
        for name, arrange in {"c": C.rules.arrange, **ARRANGED}.items():
            (Path(folder) / name).mkdir()
            rules = replace(C.rules, arrange=arrange)
            libraries.append(Library(functions, Path(folder) / name, rules=rules, words=["-O1"]))
        for number, values in enumerate(given_values):
            first, *others = [library.run(number, values, threads=n) for n, library in enumerate(libraries, 1)]
            for other in others:
                for a, b in zip(first, other, strict=True):
                    assert a.tobytes() == b.tobytes()


@settings(derandomized, max_examples=1)
@given(st.lists(programs(), min_size=8, max_size=8))
def test_work_memory_may_be_arranged_in_any_way(drawn: list[RandomProgram]) -> None:
    """Of towers, and of random programs; without vectors, whose lanes a sum over a row of panels would use otherwise."""
    towers = [(function, arguments(function, n)) for n, function in enumerate(SAMPLES[::4])]
    others = [(program.function, program.arguments(1)) for program in drawn]
    same_bits(*zip(*towers, *others, strict=True))


# Between routines: states, saved and pending values, gradients of states, messages.

MODELS = {
    "gpt": {"depth": 2, "width": 36, "heads": 2, "context": 30, "batch": 2},
    "t5": {"depth": 1, "width": 36, "heads": 2, "batch": 2},
}


def pitch(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    return pitched(shape, 5)


@pytest.fixture(autouse=True, scope="module")
def own_targets() -> Iterator[None]:
    """Targets that are not of the tree, known for as long as these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        for name, arrange in {"pitch": pitch, "loose": loosely, "reversed": reversed_dims}.items():
            patch.setitem(TARGETS, name, replace(C, rules=replace(C.rules, target=name, arrange=arrange)))
        yield


def trained(folder: Path, target: str, layout: Options, text: Path) -> tuple[str, list[str], list[float]]:
    """The digest of a few steps, the losses printed at the end, and those of the steps."""
    build = compile_file(EXAMPLES / "gpt.dsl", folder, MODELS["gpt"], replace(layout, target=target, microbatches=4))
    words = ["--data", text, "--evaluate", text, "--sample", 4, "--prompt", "a", "--steps", 3, "--hash", "--log", folder / "log"]
    done = subprocess.run([str(build.program), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    digest = re.findall(r"^digest: (\w+)$", done.stdout, re.MULTILINE)[0]
    return digest, re.findall(r"loss [\d.]+|\Z", done.stdout), [row["loss"] for row in rows if "loss" in row]


def test_other_arrangements_train_to_the_same(tmp_path: Path) -> None:
    """With a pitch to the same bits; over a cut the messages have gaps. With panels on one rank and on four to the same bits.

    The sum over a row of panels is another loop, whose lanes the C compiler chooses anew: against `c` it is the same but for rounding.
    """
    text = tmp_path / "text"
    text.write_bytes(bytes(np.random.default_rng(0).integers(97, 122, 4000, dtype=np.uint8)))
    four = Options(pp=2, dp=2, schedule="zb-h1")
    plain = trained(tmp_path / "plain", "c", Options(), text)
    assert trained(tmp_path / "pitch", "pitch", four, text) == plain
    loose = trained(tmp_path / "loose", "loose", Options(), text)
    assert trained(tmp_path / "loose4", "loose", four, text) == loose
    backwards = trained(tmp_path / "reversed", "reversed", Options(), text)
    for other in (loose, backwards):
        np.testing.assert_allclose(other[2], plain[2], rtol=1e-5)


def program_lowered(model: str, target: str):
    program, _ = load_program(EXAMPLES / f"{model}.dsl", MODELS[model], Options())
    return lower(prepared(program, OPS), OPS, TARGETS[target].rules)


@pytest.mark.parametrize("model", MODELS)
def test_makers_and_readers_of_a_state_agree(model: str) -> None:
    """In every chain; what the runtime reads is canonical, and something is not."""
    lowered = program_lowered(model, "loose")
    program = lowered.step.program
    loose = 0
    for chain in (program.train, program.evaluate, program.sample):
        if chain is None:
            continue
        made: dict[str, object] = {}
        for call in chain.calls:
            unit = program.units[call.unit]
            for role, value, name in zip(unit.roles, unit.function.parameters, call.arguments, strict=True):
                assert role != "state" or lowered.stored(call.unit, value).arrangement == made[name]
            for name, value in zip(call.results, unit.function.results, strict=False):
                made[name] = lowered.stored(call.unit, value).arrangement
                shown = name in (chain.loss, chain.logits) or name in [state for _, state in chain.metrics]
                assert not shown or made[name] == canonical(value.type.shape)
                loose += made[name] != canonical(value.type.shape)
    assert loose


@pytest.mark.parametrize("model", MODELS)
def test_what_the_runtime_holds_is_canonical(model: str) -> None:
    """Parameters, inputs and gradients of parameters have the bytes of their types in every routine."""
    lowered = program_lowered(model, "loose")
    program = lowered.step.program
    for unit, routine, backward in zip(program.units, lowered.forward, zip(lowered.input_gradient, lowered.weight_gradient), strict=True):
        sizes = {p.name: p.type.size for role, p in zip(unit.roles, unit.function.parameters, strict=True) if role != "state"}
        for of in (routine, *(r for r in backward if r is not None)):
            folded: Mapping[str, int] = {v.name: v.type.size for v in of.function.results if v.name in of.folds}
            assert all(of.buffers[name].elements == size for name, size in {**sizes, **folded}.items() if name in of.buffers)
