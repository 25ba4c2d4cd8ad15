"""A run that goes on under other terms than those it began with."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from attacks.field import FOUR, ROOT, TINY, Case, Ended, Field, check, check_ended

GPT = (ROOT / "examples" / "gpt.dsl").read_text()


def edited(field: Field, name: str, old: str, new: str, *options: object) -> Path:
    """The program of gpt.dsl with another text in it."""
    check(old in GPT, f"gpt.dsl has no {old}")
    source = field.folder / name / "gpt.dsl"
    source.parent.mkdir(exist_ok=True)
    source.write_text(GPT.replace(old, new))
    return field.programs.build(f"terms-{name}", source, "--microbatches", 8, *options, defines=dict(TINY))


def begin(field: Field) -> tuple[object, ...]:
    """A run of 20 steps of 40; returns what goes on with it."""
    check_ended(field.train(field.one, "--checkpoint", field.checkpoints, "--every", 20, steps=40), 0)
    return ("--resume", field.checkpoints / "step-00000020", "--hash")


def check_refused(field: Field, program: Path, going_on: tuple[object, ...], item: str, *arguments: object) -> None:
    """Refused by the name of the item; passable by its name, and by a pattern; then said."""
    refused = field.train(program, *going_on, *arguments, steps=40)
    check_ended(refused, 1, f"{item}: the checkpoint has", f"(--allow {item} lets it pass)")
    pattern = f"{item.split('.')[0]}*"
    check_ended(field.train(program, *going_on, *arguments, "--allow", pattern, steps=40), 0, f"{item}: the checkpoint has", "(allowed)")


def other_recipe(field: Field) -> None:
    going_on = begin(field)
    check_refused(field, edited(field, "betas", "(0.9, 0.95)", "(0.9, 0.99)"), going_on, "rule.adamw")
    check_refused(field, edited(field, "floor", "floor=0.1 * rate", "floor=0.3 * rate"), going_on, "curve.adamw.rate")


def other_layer(field: Field) -> None:
    going_on = begin(field)
    body = ("return x + linear(h", "return 0.5 * x + linear(h")
    check_refused(field, edited(field, "body", *body), going_on, "layer.block")
    check_refused(field, edited(field, "body-four", *body, *FOUR), going_on, "layer.block")


def other_words(field: Field) -> None:
    """Comments, names of values, the file's name and the layout are no terms."""
    going_on = begin(field)
    straight = field.train(field.one, "--hash", steps=40)
    program = edited(field, "renamed", "    h = gelu(", "    # a comment\n    h = gelu(", *FOUR)
    ended = field.train(program, *going_on, steps=40)
    check(ended.digest == straight.digest and not ended.err, f"another digest, or a word: {ended.err}")


def other_data(field: Field) -> None:
    going_on = begin(field)
    other = field.folder / "other.txt"
    text = bytearray(field.text.read_bytes())
    text[len(text) // 2] ^= 1
    other.write_bytes(text)
    for program in (field.one, field.four):
        arguments = (program, "--data", other, "--steps", 40, "--threads", 1, *going_on)
        check_ended(field.run(*arguments), 1, "data.tokens: the checkpoint has")
        check_ended(field.run(*arguments, "--allow", "data.*"), 0, "data.tokens: the checkpoint has", "(allowed)")
    moved = field.folder / "moved.txt"
    moved.write_bytes(field.text.read_bytes())
    ended = field.run(field.one, "--data", moved, "--steps", 40, "--threads", 1, *going_on)
    check(ended.code == 0 and not ended.err, f"the same data under another name: {ended.err}")


def check_said(ended: Ended, *lines: str) -> None:
    check_ended(ended, 0)
    for line in lines:
        check(re.search(line, ended.err) is not None, f"no line like {line} in: {ended.err}")


def settings(field: Field) -> None:
    going_on = begin(field)
    check(field.train(field.one, *going_on, steps=40).err == "", "something is said where nothing differs")
    faster = field.train(field.one, *going_on, "--rate", "0.03", steps=40)
    check_said(faster, r"--rate was 0\.003, is 0\.03", r"the rate jumps from 0\.00\d+ .* to 0\.0")
    check_said(field.train(field.four, *going_on, "--warmup", "30", steps=40), r"--warmup was 20, is 30")
    ended = field.train(field.one, "--checkpoint", field.checkpoints, "--resume", "auto", steps=80)
    check_said(
        ended, r"--steps was 40, is 80", r"the rate jumps from 0\.000316\d+ in the last step .*number 40.* to 0\.0023\d+ in the next"
    )


def misspelled(field: Field) -> None:
    going_on = begin(field)
    for word in ("lyaer.block", "data", "rules.*"):
        check_ended(field.train(field.one, *going_on, "--allow", word, steps=40), 2, f"--allow {word}: neither checkpoint nor program")
    check_ended(field.train(field.four, *going_on, "--allow", "layer.*", "--allow", "seed", steps=40), 0)


def earlier_version(field: Field) -> None:
    """A checkpoint without run, terms, settings and the later items is read, goes on to the same bits, and that is said."""
    going_on = begin(field)
    straight = field.train(field.one, "--hash", steps=40)
    for step in field.checkpoints.glob("step-*"):
        path = step / "state.json"
        state = json.loads(path.read_text())
        for key in ("run", "terms", "settings", "rate", "checksum"):
            del state[key]
        state["items"] = [item for item in state["items"] if not re.match(r"(layer|rule|curve)\.|chain=", item)]
        state["hash"] = hashlib.sha256("\n".join([*state["items"], ""]).encode()).hexdigest()
        text = json.dumps(state, indent=2)[:-2] + ",\n"
        path.write_text(f'{text}  "checksum": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n')
    for program in (field.one, field.four):
        ended = field.train(program, *going_on, steps=40)
        check(ended.digest == straight.digest, "another digest")
        check_ended(ended, 0, "an earlier version wrote it")
    saving = ("--checkpoint", field.checkpoints, "--resume", "auto", "--every", 10, "--keep", 1)
    check_ended(field.train(field.four, *saving, steps=60), 0, "step-00000040", "an earlier version wrote it")
    check_ended(field.train(field.one, *saving, steps=60), 0, "step-00000060")
    left = sorted(step.name for step in field.checkpoints.glob("step-*"))
    check(left == ["step-00000020", "step-00000040", "step-00000060"], f"--keep leaves {left}")


CASES = (
    Case("recipe", "other betas or another curve when resuming", "refused by name, --allow passes and says it", other_recipe),
    Case("layer", "another body of a layer", "the same", other_layer),
    Case("data", "other data of equal length; the same under another name", "the same; nothing", other_data),
    Case("words", "a comment and another layout", "nothing differs, the same bits", other_words),
    Case("settings", "other --rate, --warmup, --steps", "said with both values, and a jump of the rate too", settings),
    Case("misspelled", "--allow with a name that nothing has", "exit code 2", misspelled),
    Case("earlier-version", "a checkpoint of an earlier version", "read, the same bits; what is not compared is said", earlier_version),
)
