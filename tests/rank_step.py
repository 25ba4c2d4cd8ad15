"""A step of a divided model in NumPy: every call of the chain on all ranks, forward and back, and its gradients put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mlc.ir.factors import Join
from mlc.ir.forms import Axis, Claim, Cut, Form, RankFunction, RankStep, Term, Whole
from mlc.ir.function import Function
from mlc.ir.interpret import interpret, stored
from mlc.ir.interpret_ranks import interpret_ranks
from mlc.ir.op import Attributes, Keys, Op
from mlc.ir.program import Step, path_hash
from mlc.ir.types import TensorType
from mlc.ops import OPS
from mlc.ops.mesh import MESH_OPS, joined, runs_of, tree

Arrays = dict[str, np.ndarray]


def _in_f64(op: Op) -> Op:
    """The op in f64, rounded when it is stored: its bits depend on no other size, as those of BLAS and vector exp do."""

    def meaning(operands: tuple[np.ndarray, ...], attributes: Attributes, keys: Keys) -> tuple[np.ndarray, ...]:
        wide = tuple(np.asarray(a, np.float64) if a.dtype == np.float32 else a for a in operands)
        return op.meaning(wide, attributes, keys)

    return replace(op, meaning=meaning)


ROUNDED = {name: _in_f64(op) for name, op in OPS.items()}


def drawn(step: Step, seed: int = 0) -> Arrays:
    """Parameters, inputs and scalars by name."""
    rng = np.random.default_rng(seed)
    made: Arrays = {}
    for p in step.program.parameters:
        made[p.name] = rng.standard_normal(p.type.shape) * 0.5
    for i in step.program.inputs:
        made[i.name] = rng.integers(0, 4, i.type.shape).astype(np.int32) if i.type.dtype == "i32" else rng.standard_normal(i.type.shape)
    for s in step.program.scalars:
        made[s.name] = np.asarray(0.5)
    return made


def keys_of(path: str) -> Keys:
    return Keys(seed=3, step=1, microbatch=2, path=path_hash(path))


def whole_gradients(step: Step, given: Arrays, float64: bool = True) -> Arrays:
    """The loss and the gradients of all parameters, each summed over uses, by the functions of one device."""
    return _gradients(step, given, lambda _unit, _part, function, arguments, keys: _interpreted(function, arguments, keys, float64))


def _interpreted(function: Function, arguments: Arrays, keys: Keys, float64: bool) -> Arrays:
    ops = OPS if float64 else ROUNDED
    made = interpret(function, [arguments[v.name] for v in function.parameters], ops, keys, float64)
    return dict(zip((v.name for v in function.results), made, strict=True))


class Held:
    """A value on the ranks: by form and strip, one array a rank."""

    def __init__(self, kind: TensorType, axis: Axis, float64: bool):
        self.kind, self.axis, self.float64 = kind, axis, float64
        self.by: dict[tuple[Form, int | None], Sequence[np.ndarray]] = {}

    def whole(self) -> np.ndarray:
        """Put together; copies are equal. All claims say the same."""
        found = [self._whole(form, strip) for form, strip in self.by if strip in (0, None)]
        for other in found[1:]:
            np.testing.assert_allclose(other, found[0], rtol=1e-3, atol=1e-3)
        return found[0]

    def _whole(self, form: Form, strip: int | None) -> np.ndarray:
        match form:
            case Whole():
                for copy in self.by[form, strip][1:]:
                    assert copy.tobytes() == self.by[form, strip][0].tobytes()
                return self.by[form, strip][0]
            case Cut(_, _, size):
                return joined(self.by[form, strip], form, size // self.axis.parts)
            case Term(join):
                assert join is Join.SUM
                strips = [self.by[form, s] for s in range(self.axis.own)]
                terms = [strips[s][rank] for rank in range(self.axis.parts) for s in range(self.axis.own)]
                return tree(terms, "sum", lambda a: stored(a, self.kind, self.float64))


def divided(array: np.ndarray, claim: Claim, axis: Axis) -> Sequence[np.ndarray]:
    """A whole array as ranks hold it."""
    match claim.form:
        case Cut(_, _, size):
            return runs_of(array, claim.form, size, axis.parts)
        case _:
            return [array] * axis.parts


def rank_gradients(ranks: RankStep, given: Arrays, float64: bool = True) -> Arrays:
    """The same by the functions of ranks, all in this process."""

    def run(unit: int, part: int, _function: Function, arguments: Mapping[str, Held | np.ndarray], keys: Keys) -> Mapping[str, Held]:
        variant = ranks.variants[unit]
        assert variant is not None
        return rank_results(variant.functions[part], ranks.axis, arguments, keys, float64)

    return _gradients(ranks.whole, given, run)


def rank_results(
    of: RankFunction, axis: Axis, arguments: Mapping[str, Held | np.ndarray], keys: Keys, float64: bool
) -> Mapping[str, Held]:
    claims = dict(of.claims)
    given: list[Sequence[np.ndarray]] = []
    for v in of.function.parameters:
        claim = claims[v.name]
        value = arguments[claim.name]
        given.append(value.by[claim.form, claim.strip] if isinstance(value, Held) else divided(value, claim, axis))
    made = interpret_ranks(of.function, given, OPS if float64 else ROUNDED, MESH_OPS, axis, keys, float64)
    results: dict[str, Held] = {}
    for v, arrays in zip(of.function.results, made, strict=True):
        claim = claims[v.name]
        results.setdefault(claim.name, Held(v.type, axis, float64)).by[claim.form, claim.strip] = arrays
    return results


def _put_together(value):
    return value.whole() if isinstance(value, Held) else value


def _gradients(step: Step, given, run) -> Arrays:
    """One microbatch of the train chain; `run` runs a part of a unit. Of several readers of a state the gradients are added."""
    program = step.program
    env = dict(given)
    kept: list[dict] = []
    for call in program.train.calls:
        unit, variant = program.units[call.unit], step.variant(call.unit)
        assert variant is not None
        arguments = {v.name: env[name] for v, name in zip(unit.function.parameters, call.arguments, strict=True)}
        made = run(call.unit, 0, variant.forward, arguments, keys_of(call.path))
        kept.append({**arguments, **made})
        for v, name in zip(unit.function.results, call.results, strict=False):
            env[name] = made[v.name]
    cotangents: dict = {program.train.loss: np.asarray(1.0)}
    gradients: Arrays = {"loss": _put_together(env[program.train.loss])}
    for call, values in zip(reversed(program.train.calls), reversed(kept), strict=True):
        unit, variant = program.units[call.unit], step.variant(call.unit)
        assert variant is not None
        names = [*call.results, *(f"effect {n}" for n in range(len(call.effects)))]
        for seed, name in zip(variant.d_results, names, strict=True):
            if seed is not None:
                values[seed] = cotangents.get(name, np.asarray(1.0))
        for part, function in ((1, variant.input_gradient), (2, variant.weight_gradient)):
            values.update(run(call.unit, part, function, values, keys_of(call.path)))
        bound = dict(zip((v.name for v in unit.function.parameters), call.arguments, strict=True))
        for state, result in variant.d_states:
            assert bound[state] not in cotangents
            cotangents[bound[state]] = values[result]
        for parameter, result, _ in variant.d_params:
            made = _put_together(values[result])
            gradients[bound[parameter]] = made if bound[parameter] not in gradients else gradients[bound[parameter]] + made
    return gradients
