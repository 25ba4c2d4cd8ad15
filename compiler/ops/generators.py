"""Ops without operands: constants, positions and random numbers.

Random numbers are Philox4x32-10 (Salmon et al. 2011), counted, never drawn from a state. The key is
splitmix64(seed ^ path) as two words, low then high. Element n is word n & 3 of the block at the counter

    (n >> 2, ordinal, step, microbatch)

uniform:  (word >> 8) * 2^-24
normal:   words (0, 1) make elements 4i and 4i + 1, words (2, 3) make 4i + 2 and 4i + 3 (Box and Muller 1958)
"""

from __future__ import annotations

import math

import numpy as np

from mlc.diagnostics import InternalError
from mlc.ir.function import Instruction
from mlc.ir.op import Attributes, Generate, Keys, NoGradient, Op, Sample
from mlc.ir.program import path_hash
from mlc.ir.types import DTYPE_BYTES, ONE, TensorType, dim
from mlc.ops.families import Array, Arrays, no_flops
from mlc.ops.rules import Types, check_count

CONSTANT_INPUT = NoGradient("there are no operands")
MASK_32 = np.uint64(0xFFFFFFFF)


def _constant_rule(types: Types, attributes: Attributes) -> Types:
    check_count("constant", types, 0)
    dtype, value = attributes["dtype"], attributes["value"]
    kind = {"i32": int, "bool": bool}.get(dtype, float)
    if dtype not in DTYPE_BYTES or type(value) is not kind:
        raise InternalError(f"constant: {value!r} is not a value of {dtype!r}")
    return (TensorType(dtype),)


def _constant_meaning(_operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    kind = {"i32": np.int32, "bool": np.bool_}.get(attributes["dtype"], np.float64)
    return (np.array(attributes["value"], kind),)


CONSTANT = Op(
    name="constant",
    doc="a scalar known at compile time",
    attributes=("dtype", "value"),
    type_rule=_constant_rule,
    meaning=_constant_meaning,
    vjp=CONSTANT_INPUT,
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
    check_count("iota", types, 0)
    return (TensorType("i32", (attributes["dim"],)),)


def _iota_meaning(_operands: Arrays, attributes: Attributes, _keys: Keys) -> Arrays:
    return (np.arange(attributes["dim"].size, dtype=np.int32),)


IOTA = Op(
    name="iota",
    doc="0, 1, 2, ... along one dim",
    attributes=("dim",),
    type_rule=_iota_rule,
    meaning=_iota_meaning,
    vjp=CONSTANT_INPUT,
    lowering=Generate("iota"),
    flops=no_flops,
    samples=(Sample((), (("dim", dim(7)),)), Sample((), (("dim", dim(13, "context")),)), Sample((), (("dim", ONE),))),
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


def random_words(count: int, attributes: Attributes, keys: Keys) -> Array:
    """[blocks, 4] words of 32 bits for `count` elements."""
    path = keys.path if attributes["stream"] == "call" else path_hash("")
    key = splitmix64(keys.seed ^ path)
    block = np.arange(-(-count // 4), dtype=np.uint64)
    constant = [np.full_like(block, word & 0xFFFFFFFF) for word in (attributes["ordinal"], keys.step, keys.microbatch)]
    return np.stack(philox([block & MASK_32, *constant], (key & 0xFFFFFFFF, key >> 32)), axis=-1)


def _random_rule(op: str):
    def type_rule(types: Types, attributes: Attributes) -> Types:
        check_count(op, types, 0)
        if attributes["stream"] not in ("call", "model"):
            raise InternalError(f"{op}: unknown stream {attributes['stream']!r}")
        return (TensorType("f32", attributes["dims"]),)

    return type_rule


def _shaped(values: Array, attributes: Attributes) -> Arrays:
    shape = tuple(d.size for d in attributes["dims"])
    return (values.reshape(-1)[: math.prod(shape)].reshape(shape),)


def _count(attributes: Attributes) -> int:
    return math.prod(d.size for d in attributes["dims"])


def _uniform_meaning(_operands: Arrays, attributes: Attributes, keys: Keys) -> Arrays:
    words = random_words(_count(attributes), attributes, keys)
    return _shaped((words >> np.uint64(8)).astype(np.float64) * 2.0**-24, attributes)


def _normal_meaning(_operands: Arrays, attributes: Attributes, keys: Keys) -> Arrays:
    high = (random_words(_count(attributes), attributes, keys) >> np.uint64(8)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((high[:, 0::2] + 1.0) * 2.0**-24))
    angle = 2.0 * math.pi * (high[:, 1::2] * 2.0**-24)
    return _shaped(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1), attributes)


def _ten_an_element(instruction: Instruction) -> int:
    return 10 * instruction.result.type.size


_RANDOM_SAMPLES = (
    Sample((), (("dims", (dim(7),)), ("ordinal", 0), ("stream", "call"))),
    Sample((), (("dims", ()), ("ordinal", 3), ("stream", "call"))),
    Sample((), (("dims", (dim(3, "batch"), dim(5), dim(1))), ("ordinal", 1), ("stream", "model"))),
)

RANDOM_UNIFORM = Op(
    name="random_uniform",
    doc="random numbers of [0, 1), by seed, step, microbatch, call path and ordinal",
    attributes=("dims", "ordinal", "stream"),
    type_rule=_random_rule("random_uniform"),
    meaning=_uniform_meaning,
    vjp=CONSTANT_INPUT,
    lowering=Generate("random_uniform"),
    flops=_ten_an_element,
    samples=_RANDOM_SAMPLES,
)

RANDOM_NORMAL = Op(
    name="random_normal",
    doc="random numbers of mean 0 and variance 1, by seed, step, microbatch, call path and ordinal",
    attributes=("dims", "ordinal", "stream"),
    type_rule=_random_rule("random_normal"),
    meaning=_normal_meaning,
    vjp=CONSTANT_INPUT,
    lowering=Generate("random_normal"),
    flops=_ten_an_element,
    samples=_RANDOM_SAMPLES,
)

GENERATORS = (CONSTANT, IOTA, RANDOM_UNIFORM, RANDOM_NORMAL)
