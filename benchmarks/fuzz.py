"""Damaged models through the compiler: every text ends in a program or in diagnostics, never in another exception.

    python benchmarks/fuzz.py --seconds 600

Mutates the examples by words (names, numbers, swapped and missing tokens) and by bytes, and takes each as far as C source. Prints what
was tried; a text that breaks the compiler is written beside the report, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import functools
import random
import re
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from mlc.diagnostics import MlcError
from mlc.elaborate import elaborate, file_library
from mlc.emit import emit
from mlc.lower import lower
from mlc.ops import OPS
from mlc.passes import prepared
from mlc.plan import plan, single_layout
from mlc.syntax.formatter import format_text
from mlc.syntax.parser import parse
from mlc.targets.c import C

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

#: Settings that make the large examples quick to elaborate.
SMALL = {"depth": "2", "levels": "2", "dense_depth": "1"}

WORDS = re.compile(r"\w+|\s+|[^\w\s]")
ODD = ("None", "True", "x", "0", "-1", "1", "2.5", '"a"', "[]", "()", "inf", "training", "real", "f32", "zeros()", "x.shape", "10" * 6)


def mutate_words(text: str, pool: list[str], rng: random.Random) -> str:
    words = WORDS.findall(text)
    solid = [n for n, word in enumerate(words) if not word.isspace()]
    for _ in range(rng.choice((1, 1, 2, 3))):
        n = rng.choice(solid)
        match rng.randrange(4):
            case 0:
                words[n] = rng.choice(pool)
            case 1:
                words[n] = ""
            case 2:
                words[n] = rng.choice(ODD)
            case _:
                other = rng.choice(solid)
                words[n], words[other] = words[other], words[n]
    return "".join(words)


def mutate_bytes(text: str, rng: random.Random) -> bytes:
    data = bytearray(text.encode())
    for _ in range(rng.choice((1, 2, 5, 20))):
        start = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[start] = rng.randrange(256)
            case 1:
                del data[start : start + rng.randrange(1, 40)]
            case _:
                data[start:start] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 8)))
    return bytes(data)


def compile_text(text: str | bytes, library) -> str:
    """How far the text came: syntax, elaborate or emit."""
    try:
        module = parse(text, "fuzz.dsl")
        format_text(text, "fuzz.dsl")
    except MlcError:
        return "syntax error"
    defines = {c.name: SMALL[c.name] for c in module.constants if c.name in SMALL}
    try:
        program = elaborate(module, defines, library)
    except MlcError:
        return "error in the model"
    lowered = lower(prepared(program, OPS), OPS, C.rules)
    emit(lowered, plan(lowered, single_layout(program)), "fuzz", "fuzz.dsl", "0")
    return "compiled"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where texts that break the compiler go")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    texts = [p.read_text(encoding="utf-8") for p in sorted(EXAMPLES.glob("*.dsl"))]
    pool = [w for text in texts for w in WORDS.findall(text) if not w.isspace()]
    library = functools.cache(file_library(EXAMPLES))
    found: Counter[str] = Counter()
    broken = 0
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        text = rng.choice(texts)
        mutant: str | bytes = mutate_words(text, pool, rng) if rng.random() < 0.8 else mutate_bytes(text, rng)
        try:
            found[compile_text(mutant, library)] += 1
        except Exception:  # noqa: BLE001  (what this program looks for)
            broken += 1
            arguments.out.mkdir(parents=True, exist_ok=True)
            path = arguments.out / f"broken-{arguments.seed}-{broken}.dsl"
            path.write_bytes(mutant if isinstance(mutant, bytes) else mutant.encode())
            print(f"{path}\n{traceback.format_exc(limit=-4)}")
    total = sum(found.values()) + broken
    print(f"{total} texts: {', '.join(f'{n} {what}' for what, n in sorted(found.items()))}, {broken} broke the compiler")
    sys.exit(1 if broken else 0)


main()
