"""What is computed from its place: constants, positions and random numbers.

Random numbers are Philox4x32-10 (Salmon et al. 2011), counted, never drawn from a state. The key is
splitmix64(seed ^ path) as two words, low then high. Element n is word n & 3 of the block at the counter

    (n >> 2, ordinal, step, microbatch)

uniform:  (word >> 8) * 2^-24
normal:   words (0, 1) make elements 4i and 4i + 1, words (2, 3) make 4i + 2 and 4i + 3 (Box and Muller 1958)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mlc.diagnostics import InternalError, OpError
from mlc.ir.builder import Builder
from mlc.ir.dtypes import DTYPES, WIDE_FLOATS
from mlc.ir.factors import Correspondence, Offset
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Generate, Keys, NoGradient, Op, Sample
from mlc.ir.program import path_hash
from mlc.ir.types import ONE, TensorType, Value, abbreviated, dim
from mlc.ops.broadcasting import numbered
from mlc.ops.families import Array, Arrays, given, no_flops
from mlc.ops.letters import NAMES, WHOLE, Letters, corresponding, lettered, linear_in, same
from mlc.ops.rules import Types, check_count, check_dims, check_dtype, check_positions

CONSTANT_INPUT = NoGradient("there are no operands of floats")

#: The largest tensor whose elements an i32 can number.
MOST_NUMBERED = 1 << 31

MASK_32 = np.uint64(0xFFFFFFFF)

#: Random numbers of one draw: a counter of 32 bits numbers blocks of four.
MOST_RANDOM = 2**34

#: By kind of dtype: what a constant of it is in Python.
_PYTHON = {"float": float, "int": int, "bool": bool}


def _constant_rule(types: Types, attributes: Attributes) -> Types:
    check_count("constant", types, 0)
    dtype, value = attributes["dtype"], attributes["value"]
    if dtype not in DTYPES or type(value) is not _PYTHON[DTYPES[dtype].kind]:
        raise InternalError(f"constant: {value!r} is not a value of {dtype!r}")
    return (TensorType(dtype),)


def _constant_meaning(_operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    """In double precision: whoever stores it rounds it."""
    kind = {"float": np.float64, "int": np.int32, "bool": np.bool_}[DTYPES[attributes["dtype"]].kind]
    return (np.array(attributes["value"], kind),)


CONSTANT = Op(
    name="constant",
    doc="a scalar known at compile time",
    attributes=("dtype", "value"),
    type_rule=_constant_rule,
    meaning=_constant_meaning,
    vjp=CONSTANT_INPUT,
    factors=corresponding(same),
    lowering=Generate("constant"),
    flops=no_flops,
    samples=(
        Sample((), (("dtype", "f32"), ("value", 0.1))),
        Sample((), (("dtype", "f32"), ("value", -math.inf))),
        Sample((), (("dtype", "bf16"), ("value", 1e-05))),
        Sample((), (("dtype", "f16"), ("value", 2.0))),
        Sample((), (("dtype", "i32"), ("value", -100))),
        Sample((), (("dtype", "bool"), ("value", True))),
    ),
)


def _iota_rule(types: Types, attributes: Attributes) -> Types:
    if types:
        check_count("iota", types, 1)
        check_dtype("iota", types[0], ("i32",))
        check_dims("iota", (), types[0].dims, types)
    check_positions("arange", attributes["dim"])
    return (TensorType("i32", (attributes["dim"],)),)


def _iota_meaning(operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    counted = np.arange(attributes["dim"].size, dtype=np.int32)
    return (counted + operands[0] if operands else counted,)


def _counted(instruction: Instruction) -> Letters:
    """The dims of a result that is computed from where its elements lie."""
    names = NAMES[: len(instruction.result.type.dims)]
    slots = [*((WHOLE,) * len(o.type.dims) for o in instruction.operands), names]
    return lettered(instruction, slots, offsets=dict.fromkeys(names, Offset.POSITION))


def _apart(b: Builder, instruction: Instruction) -> tuple[Value, ...]:
    """Counted by iotas of one factor each."""
    number = numbered(b, instruction.result.type.dims)
    for begin in instruction.operands:
        number = b.one("add", number, b.one("broadcast", begin, dims=number.type.dims, axes=()))
    return (number,)


IOTA = Op(
    name="iota",
    doc="0, 1, 2, ... along one dim; counted from the i32 number that is given, if one is",
    attributes=("dim",),
    type_rule=_iota_rule,
    meaning=_iota_meaning,
    vjp=CONSTANT_INPUT,
    factors=Correspondence(_counted, linear_in(), _apart, None),
    lowering=Generate("iota"),
    flops=no_flops,
    samples=(
        Sample((), (("dim", dim(7)),)),
        Sample((), (("dim", dim(13, "context")),)),
        Sample((), (("dim", ONE),)),
        Sample(("i32[]",), (("dim", dim(6)),), ("index:90",)),
    ),
)


def splitmix64(x: int) -> int:
    """One well-mixed 64-bit word from another (Steele et al. 2014)."""
    mask = 0xFFFFFFFFFFFFFFFF
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def philox(counter: list[Array], key: tuple[int, int]) -> list[Array]:
    """Ten rounds over arrays of four 32-bit words, held in uint64."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, c = (right >> np.uint64(32)) ^ b ^ np.uint64(k0), (left >> np.uint64(32)) ^ d ^ np.uint64(k1)
        b, d = right & MASK_32, left & MASK_32
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


def random_words(blocks: Array, attributes: Attributes, keys: Keys) -> Array:
    """[blocks, 4] words of 32 bits, of the blocks at these counters (uint64)."""
    path = keys.path if attributes["stream"] == "call" else path_hash("")
    key = splitmix64(keys.seed ^ path)
    constant = [np.full_like(blocks, word & 0xFFFFFFFF) for word in (attributes["ordinal"], keys.step, keys.microbatch)]
    return np.stack(philox([blocks & MASK_32, *constant], (key & 0xFFFFFFFF, key >> 32)), axis=-1)


def _random_rule(op: str):
    def type_rule(types: Types, attributes: Attributes) -> Types:
        if types:
            check_count(op, types, 1)
            check_dtype(op, types[0], ("i32",))
            check_dims(op, attributes["dims"], types[0].dims, types)
        if attributes["stream"] not in ("call", "model"):
            raise InternalError(f"{op}: unknown stream {attributes['stream']!r}")
        if attributes["dtype"] not in WIDE_FLOATS:
            raise InternalError(f"{op}: no random numbers of {attributes['dtype']!r}")
        made = TensorType(attributes["dtype"], attributes["dims"])
        if made.size > MOST_RANDOM:
            raise OpError("E0211", f"{op}: {abbreviated(made.size)} numbers of one draw; the generator counts to 2**34")
        return (made,)

    return type_rule


def _drawn(operands: Arrays, attributes: Attributes, keys: Keys, numbers: Callable[[Array], Array]) -> Arrays:
    """The elements that are asked for, all of them or by number; numbers(words) makes four of each block."""
    shape = tuple(d.size for d in attributes["dims"])
    if not operands:
        blocks = np.arange(-(-math.prod(shape) // 4), dtype=np.uint64)
        return (numbers(random_words(blocks, attributes, keys)).reshape(-1)[: math.prod(shape)].reshape(shape),)
    at = operands[0].reshape(-1).astype(np.int64)
    made = numbers(random_words((at >> 2).astype(np.uint64), attributes, keys))
    return (np.take_along_axis(made, (at & 3)[:, None], axis=1).reshape(shape),)


def _uniform(words: Array) -> Array:
    return (words >> np.uint64(8)).astype(np.float64) * 2.0**-24


def _normal(words: Array) -> Array:
    high = (words >> np.uint64(8)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((high[:, 0::2] + 1.0) * 2.0**-24))
    angle = 2.0 * math.pi * (high[:, 1::2] * 2.0**-24)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 4)


def _uniform_meaning(operands: Arrays, attributes: Attributes, keys: Keys) -> Arrays:
    return _drawn(operands, attributes, keys, _uniform)


def _normal_meaning(operands: Arrays, attributes: Attributes, keys: Keys) -> Arrays:
    return _drawn(operands, attributes, keys, _normal)


def _random_letters(instruction: Instruction) -> Letters:
    return same(instruction) if instruction.operands else _counted(instruction)


def _numbered(b: Builder, instruction: Instruction) -> tuple[Value, ...]:
    """Drawn by the number of each element."""
    kind = instruction.result.type
    if kind.size > MOST_NUMBERED:
        raise InternalError(f"{instruction.op}: elements of {kind} cannot be numbered by an i32")
    return b.emit(instruction.op, numbered(b, kind.dims), **given(instruction))


RANDOM_FACTORS = Correspondence(_random_letters, linear_in(), _numbered, None)


def _ten_an_element(instruction: Instruction) -> int:
    return 10 * instruction.result.type.size


_RANDOM_SAMPLES = (
    Sample(("i32[2, 3]",), (("dims", (dim(2), dim(3))), ("dtype", "f32"), ("ordinal", 2), ("stream", "call")), ("index:1000",)),
    Sample((), (("dims", (dim(7),)), ("dtype", "f32"), ("ordinal", 0), ("stream", "call"))),
    Sample((), (("dims", ()), ("dtype", "f32"), ("ordinal", 3), ("stream", "call"))),
    Sample((), (("dims", (dim(3, "batch"), dim(5), dim(1))), ("dtype", "f32"), ("ordinal", 1), ("stream", "model"))),
    Sample((), (("dims", (dim(13),)), ("dtype", "f64"), ("ordinal", 2), ("stream", "call"))),
)

RANDOM_UNIFORM = Op(
    name="random_uniform",
    doc="random numbers of [0, 1), by seed, step, microbatch, call path and ordinal; those of given numbers, if any are",
    attributes=("dims", "dtype", "ordinal", "stream"),
    type_rule=_random_rule("random_uniform"),
    meaning=_uniform_meaning,
    vjp=CONSTANT_INPUT,
    factors=RANDOM_FACTORS,
    lowering=Generate("random_uniform"),
    flops=_ten_an_element,
    samples=_RANDOM_SAMPLES,
)

RANDOM_NORMAL = Op(
    name="random_normal",
    doc="random numbers of mean 0 and variance 1, by seed, step, microbatch, call path and ordinal; those of given numbers, if any are",
    attributes=("dims", "dtype", "ordinal", "stream"),
    type_rule=_random_rule("random_normal"),
    meaning=_normal_meaning,
    vjp=CONSTANT_INPUT,
    factors=RANDOM_FACTORS,
    lowering=Generate("random_normal"),
    flops=_ten_an_element,
    samples=_RANDOM_SAMPLES,
)

GENERATORS = (CONSTANT, IOTA, RANDOM_UNIFORM, RANDOM_NORMAL)
