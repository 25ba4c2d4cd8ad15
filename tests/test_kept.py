"""How parameters lie changes no bit: targets from outside the tree keep them with pitch, in panels, in another order, each its own way."""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_models import MODELS, Layout, Programs, data_options, digest_of, execute, run_model
from layout_models import Model as Described

from mlc.bind import Model
from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file
from mlc.lower import index as ix
from mlc.lower.arrangement import Arrangement, Panels, arrangement_of, canonical, in_panels, is_bijective, ordered, pitched, placed
from mlc.parallel.arranged_proof import arranged_faults
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.sweeps import KERNELS, OWN
from mlc.parallel.verify import verify
from mlc.targets import TARGETS
from mlc.targets.c import C

MICROBATCHES = GROUPS = 6

#: Without vectors, whose lanes a sum over elements that lie otherwise would use otherwise.
UNVECTORED = ("OPTIMIZE=-O1", "EXTRA=-fno-openmp-simd")


def lanes(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    return in_panels(shape, len(shape) - 1, 4)


def rows(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    return in_panels(shape, 0, 3)


def pitch(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    return pitched(shape, 7)


def backwards(_dtype: str, shape: tuple[int, ...]) -> Arrangement:
    return ordered(shape, range(len(shape) - 1, -1, -1))


def mixed(dtype: str, shape: tuple[int, ...]) -> Arrangement:
    """Shapes have different ones, and a copy another one than its master."""
    ways = (lanes, rows, pitch, backwards, lambda _, shape: canonical(shape))
    return ways[(sum(shape) + 3 * len(shape) + (dtype == "bf16")) % len(ways)](dtype, shape)


KEPT = {"lanes": lanes, "rows": rows, "pitch": pitch, "backwards": backwards, "mixed": mixed}


def target(keep: Any, name: str) -> Any:
    return replace(C, rules=replace(C.rules, target=name, keep=keep))


@pytest.fixture(autouse=True, scope="module")
def own_targets() -> Iterator[None]:
    """Targets that are not of the tree, known for as long as these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        for name, keep in KEPT.items():
            patch.setitem(TARGETS, name, target(keep, name))
        yield


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("kept") / "built", UNVECTORED)


def options(layout: Layout, target: str = "c") -> Options:
    return replace(layout.options(MICROBATCHES), target=target, groups=GROUPS)


ONE = Layout(groups=GROUPS)

#: What each adds: tied embeddings on two places, clipping, copies that lie otherwise than masters, and an absent replica; experts; whole
#: rules with states; convolution by patches; twice as wide.
CASES = [
    ("gpt2-bf16", "mixed", Layout(pp=2, dp=3, schedule="zb-h1")),
    ("deepseek_v3", "mixed", Layout(dp=2)),
    ("muon", "backwards", Layout(pp=2, dp=2)),
    ("vit", "rows", Layout(dp=3)),
    ("gpt2-f64", "pitch", Layout(pp=3)),
]


@pytest.mark.parametrize(("model", "kept", "layout"), CASES, ids=lambda of: str(of))
def test_programs_say_the_same(model: str, kept: str, layout: Layout, programs: Programs, tmp_path: Path) -> None:
    """Losses, norms, samples, metrics and digests, to the last bit."""
    plain = run_model(programs.build(MODELS[model], options(ONE)), MODELS[model], tmp_path)
    program = programs.build(MODELS[model], options(layout, kept))
    parameters = json.loads((program.parent / "plan.json").read_text())["parameters"]
    assert any("arranged" in parameter for parameter in parameters)
    assert run_model(program, MODELS[model], tmp_path) == plain


@pytest.mark.parametrize("model", ["gpt2-bf16", "muon"])
def test_checkpoints_know_canonical_order_alone(model: str, programs: Programs, tmp_path: Path) -> None:
    """One that was written under one arrangement and layout goes on under any other, both ways; files are the same to the byte."""
    of = MODELS[model]
    built = [
        programs.build(of, options(ONE)),
        programs.build(of, options(Layout(pp=2, dp=3, schedule="zb-h1"), "mixed")),
        programs.build(of, options(Layout(dp=2), "lanes")),
    ]
    whole = digest_of(built[0], of, tmp_path / "whole", "--steps", 4)
    files = []
    for number, program in enumerate(built):
        folder = tmp_path / str(number)
        digest_of(program, of, tmp_path / "data", "--steps", 2, "--checkpoint", folder)
        step = folder / (folder / "latest").read_text().strip()
        files.append({path.name: path.read_bytes() for path in step.glob("*.safetensors")})
        for other in built[:number] + built[number + 1 :]:
            assert digest_of(other, of, tmp_path / "data", "--steps", 4, "--resume", folder) == whole
    assert files[0] and all(other == files[0] for other in files)


def batch(model: Model, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    given = {}
    for kind in model.inputs:
        reals = rng.standard_normal(kind.shape).astype(np.float32)
        given[kind.name] = reals if kind.limit is None else rng.integers(kind.low, kind.limit, kind.shape).astype(np.int32)
    return given


@pytest.mark.parametrize(("model", "kept", "layout"), [("muon", "mixed", Layout(dp=2)), ("gpt2-bf16", "lanes", Layout(pp=2, dp=2))])
def test_views_know_canonical_order_alone(model: str, kept: str, layout: Layout, programs: Programs, tmp_path: Path) -> None:
    """Parameters that are written, gradients, states, weights that are loaded, before and after steps."""
    of, plain = MODELS[model], options(ONE)
    with programs.library(of, plain).open() as one, programs.library(of, options(layout, kept)).open() as other:
        for way in (one, other):
            rng = np.random.default_rng(3)
            for name in way.parameters:
                way.parameters[name][...] = 0.1 * rng.standard_normal(way.parameters[name].shape)
        held = other.parameters[next(iter(other.parameters))]
        for seed in range(2):
            same_numbers(one.gradient(**batch(one, seed))[1], other.gradient(**batch(other, seed))[1])
            assert one.step(**batch(one, seed)) == other.step(**batch(other, seed))
            same_numbers(one.parameters, other.parameters)
            same_numbers(one.optimizer_state, other.optimizer_state)
        assert held.tobytes() == one.parameters[next(iter(one.parameters))].tobytes()  # it follows the masters
        other.save(tmp_path / "saved")
        one.step(**batch(one, 9))
        one.load_weights(tmp_path / "saved" / (tmp_path / "saved" / "latest").read_text().strip())
        same_numbers(one.parameters, other.parameters)
        other.step(**batch(other, 9))
        other.load(tmp_path / "saved")
        same_numbers(one.parameters, other.parameters)


VIEWED = '''
from mlc.losses import mean_squared_error
from mlc.optim import adamw
from mlc.rates import constant

batch: dim = 6
n: dim = 10

@layer
def looked_at(x: f32[batch, n], rows: i32[batch]):
    w = param("w", [n, 3 * n], init=normal(0.3))
    a, b, c = split(w, 3, axis=-1)
    d = reshape(param("d", [2, n, n], init=normal(0.3)), [2 * n, n])
    e = concat([param("e", [3, n], init=normal(0.3)), param("f", [n - 3, n], init=normal(0.3))], axis=0)
    t = param("t", [7, n], init=normal(0.3))
    s = param("s", [1, n, 1], init=normal(0.3))
    h = tanh((x @ a + gather(t, rows)) @ transpose(b)) + reshape(s, [n])
    return tanh(h @ d[:n] + tanh(h @ transpose(d[n:]))) @ (c + e) + sum(t, axis=0) * s[0, :, 0]

@model
def viewed(x: f32[batch, n], rows: i32[batch], y: f32[batch, n]):
    h = looked_at(x, rows, name="first")
    return {"loss": mean_squared_error(looked_at(h, rows, name="second"), y)}

@train(clip=0.5)
def recipe():
    return adamw(rate=constant(0.01))
'''


def test_parameters_are_looked_at_in_any_way(programs: Programs, tmp_path: Path) -> None:
    """Parts, slices, reshapes, transposes, concatenations, rows that are gathered, sums: the same gradients however parameters lie."""
    (tmp_path / "viewed.dsl").write_text(VIEWED)
    of = Described(str(tmp_path / "viewed.dsl"), {})
    with programs.library(of, options(ONE)).open() as model:
        given = batch(model, 1)
        wanted = [model.gradient(**given)[1], model.step(**given), model.digest()]
    for kept in KEPT:
        with programs.library(of, options(ONE, kept)).open() as model:
            same_numbers(model.gradient(**given)[1], wanted[0])
            assert [model.step(**given), model.digest()] == wanted[1:]


def test_what_is_seen_outlives_calls_that_fail(programs: Programs, tmp_path: Path) -> None:
    """What a caller wrote is there behind files that cannot be loaded; behind an update that is not finite, what it left."""
    text = VIEWED.replace("adamw(rate=constant(0.01))", "sgd(rate=constant(3e38))").replace("import adamw", "import sgd")
    (tmp_path / "viewed.dsl").write_text(text.replace("clip=0.5", ""))
    of, seen = Described(str(tmp_path / "viewed.dsl"), {}), []
    for layout, kept in ((ONE, "c"), (ONE, "pitch"), (Layout(dp=2), "lanes")):
        with programs.library(of, options(layout, kept)).open() as model:
            for name in model.parameters:
                model.parameters[name][...] = 0.25
            for load in (model.load, model.load_weights):
                with pytest.raises(MlcError):
                    load(tmp_path / "none")
            assert all((model.parameters[name] == 0.25).all() for name in model.parameters)
            given = batch(model, 1)
            with pytest.raises(MlcError, match="its update makes"):
                model.step(**given | {"y": 1000 * given["y"]})
            seen.append({name: model.parameters[name].copy() for name in model.parameters})
            assert any(not np.isfinite(array).all() for array in seen[-1].values())
    for other in seen[1:]:
        same_numbers(seen[0], other)


def same_numbers(left: Any, right: Any) -> None:
    assert list(left) == list(right)
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name


@pytest.mark.sanitizers
@pytest.mark.slow
def test_runs_clean(tmp_path: Path) -> None:
    """Whole rules, copies, an absent replica, threads; saved and resumed."""
    programs = Programs(tmp_path / "built", ("OPTIMIZE=-O1", "EXTRA=-fsanitize=address,undefined -fno-sanitize-recover=all -g1"))
    for model, layout in (("muon", Layout(dp=3)), ("gpt2-bf16", Layout(pp=2, dp=3))):
        program = programs.build(MODELS[model], options(layout, "mixed"))
        folder, words = tmp_path / model, ("--threads", 2, "--transport", "threads", "--checkpoint", tmp_path / model / "kept")
        digest_of(program, MODELS[model], folder, "--steps", 2, *words)
        digest_of(program, MODELS[model], folder, "--steps", 3, *words, "--resume", "auto")


def test_kernels_of_two_operands_change_the_first() -> None:
    """Of those on tensors: by this the walk over sweeps knows what it puts back."""
    tensors = [kernel for kernel in KERNELS.values() if kernel.name not in OWN and kernel.operands[0][1] in ("wide", "narrow")]
    assert len(tensors) == 8
    for kernel in tensors:
        first, *others = (use for use, _ in kernel.operands)
        assert (first in ("change", "write")) == bool(others) and all(use == "read" for use in others) and len(others) < 2
    assert all(kind not in ("wide", "narrow") for kernel in KERNELS.values() if kernel not in tensors for _, kind in kernel.operands)


# ---- arrangements ----

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def chosen(draw: st.DrawFn, shape: tuple[int, ...]) -> Arrangement:
    """Of a shape: in any order of dims, with gaps between any, one or several dims in panels."""
    axes: list[tuple[int, int, bool]] = []
    for dim, extent in enumerate(shape):
        size = draw(st.integers(1, extent + 1)) if draw(st.booleans()) else 0
        axes += [(dim, size, False), (dim, -(-extent // size), True)] if size else [(dim, extent, False)]
    axes = draw(st.permutations(axes))
    strides, panels, step = [0] * len(shape), dict[int, int](), 1
    for dim, extent, outer in axes:
        (panels if outer else strides)[dim] = step
        step *= extent + draw(st.integers(0, 2))
    inner = {dim: extent for dim, extent, outer in axes if not outer}
    return Arrangement(tuple(strides), tuple(Panels(dim, inner[dim], panels[dim]) for dim in sorted(panels)), step)


def places(arrangement: Arrangement, shape: tuple[int, ...]) -> list[int]:
    place = placed("x", arrangement)
    return [place.index([ix.number(i) for i in at]).constant for at in itertools.product(*map(range, shape))]


@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), chosen(shape))))
def test_strides_show_that_places_differ(drawn: tuple[tuple[int, ...], Arrangement]) -> None:
    shape, arrangement = drawn
    assert is_bijective(arrangement, shape) and arrangement_of(str(arrangement)) == arrangement
    found = places(arrangement, shape)
    assert len(set(found)) == len(found) and min(found) >= 0 and max(found) < arrangement.elements


@given(shapes, st.data())
def test_places_that_are_shared_are_seen(shape: tuple[int, ...], data: st.DataObject) -> None:
    """What is called bijective is, whatever the numbers."""
    numbers = st.integers(0, 12)
    strides = tuple(data.draw(st.lists(numbers, min_size=len(shape), max_size=len(shape))))
    some = data.draw(st.lists(st.tuples(st.integers(0, len(shape) - 1), st.integers(1, 5), numbers), max_size=2))
    arrangement = Arrangement(strides, tuple(Panels(*of) for of in some), data.draw(st.integers(1, 400)))
    if is_bijective(arrangement, shape):
        found = places(arrangement, shape)
        assert len(set(found)) == len(found) and max(found) < arrangement.elements


# ---- plans ----


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a model with whole rules and copies."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "model.dsl").write_text(MODELS["muon"].text().replace("@train()", "@train(precision=bf16)"))
    with_plan = replace(options(Layout(pp=2, dp=2), "mixed"), emit="plan")
    compile_file(folder / "model.dsl", folder / "out", MODELS["muon"].defines, with_plan)
    return json.loads((folder / "out" / "plan.json").read_text())


def changed(text: str, rng: random.Random) -> str:
    """One number of an arrangement made another one."""
    words = text.split(" ")
    at = rng.choice([n for n, word in enumerate(words) if word != "in"])
    parts = words[at].replace("*", "/").split("/")
    part = rng.randrange(len(parts))
    parts[part] = str(max(0, int(parts[part]) + rng.choice([-3, -1, 1, 2, 64])))
    words[at] = parts[0] if len(parts) == 1 else f"{parts[0]}/{parts[1]}*{parts[2]}"
    return " ".join(words)


def edited(plan: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One edit of how something of a parameter lies."""
    made = copy.deepcopy(plan)
    arranged = [p["arranged"] for p in made["parameters"] if "arranged" in p]
    match rng.randrange(5):
        case 0:
            of = rng.choice([a for a in arranged if a["master"]])
            of["master"] = changed(of["master"], rng)
        case 1:
            of = rng.choice([a for a in arranged if a["copy"]])
            of["copy"] = changed(of["copy"], rng)
        case 2:
            of = rng.choice([a for a in arranged if any(a["states"])])
            of["states"] = [text and changed(text, rng) for text in of["states"]]
        case 3:
            del rng.choice([p for p in made["parameters"] if "arranged" in p])["arranged"]
        case _:
            routine = rng.choice([r for r in made["routines"] if any(" as " in o for o in r["operands"])])
            n = rng.choice([n for n, o in enumerate(routine["operands"]) if " as " in o])
            head, _, text = routine["operands"][n].partition(" as ")
            routine["operands"][n] = rng.choice([head, f"{head} as {changed(text, rng)}"])
    return made


def test_the_plan_is_proved(plan: dict[str, Any]) -> None:
    verify(plan)
    assert any(any(p["arranged"]["states"]) for p in plan["parameters"] if "arranged" in p)
    assert any(p["arranged"]["copy"] not in (None, p["arranged"]["master"]) for p in plan["parameters"] if "arranged" in p)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_another_arrangement_is_refused(plan: dict[str, Any], seed: int) -> None:
    made = edited(plan, random.Random(seed))
    if made == plan:
        return
    with pytest.raises(MlcError):
        verify(made)


def bound(chunk: dict[str, Any], buffers: list[list[Any]], what: str) -> list[int]:
    """Numbers of buffers of a chunk: that the runtime fills or reads, or whose names begin so."""
    named = [number for number, (name, *_) in enumerate(buffers) if name.startswith(what)]
    found = {name: [buffer for _, buffer in chunk[name]] for name in ("inputs", "values")}
    if "logits" in chunk:
        found["logits"] = [chunk["logits"]["buffer"]]
    return found.get(what, named)


READ = [("train", 0, "inputs"), ("train", 1, "values"), ("sample", 1, "logits"), ("train", 1, "received.")]


@pytest.mark.parametrize(("chain", "place", "what"), READ)
def test_what_others_read_lies_as_they_know_it(plan: dict[str, Any], chain: str, place: int, what: str) -> None:
    """What the runtime fills or reads is canonical; both ends of a message have its states lie alike."""
    made = copy.deepcopy(plan)
    chunk = made["places"][place]["chunks"][chain][0]
    buffers = [*made["places"][place]["named"], *chunk["buffers"]]
    number = bound(chunk, buffers, what)[0]
    for row in [row for rows in chunk["rows"].values() for row in rows]:
        operands = made["routines"][row[0]]["operands"]
        for at in [at for at, buffer in enumerate(row[3]) if buffer == number]:
            operands[at] = operands[at].partition(" as ")[0] + " as 3 1 in 999"
    name = buffers[number][0]
    assert any(f"{chain}: place {place}, chunk 0: {name} is arranged" in fault.message for fault in arranged_faults(read_plan(made)))


def test_scratch_for_canonical_order_is_asked_for(plan: dict[str, Any]) -> None:
    with pytest.raises(MlcError, match="scratch a thread"):
        verify({**plan, "scratch_bytes_per_thread": 64})


def test_plans_do_not_grow_with_elements(tmp_path: Path) -> None:
    sizes = []
    for width in (32, 256):
        of = replace(options(ONE, "mixed"), emit="plan")
        (tmp_path / "model.dsl").write_text(MODELS["gpt2"].text())
        compile_file(tmp_path / "model.dsl", tmp_path / str(width), MODELS["gpt2"].defines | {"width": width}, of)
        plan = json.loads((tmp_path / str(width) / "plan.json").read_text())
        sizes.append(len(json.dumps([p.get("arranged") for p in plan["parameters"]])))
    assert sizes[1] < 1.5 * sizes[0]


@settings(max_examples=2, derandomize=True, deadline=None)
@given(data=st.data())
def test_any_arrangement_trains_to_the_same(data: st.DataObject, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Drawn for each dtype and shape."""
    known: dict[tuple[str, tuple[int, ...]], Arrangement] = {}

    def keep(dtype: str, shape: tuple[int, ...]) -> Arrangement:
        if (dtype, shape) not in known:
            known[dtype, shape] = data.draw(chosen(shape))
        return known[dtype, shape]

    folder, of = tmp_path_factory.mktemp("drawn"), MODELS["mlp"]
    plain = digest_of(programs.build(of, options(ONE)), of, folder / "plain", "--steps", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TARGETS, "drawn", target(keep, "drawn"))
        program = Programs(folder / "built").build(of, options(Layout(dp=2), "drawn"))
    assert digest_of(program, of, folder / "drawn", "--steps", 3) == plain


EDITS = {
    "is arranged beyond its buffer": (r"(arrangements\[\] = \{.*?), (\d+)\}", r"\1, 1}"),
    "there is no room for its elements in order": (r"scratch_bytes_per_thread = \d+", "scratch_bytes_per_thread = 64"),
}


@pytest.mark.parametrize("said", EDITS)
def test_the_runtime_refuses_tables_that_reach_too_far(said: str, tmp_path: Path) -> None:
    """Tables whose arrangements leave their buffers, or whose threads have no room for canonical order."""
    of = MODELS["mlp"]
    (tmp_path / "model.dsl").write_text(of.text())
    compile_file(tmp_path / "model.dsl", tmp_path / "build", of.defines, options(ONE, "pitch"))
    tables = tmp_path / "build" / "src" / "tables.h"
    before, after = EDITS[said]
    text, count = re.subn(before, after, tables.read_text(), count=1, flags=re.DOTALL)
    assert count == 1
    tables.write_text(text)
    Programs(tmp_path).make("../model")
    done = execute([str(tmp_path / "build" / "model"), *data_options(of, tmp_path), "--steps", "1"], code=1)
    assert said in done.stderr
