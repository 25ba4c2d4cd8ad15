"""Passes keep the meaning of what they rewrite; derivatives are right however they are cut."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from programs import RandomProgram, programs

from mlc.elaborate import elaborate, file_library
from mlc.ir.function import Function
from mlc.ir.interpret import interpret
from mlc.ir.op import Composite, Generate, Keys, Move, Pointwise, View
from mlc.ir.program import Chain, Effect, Program, Recipe, Step, Unit, Variant
from mlc.ir.text import parse_function, print_function
from mlc.ir.verify import verify
from mlc.ops import OPS
from mlc.passes import PASSES
from mlc.passes.differentiate import differentiate, differentiate_unit
from mlc.passes.expand import expand
from mlc.passes.recompute import choices_of, recompute
from mlc.passes.reverse import derivative
from mlc.passes.simplify import simplify
from mlc.syntax.parser import parse

KEYS = Keys(seed=3, step=5, microbatch=1, path=77)
RANDOM = settings(max_examples=60, deadline=None, derandomize=True)


def run(function, arguments, float64=True):
    return dict(zip((v.name for v in function.results), interpret(function, arguments, OPS, KEYS, float64), strict=True))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float) -> None:
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


PASSES_FOLDER = Path(__file__).parent / "passes"


def read(path: Path) -> Function:
    """The function of a file, which leaves out where its instructions come from."""
    lines = [f"{line} @<mlc>:0:0-0:0 via test" if " = " in line else line for line in path.read_text().splitlines()]
    return parse_function("\n".join(lines), path.name)


def shown(function: Function) -> str:
    return re.sub(r" +@<mlc>\S* via .*", "", print_function(function)).rstrip() + "\n"


def files(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", sorted((PASSES_FOLDER / name).glob("*.ir")), ids=lambda path: path.stem)


def arguments_of(function: Function) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 3, p.type.shape) if p.type.dtype == "i32" else rng.normal(size=p.type.shape) for p in function.parameters]


@pytest.mark.parametrize("name", [row.name for row in PASSES if row.run is not recompute])
def test_pass_of_files(name: str, golden):
    paths = sorted((PASSES_FOLDER / name).glob("*.ir"))
    assert paths, f"{PASSES_FOLDER / name} has no example"
    for path in paths:
        check_file(path, name, golden)


def rewritten_by(name: str, function: Function) -> Function:
    """What a pass makes of a function that is all of a step."""
    nothing = Chain((), None, None, (), None)
    program = Program("test", (), nothing, nothing, None, (), (), (), (), Recipe(None, "f32", 1, None))
    (row,) = (row for row in PASSES if row.name == name)
    (made,) = row.run(Step(program, ((),), (function,), (), ()), OPS).plain
    assert made is not None
    return made


def check_file(path: Path, name: str, golden) -> None:
    function = read(path)
    verify(function, OPS)
    rewritten = rewritten_by(name, function)
    verify(rewritten, OPS)
    same(run(rewritten, arguments_of(function)), run(function, arguments_of(function)), 1e-6)
    golden(path.with_suffix(".txt"), shown(rewritten))


def variant_of(path: Path, keep_slopes: bool = True) -> tuple[Unit, Variant]:
    """A function as a layer; a parameter whose name starts with w. belongs to the model."""
    function = simplify(read(path), OPS)
    roles = tuple("param" if p.name.startswith("w.") else "state" if p.type.is_float else "input" for p in function.parameters)
    wanted = frozenset(p.name for p in function.parameters if p.type.is_float)
    unit = Unit(path.stem, function, roles, len(function.results), ())
    return unit, differentiate_unit(0, unit, wanted, frozenset(v.name for v in function.results), OPS, keep_slopes)


@files("recompute")
def test_recompute_of_files(path: Path, golden):
    """What each choice makes again."""
    _, variant = variant_of(path, keep_slopes=False)
    again = [(v.choice, v.again) for v in choices_of(variant, OPS) if v.again is not None]
    golden(path.with_suffix(".txt"), "".join(f"{choice}: {shown(function)}" for choice, function in again))


@files("differentiate")
def test_differentiate_of_files(path: Path, golden):
    unit, variant = variant_of(path)
    check_variant(unit, variant)
    golden(path.with_suffix(".txt"), "".join(map(shown, (variant.forward, variant.input_gradient, variant.weight_gradient))))


@RANDOM
@given(programs(floats=("f32", "bf16"), random=True))
def test_programs_verify(program: RandomProgram):
    verify(program.function, OPS)
    for array in run(program.function, program.arguments(0)).values():
        assert np.all(np.isfinite(array))


@RANDOM
@given(programs(floats=("f32", "bf16"), random=True))
def test_simplify_keeps_the_meaning(program: RandomProgram):
    simple = simplify(program.function, OPS)
    verify(simple, OPS)
    assert simple.parameters == program.function.parameters
    same(run(simple, program.arguments(0)), run(program.function, program.arguments(0)), 1e-6)
    assert simplify(simple, OPS) == simple


@RANDOM
@given(programs(random=True))
def test_simplify_keeps_every_bit_of_pointwise_work_and_moves(program: RandomProgram):
    simple = simplify(program.function, OPS)
    if all(isinstance(OPS[i.op].lowering, Pointwise | View | Move | Generate) for i in program.function.instructions):
        before, after = (run(f, program.arguments(0), float64=False) for f in (program.function, simple))
        for name in before:
            assert before[name].tobytes() == after[name].tobytes(), name


@RANDOM
@given(programs(floats=("f32", "bf16")))
def test_expand_keeps_the_meaning(program: RandomProgram):
    whole = expand(program.function, OPS)
    verify(whole, OPS)
    assert not any(isinstance(OPS[i.op].lowering, Composite) or i.op == "stop_gradient" for i in whole.instructions)
    same(run(whole, program.arguments(0)), run(program.function, program.arguments(0)), 1e-9)


#: A result through which no gradient is taken: the log-sum-exp beside what it normalizes.
SIDE_RESULTS = {"attention": 1, "cross_entropy": 1}


@dataclass(frozen=True)
class Case:
    """A unit, the gradients that are wanted of it, and numbers."""

    unit: Unit
    wanted: frozenset[str]
    cotangents: dict[str, np.ndarray]
    arguments: dict[str, np.ndarray]


@st.composite
def cases(draw, **options) -> Case:
    """A random program as a unit: its floats are parameters of the model or states, its scalars may be losses."""
    program = draw(programs(**options))
    function = simplify(program.function, OPS)
    roles = tuple(draw(st.sampled_from(("param", "state"))) if p.type.is_float else "input" for p in function.parameters)
    floats = [p.name for p in function.parameters if p.type.is_float]
    wanted = frozenset(name for name in floats if draw(st.integers(0, 3)))
    side = {i.results[SIDE_RESULTS[i.op]].name for i in program.function.instructions if i.op in SIDE_RESULTS}
    losses = [r for r in function.results if r.type.is_float and not r.type.dims and r.name not in side and draw(st.booleans())]
    outputs = [r for r in function.results if r not in losses]
    function = replace(function, results=(*outputs, *losses))
    unit = Unit("layer", function, roles, len(outputs), tuple(Effect("add_loss", r.name) for r in losses))
    rng = np.random.default_rng(1)
    seeded = [r for r in function.results if r.type.is_float and r.name not in side and (r in losses or draw(st.integers(0, 3)))]
    cotangents = {r.name: rng.normal(size=r.type.shape) for r in seeded}
    arguments = dict(zip((p.name for p in function.parameters), program.arguments(2), strict=True))
    return Case(unit, wanted, cotangents, arguments)


def run_split(case: Case, variant: Variant) -> dict[str, np.ndarray]:
    """Gradients by parameter: forward, what is made again, input gradient and weight gradient one after the other."""
    values = dict(case.arguments)
    values.update({seed: case.cotangents[r.name] for r, seed in zip(case.unit.function.results, variant.d_results, strict=True) if seed})
    values.update(run(variant.forward, [values[p.name] for p in variant.forward.parameters]))
    if variant.again is not None:
        for result in variant.again.results:
            del values[result.name]
    for function in (variant.again, variant.input_gradient, variant.weight_gradient):
        if function is not None:
            values.update(run(function, [values[p.name] for p in function.parameters]))
    return {p: values[name] for p, name, *_ in (*variant.d_states, *variant.d_params)}


def run_whole(case: Case) -> dict[str, np.ndarray]:
    """Gradients by parameter: the derivative as one list of instructions."""
    unit, f = case.unit, case.unit.function
    masters = frozenset(p.name for p, role in zip(f.parameters, unit.roles, strict=True) if role == "param")
    made = derivative(f, case.wanted, frozenset(case.cotangents), masters, OPS)
    results = tuple(made.cotangents.values())
    whole = Function("whole", (*f.parameters, *made.seeds.values()), (*f.instructions, *made.instructions), results)
    verify(whole, OPS)
    values = [*case.arguments.values(), *(case.cotangents[name] for name in made.seeds)]
    found = run(whole, values)
    return {p: found[v.name] for p, v in made.cotangents.items()}


def slope(case: Case, direction: dict[str, np.ndarray], step: float) -> float:
    """The central difference of the results times their cotangents."""
    ends = []
    for sign in (1.0, -1.0):
        moved = {name: a + sign * step * direction[name] if name in direction else a for name, a in case.arguments.items()}
        results = run(case.unit.function, list(moved.values()))
        ends.append(sum(float(np.sum(results[name] * c)) for name, c in case.cotangents.items()))
    return (ends[0] - ends[1]) / (2 * step)


@RANDOM
@given(cases(floats=("f32", "bf16"), random=True))
def test_split_derivative_is_the_derivative(case: Case):
    variant = differentiate_unit(0, case.unit, case.wanted, frozenset(case.cotangents), OPS)
    check_variant(case.unit, variant)
    split, whole = run_split(case, variant), run_whole(case)
    assert split.keys() == whole.keys()
    for name in split:
        scale = max(1.0, float(np.max(np.abs(whole[name]), initial=0.0)))
        np.testing.assert_allclose(split[name], whole[name], rtol=1e-6, atol=1e-6 * scale, err_msg=name)


@RANDOM
@given(cases(floats=("f32", "bf16"), random=True))
def test_gradients_are_the_same_whatever_is_made_again(case: Case):
    """Random numbers are drawn as before, what a choice keeps is all that it reads, and no bit differs."""
    choices = choices_of(differentiate_unit(0, case.unit, case.wanted, frozenset(case.cotangents), OPS), OPS)
    want = run_split(case, choices[0])
    for variant in choices[1:]:
        assert variant.again is not None
        verify(variant.again, OPS)
        assert variant.choice != "full" or set(variant.saved) == {v.name for v in variant.again.results}
        arguments = {p.name for p in case.unit.function.parameters}
        assert {p.name for p in variant.again.parameters} <= arguments | set(variant.saved) - {v.name for v in variant.again.results}
        got = run_split(case, variant)
        assert {name: array.tobytes() for name, array in got.items()} == {name: array.tobytes() for name, array in want.items()}


@RANDOM
@given(cases(floats=("f32", "bf16"), random=True))
def test_gradients_are_the_same_whether_slopes_are_kept(case: Case):
    """And no more is kept with them."""
    kept, made = (differentiate_unit(0, case.unit, case.wanted, frozenset(case.cotangents), OPS, keep) for keep in (True, False))
    assert saved_bytes(kept) <= saved_bytes(made)
    got, want = run_split(case, kept), run_split(case, made)
    assert {name: array.tobytes() for name, array in got.items()} == {name: array.tobytes() for name, array in want.items()}


def saved_bytes(variant: Variant) -> int:
    return sum(v.type.bytes for v in variant.forward.results if v.name in variant.saved)


@RANDOM
@given(cases())
def test_derivative_is_the_slope(case: Case):
    assume(not any(i.op == "stop_gradient" for i in case.unit.function.instructions))
    rng = np.random.default_rng(4)
    direction = {p.name: rng.normal(size=p.type.shape) for p in case.unit.function.parameters if p.name in case.wanted}
    wide, narrow = (slope(case, direction, step) for step in (1e-5, 1e-6))
    gradients = run_split(case, differentiate_unit(0, case.unit, case.wanted, frozenset(case.cotangents), OPS))
    terms = [float(np.sum(g * direction[name])) for name, g in gradients.items()]
    size = 1.0 + sum(map(abs, terms))
    assume(abs(wide - narrow) < 1e-4 * size)
    assert abs(sum(terms) - wide) < 1e-3 * size


def check_variant(unit: Unit, variant: Variant) -> None:
    """What `Variant` promises of names."""
    early, late = variant.input_gradient, variant.weight_gradient
    unit_names = {v.name for v in unit.function.parameters} | {v.name for v in unit.function.results[: unit.outputs]}
    seeds = {name for name in variant.d_results if name}
    names = [[v.name for v in group] for group in (variant.forward.results, early.parameters, early.results, late.parameters, late.results)]
    forward_results, early_reads, early_results, late_reads, late_results = names
    own = [v.name for v in unit.function.results]
    assert forward_results == [*own, *variant.saved] and not set(variant.saved) & ({*own} | unit_names)
    assert variant.forward.parameters == unit.function.parameters
    places = {"input_gradient": [], "weight_gradient": []}
    for _, name, place in variant.d_params:
        places[place].append(name)
    assert early_results == [*(name for _, name in variant.d_states), *places["input_gradient"], *variant.pending]
    assert late_results == places["weight_gradient"]
    assert set(early_reads) <= unit_names | set(variant.saved) | seeds
    assert set(late_reads) <= unit_names | set(variant.saved_w) | (set(variant.pending) if variant.d_states else seeds)
    assert set(variant.pending) <= set(late_reads)
    assert set(variant.saved) <= {*early_reads, *late_reads} and set(variant.saved_w) == set(variant.saved) & set(late_reads)
    assert variant.d_states or not (early.instructions or early.results or early.parameters)
    read = [v.name for f in (early, late) for i in f.instructions for v in i.operands]
    assert set(early_reads + late_reads) <= set(read)


MODEL = """
from mlc.optim import sgd
from mlc.rates import constant

batch: dim = 4
width: dim = 3


@layer
def layer(x: f32[batch, width]):
    h = x @ param("weight", [width, width], init=normal(1.0))
    report("size", mean(h * h))
    add_loss("side", mean(abs(h)))
    return tanh(h), sum(h)


@model
def net(x: f32[batch, width], y: f32[batch, width]):
    h = x * param("frozen", [width], init=ones())
    sums = []
    for i in range(2):
        h, s = layer(h, name=f"l.{i}")
        sums = sums + [s]
    error = h * param("gain", [width], init=ones()) - y
    return {"loss": mean(error * error), "s": sums[0] + sums[1]}


@train()
def recipe(p: parameter):
    if p.name == "frozen":
        return None
    return sgd(rate=constant(0.1), momentum=0.0)
"""


def test_gradients_are_made_where_they_are_asked_for():
    """A frozen parameter, a metric and a report get none; a state gets one if it does in any call of the unit."""
    program = elaborate(parse(MODEL, "net.dsl"), {}, file_library(Path()))
    variants = {unit.name: of[0] for unit, of in zip(program.units, differentiate(program, OPS).variants, strict=True) if of}
    begin, layer, end = variants["begin"], variants["layer"], variants["end"]
    assert not (begin.d_states or begin.d_params or begin.saved or begin.pending) and begin.d_results == (None,)
    unit = program.units[layer.unit]
    kinds = ["state"] * unit.outputs + [effect.kind for effect in unit.effects]
    arriving = [kind for kind, seed in zip(kinds, layer.d_results, strict=True) if seed]
    assert arriving == ["state", "add_loss"]
    assert [name for name, _ in layer.d_states] == [unit.function.parameters[0].name]
    assert [place for *_, place in layer.d_params] == ["weight_gradient"]
    assert len(end.d_states) == 1 and [place for *_, place in end.d_params] == ["input_gradient"]
