"""The whole model as data: layer functions, the chain of their calls, parameters, inputs and the recipe.

    Program      what the elaborator makes: chains (train, evaluate, sample, decode) over one table of units
    Step         what differentiation makes of it: each unit of the train chain as forward, input gradient, weight gradient, in one
                 or several variants that compute the same; and all else that becomes code

A unit is a layer function. Its parameters have roles, and a call binds each to something by name:

    param    a model parameter          state    a value that crosses cuts
    input    a model input              record   a run-time scalar: "step", "steps", a constant of the file, an input curve
    kept     what calls at times before left, in the decode chain
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import lru_cache
from itertools import compress
from typing import TypeVar

import numpy as np

from mlc.diagnostics import Diagnostic, Span
from mlc.frozen import frozen
from mlc.ir.dtypes import dtype_of
from mlc.ir.function import Function
from mlc.ir.types import TensorType

A = TypeVar("A")


@frozen
class Parameter:
    """A model parameter.

    type:     as the forward pass sees it (`real` resolved to the recipe's precision). The master has the wide dtype.
    init:     a Function without parameters whose one result is the initial value of the master; random ops in it are keyed by the
              parameter's name (Keys.path = path_hash(name), step = microbatch = 0)
    update:   index into Program.updates, None when frozen
    gradient: "loss", "accumulate" (fed by the accumulate effect) or "none" (frozen or unused)
    """

    name: str
    type: TensorType
    init: Function
    update: int | None
    gradient: str
    span: Span


@frozen
class Following:
    """Default of an input: the window of input `of`, `shift` tokens later."""

    of: str
    shift: int


@frozen
class Bound:
    """Elements of a row of an input up to `end`, from the end of the bound before it on: each is in [low, high], or `passed`."""

    end: int
    low: int
    high: int
    passed: int | None


@frozen
class Input:
    """A model input.

    limit:   values must be in [0, limit); None: they need not, or `bounds` says more
    bounds:  what the values must be, by place in a row; they repeat from the end of the last one on. Empty: nothing more is known
    """

    name: str
    type: TensorType
    default: Following | None
    limit: int | None
    span: Span
    bounds: tuple[Bound, ...] = ()


@frozen
class Scalar:
    """A run-time scalar of the wide dtype in the step record: an option of the program (`option` True: --rate, default `value`), or
    an input or rate that is a curve: `curve` is a Function of record scalars (its parameter names are Scalar names, "step" and
    "steps" among them) with one scalar result."""

    name: str
    value: float | None
    option: bool
    curve: Function | None
    span: Span


#: The scalar that holds the time which the decode chain computes; no name in a file has a dot in it.
TIME_SCALAR = "decode.time"


@frozen
class Update:
    """An optimizer rule for parameters of one type: function (p, g, states..., scalars...) -> (new p, new states...).

    Everything has the wide dtype. `states` are the names of the states in order; `scalars` the record names bound to the remaining
    parameters. `elementwise`: may be applied to any aligned slice of the flat parameter.
    """

    function: Function
    states: tuple[tuple[str, TensorType], ...]
    scalars: tuple[str, ...]
    elementwise: bool


@frozen
class Effect:
    """What leaves a layer sideways: `kind` is add_loss, report, accumulate or keep; `name` the metric, or the unit's parameter
    (by the name of its Value in Function.parameters) whose g it is, or which is kept so; the value is a result of the unit's function."""

    kind: str
    name: str


@frozen
class Unit:
    """A layer function: function(parameters with roles) -> outputs (states) then effects, in this order."""

    name: str
    function: Function
    roles: tuple[str, ...]  # of function.parameters: param, state, input, record
    outputs: int  # the first so many results are states
    effects: tuple[Effect, ...]  # the other results

    @property
    def random(self) -> bool:
        return any(i.op.startswith("random_") for i in self.function.instructions)

    def bound(self, role: str, arguments: Sequence[A]) -> list[A]:
        """Of the arguments of a call, or the parameters of the function, those of a role, in order."""
        return list(compress(arguments, _of_role(self.roles, role)))


@lru_cache(maxsize=1024)
def _of_role(roles: tuple[str, ...], role: str) -> tuple[bool, ...]:
    return tuple(of == role for of in roles)


@frozen
class Call:
    """One call of a unit in a chain. `path` is the call path ("h.3"): random numbers are keyed by it (with "#k" for the
    k-th, k >= 1, call of one shared path) and messages name it. `arguments`: the names bound to the function's parameters;
    `results`: the names of the states it makes; `effects`: full names of its effects (metric, or model parameter)."""

    unit: int
    path: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    effects: tuple[str, ...]


@frozen
class Chain:
    """A straight line of calls. `loss`: state holding the scalar loss (None in sample and decode); `weight`: index of a unit of inputs
    and records to one f32 scalar, with its argument names; `metrics`: (name, state of a scalar); `logits`: state, sample and decode."""

    calls: tuple[Call, ...]
    loss: str | None
    weight: tuple[int, tuple[str, ...]] | None
    metrics: tuple[tuple[str, str], ...]
    logits: str | None


@frozen
class Recipe:
    """clip: largest global gradient norm, None for no clipping. precision: "f32", "bf16" or "f64". microbatches: M. groups: G or
    None for gcd(M, 8)."""

    clip: float | None
    precision: str
    microbatches: int
    groups: int | None


@frozen
class Program:
    """A model and its recipe. `sample` is None for a model that returns no logits, or that has no token input.

    decode:    the sample chain for one time (passes/decode.py), None where there is none; `undecoded` then says why
    warnings:  what its author may want to know; no part of what the program is, and not in its text
    constants: what was fixed at compile time and files of weights may state too: numbers of the file by name, then what calls were
               given that have one of `SETTINGS`, as "layer_norm.eps", and 1 for each of `ACTIVATIONS` called, as "gelu.called"; each
               pair once
    """

    name: str
    units: tuple[Unit, ...]
    train: Chain
    evaluate: Chain
    sample: Chain | None
    parameters: tuple[Parameter, ...]  # in order of creation
    inputs: tuple[Input, ...]
    scalars: tuple[Scalar, ...]  # options first, then curves, each after what it reads
    updates: tuple[Update, ...]
    recipe: Recipe
    warnings: tuple[Diagnostic, ...] = field(default=(), compare=False)
    constants: tuple[tuple[str, float], ...] = ()
    decode: Chain | None = None
    undecoded: str = field(default="", compare=False)

    @property
    def chains(self) -> tuple[tuple[str, Chain], ...]:
        """The chains that there are, by name: those of parallel.planned.CHAINS, in that order."""
        every = (("train", self.train), ("evaluate", self.evaluate), ("sample", self.sample), ("decode", self.decode))
        return tuple((name, chain) for name, chain in every if chain is not None)

    @property
    def wide(self) -> str:
        """The dtype of masters, gradients, optimizer states, run-time scalars, losses and weights."""
        return dtype_of(self.recipe.precision).wide


#: Parameters of functions whose compile-time values are constants of a program.
SETTINGS = ("eps", "exact", "heads", "kv_heads", "theta", "window")

#: Functions of which a program states that it calls them.
ACTIVATIONS = ("gelu", "relu", "silu")


#: What the backward pass of a layer makes again, from least to most: nothing that is saved, what costs no contraction, everything.
CHOICES = ("none", "selective", "full")

#: Of a call: beside everything, the states that it makes, for which its forward runs once more as a whole.
STATES = "states"
CALL_CHOICES = (*CHOICES, STATES)


@frozen
class Variant:
    """A unit differentiated and split. Value names are shared between the three functions: a parameter of input_gradient
    named like a result of forward is that saved value.

    forward           parameters: the unit's; results: the unit's results, then `saved`
    input_gradient    parameters: any of the unit's parameters and `saved`, and `d_results`
                      results: `d_states`, then `d_params` it makes, then `pending`
    weight_gradient   parameters: any of `saved`, the unit's inputs and parameters, and `pending` (or `d_results` when
                      input_gradient is empty); results: gradients of the remaining params

    saved:      names of values kept from F to I or W; a unit parameter or result is never listed here, though I and W may
                read unit parameters and outputs by name
    saved_w:    the part of `saved` that W reads
    pending:    names of values kept from I to W
    d_results:  per unit result (outputs, then effects): name of the incoming cotangent, None where none can arrive
    d_states:   (unit parameter name, result name) for each state argument that gets a gradient
    d_params:   (unit parameter name, result name, "input_gradient" | "weight_gradient") for each param that gets one;
                these results are f32 and accumulate in place
    choice:     one of CHOICES
    again       parameters: any of the unit's parameters and of `saved`; results: those of `saved` that are not kept from F on,
                made once more right before I (or W where there is no I) reads them. None where all are kept
    """

    unit: int
    forward: Function
    input_gradient: Function
    weight_gradient: Function
    saved: tuple[str, ...]
    saved_w: tuple[str, ...]
    pending: tuple[str, ...]
    d_results: tuple[str | None, ...]
    d_states: tuple[tuple[str, str], ...]
    d_params: tuple[tuple[str, str, str], ...]
    choice: str
    again: Function | None


@frozen
class Step:
    """A program with the derivative of every unit its train chain calls, and every other function that becomes code.

    variants:  [unit][choice]: none for a unit that the train chain does not call, else one for "none" and one for each other choice
               that makes more again than the one before
    plain:     per unit without variants, what a call runs
    inits:     per parameter, its initial value
    updates:   per Program.updates, its rule
    """

    program: Program
    variants: tuple[tuple[Variant, ...], ...]
    plain: tuple[Function | None, ...]
    inits: tuple[Function, ...]
    updates: tuple[Function, ...]

    def variant(self, unit: int, choice: str = CHOICES[0]) -> Variant | None:
        """The variant of a unit that makes most again of those that make no more than `choice`, one of a call; None without derivative."""
        found = [v for v in self.variants[unit] if CHOICES.index(v.choice) <= CALL_CHOICES.index(choice)]
        return found[-1] if found else None

    def functions(self) -> tuple[Function, ...]:
        """Every function that becomes code, each once."""
        of_variants = [f for of in self.variants for v in of for f in (v.forward, v.input_gradient, v.weight_gradient, v.again)]
        every = (*of_variants, *self.plain, *self.inits, *self.updates)
        return tuple(f for f in dict(zip(map(id, every), every, strict=True)).values() if f is not None)


#: The hash of nothing.
_FNV = 0xCBF29CE484222325


#: What each byte multiplies it by.
_PRIME = 0x100000001B3


def path_hash(path: str) -> int:
    """FNV-1a, 64 bit, of a call path or parameter name: the `path` of Keys."""
    return path_hashes([path])[0]


def path_hashes(paths: Sequence[str]) -> list[int]:
    """The same of many, byte by byte of all at once."""
    texts = [path.encode() for path in paths]
    lengths = np.array(list(map(len, texts)), np.int64)
    width = max(map(len, texts), default=0)
    table = np.frombuffer(b"".join([text.ljust(width, b"\0") for text in texts]), np.uint8).reshape(len(texts), width)
    found = np.full(len(texts), _FNV, np.uint64)
    for at in range(width):
        found = np.where(lengths > at, (found ^ table[:, at]) * np.uint64(_PRIME), found)
    return found.tolist()
