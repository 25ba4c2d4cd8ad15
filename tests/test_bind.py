"""A compiled model in this process: NumPy views, steps, gradients, errors, several models at once, life after close."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest
from layout_models import MODELS, Layout, Programs

from mlc.bind import Model
from mlc.diagnostics import MlcError
from mlc.driver import Build, Options, compile_file

X = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
Y = 2 * X + 1


@pytest.fixture(scope="module")
def line(tiny: Path, compiled) -> Build:
    return compiled(tiny)


def gradients(a: float, b: float) -> tuple[float, float, float]:
    """Loss and derivatives of mean((a x + b - y)^2), by hand."""
    error = a * X + b - Y
    return float(np.mean(error**2)), float(np.mean(2 * error * X)), float(np.mean(2 * error))


def code(problem: pytest.ExceptionInfo[MlcError]) -> str:
    return problem.value.diagnostics[0].code


def test_gradient_is_that_of_the_formula(line: Build) -> None:
    with line.open() as model:
        model.parameters["a"][:] = 0.5
        model.parameters["b"][:] = -1.0
        loss, gradient = model.gradient(x=X, y=Y)
        assert (loss, gradient["a"][0], gradient["b"][0]) == pytest.approx(gradients(0.5, -1.0), rel=1e-6)
        assert model.parameters["a"][0] == 0.5


def test_steps_update_views_in_place(line: Build) -> None:
    with line.open() as model:
        a = model.parameters["a"]
        first = model.step(x=X, y=Y)
        assert first == pytest.approx(gradients(0, 0)[0])
        assert a[0] == pytest.approx(-0.1 * gradients(0, 0)[1], rel=1e-6)
        assert model.optimizer_state["a/momentum"][0] == pytest.approx(gradients(0, 0)[1], rel=1e-6)
        for _ in range(200):
            loss = model.step(x=X, y=Y)
        assert loss < 1e-6 and a[0] == pytest.approx(2, abs=1e-3)
        assert model.steps_done == 201


def test_evaluate_takes_any_number_of_batches(line: Build) -> None:
    with line.open() as model:
        once = model.evaluate(x=X, y=Y)
        assert model.evaluate(x=np.tile(X, 3), y=np.tile(Y, 3)) == pytest.approx(once)
        assert model.steps_done == 0


def test_microbatches_lead_the_inputs(tiny: Path, compiled) -> None:
    with compiled(tiny, Options(microbatches=2)).open() as model:
        assert model.inputs[0].shape == (8,)
        loss, gradient = model.gradient(x=np.tile(X, 2), y=np.tile(Y, 2))
        assert (loss, gradient["a"][0], gradient["b"][0]) == pytest.approx(gradients(0, 0), rel=1e-6)


def test_scalars_are_options(line: Build) -> None:
    with line.open() as model:
        assert model.scalars == {"rate": pytest.approx(0.1)}
        model.set_scalar("rate", 0.0)
        model.step(x=X, y=Y)
        assert model.parameters["a"][0] == 0.0
        with pytest.raises(MlcError):
            model.set_scalar("rat", 0.0)


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": X},
        {"x": X, "y": Y, "z": Y},
        {"x": X[:3], "y": Y[:3]},
        {"x": X[:, None], "y": Y},
        {"x": X, "y": Y.astype(np.int32)},
        {"x": 1.0, "y": Y},
        {"x": X, "y": "text"},
    ],
    ids=["missing", "unknown", "rows", "rank", "dtype", "scalar", "text"],
)
def test_inputs_that_do_not_fit(inputs: dict[str, object], line: Build) -> None:
    with line.open() as model, pytest.raises(MlcError) as problem:
        model.step(**inputs)
    assert code(problem) == "E0701"


def test_float64_and_strided_inputs_are_taken(line: Build) -> None:
    with line.open() as model:
        plain = model.evaluate(x=X, y=Y)
        assert model.evaluate(x=np.repeat(X, 2).astype(np.float64)[::2], y=list(map(float, Y))) == plain


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": 2**63}, {"threads": -1}, {"threads": 5000}, {"steps": -1}], ids=str)
def test_options_that_cannot_be(options: dict[str, int], line: Build) -> None:
    with pytest.raises(MlcError) as problem:
        line.open(**options)
    assert code(problem) == "E0703"


def test_several_models_are_independent(line: Build, tiny: Path, compiled) -> None:
    wide = compiled(tiny, batch=8)
    with line.open() as one, line.open(threads=2) as two, wide.open() as three:
        one.step(x=X, y=Y)
        two.parameters["a"][:] = 7.0
        three.step(x=np.tile(X, 2), y=np.tile(Y, 2))
        assert one.parameters["a"][0] != 7.0
        assert one.parameters["a"][0] == three.parameters["a"][0]
        assert two.steps_done == 0


def test_a_library_built_anew_is_the_one_opened(tiny: Path, tmp_path: Path) -> None:
    before = compile_file(tiny, tmp_path, {}, Options()).open()
    after = compile_file(tiny, tmp_path, {"batch": 6}, Options()).open()
    assert (before.batch, after.batch) == (4, 6)


def test_views_outlive_the_model(line: Build) -> None:
    model = line.open()
    a = model.parameters["a"]
    a[:] = 3.0
    model.close()
    gc.collect()
    assert a[0] == 3.0
    a[:] = 4.0
    with pytest.raises(MlcError) as problem:
        model.step(x=X, y=Y)
    assert code(problem) == "E0702"


def test_unknown_parameter_names_the_nearest(line: Build) -> None:
    with line.open() as model, pytest.raises(KeyError, match="did you mean `a`"):
        model.parameters["aa"]


def test_checkpoint_and_digest(line: Build, tmp_path: Path) -> None:
    with line.open() as one, line.open(seed=5) as two:
        for _ in range(3):
            one.step(x=X, y=Y)
        assert one.save(tmp_path).is_dir()
        assert one.digest() != two.digest()
        two.load(tmp_path)
        assert one.digest() == two.digest()
        assert one.step(x=X, y=Y) == two.step(x=X, y=Y)
        with pytest.raises(MlcError) as problem:
            two.load(tmp_path / "none")
    assert code(problem) == "E0703"


def test_one_writer_a_directory(line: Build, tmp_path: Path) -> None:
    def refused(model: Model, words: str) -> None:
        with pytest.raises(MlcError) as problem:
            model.save(tmp_path)
        assert code(problem) == "E0703" and words in str(problem.value)

    with line.open() as one, line.open(seed=5) as two:
        one.step(x=X, y=Y)
        first = one.save(tmp_path)
        refused(two, f"in use: {line.name}, process {os.getpid()} on ")
        one.step(x=X, y=Y)
        second = one.save(tmp_path)
        assert (first.name, second.name) == ("step-00000001", "step-00000002")
    with line.open(seed=5) as two:
        refused(two, "holds steps of another run")
        two.load(first)
        two.step(x=X, y=Y)
        with pytest.warns(UserWarning, match="goes back to step 1, so it is a new run"):
            assert re.fullmatch("step-00000002-[0-9a-f]{8}", two.save(tmp_path).name)
    with line.open(steps=7) as three:
        with pytest.warns(UserWarning, match="--steps was 1000, is 7"):
            three.load(tmp_path)
        three.save(tmp_path)


def test_same_bits_with_every_number_of_threads(line: Build) -> None:
    digests = set()
    for threads in (1, 2, 3, 5):
        with line.open(threads=threads) as model:
            for _ in range(5):
                model.step(x=X, y=Y)
            digests.add(model.digest())
    assert len(digests) == 1


def test_not_a_library_of_mlc(tmp_path: Path) -> None:
    path = tmp_path / "libnone.so"
    path.write_bytes(b"not a library")
    with pytest.raises(MlcError) as problem:
        Model(path)
    assert code(problem) == "E0704"


# ---------------------------------------------------------------------------------------------------------------- several ranks

LAYOUTS = (Layout(2, 2, "zb-h1"), Layout(2, 1, "zb-v"), Layout(1, 2))
WORDS = np.random.default_rng(2).integers(0, 256, (8 * 2, 13)).astype(np.int32)
WINDOWS = {"tokens": WORDS[:, :-1], "targets": WORDS[:, 1:]}


@pytest.fixture(params=["gpt2", "gpt2-bf16"])
def pairs(request: pytest.FixtureRequest, programs: Programs) -> tuple[Build, list[Build]]:
    """The library of one rank and those of several, of a model at f32 and at bf16."""
    one, *several = (programs.library(MODELS[request.param], layout.options(8)) for layout in (Layout(), *LAYOUTS))
    return one, several


def test_several_ranks_compute_what_one_does(pairs: tuple[Build, list[Build]]) -> None:
    """Losses, gradients, norms, evaluation and parameters, to the bit."""
    for build in pairs[1]:
        with pairs[0].open(threads=1, seed=3) as one, build.open(threads=2, seed=3) as model:
            assert model.ranks > 1 and model.arena_bytes > 0
            for _ in range(2):
                want, got = one.gradient(**WINDOWS), model.gradient(**WINDOWS)
                assert got[0] == want[0]
                assert list(got[1]) == list(want[1])
                assert all(got[1][name].tobytes() == want[1][name].tobytes() for name in want[1])
                assert model.step(**WINDOWS) == one.step(**WINDOWS)
                assert model.gradient_norm == one.gradient_norm
            few = {name: rows[:6] for name, rows in WINDOWS.items()}
            assert model.evaluate(**few) == one.evaluate(**few)
            assert model.evaluate(**WINDOWS) == one.evaluate(**WINDOWS)
            for tensors, others in ((model.parameters, one.parameters), (model.optimizer_state, one.optimizer_state)):
                assert list(tensors) == list(others)
                assert all(tensors[name].tobytes() == others[name].tobytes() for name in others)
            assert model.digest() == one.digest()


def test_written_parameters_reach_every_rank(pairs: tuple[Build, list[Build]]) -> None:
    """A shared parameter, and some that replicas share out: before the first step, and between steps."""
    for build in pairs[1]:
        with pairs[0].open(threads=1) as one, build.open(threads=1) as model:
            for number in range(2):
                for each in (one, model):
                    for name in ("wte.weight", "h.1.mlp.c_fc.weight", "ln_f.bias"):
                        values = each.parameters[name]
                        values[...] = 0.02 * np.random.default_rng(number).standard_normal(values.shape)
                    each.parameters["h.0.ln_1.weight"][number] += 0.5
                assert model.evaluate(**WINDOWS) == one.evaluate(**WINDOWS)
                assert model.step(**WINDOWS) == one.step(**WINDOWS)
                assert model.digest() == one.digest()


def test_several_ranks_save_and_load(pairs: tuple[Build, list[Build]], tmp_path: Path) -> None:
    for number, build in enumerate(pairs[1]):
        folder = tmp_path / str(number)
        with pairs[0].open(threads=1) as one, build.open(threads=1, seed=9) as model:
            one.step(**WINDOWS)
            one.save(folder / "one")
            model.load(folder / "one")
            assert model.digest() == one.digest()
            assert model.steps_done == 1
            assert model.step(**WINDOWS) == one.step(**WINDOWS)
            model.save(folder / "several")
            one.step(**WINDOWS)
            one.load(folder / "several")
            assert model.digest() == one.digest()
            assert model.step(**WINDOWS) == one.step(**WINDOWS)
            with pytest.raises(MlcError) as problem:
                model.load(folder / "none")
            assert code(problem) == "E0703"
            assert model.step(**WINDOWS) == one.step(**WINDOWS)


def test_states_that_replicas_share_are_copies(pairs: tuple[Build, list[Build]]) -> None:
    """Whatever can be written is what the model computes with; what is a copy cannot be written."""
    for build in pairs[1]:
        with pairs[0].open(threads=1) as one, build.open(threads=1) as model:
            for each in (one, model):
                each.step(**WINDOWS)
            for name, values in model.optimizer_state.items():
                if values.flags.writeable:
                    values *= 0.5
                    one.optimizer_state[name][...] *= 0.5
            assert model.digest() == one.digest()
            assert model.step(**WINDOWS) == one.step(**WINDOWS)
            assert model.digest() == one.digest()


def test_views_of_several_ranks_outlive_the_model(pairs: tuple[Build, list[Build]]) -> None:
    model = pairs[1][0].open(threads=1)
    model.step(**WINDOWS)
    views = list(model.parameters.values())
    model.close()
    gc.collect()
    assert all(np.isfinite(view).all() for view in views)
    views[0][...] = 1.0


def test_a_loss_that_is_not_finite_is_named(pairs: tuple[Build, list[Build]]) -> None:
    """Stage and microbatch are those of one rank's report or of the stage that saw it; the model goes on after."""
    with pairs[1][0].open(threads=1) as model:
        kept = model.parameters["wte.weight"].copy()
        model.parameters["wte.weight"][...] = np.nan
        with pytest.raises(MlcError) as problem:
            model.step(**WINDOWS)
        assert "is not finite" in str(problem.value) and "microbatch 0" in str(problem.value)
        model.parameters["wte.weight"][...] = kept
        assert np.isfinite(model.evaluate(**WINDOWS))
