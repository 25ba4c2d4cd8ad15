"""The decode chain: it makes the logits of the sample chain, time by time; what it keeps is planned and proved; texts are the same."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from layout_models import DEEPSEEK, TEXT, TO_BF16, TO_F32, TO_F64, Model
from op_samples import draw_argument
from routines import Library

from mlc.diagnostics import MlcError
from mlc.driver import Options, compile_file, load_program
from mlc.ir.program import TIME_SCALAR, Chain, Program
from mlc.ops import OPS
from mlc.parallel.plan_reader import read_plan
from mlc.parallel.verify import prove
from mlc.passes.decode import with_decoding
from mlc.plan.report import explain_plan
from mlc.targets import TARGETS

LLAMA = TEXT | {"hidden": 48, "heads": 4, "kv_heads": 2, "depth": 2}

#: Those whose sums over rows have as many terms for one row as for many, so that no bit may differ.
MODELS = {
    "gpt": Model("examples/gpt.dsl", TEXT | {"depth": 2}),
    "gpt2": Model("examples/gpt2.dsl", TEXT | {"depth": 2, "vocab": 97, "context": 150, "width": 24}),  # several blocks of keys
    "gpt2-bf16": Model("examples/gpt2.dsl", TEXT | {"depth": 2}, edits=TO_BF16),
    "gpt2-f64": Model("examples/gpt2.dsl", TEXT | {"depth": 2}, edits=TO_F64),
    "llama3": Model("examples/llama3.dsl", LLAMA),
    "llama3-f32": Model("examples/llama3.dsl", LLAMA | {"batch": 1}, edits=TO_F32),
    "muon": Model("examples/muon.dsl", TEXT | {"depth": 2}),
}

#: What keeps its whole context, and why.
WHOLE = {
    "albert": (Model("examples/albert.dsl", TEXT | {"embedded": 16, "depth": 4}), "`random_uniform` looks at other times"),
    "gla": (Model("examples/gla.dsl", TEXT | {"key": 6, "chunk": 4, "depth": 2}), "`reshape` looks at other times"),
    "deepseek_v3": (Model("examples/deepseek_v3.dsl", DEEPSEEK), "`cumsum` is not over all times"),
    "one token": (Model("examples/gpt.dsl", TEXT | {"context": 1, "depth": 1}), "the context is one token"),
}

SUMS = """\
from mlc.losses import cross_entropy
from mlc.nn import linear
from mlc.optim import adamw

vocab: dim = 17
context: dim = 9
batch: dim = 2

@layer
def mixed(x: real[batch, context, 12]):
    place = param("place", [context, 12], init=normal(0.5))
    return linear(x + place + cumsum(x * 0.25, axis=1), 12, name="mix") * (1.0 / cast(arange(context)[:, None] + 1, f32))

@model
def sums(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    x = gather(param("table", [vocab, 12], init=normal(1.0)), tokens)
    for i in range(2):
        x = mixed(x, name=f"layer.{i}")
    logits = linear(reshape(x, [batch * context, 12]), vocab, name="head")
    logits = reshape(logits, [batch, context, vocab])
    return {"loss": cross_entropy(logits, targets), "logits": logits}

@train()
def recipe():
    return adamw(rate=1e-3)
"""

#: The halves of the width one after the other along time, and back in the other order.
HALVES = """\
def halves(x: real[b, t, n]):
    both = reshape(transpose(reshape(x, [b, t, 2, n // 2]), [0, 2, 1, 3]), [b, 2 * t, n // 2])
    return concat([both[:, t:, :], both[:, :t, :]], axis=2)


@layer
"""

#: Models of one file.
TEXTS = {
    "sums": SUMS,
    "counts": SUMS.replace("tokens)\n", "tokens) + cast(cumsum(cast(tokens > 7, i32), axis=1), f32)[:, :, None]\n"),
    "halves": SUMS.replace("cumsum(x * 0.25, axis=1)", "halves(x)").replace("@layer\n", HALVES),
}


def loaded(text: str, defines: Mapping[str, object], folder: Path) -> Program:
    """A program with a decode chain, if it has one."""
    path = folder / "model.dsl"
    path.write_text(text, encoding="utf-8")
    program, _ = load_program(path, defines, Options())
    return with_decoding(program, OPS, TARGETS["c"].rules.kernels)


def rows_alike(program: Program, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Parameters, and the same tokens in every row."""
    values = {p.name: draw_argument("normal", p.type, rng) * 0.5 for p in program.parameters}
    tokens, parameters = program.inputs[0].type, {p.name: p.type for p in program.parameters}
    most = min((t.shape[0] for n, t in parameters.items() if "wte" in n or "embed" in n or n == "table"), default=10)
    values[program.inputs[0].name] = np.tile(rng.integers(0, most, tokens.shape[1], dtype=np.int32), (tokens.shape[0], 1))
    return values


class Run:
    """The units of the sample and of the decode chain as compiled routines."""

    def __init__(self, program: Program, folder: Path):
        self.program = program
        chains = [chain for name, chain in program.chains if name in ("sample", "decode")]
        self.numbers = {unit: n for n, unit in enumerate(dict.fromkeys(call.unit for chain in chains for call in chain.calls))}
        self.library = Library([program.units[unit].function for unit in self.numbers], folder)

    def logits(self, chain: Chain, values: dict[str, np.ndarray], threads: int) -> np.ndarray:
        """What a chain makes. `values` are what it is given; what it keeps is left there."""
        for call in chain.calls:
            made = self.library.run(self.numbers[call.unit], [values[name] for name in call.arguments], threads=threads)
            values.update(zip((*call.results, *call.effects), made, strict=True))
        assert chain.logits is not None
        return values[chain.logits]


def decoded(run: Run, given: Mapping[str, np.ndarray], threads: int) -> np.ndarray:
    """The logits of all times, one after the other, of row 0. Before, what is kept holds no number or a strange one; later tokens are 0."""
    program = run.program
    chain = program.decode
    assert chain is not None
    values = dict(given)
    for call in chain.calls:
        unit = program.units[call.unit]
        kept = {n: p for n, p, role in zip(call.arguments, unit.function.parameters, unit.roles, strict=True) if role == "kept"}
        strange = {name: -9999999 if p.type.dtype == "i32" else np.nan for name, p in kept.items()}
        values.update((name, np.full(p.type.shape, strange[name])) for name, p in kept.items())
    tokens, found = given[program.inputs[0].name], []
    for time in range(tokens.shape[1]):
        values[TIME_SCALAR] = np.array(float(time))
        values[program.inputs[0].name] = np.where(np.arange(tokens.shape[1]) <= time, tokens, 0).astype(np.int32)
        found.append(run.logits(chain, values, threads)[0, 0])
    return np.stack(found)


@pytest.mark.parametrize("name", [*MODELS, *TEXTS])
def test_logits_of_each_time_are_those_of_the_whole_context_to_the_bit(name: str, tmp_path: Path) -> None:
    text, defines = (TEXTS[name], {}) if name in TEXTS else (MODELS[name].text(), MODELS[name].defines)
    program = loaded(text, defines, tmp_path)
    assert program.decode is not None and program.sample is not None, program.undecoded
    given = rows_alike(program, np.random.default_rng(3))
    run = Run(program, tmp_path)
    whole = run.logits(program.sample, dict(given), 2)[0]
    assert np.isfinite(whole).all() and np.ptp(whole) > 0
    for threads in (1, 3):
        np.testing.assert_array_equal(decoded(run, given, threads), whole)


@pytest.mark.parametrize("name", WHOLE)
def test_what_looks_at_other_times_keeps_its_whole_context_and_says_why(name: str, tmp_path: Path) -> None:
    model, why = WHOLE[name]
    program = loaded(model.text(), model.defines, tmp_path)
    assert program.sample is not None and program.decode is None
    assert why in program.undecoded


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("cumsum(x * 0.25, axis=1)", "cumsum(x, axis=1, reverse=True)", "from the last time to the first"),
        ("cumsum(x * 0.25, axis=1)", "x - mean(x, axis=1)[:, None, :]", "looks at other times"),
        ("cumsum(x * 0.25, axis=1)", "x - mean(x, axis=0)", "looks at other times"),
        ("cumsum(x * 0.25, axis=1)", "softmax(x, axis=1)", "looks at other times"),
        ("cumsum(x * 0.25, axis=1)", "cumsum(reshape(x, [batch * context, 12]), axis=0)[0, :]", "`cumsum` is not over all times"),
        ("cumsum(x * 0.25, axis=1)", "x[:, 0, :][:, None, :]", "looks at other times"),
    ],
)
def test_no_value_of_another_time_is_taken_for_one_of_its_own(before: str, after: str, why: str, tmp_path: Path) -> None:
    program = loaded(SUMS.replace(before, after), {}, tmp_path)
    assert program.decode is None
    assert why in program.undecoded


def test_a_target_without_the_kernels_has_no_decode_chain(tmp_path: Path) -> None:
    path = tmp_path / "gpt.dsl"
    path.write_text(MODELS["gpt"].text(), encoding="utf-8")
    program, _ = load_program(path, MODELS["gpt"].defines, Options())
    assert with_decoding(program, OPS, TARGETS["sm_90"].rules.kernels).undecoded == "the target has no kernels for it"


# ---- plans ----


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("plan")
    path = folder / "gpt.dsl"
    path.write_text(MODELS["gpt"].text(), encoding="utf-8")
    compile_file(path, folder / "out", MODELS["gpt"].defines, Options(pp=2, emit="plan"))
    return json.loads((folder / "out" / "plan.json").read_text())


def kept_areas(plan: dict) -> list[tuple[dict, dict]]:
    return [(place, area) for place in plan["places"] for area in place["fixed"] if area["name"].startswith("kept ")]


def test_what_is_kept_lies_on_the_rank_of_its_layer_in_the_plan(plan: dict) -> None:
    found = kept_areas(plan)
    assert [(place["place"], area["name"]) for place, area in found] == [
        (0, "kept blocks.0.kept"), (0, "kept blocks.0.kept.1"), (1, "kept blocks.1.kept"), (1, "kept blocks.1.kept.1"),
    ]  # fmt: skip
    assert {area["bytes"] for _, area in found} == {TEXT["context"] * TEXT["width"] * 4}
    assert {area["chain"] for _, area in found} == {"decode"}
    assert prove(read_plan(plan)) is not None


def test_a_plan_says_how_texts_are_made(plan: dict, tmp_path: Path) -> None:
    assert "sampling  computes one time for each token, with " in explain_plan(plan)
    path = tmp_path / "gla.dsl"
    path.write_text(WHOLE["gla"][0].text(), encoding="utf-8")
    compile_file(path, tmp_path / "out", WHOLE["gla"][0].defines, Options(emit="plan"))
    whole = explain_plan(json.loads((tmp_path / "out" / "plan.json").read_text()))
    assert "sampling  computes the whole context for each token: gla.dsl:34:14: `reshape` looks at other times" in whole


def test_a_plan_with_a_decode_chain_does_not_say_why_there_is_none(plan: dict) -> None:
    with pytest.raises(MlcError, match="undecoded says why there is no chain decode, and there is one"):
        read_plan({**plan, "undecoded": "because"})


def refused(plan: dict, change) -> str:
    """What the proof says of a plan that was changed."""
    changed = json.loads(json.dumps(plan))
    change(changed)
    with pytest.raises(MlcError) as caught:
        prove(read_plan(changed))
    return " ".join(d.message for d in caught.value.diagnostics)


def decode_chunk(plan: dict) -> dict:
    return plan["places"][0]["chunks"]["decode"][0]


def move_kept_onto_another(plan: dict) -> None:
    first, second = (area for _, area in kept_areas(plan)[:2])
    for buffer in decode_chunk(plan)["buffers"]:
        if buffer[0] == second["name"]:
            buffer[2] = first["at"]
    second["at"] = first["at"]


def keep_for_another_chain(plan: dict) -> None:
    kept_areas(plan)[0][1]["chain"] = "sample"


def write_beside(plan: dict) -> None:
    """The routine says that its result is a place of its own."""
    for routine in plan["routines"]:
        routine["operands"] = [text.split(" over ")[0] if "next" in routine["name"] else text for text in routine["operands"]]


def swap_keys_and_values(plan: dict) -> None:
    chunk = decode_chunk(plan)
    names = [buffer[0] for buffer in (*plan["places"][0]["named"], *chunk["buffers"])]
    one, two = (names.index(f"kept blocks.0.kept{n}") for n in ("", ".1"))
    for row in chunk["rows"]["F"]:
        row[3] = [{one: two, two: one}.get(number, number) for number in row[3]]


def shorten(plan: dict) -> None:
    kept_areas(plan)[0][1]["bytes"] -= 64


def kept_operand(plan: dict) -> tuple[dict, int]:
    """The routine of a row that changes what is kept, and the number of the operand that it changes."""
    chunk = decode_chunk(plan)
    names = [buffer[0] for buffer in (*plan["places"][0]["named"], *chunk["buffers"])]
    for routine, _, _, numbers in chunk["rows"]["F"]:
        for n, (number, operand) in enumerate(zip(numbers, plan["routines"][routine]["operands"], strict=True)):
            if names[number].startswith("kept ") and not operand.startswith("read "):
                return plan["routines"][routine], n
    raise AssertionError("no row changes what is kept")


def work_on_what_is_kept(plan: dict) -> None:
    routine, n = kept_operand(plan)
    routine["operands"][n] = routine["operands"][n].replace("write", "work")


def write_over_another_operand(plan: dict) -> None:
    """Of what is read there is another operand that is as large."""
    routine, n = kept_operand(plan)
    kind, _, over = routine["operands"][n].partition(" over ")
    other = next(m for m, of in enumerate(routine["operands"]) if of == routine["operands"][int(over)] and m != int(over))
    routine["operands"][n] = f"{kind} over {other}"


def never_written(plan: dict) -> None:
    """Of the routine and of all that is proved of it."""
    routine, n = kept_operand(plan)
    routine["operands"][n] = routine["operands"][n].replace("write", "read").partition(" over ")[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (move_kept_onto_another, "kept blocks.0.kept, which ends at"),
        (keep_for_another_chain, "is said to be of sample, and is of decode"),
        (write_beside, "writes kept blocks.0.kept, and keeps nothing of what lies there"),
        (work_on_what_is_kept, "works kept blocks.0.kept, and keeps nothing of what lies there"),
        (write_over_another_operand, "and keeps nothing of what lies there"),
        (never_written, "kept blocks.0.kept is brought up to date 0 times, not once"),
        (swap_keys_and_values, "its rows do not compute what those of the model do"),
        (shorten, "is no buffer of this place"),
    ],
)
def test_a_plan_that_does_not_keep_is_refused(plan: dict, change, why: str) -> None:
    said = refused(plan, change)
    assert why in said, said


# ---- programs ----


PROMPT = "abcdefghij" * 4


def said(program: Path, *words: object) -> bytes:
    return subprocess.run([str(program), *map(str, words)], check=True, capture_output=True, timeout=120).stdout


def test_texts_are_those_of_the_whole_context_on_every_layout(tmp_path: Path) -> None:
    """Longer than the context of 12, so that the sample chain takes over; 5 threads, one rank, 2 stages by 2 replicas."""
    path = tmp_path / "gpt.dsl"
    path.write_text(MODELS["gpt"].text(), encoding="utf-8")
    words = ("--sample", 20, "--prompt", "ab", "--seed", 4)
    layouts = [Options(pp=n, dp=n, microbatches=8) for n in (1, 2)]
    programs = [compile_file(path, tmp_path / f"out{of.pp}", MODELS["gpt"].defines, of).program for of in layouts]
    tables = programs[0].parent / "src" / "tables.h"
    texts = [said(programs[0], *words, "--threads", threads) for threads in (1, 5)] + [said(programs[1], *words)]
    without, found = re.subn(r"^ *\.time = [0-9]+,$", "", tables.read_text(), flags=re.MULTILINE)
    assert found == 1
    tables.write_text(without, encoding="utf-8")
    subprocess.run(["make", "-s", "-C", str(programs[0].parent / "src")], check=True, timeout=300)
    assert set(texts) == {said(programs[0], *words)}


def test_a_prompt_is_cut_to_the_context(tmp_path: Path) -> None:
    path = tmp_path / "gpt.dsl"
    path.write_text(MODELS["gpt"].text(), encoding="utf-8")
    program = compile_file(path, tmp_path / "out", MODELS["gpt"].defines, Options()).program
    context = int(TEXT["context"])
    last = said(program, "--sample", 3, "--prompt", PROMPT[-context:])
    for length in (context + 1, 40):
        text = said(program, "--sample", 3, "--prompt", PROMPT[-length:])
        assert text == PROMPT[-length:-context].encode() + last
