"""A compiled model in this process: NumPy views, steps, gradients, errors, several models at once, life after close."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
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
        {"x": X, "y": np.ma.array(Y, mask=[0, 0, 1, 0])},
        {"x": X, "y": Y.astype(object)},
        {"x": X, "y": Y.astype(complex)},
        {"x": X, "y": [1.0, [2.0], 3.0, 4.0]},
        {"x": X, "y": [1.0, None, 3.0, 4.0]},
        {"x": X, "y": np.full(4, 1e300)},
        {"x": X, "y": np.array(["2020-01-01"] * 4, "datetime64[D]")},
        {"x": X, "y": Y > 0},
        {"x": X, "y": Y[:, None][:, :0]},
        {"x": X, "y": None},
    ],
    ids=["missing", "unknown", "rows", "rank", "dtype", "scalar", "text", "masked", "object", "complex", "ragged", "holes", "large",
         "dates", "bools", "empty", "none"],
)  # fmt: skip
def test_inputs_that_do_not_fit(inputs: dict[str, object], line: Build) -> None:
    with line.open() as model, pytest.raises(MlcError) as problem:
        model.step(**inputs)
    assert code(problem) == "E0701"


class Held:
    """An array as other libraries hold theirs."""

    def __init__(self, array: np.ndarray, problem: Exception | None = None):
        self.array = array
        self.problem = problem

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if self.problem:
            raise self.problem
        return self.array


def test_arrays_of_other_libraries(line: Build) -> None:
    with line.open() as model:
        plain = model.evaluate(x=X, y=Y)
        assert model.evaluate(x=Held(X), y=np.ma.array(Y, mask=False)) == plain
        assert model.evaluate(x=X.astype(">f4"), y=Y.tolist()) == plain
        with pytest.raises(MlcError, match="y: Held gives no array: it lies on a device"):
            model.step(x=X, y=Held(Y, RuntimeError("it lies on a device")))
        with pytest.raises(MlcError, match="y: 1 of 4 elements are masked"):
            model.step(x=X, y=np.ma.masked_greater(Y, 6.0))


def test_float64_and_strided_inputs_are_taken(line: Build) -> None:
    with line.open() as model:
        plain = model.evaluate(x=X, y=Y)
        assert model.evaluate(x=np.repeat(X, 2).astype(np.float64)[::2], y=list(map(float, Y))) == plain


HUGE: list[dict[str, object]] = [{"steps": 2**63}, {"threads": 2**31}, {"seed": 1.5}, {"threads": "2"}]


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"seed": 2**63}, {"threads": -1}, {"threads": 5000}, {"steps": -1}, *HUGE], ids=str
)
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


def test_a_build_opens_its_own_library(tiny: Path, tmp_path: Path) -> None:
    """Two compilations without folders of their own: the first one's was opened as the second's."""
    before = compile_file(tiny, tmp_path, {}, Options())
    after = compile_file(tiny, tmp_path, {"batch": 6}, Options())
    assert after.open().batch == 6
    with pytest.raises(MlcError) as problem:
        before.open()
    assert problem.value.diagnostics[0].code == "E0704"
    compile_file(tiny, tmp_path, {}, Options())
    assert before.open().batch == 4


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
        with pytest.warns(UserWarning) as said:
            assert re.fullmatch("step-00000002-[0-9a-f]{8}", two.save(tmp_path).name)
        assert "goes back to step 1, so it is a new run" in str(said[0].message)
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


def test_a_path_as_text(line: Build) -> None:
    with Model(str(line.library), threads=1) as model:
        assert model.batch == 4


@pytest.mark.parametrize("kind", ["nothing", "folder", "fifo", "text", "empty", "program", "cut", "other", "loop", "zero"])
def test_what_is_no_library_of_a_model(kind: str, line: Build, tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "text" | "empty":
            path.write_text("no library" if kind == "text" else "")
        case "program":
            path.write_bytes(line.program.read_bytes())
        case "cut":
            path.write_bytes(line.library.read_bytes()[:1000])
        case "other":
            subprocess.run(["cc", "-shared", "-x", "c", "-o", path, "-"], input="int mlc = 1;", text=True, check=True)
        case "loop":
            path.symlink_to(path)
        case "zero":
            path = Path(f"{path}\0")
    with pytest.raises(MlcError) as problem:
        Model(str(path))
    assert code(problem) == "E0704" and "lib.so" in str(problem.value)


def test_a_library_of_another_version(line: Build, tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    subprocess.run(["cc", "-shared", "-x", "c", "-o", path, "-"], input="int mlc_emitted_model[1000] = {9999};", text=True, check=True)
    with pytest.raises(MlcError, match="has version 9999 of the runtime") as problem:
        Model(path)
    assert code(problem) == "E0704"


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.set_scalar("rate", 1e39),
        lambda model: model.set_scalar("rate", float("nan")),
        lambda model: model.set_scalar("rate", "fast"),
        lambda model: model.set_scalar("rate\0x", 0.5),
        lambda model: model.set_steps(0),
        lambda model: model.set_steps(2**63),
        lambda model: model.save("a\0b"),
        lambda model: model.load("a\0b"),
        lambda model: model.load_weights("none.safetensors"),
    ],
)
def test_values_that_c_cannot_take(call: Callable[[Model], object], line: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with line.open(1) as model:
        with pytest.raises(MlcError) as problem:
            call(model)
        assert code(problem) == "E0703" and list(tmp_path.iterdir()) == []
        assert model.scalars["rate"] == pytest.approx(0.1)


def test_a_forked_child_is_told_and_its_parent_goes_on(line: Build) -> None:
    with line.open(threads=2) as model:
        model.step(x=X, y=Y)
        child = os.fork()
        if not child:
            signal.alarm(30)  # a child that hangs ends, and fails the test
            os._exit(_in_child(model, line))
        assert os.waitpid(child, 0)[1] == 0
        model.step(x=X, y=Y)
        assert model.steps_done == 2


def _in_child(model: Model, line: Build) -> int:
    """Exit code 0: every call says what is wrong, what is there can be seen, closing is quick, a model of its own works."""
    for call in (lambda: model.step(x=X, y=Y), lambda: model.evaluate(x=X, y=Y), model.digest, lambda: model.save("none")):
        try:
            call()
        except MlcError as problem:
            if "was forked" not in str(problem):
                return 2
        else:
            return 3
    if not np.isfinite(model.parameters["a"]).all():
        return 4
    model.close()
    gc.collect()
    with line.open(threads=2) as own:
        own.step(x=X, y=Y)
    return 0


def test_a_second_caller_is_told_who_works(line: Build) -> None:
    """The first caller is held inside its call by what makes the gradient's value; the second comes from a thread, or from within."""
    with line.open() as model:
        said: list[str] = []

        def second() -> None:
            with pytest.raises(MlcError) as problem:
                model.step(x=X, y=Y)
            said.append(str(problem.value))

        def held(loss: float) -> float:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
            second()
            return loss

        model._run("gradient", {"x": X, "y": Y}, held)
        assert "model.step: another thread is in model.gradient" in said[0] and "E0705" in said[0]
        assert "model.step: this thread is in model.gradient" in said[1]
        assert model.step(x=X, y=Y) > 0


def test_calls_of_several_threads_are_whole_or_refused(line: Build) -> None:
    with line.open(threads=2) as model:
        done, texts = [0] * 3, set()

        def work(n: int) -> None:
            for _ in range(200):
                try:
                    model.step(x=X, y=Y)
                    done[n] += 1
                except MlcError as problem:
                    texts.add(str(problem))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert model.steps_done == sum(done) and all("is in model.step" in text for text in texts)


INTERRUPTED = """
import signal, sys
import numpy as np
from mlc import Model
X = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
signal.signal(signal.SIGALRM, signal.default_int_handler)
with Model(sys.argv[1]) as model:
    for after in range(60):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-4 + after * 5e-5)
            while True:
                model.step(x=X, y=2 * X + 1)
        except KeyboardInterrupt:
            pass
        steps = model.steps_done
        model.step(x=X, y=2 * X + 1)
        assert model.steps_done == steps + 1
    print(model.steps_done)
"""


def test_an_interrupt_leaves_the_model_usable(line: Build) -> None:
    """In a process of its own: an alarm that rings while another test's garbage is collected is lost, or ends this one."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, line.library], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


GROWTH = """
import gc, sys
from mlc import Model
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def opened(times):
    for _ in range(times):
        with Model(sys.argv[1], threads=2) as model:
            model.parameters["a"][0]
opened(30)
before = resident()
opened(200)
print(resident() - before)
"""


def test_opening_and_closing_leaves_nothing_behind(line: Build) -> None:
    """What cffi keeps of a library was 21 KB an open; the bound is a tenth of that."""
    done = subprocess.run([sys.executable, "-c", GROWTH, line.library], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 2100


def test_a_closed_model_lets_go_of_its_library(tiny: Path, tmp_path: Path) -> None:
    build = compile_file(tiny, tmp_path, {}, Options())
    with build.open(1) as model:
        view = model.parameters["a"]
        assert _mapped(build.library)
    del model
    gc.collect()
    assert _mapped(build.library) and view[0] == 0.0
    del view
    gc.collect()
    assert not _mapped(build.library)


def _mapped(library: Path) -> bool:
    return str(library.resolve()) in Path("/proc/self/maps").read_text()
